"""SP on the wire: the greeting and the frames. Bytes in, payloads out; knows no socket, is driven by ``_link``."""

from __future__ import annotations

import struct
from typing import Optional

from ._errors import WireError

PAIR = 16
PUSH = 80
PULL = 81

PEER = {PAIR: PAIR, PUSH: PULL, PULL: PUSH}

GREETING_LENGTH = 8

_LENGTH = struct.Struct(">Q")


def greeting(protocol: int) -> bytes:
    """The 8 bytes that open a connection."""
    return b"\x00SP\x00" + struct.pack(">HH", protocol, 0)


def check_greeting(data: bytes, protocol: int) -> None:
    """Checks the peer's greeting against our own protocol; raises ``WireError``."""
    if len(data) != GREETING_LENGTH or data[:4] != b"\x00SP\x00" or data[6:] != b"\x00\x00":
        raise WireError(f"the peer does not speak SP: its greeting is {data.hex(' ')}")
    (theirs,) = struct.unpack(">H", data[4:6])
    if theirs != PEER[protocol]:
        raise WireError(f"the peer speaks SP protocol {theirs}, expected {PEER[protocol]}")


def frame_head(length: int, marked: bool) -> bytes:
    """What stands before a payload; ``marked``: as on ipc, with a type byte."""
    head = _LENGTH.pack(length)
    return b"\x01" + head if marked else head


class FrameDecoder:
    """Cuts a stream of bytes into payloads; a length above ``limit`` is refused before it is made room for."""

    def __init__(self, marked: bool, limit: int) -> None:
        self._marked = marked
        self._head = 9 if marked else 8
        self.limit = limit
        self._buffer = bytearray()
        self._length: Optional[int] = None

    def feed(self, data: memoryview) -> None:
        """Takes the next bytes of the stream."""
        self._buffer += data

    def next(self) -> Optional[bytes]:
        """The next payload that is complete, or none; raises ``WireError``."""
        buffer = self._buffer
        head = self._head
        if self._length is None:
            if self._marked and buffer and buffer[0] != 1:
                raise WireError(f"a frame of type {buffer[0]} on ipc, expected 1")
            if len(buffer) < head:
                return None
            (length,) = _LENGTH.unpack_from(buffer, head - 8)
            if length > self.limit:
                raise WireError(f"a message of {length} bytes, expected at most {self.limit}")
            self._length = length
        end = head + self._length
        if len(buffer) < end:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[head:end])
        del buffer[:end]
        self._length = None
        return payload

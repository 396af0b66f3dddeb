"""One SP connection over a stream: dialing, the greeting, sending and receiving whole messages.

Blocking, for threads of its owner: at most one receives, any number send. Knows nothing of what the messages mean.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import threading
import time
from typing import Iterator, Optional, Protocol

from . import _wire
from ._address import IPC, TLS, Address
from ._errors import AddressError, WireError

_CHUNK = 256 * 1024
# Seconds for a connection to come about, its greeting and its TLS handshake included.
_CONNECT_TIMEOUT = 5.0


class Stream(Protocol):
    """A stream of bytes; the two halves are used by different threads."""

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int: ...

    def sendall(self, data: bytes) -> None: ...

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None: ...


class Connection:
    """A connection whose greeting is done."""

    def __init__(self, stream: Stream, marked: bool, limit: int) -> None:
        self._stream = stream
        self._marked = marked
        self._decoder = _wire.FrameDecoder(marked, limit)
        self._chunk = memoryview(bytearray(_CHUNK))
        self._sending = threading.Lock()
        # When, by `time.monotonic`, what can be received now has come at the latest.
        self.arrived = 0.0

    def set_limit(self, limit: int) -> None:
        """From now on messages of up to ``limit`` bytes are taken."""
        self._decoder.limit = limit

    def frame(self, payload: bytes) -> bytes:
        """The bytes of a message on this connection, for ``send_frames``."""
        return _wire.frame_head(len(payload), self._marked) + payload

    def send(self, payload: bytes) -> None:
        """Sends one message; waits while the peer takes nothing. Raises ``OSError`` if the connection is gone."""
        self.send_frames(self.frame(payload))

    def send_frames(self, frames: bytes) -> None:
        """Sends messages that are framed already."""
        with self._sending:
            self._stream.sendall(frames)

    def recv(self) -> Optional[bytes]:
        """The next message, or none if the peer has closed; raises ``OSError`` or ``WireError``."""
        while True:
            payload = self._decoder.next()
            if payload is not None:
                return payload
            count = self._stream.recv_into(self._chunk)
            if count == 0:
                return None
            self.arrived = time.monotonic()
            self._decoder.feed(self._chunk[:count])

    def recv_ready(self) -> Optional[bytes]:
        """The next message if all of it has come already, or none; raises as ``recv`` does, and does not wait."""
        while True:
            payload = self._decoder.next()
            if payload is not None:
                return payload
            try:
                count = self._stream.recv_into(self._chunk, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if count == 0:
                return None
            self.arrived = time.monotonic()
            self._decoder.feed(self._chunk[:count])

    def end_reading(self) -> None:
        """What has arrived can still be received; after it comes the end."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Closes the connection, also under a thread that waits in it."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Gives the socket back; called when no thread uses the connection any more."""
        with contextlib.suppress(OSError):
            self._stream.close()


class _TlsStream:
    """TLS over a blocking socket.

    Python's own TLS sockets must not be read and written at once by two threads; here only the bytes that are on their
    way through the TLS engine are under a lock, never the waiting.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        while True:
            try:
                self._engine.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            else:
                self._flush()
                return

    def _flush(self) -> None:
        with self._writing:
            with self._lock:
                data = self._outgoing.read()
            if data:
                self._sock.sendall(data)

    def _fill(self, flags: int = 0) -> None:
        data = self._sock.recv(_CHUNK, flags)
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def recv_into(self, buffer: memoryview, nbytes: int = 0, flags: int = 0) -> int:
        while True:
            try:
                with self._lock:
                    data = self._engine.read(nbytes or len(buffer))
                buffer[: len(data)] = data
                return len(data)
            except ssl.SSLWantReadError:
                # The engine may have to answer, as when keys change.
                if self._outgoing.pending:
                    self._flush()
                self._fill(flags)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK):
            with self._lock:
                self._engine.write(view[start : start + _CHUNK])
            self._flush()

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        # Says that this is the end, and not that the stream was cut off.
        with contextlib.suppress(OSError):
            self._sock.settimeout(1.0)
            with contextlib.suppress(ssl.SSLWantReadError):
                self._engine.unwrap()
            self._flush()
        self._sock.close()


def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ.get("MANGROVE_CA") or None)


def _connect(address: Address) -> socket.socket:
    if address.scheme == IPC:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_CONNECT_TIMEOUT)
            sock.connect(address.path)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((address.host, address.port), timeout=_CONNECT_TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A machine that is gone says nothing: find out within about half a minute.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    return sock


def _greet(stream: Stream, protocol: int) -> None:
    stream.sendall(_wire.greeting(protocol))
    data = bytearray(_wire.GREETING_LENGTH)
    count = 0
    while count < len(data):
        found = stream.recv_into(memoryview(data)[count:])
        if found == 0:
            raise WireError("the peer closed the connection before its greeting")
        count += found
    _wire.check_greeting(bytes(data), protocol)


def dial(address: Address, protocol: int, limit: int) -> Connection:
    """Connects and greets, within 5 s; messages of up to ``limit`` bytes are taken.

    Raises ``OSError`` (``ssl.SSLError`` among them), ``WireError`` or ``AddressError``.
    """
    try:
        sock = _connect(address)
    except ValueError as error:  # a path that holds no address, a name that cannot be encoded
        raise AddressError(f"cannot dial {address}: {error}") from None
    try:
        stream: Stream = sock
        if address.scheme == TLS:
            stream = _TlsStream(sock, _tls_context(), address.host)
        _greet(stream, protocol)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return Connection(stream, address.scheme == IPC, limit)


def backoff(seed: Optional[int] = None) -> Iterator[float]:
    """Seconds to wait before each further try: doubling from 0.1 to 5, each taken between its half and its whole."""
    dice = random.Random(seed)
    delay = 0.1
    while True:
        yield delay * dice.uniform(0.5, 1.0)
        delay = min(delay * 2, 5.0)


def redial(address: Address, protocol: int, limit: int, given_up: threading.Event) -> Optional[Connection]:
    """Dials until it works, or until nobody wants it any more (none)."""
    for delay in backoff():
        if given_up.is_set():
            return None
        try:
            return dial(address, protocol, limit)
        except (OSError, WireError):
            given_up.wait(delay)
    return None

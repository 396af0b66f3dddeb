"""The greeting and the frames: byte by byte."""

from __future__ import annotations

import random

import pytest

from mangrove import _address, _link, _wire
from mangrove._errors import AddressError, WireError


def decode(decoder: _wire.FrameDecoder, pieces: list[bytes]) -> list[bytes]:
    payloads = []
    for piece in pieces:
        decoder.feed(memoryview(piece))
        while (payload := decoder.next()) is not None:
            payloads.append(payload)
    return payloads


def test_the_greeting_names_the_protocol() -> None:
    assert _wire.greeting(_wire.PAIR) == b"\x00SP\x00\x00\x10\x00\x00"
    assert _wire.greeting(_wire.PUSH) == b"\x00SP\x00\x00\x50\x00\x00"


@pytest.mark.parametrize(("ours", "theirs"), [(_wire.PAIR, 0x10), (_wire.PUSH, 0x51), (_wire.PULL, 0x50)])
def test_a_fitting_greeting_is_taken(ours: int, theirs: int) -> None:
    _wire.check_greeting(b"\x00SP\x00" + bytes([0, theirs, 0, 0]), ours)


@pytest.mark.parametrize(
    ("greeting", "part"),
    [
        (b"\x00SP\x00\x00\x11\x00\x00", "protocol 17, expected 16"),
        (b"\x00SP\x01\x00\x10\x00\x00", "does not speak SP"),
        (b"\x00SP\x00\x00\x10\x00\x01", "does not speak SP"),
        (b"HTTP/1.1", "does not speak SP"),
    ],
)
def test_another_greeting_is_refused(greeting: bytes, part: str) -> None:
    with pytest.raises(WireError, match=part):
        _wire.check_greeting(greeting, _wire.PAIR)


@pytest.mark.parametrize("marked", [True, False])
def test_any_split_gives_the_same_payloads(marked: bool) -> None:
    dice = random.Random(7)
    payloads = [dice.randbytes(dice.choice([0, 1, 8, 9, 300])) for _ in range(50)]
    stream = b"".join(_wire.frame_head(len(payload), marked) + payload for payload in payloads)
    for _ in range(50):
        cuts = sorted(dice.randrange(len(stream)) for _ in range(dice.randrange(60)))
        pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)])]
        assert decode(_wire.FrameDecoder(marked, 300), pieces) == payloads
    assert decode(_wire.FrameDecoder(marked, 300), [bytes([byte]) for byte in stream]) == payloads


def test_the_head_is_as_the_transport_has_it() -> None:
    assert _wire.frame_head(258, True) == b"\x01" + b"\x00" * 6 + b"\x01\x02"
    assert _wire.frame_head(258, False) == b"\x00" * 6 + b"\x01\x02"


def test_a_length_above_the_limit_is_refused_before_its_payload() -> None:
    with pytest.raises(WireError, match="11 bytes, expected at most 10"):
        decode(_wire.FrameDecoder(True, 10), [_wire.frame_head(11, True)])
    with pytest.raises(WireError, match="expected at most 10"):
        decode(_wire.FrameDecoder(False, 10), [b"\xff" * 8])


def test_another_frame_type_is_refused_at_its_first_byte() -> None:
    with pytest.raises(WireError, match="type 2"):
        decode(_wire.FrameDecoder(True, 10), [b"\x02"])


@pytest.mark.parametrize(
    "text",
    ["ipc:///run/7.ipc", "ipc://relative", "tcp://10.0.0.5:7081", "tls+tcp://host.example:1", "tcp://[::1]:7081"],
)
def test_addresses_are_read_and_written(text: str) -> None:
    assert str(_address.parse(text)) == text


def test_a_star_stands_for_the_host_of_the_control_address() -> None:
    control = _address.parse("tcp://10.0.0.5:7081")
    assert str(_address.parse("tls+tcp://*:40113", control)) == "tls+tcp://10.0.0.5:40113"
    with pytest.raises(AddressError, match="needs a control address"):
        _address.parse("tcp://*:1", _address.parse("ipc:///a"))


@pytest.mark.parametrize(
    "text", ["", "ipc://", "ipc://a\0b", "tcp://host", "tcp://:1", "tcp://h:0", "tcp://h:65536", "ws://h:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="expected"):
        _address.parse(text)


def test_the_delays_grow_to_five_seconds_with_jitter() -> None:
    for seed in range(20):
        delays = _link.backoff(seed)
        whole = 0.1
        for _ in range(12):
            assert whole / 2 <= next(delays) <= whole
            whole = min(whole * 2, 5.0)

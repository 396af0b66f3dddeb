"""JSON, the messages, errors in words, and the batches of a source."""

from __future__ import annotations

import json
import threading
from typing import Any, Optional

import pytest

from mangrove import Error, Stopped, _json, _messages
from mangrove._errors import ContractError, describe
from mangrove._outbox import Outbox


@pytest.mark.parametrize(
    "value", [None, True, 0, -(2**53), 1.5, "", 'a"\\\n\u2028é馬🐎', [], [1, [2]], {"a": {"b": []}}, {"é": 1e300}]
)
def test_json_goes_both_ways(value: Any) -> None:
    data = _json.encode(value)
    assert json.loads(data) == value
    assert _json.decode(data) == value


def test_json_is_compact_and_utf8() -> None:
    assert _json.encode({"a": [1, "é"]}) == '{"a":[1,"é"]}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": object()}, {("a",): 1}, {1, 2}, b"a"])
def test_what_json_does_not_know_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _json.encode(value)


def test_a_loop_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested too deeply"):
        _json.encode(loop)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"NaN", b'{"a":Infinity}', b"[" * 100_000, b"\xff\xfe{\x00}\x00", b"1 2"]
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|decode|JSON|deeply|Extra"):
        _json.decode(data)


def test_the_encoder_is_the_same_as_the_librarys_own() -> None:
    value = {"a": [1, 2.5, True, None, "é\n\x7f\x00"], "b": {"c": {}}, "d": -1e-7, "e": 2**70}
    assert _json.encode(value) == _json._slow.encode(value).encode()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Error("told so"), "told so"),
        (ValueError("wrong"), "wrong"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
        (Error("a\ud800b"), "a?b"),
    ],
)
def test_errors_are_put_into_words(error: BaseException, text: str) -> None:
    assert describe(error) == text


def test_an_error_without_words_has_its_type() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(Mute()) == "Mute"
    assert len(describe(Error("x" * 100_000))) < 10_000


START = {"use": 4, "kind": "source", "symbol": "s", "address": "ipc:///a"}


def test_a_start_is_read() -> None:
    start = _messages.Start.read({**START, "ruleId": "r", "config": {"a": 1}, "dataSource": "d", "offset": [1], "x": 1})
    assert (start.use, start.rule_id, start.config, start.data_source, start.offset) == (4, "r", {"a": 1}, "d", [1])
    assert _messages.Start.read(START).config == {}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"use": None}, "use is 'null', expected an integer"),
        ({"use": -1}, "use is -1"),
        ({"use": True}, "use is 'true'"),
        ({"kind": "tap"}, "kind is 'tap'"),
        ({"symbol": 1}, "symbol is '1', expected a text"),
        ({"config": [1]}, "config is '\\[1\\]', expected an object"),
        ({"ack": 1}, "ack is '1', expected true or false"),
    ],
)
def test_a_wrong_start_says_what_was_expected(change: dict[str, Any], part: str) -> None:
    with pytest.raises(ContractError, match=part):
        _messages.Start.read({**START, **change})


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"\x00\xff", b'{"type":'])
def test_a_message_is_a_json_object(payload: bytes) -> None:
    with pytest.raises(ContractError, match="JSON"):
        _messages.read(payload)


def test_a_welcome_needs_our_version_and_sane_limits() -> None:
    welcome = {"version": 1, "limits": {"message": 2048, "batch": 1}}
    assert _messages.Welcome.read(welcome).max_message == 2048
    changes: list[tuple[dict[str, Any], str]] = [
        ({"version": 2}, "version is 2"),
        ({"limits": {}}, "message is missing"),
        ({"limits": {"message": 1, "batch": 1}}, "at least 1024"),
    ]
    for change, part in changes:
        with pytest.raises(ContractError, match=part):
            _messages.Welcome.read({**welcome, **change})


def taken(outbox: Outbox) -> list[dict[str, Any]]:
    messages, _, _ = outbox.take()
    return [json.loads(message.payload(index + 1)) for index, message in enumerate(messages)]


def test_what_gathers_goes_together() -> None:
    outbox = Outbox(1_000_000, 3)
    for n in range(7):
        outbox.put({"n": n})
    assert taken(outbox) == [
        {"seq": 1, "tuples": [{"n": 0}, {"n": 1}, {"n": 2}]},
        {"seq": 2, "tuples": [{"n": 3}, {"n": 4}, {"n": 5}]},
        {"seq": 3, "tuples": [{"n": 6}]},
    ]


def test_meta_has_the_tuples_length_and_the_last_offset_counts() -> None:
    outbox = Outbox(1_000_000, 10)
    outbox.put({"n": 1}, offset=1)
    outbox.put({"n": 2}, {"a": 1}, 2)
    outbox.put({"n": 3})
    assert taken(outbox) == [
        {"seq": 1, "tuples": [{"n": 1}, {"n": 2}, {"n": 3}], "meta": [None, {"a": 1}, None], "offset": 2}
    ]


def test_no_message_is_longer_than_allowed() -> None:
    outbox = Outbox(2048, 1024)
    for n in range(40):
        outbox.put({"pad": "x" * 200, "n": n}, {"m": n} if n % 3 else None, offset={"at": n})
        if n % 5 == 4:
            messages, _, _ = outbox.take()
            payloads = [message.payload(2**53) for message in messages]
            assert all(len(payload) <= 2048 for payload in payloads)
            assert sum(len(json.loads(payload)["tuples"]) for payload in payloads) == 5
    with pytest.raises(ValueError, match="does not fit"):
        outbox.put({"pad": "x" * 2048})
    for wrong in (1, "text", [1], None):
        with pytest.raises(TypeError, match="expected a dict"):
            outbox.put(wrong)


def test_errors_and_the_end_keep_their_place() -> None:
    outbox = Outbox(1_000_000, 10)
    outbox.put({"n": 1})
    outbox.report("odd")
    outbox.put({"n": 2})
    outbox.end("broken")
    assert taken(outbox) == [
        {"seq": 1, "tuples": [{"n": 1}]},
        {"seq": 2, "error": "odd"},
        {"seq": 3, "tuples": [{"n": 2}]},
        {"seq": 4, "end": True, "error": "broken"},
    ]
    assert outbox.take() == ([], None, False)
    with pytest.raises(Stopped):
        outbox.put({"n": 3})


def test_a_closed_one_gives_what_it_has_and_says_no_end() -> None:
    outbox = Outbox(1_000_000, 10)
    outbox.put({"n": 1})
    outbox.close()
    outbox.end(None)
    with pytest.raises(Stopped):
        outbox.report("late")
    assert taken(outbox) == [{"seq": 1, "tuples": [{"n": 1}]}]


def test_a_full_one_makes_the_author_wait() -> None:
    outbox = Outbox(1_000_000, 1)
    woken: list[str] = []

    def full(n: int) -> bool:
        return not outbox.put({"n": n}, waker=lambda: woken.append("woken"))

    count = next(n for n in range(100) if full(n))
    assert count == 4
    assert not woken
    done = threading.Event()

    def author() -> None:
        outbox.put({"n": count})
        done.set()

    threading.Thread(target=author, daemon=True).start()
    assert len(taken(outbox)) >= 4
    assert done.wait(10)
    assert woken == ["woken"]


def test_a_waiting_author_is_let_go_when_it_closes() -> None:
    outbox = Outbox(1_000_000, 1)
    caught: list[Optional[BaseException]] = []

    def author() -> None:
        try:
            while True:
                outbox.put({})
        except Stopped as stopped:
            caught.append(stopped)

    thread = threading.Thread(target=author, daemon=True)
    thread.start()
    outbox.take()
    outbox.abort()
    thread.join(10)
    assert len(caught) == 1
    assert outbox.take() == ([], None, False)

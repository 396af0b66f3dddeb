"""Functions of every style, with the host of ``mangrove.testing``."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any, Callable

import pytest

from mangrove import AsyncContext, AsyncFunction, Context, Error, Function, Plugin
from mangrove.testing import Channel, Host


def test_functions_of_every_style() -> None:
    plugin = Plugin()

    @plugin.function("join")
    def join(a: str, b: str = "b", *more: str) -> str:
        return "-".join([a, b, *more])

    @plugin.function("join_async")
    async def join_async(a: str, b: str = "b") -> str:
        await asyncio.sleep(0)
        return f"{a}-{b}"

    @plugin.function("where")
    def where(ctx: Context) -> list[Any]:
        return [ctx.rule_id, ctx.op_id, ctx.instance_id, ctx.func_id]

    @plugin.function("total", aggregate=True)
    def total(xs: list[float]) -> float:
        return sum(xs)

    @plugin.function("apart", threads=2)
    def apart(x: Any) -> Any:
        if x == "bad":
            raise Error("told so")
        return x

    @plugin.function("upper")
    class Upper(Function):
        aggregate = True

        def exec(self, args: list[Any], ctx: Context) -> Any:
            return [text.upper() for text in args[0]]

    with Host(plugin) as host:
        assert host.hello["symbols"]["functions"] == [
            "join",
            "join_async",
            "where",
            {"name": "total", "aggregate": True},
            "apart",
            {"name": "upper", "aggregate": True},
        ]
        assert host.function("join").call("x", "y", "z") == "x-y-z"
        assert host.function("join_async").call("x") == "x-b"
        assert host.function("where").call(rule="r") == ["r", "project", 0, 0]
        assert host.function("total").call([1, 2, 3.5]) == 6.5
        assert host.function("upper").call(["a", "b"]) == ["A", "B"]
        apart_function = host.function("apart")
        assert apart_function.call_all([[n] for n in range(100)]) == list(range(100))
        with pytest.raises(Error, match="told so"):
            apart_function.call("bad")
        apart_function.stop()


@pytest.mark.parametrize(
    ("function", "args", "part"),
    [
        ("two", [1], "two takes 2 arguments, found 1"),
        ("two", [1, 2, 3], "two takes 2 arguments, found 3"),
        ("one_or_two", [], "one_or_two takes 1 to 2 arguments, found 0"),
        ("some", [], "some takes 1 or more arguments, found 0"),
    ],
)
def test_the_number_of_arguments_is_checked(function: str, args: list[Any], part: str) -> None:
    plugin = Plugin()
    plugin.add_function("two", lambda a, b: a)
    plugin.add_function("one_or_two", lambda a, b=1: a)
    plugin.add_function("some", lambda a, *b: a)
    with Host(plugin) as host:
        started = host.function(function)
        with pytest.raises(Error, match=part):
            started.validate(*args)
        started.validate(1, 2)


def test_calls_that_fail_spare_the_others() -> None:
    plugin = Plugin()

    def fail(x: Any) -> Any:
        actions: dict[str, Callable[[], Any]] = {
            "error": lambda: (_ for _ in ()).throw(Error("told so")),
            "panic": lambda: dict[str, Any]()["x"],
            "exit": lambda: (_ for _ in ()).throw(SystemExit(1)),
            "object": object,
            "nan": lambda: float("nan"),
            "large": lambda: "x" * 5000,
        }
        return actions[x]() if x in actions else x

    async def fail_async(x: Any) -> Any:
        return fail(x)

    plugin.add_function("fail", fail)
    plugin.add_function("fail_async", fail_async)
    plugin.add_function("fail_apart", fail, threads=2)
    with Host(plugin, max_message=4096) as host:
        for symbol in ("fail", "fail_async", "fail_apart"):
            results = host.function(symbol).call_all(
                [[x] for x in (1, "error", "panic", "exit", "object", "nan", "large", None, "žluť")]
            )
            assert [str(x) if isinstance(x, Error) else x for x in results] == [
                1,
                "told so",
                "KeyError: 'x'",
                "SystemExit: 1",
                "the result cannot be sent: object is no JSON value",
                results[5] if isinstance(results[5], str) else str(results[5]),
                "the result cannot be sent: a result of 5020 bytes, expected at most 4096",
                None,
                "žluť",
            ]
            assert "the result cannot be sent: Out of range" in str(results[5])
        # Where a failure that nobody foresaw comes from is logged once, what was meant as an error is not.
        assert sum("KeyError" in line["message"] for line in host.logs) == 3
        assert not any("told so" in line["message"] for line in host.logs)


def test_slow_coroutines_hold_nothing() -> None:
    plugin = Plugin()
    gates: dict[str, asyncio.Event] = {}

    @plugin.function("meet")
    async def meet(mine: str, other: str) -> str:
        # Each waits for the other: one after the other they would never end.
        gates.setdefault(mine, asyncio.Event()).set()
        await gates.setdefault(other, asyncio.Event()).wait()
        return mine

    with Host(plugin) as host:
        function = host.function("meet")
        pairs = [[f"a{n}", f"b{n}"] for n in range(500)]
        calls = pairs + [[b, a] for a, b in pairs]
        assert function.call_all(calls) == [call[0] for call in calls]
        function.stop()


def test_a_coroutine_that_nobody_waits_for_is_cancelled() -> None:
    plugin = Plugin()
    began, cancelled = threading.Event(), threading.Event()

    @plugin.function("hang")
    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with Host(plugin) as host:
        _, channel = host._begin("function", "hang", "")
        for last in ({"cancel": [1, 99, "x"]}, None):
            began.clear()
            cancelled.clear()
            channel.send({"context": {}, "timeout": 60_000 if last else 1, "calls": [[1, []]]})
            assert began.wait(10)
            if last:
                channel.send(last)
            assert cancelled.wait(10)
            assert channel.recv() == {"errors": [[1, "the call was cancelled: nobody waits for it any more"]]}


GIVEN_UP = "the call was cancelled: nobody waits for it any more"


def ask(first: int, count: int = 1, timeout: int = 60_000) -> dict[str, Any]:
    return {"context": {}, "timeout": timeout, "calls": [[n, [n]] for n in range(first, first + count)]}


def outcomes(channel: Channel, count: int) -> dict[int, Any]:
    """What comes of so many calls: by their number the result, or the error's text."""
    found: dict[int, Any] = {}
    while len(found) < count:
        message = channel.recv()
        assert message is not None
        for number, outcome in message.get("results", []) + message.get("errors", []):
            assert number not in found
            found[number] = outcome
    return found


@pytest.mark.parametrize("style", ["plain", "threads", "coroutine"])
def test_no_message_has_more_results_than_the_host_takes(style: str) -> None:
    plugin = Plugin()
    last, count = threading.Event(), 40

    def work(n: int) -> Any:
        # The first result fills the channel, so that all others have gathered before it is read.
        return "x" * 4_000_000 if n == 0 else n

    async def work_async(n: int) -> Any:
        if n == count - 1:
            for _ in range(3):  # those before it have ended then
                await asyncio.sleep(0)
            last.set()
        return work(n)

    def work_apart(n: int) -> Any:
        if n == count - 1:
            last.set()
        return work(n)

    if style == "plain":
        plugin.add_function("work", work)
        last.set()
    elif style == "threads":
        plugin.add_function("work", work_apart, threads=1)
    else:
        plugin.add_function("work", work_async)
    with Host(plugin, max_batch=4) as host:
        _, channel = host._begin("function", "work", "")
        channel.send(ask(0, count))
        assert last.wait(10)
        found: list[int] = []
        while len(found) < count:
            message = channel.recv()
            assert message is not None
            assert len(message["results"]) <= 4
            found += [number for number, _ in message["results"]]
        assert found == list(range(count))


@pytest.mark.parametrize("style", ["plain", "threads", "coroutine"])
def test_calls_are_not_begun_after_their_deadline(style: str) -> None:
    plugin = Plugin()
    made: list[int] = []

    def work(n: int) -> int:
        made.append(n)
        if n < 20:
            time.sleep(0.3)  # a function that takes its time, longer than the host waits
        return n

    async def work_async(n: int) -> int:
        return work(n)

    if style == "coroutine":
        plugin.add_function("work", work_async)
    else:
        plugin.add_function("work", work, threads=int(style == "threads"))
    with Host(plugin) as host:
        _, channel = host._begin("function", "work", "")
        channel.send(ask(0, 20, timeout=200))
        found = outcomes(channel, 20)
        # The first may be late already where the machine is busy.
        assert made in ([0], [])
        assert all(found[n] == GIVEN_UP for n in range(1, 20))
        channel.send(ask(20))
        assert outcomes(channel, 1) == {20: 20}


class Gate:
    """A function whose call 1 waits until the test says so, and then for a while; it notes the calls that are made."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.began, self.open = threading.Event(), threading.Event()

    def __call__(self, n: int) -> int:
        self.made.append(n)
        if n == 1:
            self.began.set()
            assert self.open.wait(10)
        if n < 3:
            time.sleep(0.05)  # longer than a plain function goes on without looking at what has come
        return n


@pytest.mark.parametrize("threads", [0, 1])
def test_calls_that_wait_are_cancelled(threads: int) -> None:
    plugin, gate = Plugin(), Gate()
    plugin.add_function("gate", gate, threads=threads)
    with Host(plugin) as host:
        _, channel = host._begin("function", "gate", "")
        channel.send(ask(1, 4))
        assert gate.began.wait(10)
        channel.send(ask(5, 3))
        channel.send({"cancel": [1, 3, 6, 99, "x"]})
        channel.send({})
        if threads:  # its messages are read meanwhile; that the last one is wrong tells that they have been
            host.control.wait_for(lambda note: note["type"] == "error")
        gate.open.set()
        assert outcomes(channel, 7) == {1: 1, 2: 2, 3: GIVEN_UP, 4: 4, 5: 5, 6: GIVEN_UP, 7: 7}
        assert gate.made == [1, 2, 4, 5, 7]
        channel.send(ask(8))
        assert outcomes(channel, 1) == {8: 8}
        assert len(host.errors) == 1


def test_a_deadline_counts_from_when_the_message_came() -> None:
    plugin, gate = Plugin(), Gate()
    plugin.add_function("gate", gate)
    with Host(plugin) as host:
        _, channel = host._begin("function", "gate", "")
        channel.send(ask(1, 2))
        assert gate.began.wait(10)
        channel.send(ask(3, timeout=25))  # shorter than call 2 takes
        channel.send(ask(4))
        gate.open.set()
        assert outcomes(channel, 4) == {1: 1, 2: 2, 3: GIVEN_UP, 4: 4}
        assert gate.made == [1, 2, 4]


def test_broken_call_messages_are_errors_of_the_use() -> None:
    plugin = Plugin()
    plugin.add_function("echo", lambda x: x)
    wrong: list[Any] = [
        [],
        {},
        {"calls": 1, "context": {}},
        {"calls": [[1]], "context": {}},
        {"calls": [[1, 2]], "context": {}},
        {"calls": [["1", []]], "context": {}},
        {"calls": []},
        {"calls": [], "context": {"ruleId": 5}},
        {"calls": [], "context": {}, "timeout": -1},
    ]
    with Host(plugin) as host:
        _, channel = host._begin("function", "echo", "")
        for message in wrong:
            channel.send(message)
        channel.send({"cancel": ["x", None]})
        channel.send({"calls": [[1, [7]]], "context": {}})
        assert channel.recv() == {"results": [[1, 7]]}
        assert len(host.errors) == len(wrong)


class Slow(AsyncFunction):
    async def exec(self, args: list[Any], ctx: AsyncContext) -> Any:
        await asyncio.sleep(0)
        ctx.logger.log(logging.INFO, "done")
        return args

    def validate(self, args: list[Any]) -> None:
        if args != ["a.b"]:
            raise Error(f"found {args}")


def test_an_async_function_of_a_class() -> None:
    plugin = Plugin()
    plugin.add_function("slow", Slow)
    with Host(plugin) as host:
        # Before it is started.
        host.control.request("validate", symbol="slow", args=["a.b"])
        function = host.function("slow")
        with pytest.raises(Error, match="found"):
            function.validate(1)
        assert function.call(1, [2]) == [1, [2]]
        function.stop()
        assert host.function("slow").call() == []

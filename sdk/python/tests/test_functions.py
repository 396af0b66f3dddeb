"""Functions of every style, with the host of ``mangrove.testing``."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Callable

import pytest

from mangrove import AsyncContext, AsyncFunction, Context, Error, Function, Plugin
from mangrove.testing import Host


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

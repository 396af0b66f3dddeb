"""Symbols of every style, with the host of ``mangrove.testing``."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, AsyncIterator, Callable, Iterator

import pytest

from mangrove import (
    AsyncContext,
    AsyncFunction,
    AsyncOutput,
    AsyncSink,
    AsyncSource,
    Context,
    Error,
    Function,
    Output,
    Plugin,
    Sink,
    Source,
    StateError,
    Stopped,
)
from mangrove.testing import Host

# Sources.


def test_a_generator_is_a_source() -> None:
    plugin = Plugin()

    @plugin.source("numbers")
    def numbers(config: dict[str, Any], data_source: str) -> Iterator[dict[str, Any]]:
        for n in range(config["count"]):
            yield {"n": n, "topic": data_source}

    with Host(plugin) as host:
        source = host.source("numbers", {"count": 3}, data_source="t")
        assert source.take(10) == [{"n": n, "topic": "t"} for n in range(3)]
        assert source.ended
        assert source.errors == []
        assert source.stop() == []


def test_a_stopped_generator_is_closed_on_its_own_thread() -> None:
    plugin = Plugin()
    closed: list[bool] = []

    @plugin.source("endless")
    def endless() -> Iterator[dict[str, Any]]:
        thread = threading.get_ident()
        try:
            while True:
                yield {}
        finally:
            closed.append(thread == threading.get_ident())

    with Host(plugin) as host:
        source = host.source("endless")
        assert source.take(5000) == [{}] * 5000
        source.stop()
        assert closed == [True]
        assert not source.ended


def test_an_async_generator_is_a_source() -> None:
    plugin = Plugin()
    closed = threading.Event()

    @plugin.source("endless")
    async def endless() -> AsyncIterator[dict[str, Any]]:
        n = 0
        try:
            while True:
                n += 1
                yield {"n": n}
        finally:
            closed.set()

    with Host(plugin) as host:
        first, second = host.source("endless"), host.source("endless")
        assert [t["n"] for t in first.take(20_000)] == list(range(1, 20_001))
        assert second.take(1) == [{"n": 1}]
        rest = first.stop()
        assert [t["n"] for t in rest] == list(range(20_001, 20_001 + len(rest)))
        assert closed.is_set()


class Watched(Source):
    """Notes what is called on which thread."""

    calls: list[str]
    threads: set[int]

    def __init__(self) -> None:
        Watched.calls = []
        Watched.threads = set()

    def note(self, what: str) -> None:
        Watched.calls.append(what)
        Watched.threads.add(threading.get_ident())

    def open(self, config: dict[str, Any], data_source: str, ctx: Context) -> None:
        self.note("open")

    def run(self, output: Output, ctx: Context) -> None:
        self.note("run")
        output.send({"rule": ctx.rule_id, "op": ctx.op_id, "instance": ctx.instance_id, "offset": ctx.offset})
        assert ctx.wait(30)
        with pytest.raises(Stopped):
            output.send({})

    def close(self) -> None:
        self.note("close")


def test_a_source_lives_on_one_thread() -> None:
    plugin = Plugin()
    plugin.add_source("watched", Watched)
    with Host(plugin) as host:
        source = host.source("watched", offset={"at": 7}, rule="r")
        assert source.take(1) == [{"rule": "r", "op": "demo", "instance": 0, "offset": {"at": 7}}]
        assert source.stop() == []
        assert Watched.calls == ["open", "run", "close"]
        assert len(Watched.threads) == 1


def test_what_open_raises_is_the_answer() -> None:
    plugin = Plugin()

    @plugin.source("choosy")
    class Choosy(Source):
        def open(self, config: dict[str, Any], data_source: str, ctx: Context) -> None:
            if "url" not in config:
                raise Error("url is missing")

        def run(self, output: Output, ctx: Context) -> None:
            output.send(ctx.state.get("x", {"default": 1}))

    with Host(plugin) as host:
        with pytest.raises(Error, match=r"^url is missing$"):
            host.source("choosy")
        assert host.source("choosy", {"url": "u"}).take(9) == [{"default": 1}]
        with pytest.raises(Error, match="unknown to this plugin"):
            host.source("other")


def test_errors_of_a_source() -> None:
    plugin = Plugin()

    @plugin.source("shaky")
    def shaky(output: Output, config: dict[str, Any]) -> None:
        output.send({"n": 1})
        output.report("odd")
        with pytest.raises(TypeError):
            output.send({"n": object()})
        with pytest.raises(ValueError, match="JSON"):
            output.send({"n": float("nan")})
        output.send({"n": 2}, {"meta": 1}, offset=2)
        raise KeyError("gone")

    @plugin.source("shaky_async")
    async def shaky_async(output: AsyncOutput) -> None:
        await output.send({"n": 1})
        await output.report(ValueError("odd"))
        await output.send({"n": 2}, {"meta": 1}, offset=2)
        raise KeyError("gone")

    with Host(plugin) as host:
        for symbol in ("shaky", "shaky_async"):
            source = host.source(symbol)
            assert source.take_with_meta(9) == [({"n": 1}, None), ({"n": 2}, {"meta": 1})]
            assert source.errors == ["odd", "KeyError: 'gone'"]
            assert source.offset == 2
            source.stop()
        assert sum("Traceback" in line["message"] for line in host.logs) == 2


def test_commits_come_with_the_offset_that_was_sent() -> None:
    plugin = Plugin()
    commits: list[Any] = []
    came = threading.Event()

    @plugin.source("replays")
    class Replays(Source):
        def run(self, output: Output, ctx: Context) -> None:
            for n in (ctx.offset + 1, ctx.offset + 2):
                output.send({"n": n}, offset=n)
            ctx.wait()

        def commit(self, offset: Any) -> None:
            commits.append(offset)
            came.set()

    with Host(plugin) as host:
        source = host.source("replays", offset=40)
        assert source.take(2) == [{"n": 41}, {"n": 42}]
        source.commit()
        assert came.wait(10)
        assert commits == [42]
        source.stop()


def test_an_async_source_is_cancelled_and_closed() -> None:
    plugin = Plugin()
    calls: list[str] = []

    @plugin.source("sleeper")
    class Sleeper(AsyncSource):
        async def open(self, config: dict[str, Any], data_source: str, ctx: AsyncContext) -> None:
            calls.append("open")

        async def run(self, output: AsyncOutput, ctx: AsyncContext) -> None:
            await output.send({"count": await ctx.state.add("starts")})
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                calls.append(f"cancelled {ctx.cancelled}")

        async def close(self) -> None:
            calls.append("close")

    with Host(plugin) as host:
        source = host.source("sleeper")
        assert source.take(1) == [{"count": 1}]
        assert source.stop() == []
        assert calls == ["open", "cancelled True", "close"]
        assert host.state("sleeper") == {"starts": 1}


# Sinks.


class Rows(Sink):
    taken: list[Any]
    closed: bool

    def open(self, config: dict[str, Any], ctx: Context) -> None:
        Rows.taken, Rows.closed = [], False
        self.fail = config.get("fail")

    def collect(self, result: Any, ctx: Context) -> None:
        if result == self.fail:
            raise Error("told to fail")
        if result == "exit":
            raise SystemExit(3)
        ctx.metrics.counter("results").add()
        Rows.taken.append(result)

    def close(self) -> None:
        Rows.closed = True


class AsyncRows(AsyncSink):
    async def open(self, config: dict[str, Any], ctx: AsyncContext) -> None:
        Rows.taken, Rows.closed = [], False
        self.fail = config.get("fail")

    async def collect(self, result: Any, ctx: AsyncContext) -> None:
        await asyncio.sleep(0)
        if result == self.fail:
            raise Error("told to fail")
        if result == "exit":
            raise SystemExit(3)
        ctx.metrics.counter("results").add()
        Rows.taken.append(result)

    async def close(self) -> None:
        Rows.closed = True


@pytest.mark.parametrize("kind", [Rows, AsyncRows])
def test_a_sink_takes_results_in_order_and_survives_failures(kind: type) -> None:
    plugin = Plugin()
    plugin.add_sink("rows", kind)
    with Host(plugin) as host:
        sink = host.sink("rows", {"fail": "bad"})
        sink.send([{"n": 1}], [{"n": 2}])
        with pytest.raises(Error, match=r"^told to fail$"):
            sink.send("good", "bad", "better")
        with pytest.raises(Error, match="SystemExit: 3"):
            sink.send("exit")
        sink.send({"text": "žluťoučký 馬 🐎"})
        assert Rows.taken == [[{"n": 1}], [{"n": 2}], "good", "better", {"text": "žluťoučký 馬 🐎"}]
        assert host.metrics == {("rows", "results"): 5}
        sink.stop()
        assert Rows.closed


def test_a_function_is_a_sink() -> None:
    plugin = Plugin()
    rows: list[Any] = []

    @plugin.sink("keep")
    def keep(result: Any, config: dict[str, Any], ctx: Context) -> None:
        rows.append((result, config["tag"], ctx.rule_id))

    @plugin.sink("keep_async")
    async def keep_async(result: Any) -> None:
        rows.append(result)

    with Host(plugin) as host:
        host.sink("keep", {"tag": "t"}, rule="r").send(1)
        host.sink("keep_async").send(2, 3)
    assert rows == [(1, "t", "r"), 2, 3]


def test_without_acknowledgements_errors_are_noted() -> None:
    plugin = Plugin()
    plugin.add_sink("rows", Rows)
    with Host(plugin) as host:
        use, channel = host._begin("sink", "rows", "r", config={"fail": "bad"}, ack=False)
        channel.send({"seq": 1, "results": ["bad", "good"]})
        channel.send({"seq": 3, "results": ["late"]})
        channel.send({"seq": 3, "results": ["again"]})
        channel.connection.send(b"\xff garbage")
        channel.send({"seq": 4})
        channel.send({"seq": 4, "results": ["last"]})
        host.control.request("stop", use=use, timeout=5000, seq=4)
        assert Rows.taken == ["good", "late", "last"]
        errors = host.errors
        assert errors[:2] == ["told to fail", "seq is 3, expected 2: batches are missing"]
        assert "batch 3 comes after batch 3" in errors[2]
        assert "is no JSON, expected an object" in errors[3]
        assert errors[4] == "results is missing, expected an array"


# Functions.


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


# What contexts give.


def test_state_of_a_rule_and_of_functions_by_rule() -> None:
    plugin = Plugin()

    @plugin.function("tally")
    def tally(key: str, ctx: Context) -> float:
        return ctx.state.add(key)

    @plugin.function("tally_async")
    async def tally_async(key: str, ctx: AsyncContext) -> float:
        await ctx.state.put("last", key)
        assert await ctx.state.get("last") == key
        await ctx.state.delete("last")
        assert await ctx.state.get("last", "none") == "none"
        return await ctx.state.add(key, 2)

    @plugin.function("all")
    def all_of(ctx: Context) -> Any:
        ctx.state.put("a", {"é": [1, None]})
        ctx.state.delete("none")
        with pytest.raises(StateError, match="no number"):
            ctx.state.add("a")
        for wrong in ("", "x" * 257, "é" * 129):
            with pytest.raises(ValueError, match="1 to 256 bytes"):
                ctx.state.get(wrong)
        with pytest.raises(ValueError, match="at most 1048576"):
            ctx.state.put("b", "x" * 1024 * 1024)
        with pytest.raises(TypeError):
            ctx.state.put("b", object())
        return ctx.state.get("a")

    with Host(plugin) as host:
        sync, other = host.function("tally"), host.function("tally_async")
        assert [sync.call("k") for _ in range(3)] == [1, 2, 3]
        assert sync.call("k", rule="other") == 1
        assert other.call_all([["k"]] * 2) == [2, 4]
        assert host.function("all").call() == {"é": [1, None]}
        assert host.state("tally") == {"k": 3}
        assert host.state("tally", "other") == {"k": 1}


def test_logs_and_metrics_go_to_the_host() -> None:
    plugin = Plugin("noisy")

    @plugin.function("noise")
    def noise(ctx: Context) -> None:
        ctx.logger.warning("hot: %d", 90, extra={"sensor": "s1", "value": 1.5})
        ctx.logger.debug("\ud800")
        try:
            raise KeyError("x")
        except KeyError:
            ctx.logger.exception("it failed")
        ctx.metrics.counter("bytes").add(512)
        ctx.metrics.counter("bytes").add(512)
        ctx.metrics.gauge("level").set(3)
        ctx.metrics.gauge("level").set(1.5)
        for wrong in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="expected"):
                ctx.metrics.counter("bytes").add(wrong)
        with pytest.raises(ValueError, match="finite"):
            ctx.metrics.gauge("level").set(float("nan"))
        with pytest.raises(ValueError, match="256 characters"):
            ctx.metrics.gauge("")

    with Host(plugin) as host:
        host.function("noise").call()
        first, second, third = host.logs
        assert first == {
            "type": "log",
            "level": "warn",
            "message": "hot: 90",
            "use": 1,
            "fields": {"sensor": "s1", "value": "1.5"},
        }
        assert (second["level"], second["message"]) == ("debug", "?")
        assert third["level"] == "error"
        assert "KeyError: 'x'" in third["message"]
        assert host.metrics == {("noise", "bytes"): 1024, ("noise", "level"): 1.5}


def test_registration_refuses_mistakes() -> None:
    plugin = Plugin()
    plugin.add_function("f", lambda: None)
    with pytest.raises(ValueError, match="there twice"):
        plugin.add_function("f", lambda: None)
    with pytest.raises(ValueError, match="needs a name"):
        plugin.add_sink("", lambda result: None)
    with pytest.raises(TypeError, match="expected some of"):
        plugin.add_source("s", lambda topic: None)
    with pytest.raises(TypeError, match="derived from Sink"):
        plugin.add_sink("s", Watched)
    with pytest.raises(ValueError, match="expected 0 to 64"):
        plugin.add_function("g", lambda: None, threads=-1)

    def named(*, x: int) -> None: ...

    with pytest.raises(TypeError, match="SQL has no names"):
        plugin.add_function("h", named)


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

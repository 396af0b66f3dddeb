"""Sources of every style, with the host of ``mangrove.testing``."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, AsyncIterator, Iterator

import pytest

from mangrove import AsyncContext, AsyncOutput, AsyncSource, Context, Error, Output, Plugin, Source, Stopped
from mangrove.testing import Host


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

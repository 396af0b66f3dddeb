"""Sinks of every style, with the host of ``mangrove.testing``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mangrove import AsyncContext, AsyncSink, Context, Error, Plugin, Sink
from mangrove.testing import Host


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


def test_errors_that_do_not_fit_are_shortened() -> None:
    plugin = Plugin()

    @plugin.sink("fails")
    def fails(result: Any) -> None:
        raise Error("x" * 500)

    with Host(plugin, max_message=4096) as host:
        use, channel = host._begin("sink", "fails", "", ack=True)
        channel.send({"seq": 1, "results": [1] * 20})
        acked = host.control.wait_for(lambda note: note["type"] == "ack" and note["use"] == use)
        assert acked["errors"] == [[index, "x" * 40] for index in range(20)]

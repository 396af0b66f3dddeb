"""What contexts give: state, logs, metrics."""

from __future__ import annotations

from typing import Any

import pytest

from mangrove import AsyncContext, Context, Plugin, StateError
from mangrove.testing import Host


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
        for name in ("", "x" * 257, "\ud800"):
            with pytest.raises(ValueError, match="256 characters"):
                ctx.metrics.gauge(name)

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

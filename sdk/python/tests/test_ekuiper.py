"""Plugins that were written for the package ``ekuiper``, with another import."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mangrove import Error
from mangrove.ekuiper import Context, Function, PluginConfig, Sink, Source, adapt, plugin
from mangrove.testing import Host

PYSAM = Path(__file__).resolve().parents[3] / "examples" / "pysam"


class Counter(Source):
    def configure(self, datasource: str, conf: dict[str, Any]) -> None:
        if conf.get("wrong"):
            raise ValueError("wrong is true")
        self.datasource = datasource
        self.stopping = threading.Event()

    def open(self, ctx: Context) -> None:
        ctx.emit({"rule": ctx.get_rule_id(), "op": ctx.get_op_id(), "n": ctx.get_instance_id()}, {"d": self.datasource})
        ctx.emit_error("odd")
        ctx.get_logger().info("opened")
        print("written", file=ctx.get_logger())
        assert self.stopping.wait(20)

    def close(self, ctx: Context) -> None:
        self.stopping.set()


class Endless(Source):
    closed: int

    def open(self, ctx: Context) -> None:
        Endless.closed = 0
        while True:
            ctx.emit({}, {})

    def close(self, ctx: Context) -> None:
        Endless.closed += 1


class Keep(Sink):
    kept: list[Any]

    def open(self, ctx: Context) -> None:
        Keep.kept = []

    def collect(self, ctx: Context, data: Any) -> None:
        rows = json.loads(data)
        if rows == "refused":
            ctx.ack_error("told to fail")
            return
        Keep.kept.append(rows)
        ctx.ack_ok()


class Shout(Function):
    def validate(self, args: list[Any]) -> str:
        return "" if len(args) == 1 else "shout takes one argument"

    def exec(self, args: list[Any], ctx: Context) -> Any:
        return f"{args[0].upper()} {ctx.get_rule_id()}"


class Total(Function):
    def exec(self, args: list[Any], ctx: Context) -> Any:
        return sum(args[0])

    def is_aggregate(self) -> bool:
        return True


CONFIG = PluginConfig("old", {"counter": Counter, "endless": Endless}, {"keep": Keep}, {"shout": Shout, "total": Total})


def test_symbols_do_what_they_did() -> None:
    with Host(adapt(CONFIG)) as host:
        assert host.hello["symbols"]["functions"] == ["shout", {"name": "total", "aggregate": True}]
        source = host.source("counter", data_source="topic", rule="r")
        assert source.take_with_meta(1) == [({"rule": "r", "op": "demo", "n": 0}, {"d": "topic"})]
        source.stop()
        assert source.errors == ["odd"]
        assert [line["message"] for line in host.logs] == ["opened", "written"]
        with pytest.raises(Error, match=r"^wrong is true$"):
            host.source("counter", {"wrong": True})
        sink = host.sink("keep")
        sink.send([{"a": "é"}])
        with pytest.raises(Error, match="told to fail"):
            sink.send("refused")
        sink.send([{"b": 1}])
        assert Keep.kept == [[{"a": "é"}], [{"b": 1}]]
        function = host.function("shout")
        assert function.call("a", rule="r") == "A r"
        with pytest.raises(Error, match="takes one argument"):
            function.validate()
        function.validate("x")
        assert host.function("total").call([1, 2]) == 3


def test_a_source_that_does_not_look_ends_by_an_exception_and_is_closed_once() -> None:
    with Host(adapt(CONFIG)) as host:
        source = host.source("endless")
        assert len(source.take(5000)) == 5000
        source.stop()
        assert Endless.closed == 1
        assert source.errors == []


def test_a_symbol_is_found_by_its_kind() -> None:
    assert CONFIG.get("func", "shout") is Shout
    assert CONFIG.get("other", "shout") is None
    assert callable(plugin.start)


def test_the_example_for_the_published_package_runs_with_another_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What its author would change: the imports. `pynng` is only there for a timeout that does not come here.
    for name in ("pycount", "pyfile", "slug"):
        text = (PYSAM / f"{name}.py").read_text(encoding="utf-8")
        text = text.replace("from ekuiper import", "from mangrove.ekuiper import")
        text = text.replace("from pynng import Timeout", "Timeout = TimeoutError")
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    modules: dict[str, ModuleType] = {}
    for name in ("pycount", "pyfile", "slug"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        modules[name] = importlib.import_module(name)
    config = PluginConfig(
        "pysam",
        {"pycount": modules["pycount"].CountSource},
        {"pyfile": modules["pyfile"].FileSink},
        {"slug": modules["slug"].SlugFunction},
    )
    with Host(adapt(config)) as host:
        source = host.source("pycount", {"interval": 0, "start": 5}, data_source="t")
        assert source.take(2) == [{"n": 5, "topic": "t"}, {"n": 6, "topic": "t"}]
        source.stop()
        path = tmp_path / "out.jsonl"
        sink = host.sink("pyfile", {"path": str(path), "requireAck": True})
        sink.send([{"n": 1}, {"n": 2}])
        sink.stop()
        assert path.read_text() == '{"n": 1}\n{"n": 2}\n'
        assert host.function("slug").call("Crème brûlée!") == "creme-brulee"
        with pytest.raises(Error, match="path is missing"):
            host.sink("pyfile")

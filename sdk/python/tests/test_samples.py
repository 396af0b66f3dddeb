"""The example plugin, in this process and as one of its own from its folder."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

from mangrove import Error
from mangrove._version import __version__
from mangrove.testing import Host

from .scripted import TIMEOUT, ScriptedHost

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "samples-python"
CHECK = json.loads((FOLDER / "check.json").read_text(encoding="utf-8"))
MANIFEST = json.loads((FOLDER / "samples-python.json").read_text(encoding="utf-8"))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("main", "counter", "functions", "keep"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with Host(importlib.import_module("main").plugin) as started:
        yield started


def test_the_manifest_names_what_there_is(host: Host) -> None:
    symbols = host.hello["symbols"]
    functions = [entry if isinstance(entry, str) else entry["name"] for entry in symbols["functions"]]
    assert (symbols["sources"], symbols["sinks"]) == (MANIFEST["sources"], MANIFEST["sinks"])
    assert functions == MANIFEST["functions"]
    assert {"name": "total_python", "aggregate": True} in symbols["functions"]


def test_the_counter_counts_and_ends(host: Host) -> None:
    source = host.source("counter_python", {"count": 3, "size": 4, "fail_at": 2}, data_source="demo")
    pid = os.getpid()
    assert source.take_with_meta(9) == [({"n": n, "pid": pid, "pad": "xxxx"}, {"source": "demo"}) for n in (1, 3)]
    assert source.errors == ["told to fail at 2"]
    assert (source.ended, source.offset) == (True, 3)


def test_the_counter_goes_on_behind_its_offset(host: Host) -> None:
    source = host.source("counter_python", {"interval": 1}, offset=41)
    assert [data["n"] for data in source.take(2)] == [42, 43]
    source.stop()
    for wrong in ({"count": -1}, {"interval": "x"}, {"size": True}):
        with pytest.raises(Error, match="expected an integer from 0"):
            host.source("counter_python", wrong)
    with pytest.raises(Error, match="offset"):
        host.source("counter_python", offset="x")


def test_the_keeper_keeps(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    sink = host.sink("keep_python", {"path": str(path), "fail": "bad"})
    sink.send([{"n": 1}], {"text": "žluť 🐎"})
    with pytest.raises(Error, match=r"^told to fail$"):
        sink.send([{"text": "so bad"}])
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        [{"n": 1}],
        {"text": "žluť 🐎"},
    ]
    sink.stop()
    for wrong in ({}, {"path": 1}, {"path": str(path), "fail": 1}, {"path": str(tmp_path / "no" / "such")}):
        with pytest.raises(Error):
            host.sink("keep_python", wrong)


@pytest.mark.parametrize("symbol", MANIFEST["functions"])
def test_the_functions_do_what_their_check_says(host: Host, symbol: str) -> None:
    function = host.function(symbol)
    for call in CHECK["functions"][symbol]["calls"]:
        if "invalid" in call:
            with pytest.raises(Error, match=call["invalid"]):
                function.validate(*call["args"])
            continue
        function.validate(*call["args"])
        if "error" in call or call.get("panics"):
            with pytest.raises(Error, match=call.get("error")):
                function.call(*call["args"])
        else:
            assert function.call(*call["args"]) == call["result"]


def test_its_requirement_is_the_wheel_of_this_version() -> None:
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"./mangrove_sdk-{__version__}-py3-none-any.whl"]


def test_it_runs_from_its_folder_as_the_manifest_says(tmp_path: Path) -> None:
    with ScriptedHost(tmp_path) as scripted:
        scripted.spawn_in(FOLDER, MANIFEST["executable"])
        scripted.welcome()
        _, channel = scripted.start("source", "counter_python", config={"count": 1})
        message = channel.recv()
        assert message is not None
        assert message["tuples"] == [{"n": 1, "pid": scripted.process.pid, "pad": ""}]
        scripted.control.send({"type": "shutdown", "timeout": int(TIMEOUT * 1000)})
        status, errors = scripted.ended()
        assert (status, errors) == (0, "")

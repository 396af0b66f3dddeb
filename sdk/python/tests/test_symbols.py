"""What is registered, and whatever the host sends to it."""

from __future__ import annotations

import logging
import random
import threading

import pytest

from mangrove import Plugin, _messages
from mangrove._loop import Loop
from mangrove._metrics import Flusher
from mangrove._runtime import Runtime
from mangrove._session import Session
from mangrove.testing import Host

from .test_sinks import Rows
from .test_sources import Watched


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


def test_whatever_the_host_sends_it_goes_on() -> None:
    plugin = Plugin()
    plugin.add_function("echo", lambda x: x)
    plugin.add_sink("rows", Rows)
    plugin.add_source("watched", Watched)
    dice = random.Random(5)
    values: list[str] = [
        "null",
        "true",
        "-1",
        "7",
        "1e999",
        "9" * 400,
        '"\\ud800"',
        '"echo"',
        '"rows"',
        '"start"',
        '"x"',
    ]
    values += [
        "[]",
        "{}",
        "[[1,[2]]]",
        '["\\ud800"]',
        '[[["\\ud800"],1]]',
        '{"\\ud800":1}',
        "[" * 500 + "]" * 500,
        "",
        "NaN",
    ]
    names = ["type", "id", "use", "kind", "symbol", "address", "config", "args", "seq", "timeout", "calls", "context"]
    names += ["results", "cancel", "value", "error", "ruleId", "ack"]
    kinds = ["start", "stop", "validate", "ping", "answer", "commit", "other"]

    def message() -> bytes:
        fields = {name: dice.choice(values) for name in dice.sample(names, dice.randrange(len(names)))}
        if dice.random() < 0.8:
            fields["type"] = f'"{dice.choice(kinds)}"'
        if dice.random() < 0.3:
            fields.update(kind='"sink"', symbol='"rows"', use="7", id="3")
        return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()

    with Host(plugin) as host:
        # Its own answers are part of the noise: the scripted end reads them apart.
        noise = Host(plugin)
        theirs, ours = noise._pair()
        welcome = _messages.Welcome("", 0, 1024 * 1024, 10)
        runtime = Runtime(
            plugin.registry,
            Session(theirs, welcome),
            lambda address, protocol, given_up: None,
            Loop(),
            Flusher(),
            logging.getLogger("noise"),
            lambda timeout: None,
        )
        serving = threading.Thread(target=runtime.serve, daemon=True)
        serving.start()
        answered = threading.Event()

        def read() -> None:
            while (payload := ours.recv()) is not None:
                if b'"id":424242' in payload:
                    answered.set()

        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        for _ in range(3000):
            ours.send(message())
        ours.send(b'{"type":"ping","id":424242}')
        assert answered.wait(20)
        ours.close()
        serving.join(20)
        reading.join(20)
        for connection in (theirs, ours):
            connection.release()
        with noise:
            pass
        # And on data.
        _, calls = host._begin("function", "echo", "")
        use, results = host._begin("sink", "rows", "", ack=True)
        for _ in range(1000):
            payload = message()
            results.connection.send(payload.replace(b'"seq"', b'"no"'))
            calls.connection.send(payload.replace(b'"calls"', b'"no"'))
        results.send({"seq": 1, "results": [1]})
        calls.send({"context": {}, "calls": [[1, ["fine"]]]})
        assert calls.recv() == {"results": [[1, "fine"]]}
        host.control.wait_for(lambda note: note == {"type": "ack", "use": use, "seq": 1})

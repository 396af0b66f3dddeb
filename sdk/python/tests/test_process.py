"""A plugin as a process of its own, against a scripted host over real sockets."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mangrove import ConnectionLost, Error

from .scripted import PAIR, PULL, SOURCES, TIMEOUT, Listener, ScriptedHost

SCRIPT = """
import asyncio, os, threading
from mangrove import Context, Error, Function, Output, Plugin, Sink, Source

plugin = Plugin()

@plugin.source("numbers")
class Numbers(Source):
    def open(self, config, data_source, ctx):
        if config.get("refuse"):
            raise Error("refused: " + config["refuse"])
        self.config = config

    def run(self, output, ctx):
        n = 0
        while n < self.config.get("count", 1 << 60):
            n += 1
            output.send({"n": n, "pad": "x" * self.config.get("size", 0)}, offset=n)
        if "hold" in self.config:
            ctx.wait()

@plugin.source("stubborn")
def stubborn(output):
    output.send({"n": 1})
    threading.Event().wait()

@plugin.sink("keep")
class Keep(Sink):
    def open(self, config, ctx):
        self.count = 0

    def collect(self, result, ctx):
        self.count += 1
        if isinstance(result, str):
            while not os.path.exists(result):
                pass

    def close(self):
        print("kept", self.count, flush=True)

@plugin.function("echo")
def echo(x):
    return x

@plugin.function("slow")
async def slow(x):
    await asyncio.sleep(0.2)
    return x

@plugin.function("tally")
def tally(key, ctx):
    return ctx.state.add(key)

plugin.run()
"""

CONTEXT = {"ruleId": "rule1", "opId": "op", "instanceId": 0, "funcId": 0}


@pytest.fixture
def host(tmp_path: Path) -> Any:
    with ScriptedHost(tmp_path) as scripted:
        scripted.spawn(SCRIPT)
        yield scripted


def calls(*args: Any) -> dict[str, Any]:
    return {"context": CONTEXT, "timeout": 5000, "calls": [[number, [arg]] for number, arg in enumerate(args)]}


def test_hello_has_all_that_the_contract_asks_for(host: ScriptedHost) -> None:
    hello = host.welcome()
    assert hello.pop("sdk").startswith("mangrove-python/")
    assert hello == {
        "type": "hello",
        "versions": [1],
        "token": "0123456789abcdef0123456789abcdef",
        "plugin": "scripted",
        "symbols": {"sources": ["numbers", "stubborn"], "sinks": ["keep"], "functions": ["echo", "slow", "tally"]},
        "encodings": ["json"],
    }


def test_a_source_stops_with_nothing_lost(host: ScriptedHost) -> None:
    host.welcome()
    use, channel = host.start("source", "numbers")
    first = channel.recv()
    assert first is not None
    answer = host.control.ask("stop", use=use, timeout=10_000)
    messages = [first]
    while (message := channel.recv()) is not None:
        messages.append(message)
    assert answer.result(TIMEOUT) == {"seq": len(messages)}
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    assert all(len(message["tuples"]) <= 1024 for message in messages)
    numbers = [data["n"] for message in messages for data in message["tuples"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(message["offset"] == message["tuples"][-1]["n"] for message in messages)
    # The same symbol again.
    use, channel = host.start("source", "numbers", config={"count": 1})
    assert channel.recv() == {"seq": 1, "tuples": [{"n": 1, "pad": ""}], "offset": 1}
    assert channel.recv() == {"seq": 2, "end": True}
    assert host.control.request("stop", use=use, timeout=10_000) == {"seq": 2}


def test_a_host_that_does_not_read_holds_the_source_back(host: ScriptedHost) -> None:
    host.welcome()
    use, channel = host.start("source", "numbers", config={"size": 1000})
    status = Path(f"/proc/{host.process.pid}/status")

    def memory() -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))

    # Answered while it waits for room: control and data do not wait for each other.
    for _ in range(20):
        host.control.request("ping")
    assert memory() < 200_000
    count = 0
    while count < 20_000:
        message = channel.recv()
        assert message is not None
        assert message["tuples"][0]["n"] == count + 1
        count += len(message["tuples"])
    answer = host.control.ask("stop", use=use, timeout=10_000)
    while channel.recv() is not None:
        pass
    answer.result(TIMEOUT)


def test_a_source_that_does_not_look_is_left_alone(host: ScriptedHost) -> None:
    host.welcome()
    use, channel = host.start("source", "stubborn")
    assert channel.recv() == {"seq": 1, "tuples": [{"n": 1}]}
    assert host.control.request("stop", use=use, timeout=200) == {"seq": 1}
    assert channel.recv() is None


def test_a_wrong_config_is_the_answer_and_the_rest_goes_on(host: ScriptedHost) -> None:
    host.welcome()
    with pytest.raises(Error, match=r"^refused: žluť$"):
        host.control.request(
            "start", use=9, kind="source", symbol="numbers", address="ipc:///nowhere", config={"refuse": "žluť"}
        )
    with pytest.raises(Error, match="cannot dial ipc:///nowhere/at/all"):
        host.control.request("start", use=9, kind="source", symbol="numbers", address="ipc:///nowhere/at/all")
    with pytest.raises(Error, match="is no address"):
        host.control.request("start", use=9, kind="sink", symbol="keep", address="ws://x")
    _, channel = host.start("function", "echo")
    channel.send(calls(1))
    assert channel.recv() == {"results": [[0, 1]]}


def test_requests_that_break_the_contract_are_answered(host: ScriptedHost) -> None:
    host.welcome()
    for kind, fields, part in [
        ("dance", {}, "unknown request 'dance'"),
        ("start", {}, "start: kind is missing"),
        ("start", {"use": "x", "kind": "source"}, "use is"),
        ("start", {"use": 1, "kind": "source", "symbol": "none", "address": "a"}, "source 'none' is unknown"),
        ("stop", {"use": 77}, "use 77 is unknown"),
        ("stop", {}, "stop: use is missing"),
        ("validate", {"symbol": "none", "args": []}, "function 'none' is unknown"),
        ("validate", {"symbol": "echo"}, "args is missing"),
    ]:
        with pytest.raises(Error, match=part):
            host.control.request(kind, **fields)  # type: ignore[arg-type]
    with pytest.raises(Error, match="echo takes 1 argument, found 2"):
        host.control.request("validate", symbol="echo", args=[1, 2])
    assert host.control.request("validate", symbol="echo", args=["a.b"]) is None


def test_garbage_on_control_does_no_harm(host: ScriptedHost) -> None:
    host.welcome()
    garbage: list[bytes] = [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{",
        b'{"type":1}',
        b'{"type":"answer"}',
        b'{"type":"answer","id":99}',
    ]
    garbage += [b'{"type":"start"}', b'{"type":"news"}', b'{"id":1}', b"[" * 100_000, b'{"type":"commit","use":-1}']
    garbage += [b'{"type":"shutdown","timeout":"x"}', b'{"type":"ping","id":-1}', b'{"type":"commit","use":1,"seq":1}']
    for payload in garbage:
        host.control.connection.send(payload)
    assert host.control.request("ping") is None


def test_a_message_above_the_limit_ends_the_connection_and_the_plugin_comes_again(tmp_path: Path) -> None:
    with ScriptedHost(tmp_path, message=1024 * 1024) as host:
        host.spawn(SCRIPT)
        host.welcome()
        _, channel = host.start("function", "echo")
        host.control.connection.send_frames(b"\x01" + struct.pack(">Q", 1024 * 1024 + 1))
        # Its uses end with the connection.
        assert channel.recv() is None
        host.welcome()
        assert host.control.request("ping") is None


def test_garbage_on_data_is_an_error_of_the_use(host: ScriptedHost) -> None:
    host.welcome()
    sink, results = host.start("sink", "keep", ack=True)
    _, function = host.start("function", "echo")
    for channel in (results, function):
        for payload in (b"", b"\xff", b"[]", b"{}", b'{"seq":"x"}', b"[" * 100_000):
            channel.connection.send(payload)
    function.send(calls("fine"))
    assert function.recv() == {"results": [[0, "fine"]]}
    results.send({"seq": 1, "results": [[{"n": 1}]]})
    host.control.wait_for(lambda note: note == {"type": "ack", "use": sink, "seq": 1})
    assert len([note for note in host.control.notes if note["type"] == "error"]) == 12
    # A broken frame ends the connection, and the plugin dials again.
    listener = host.listen()
    _, again = host.start("function", "tally", listener)
    again.connection.send_frames(b"\x02")
    assert again.recv() is None
    again = host.accept(listener, "function")
    again.send(calls("k"))
    assert again.recv() == {"results": [[0, 1]]}


def test_a_ping_is_answered_while_a_symbol_is_busy(host: ScriptedHost) -> None:
    host.welcome()
    sink, channel = host.start("sink", "keep", ack=True)
    gate = host.folder / "gate"
    channel.send({"seq": 1, "results": [str(gate)]})
    assert host.control.request("ping") is None
    assert not any(note["type"] == "ack" for note in host.control.notes)
    gate.touch()
    host.control.wait_for(lambda note: note["type"] == "ack" and note["use"] == sink)


def test_a_sink_takes_all_before_it_stops(host: ScriptedHost) -> None:
    host.welcome()
    use, channel = host.start("sink", "keep", ack=True)
    answer = host.control.ask("stop", use=use, timeout=10_000, seq=30)
    for seq in range(1, 31):
        channel.send({"seq": seq, "results": [[{"n": seq}]] * 10})
    assert answer.result(TIMEOUT) is None
    acks = [note["seq"] for note in host.control.notes if note["type"] == "ack"]
    assert acks == list(range(1, 31))
    host.terminate()
    out, _ = host.process.communicate(timeout=TIMEOUT)
    assert "kept 300" in out


def test_a_hundred_thousand_results(host: ScriptedHost) -> None:
    host.welcome()
    use, channel = host.start("sink", "keep", ack=True)
    results = [[{"n": n, "text": "žluť 🐎"}] for n in range(1000)]
    for seq in range(1, 101):
        channel.send({"seq": seq, "results": results})
    host.control.wait_for(lambda note: note["type"] == "ack" and note["seq"] == 100)
    host.control.request("stop", use=use, timeout=10_000, seq=100)
    host.terminate()
    out, _ = host.process.communicate(timeout=TIMEOUT)
    assert "kept 100000" in out


def test_sixteen_mebibytes_both_ways(host: ScriptedHost) -> None:
    host.welcome()
    text = "é" * (8 * 1024 * 1024)
    _, function = host.start("function", "echo")
    function.send(calls(text))
    assert function.recv() == {"results": [[0, text]]}
    _, source = host.start("source", "numbers", config={"size": 16 * 1024 * 1024, "count": 2})
    for n in (1, 2):
        message = source.recv()
        assert message is not None
        assert (message["seq"], len(message["tuples"][0]["pad"])) == (n, 16 * 1024 * 1024)
    sink, results = host.start("sink", "keep", ack=True)
    results.send({"seq": 1, "results": [[{"text": text}]]})
    host.control.wait_for(lambda note: note["type"] == "ack" and note["use"] == sink)


def test_a_thousand_calls_in_flight_and_a_slow_one_holds_no_fast_one(host: ScriptedHost) -> None:
    host.welcome()
    _, slow = host.start("function", "slow")
    _, fast = host.start("function", "echo")
    slow.send(calls(*range(1000)))
    fast.send(calls("fast"))
    assert fast.recv() == {"results": [[0, "fast"]]}
    results: dict[int, int] = {}
    while len(results) < 1000:
        message = slow.recv()
        assert message is not None
        results.update(message["results"])
    assert results == {n: n for n in range(1000)}


def test_the_state_survives_the_connection(host: ScriptedHost) -> None:
    host.welcome()
    _, tally = host.start("function", "tally")
    tally.send(calls("a", "a", "b"))
    assert tally.recv() == {"results": [[0, 1], [1, 2], [2, 1]]}
    state = host.control.state
    assert state == {("tally", "rule1"): {"a": 2, "b": 1}}


def test_it_says_hello_again_when_the_connection_breaks(host: ScriptedHost) -> None:
    first = host.welcome()
    _, channel = host.start("source", "numbers")
    assert channel.recv() is not None
    old = host.control
    old.connection.close()
    assert host.welcome() == first
    # All uses were dropped before.
    while channel.recv() is not None:
        pass
    with pytest.raises(ConnectionLost):
        old.request("ping")
    _, again = host.start("source", "numbers", config={"count": 1})
    assert again.recv() == {"seq": 1, "tuples": [{"n": 1, "pad": ""}], "offset": 1}


def test_a_data_channel_that_breaks_is_dialed_again(host: ScriptedHost) -> None:
    host.welcome()
    listener = host.listen()
    use, channel = host.start("source", "numbers", listener)
    first = channel.recv()
    assert first is not None
    channel.connection.close()
    again = host.accept(listener, "source")
    message = again.recv()
    assert message is not None
    # What was on its way is lost, what comes is whole and in order.
    seq, n = message["seq"], message["tuples"][0]["n"]
    assert seq > first["seq"]
    for _ in range(20):
        assert message["seq"] == seq
        assert message["tuples"][0]["n"] == n
        seq, n = seq + 1, n + len(message["tuples"])
        message = again.recv()
        assert message is not None
    answer = host.control.ask("stop", use=use, timeout=10_000)
    while (message := again.recv()) is not None:
        seq = message["seq"]
    assert answer.result(TIMEOUT) == {"seq": seq}


@pytest.mark.parametrize("by_signal", [False, True])
def test_it_drains_and_exits_with_status_0(host: ScriptedHost, by_signal: bool) -> None:
    host.welcome()
    _, source = host.start("source", "numbers")
    _, sink = host.start("sink", "keep", ack=True)
    _, function = host.start("function", "slow")
    sink.send({"seq": 1, "results": [[{"n": n}] for n in range(50)]})
    function.send(calls("last"))
    # What is on its way when the end comes is not lost.
    host.control.wait_for(lambda note: note["type"] == "ack")
    first = source.recv()
    assert first is not None
    if by_signal:
        host.terminate()
    else:
        host.control.send({"type": "shutdown", "timeout": 10_000})
    count = len(first["tuples"])
    while (message := source.recv()) is not None:
        assert message["tuples"][0]["n"] == count + 1
        count += len(message["tuples"])
    assert function.recv() == {"results": [[0, "last"]]}
    out, errors = host.process.communicate(timeout=TIMEOUT)
    assert host.process.returncode == 0
    assert errors == ""
    assert out == "kept 50\n"


def test_a_signal_before_the_welcome_ends_it_as_well(host: ScriptedHost) -> None:
    host.greet()
    host.terminate()
    assert host.ended() == (0, "")


def test_a_refusal_is_printed_and_status_1(host: ScriptedHost) -> None:
    host.greet()
    host.control.send({"type": "refused", "reason": "wrong token", "versions": [1]})
    status, errors = host.ended()
    assert status == 1
    assert "wrong token" in errors
    assert "0123456789abcdef" not in errors


def test_a_wrong_welcome_is_tried_again(host: ScriptedHost) -> None:
    host.greet()
    host.control.send({"type": "welcome", "version": 1})
    host.greet()
    host.control.connection.send(b"no json")
    host.welcome()
    assert host.control.request("ping") is None


def test_a_version_that_it_does_not_know_is_tried_again(host: ScriptedHost) -> None:
    host.greet()
    host.control.send({"type": "welcome", "version": 2, "limits": host.limits})
    host.welcome()
    assert host.control.request("ping") is None


def test_a_peer_that_speaks_something_else_is_tried_again(host: ScriptedHost) -> None:
    host.listener.accept(PULL).release()
    host.welcome()
    assert host.control.request("ping") is None


@pytest.mark.parametrize(("control", "part"), [(None, "MANGROVE_CONTROL is not set"), ("ws://x", "is no address")])
def test_without_a_host_status_2(tmp_path: Path, control: Any, part: str) -> None:
    (tmp_path / "plugin.py").write_text(SCRIPT)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MANGROVE_")}
    environment["PYTHONPATH"] = str(SOURCES)
    if control is not None:
        environment["MANGROVE_CONTROL"] = control
    ended = subprocess.run(
        [sys.executable, "plugin.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ended.returncode == 2
    assert part in ended.stderr


def test_over_tcp_with_a_star_for_the_host(tmp_path: Path) -> None:
    with ScriptedHost(tmp_path, control=Listener()) as host:
        host.spawn(SCRIPT)
        host.welcome()
        listener = host.listen()
        use, channel = host.start("source", "numbers", listener, address=f"tcp://*:{listener.port}")
        first = channel.recv()
        assert first is not None
        answer = host.control.ask("stop", use=use, timeout=10_000)
        seq = first["seq"]
        while (message := channel.recv()) is not None:
            assert message["seq"] == seq + 1
            seq += 1
        assert answer.result(TIMEOUT) == {"seq": seq}


def test_over_tls(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ScriptedHost(tmp_path, control=Listener(tls=context)) as host:
        host.spawn(SCRIPT, MANGROVE_CA=str(certificate))
        host.welcome()
        assert host.control.request("ping") is None
        listener = Listener(tls=context)
        host._listeners.append(listener)
        _, channel = host.start("function", "echo", listener)
        text = "é" * (1024 * 1024)
        channel.send(calls(text, 1))
        assert channel.recv() == {"results": [[0, text], [1, 1]]}
        host.terminate()
        status, errors = host.ended()
        assert (status, errors) == (0, "")


def test_a_host_that_it_cannot_trust_is_not_spoken_to(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ScriptedHost(tmp_path, control=Listener(tls=context)) as host:
        host.spawn(SCRIPT, MANGROVE_CA=str(certificate))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            # The certificate is for another name.
            host.listener.accept(PAIR)
        assert host.process.stderr is not None
        assert "certificate verify failed" in host.process.stderr.readline()
        host.terminate()
        assert host.ended()[0] == 0


def test_no_socket_and_no_thread_is_left_by_uses(host: ScriptedHost) -> None:
    host.welcome()
    folder = Path(f"/proc/{host.process.pid}")

    def left() -> tuple[int, int]:
        host.control.request("ping")
        return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))

    def round_trip() -> None:
        use, channel = host.start("function", "echo")
        channel.send(calls(1))
        assert channel.recv() == {"results": [[0, 1]]}
        host.control.request("stop", use=use, timeout=10_000)
        use, channel = host.start("sink", "keep")
        channel.send({"seq": 1, "results": [1]})
        host.control.request("stop", use=use, timeout=10_000, seq=1)

    round_trip()
    before = left()
    for _ in range(10):
        round_trip()
    # Threads that have answered may still be at their last instruction.
    after = left()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 2


def test_the_greeting_and_the_frames_are_as_written(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "control"))
    listener.listen()
    listener.settimeout(TIMEOUT)
    with ScriptedHost(tmp_path, control=Listener(tmp_path / "unused")) as host:
        host.spawn(SCRIPT, MANGROVE_CONTROL=f"ipc://{tmp_path / 'control'}")
        sock, _ = listener.accept()
        with sock, listener:
            sock.settimeout(TIMEOUT)
            assert sock.recv(8, socket.MSG_WAITALL) == b"\x00SP\x00\x00\x10\x00\x00"
            sock.sendall(b"\x00SP\x00\x00\x10\x00\x00")
            head = sock.recv(9, socket.MSG_WAITALL)
            assert head[0] == 1
            hello = sock.recv(struct.unpack(">Q", head[1:])[0], socket.MSG_WAITALL)
            assert json.loads(hello)["type"] == "hello"

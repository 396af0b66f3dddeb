"""How fast a plugin is, with a scripted host in another process, over unix sockets.

    python benchmarks/bench.py [tuples] [bare-tuples] [calls] [bare-calls] [async-calls] [latency]

``bare-…`` is the same traffic by a loop that knows nothing of the contract: what is possible in this interpreter.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SOURCES = HERE.parents[1] / "src"
sys.path.insert(0, str(SOURCES))

from mangrove import Context, Output, Plugin, Source  # noqa: E402 (run from a checkout)
from mangrove._link import Connection  # noqa: E402
from mangrove.testing import Channel, Control  # noqa: E402

MAX_MESSAGE = 32 * 1024 * 1024
SECONDS = 3.0
CALLS_PER_MESSAGE = 256
# Messages of calls on their way at a time.
IN_FLIGHT = 4
PAIR, PUSH = 16, 80

plugin = Plugin("bench")


def tuple_of(n: int) -> dict[str, Any]:
    """An object of 200 bytes."""
    return {"n": n, "device": "sensor-17", "temperature": 21.5, "ok": True, "pad": "x" * 130}


@plugin.source("numbers")
class Numbers(Source):
    def run(self, output: Output, ctx: Context) -> None:
        send = output.send
        n = 0
        while True:
            n += 1
            send(tuple_of(n))


@plugin.function("label")
def label(number: int, text: str) -> str:
    return text if number > 3 else "small"


@plugin.function("label_async")
async def label_async(number: int, text: str) -> str:
    return text if number > 3 else "small"


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    return listener


def accept(listener: socket.socket, protocol: int) -> Connection:
    sock, _ = listener.accept()
    sock.recv(8, socket.MSG_WAITALL)
    sock.sendall(b"\x00SP\x00" + struct.pack(">HH", protocol, 0))
    return Connection(sock, True, MAX_MESSAGE)


class Child:
    """A process of this file, and its control connection when it is a plugin."""

    def __init__(self, folder: str, role: str) -> None:
        self.folder = folder
        listener = listen(f"{folder}/{role}")
        environment = {**os.environ, "MANGROVE_CONTROL": f"ipc://{folder}/{role}", "PYTHONPATH": str(SOURCES)}
        self.process = subprocess.Popen([sys.executable, str(HERE), "--role", role], env=environment)
        self.connection = accept(listener, PAIR if role != "bare-source" else PUSH + 1)
        if role == "plugin":
            self.connection.recv()
            self.control = Control(self.connection, 10.0)
            limits = {"message": MAX_MESSAGE, "batch": 1024}
            self.control.send({"type": "welcome", "version": 1, "instance": 0, "encoding": "json", "limits": limits})
            threading.Thread(target=self.control.serve, daemon=True).start()

    def start(self, kind: str, symbol: str, protocol: int) -> Channel:
        path = f"{self.folder}/{symbol}"
        listener = listen(path)
        started = self.control.ask("start", use=1, kind=kind, symbol=symbol, address=f"ipc://{path}", config={})
        connection = accept(listener, protocol)
        started.result(10)
        return Channel(connection)

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def read_tuples(child: Child, connection: Connection) -> str:
    """Counts without parsing: this process must not be what limits."""
    connection.recv()
    began, cpu, count, length = time.perf_counter(), child.cpu(), 0, 0
    while time.perf_counter() - began < SECONDS:
        payload = connection.recv() or b""
        count += payload.count(b'"device"')
        length += len(payload)
    seconds = time.perf_counter() - began
    return (
        f"{count / seconds:10,.0f} tuples/s, {count / (child.cpu() - cpu):10,.0f} per second of its CPU, "
        f"{length / count:.0f} bytes each"
    )


def call_messages() -> bytes:
    context = {"ruleId": "rule1", "opId": "op", "instanceId": 0, "funcId": 0}
    calls = [[n, [n, "a text of some length"]] for n in range(CALLS_PER_MESSAGE)]
    return json.dumps({"context": context, "timeout": 5000, "calls": calls}, separators=(",", ":")).encode()


def drive_calls(child: Child, connection: Connection) -> str:
    message = call_messages()
    for _ in range(IN_FLIGHT):
        connection.send(message)
    began, cpu, count, waiting = time.perf_counter(), child.cpu(), 0, 0
    while time.perf_counter() - began < SECONDS:
        payload = connection.recv() or b""
        waiting += payload.count(b"],[") + 1
        while waiting >= CALLS_PER_MESSAGE:
            waiting -= CALLS_PER_MESSAGE
            count += CALLS_PER_MESSAGE
            connection.send(message)
    seconds = time.perf_counter() - began
    return f"{count / seconds:10,.0f} calls/s, {count / (child.cpu() - cpu):10,.0f} per second of its CPU"


def drive_single(connection: Connection) -> str:
    context = {"ruleId": "rule1", "opId": "op", "instanceId": 0, "funcId": 0}
    message = json.dumps({"context": context, "timeout": 5000, "calls": [[1, [1, "a"]]]}).encode()
    times = []
    for _ in range(5000):
        began = time.perf_counter()
        connection.send(message)
        connection.recv()
        times.append((time.perf_counter() - began) * 1e6)
    return f"p50 {statistics.median(times):.0f} us, p99 {statistics.quantiles(times, n=100)[98]:.0f} us"


def measure(what: str, folder: str) -> str:
    role = {"bare-tuples": "bare-source", "bare-calls": "bare-function"}.get(what, "plugin")
    child = Child(folder, role)
    try:
        if what == "tuples":
            return read_tuples(child, child.start("source", "numbers", PUSH + 1).connection)
        if what == "bare-tuples":
            return read_tuples(child, child.connection)
        if what == "calls":
            return drive_calls(child, child.start("function", "label", PAIR).connection)
        if what == "async-calls":
            return drive_calls(child, child.start("function", "label_async", PAIR).connection)
        if what == "latency":
            return drive_single(child.start("function", "label", PAIR).connection)
        return drive_calls(child, child.connection)
    finally:
        child.close()


def bare_socket(protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(os.environ["MANGROVE_CONTROL"].replace("ipc://", ""))
    sock.sendall(b"\x00SP\x00" + struct.pack(">HH", protocol, 0))
    sock.recv(8, socket.MSG_WAITALL)
    return sock


def bare_source() -> None:
    """Objects made one by one and written by the batch: json.dumps with a list of them."""
    sock = bare_socket(PUSH)
    n = 0
    while True:
        batch = []
        for _ in range(1024):
            n += 1
            batch.append(tuple_of(n))
        payload = json.dumps({"seq": n, "tuples": batch}, separators=(",", ":")).encode()
        sock.sendall(b"\x01" + struct.pack(">Q", len(payload)) + payload)


def bare_function() -> None:
    """Parses and writes the same JSON, with the author's function called in between."""
    file = bare_socket(PAIR).makefile("rwb", buffering=256 * 1024)
    while True:
        head = file.read(9)
        if len(head) < 9:
            return
        message = json.loads(file.read(struct.unpack(">Q", head[1:])[0]))
        results = [[number, label(*args)] for number, args in message["calls"]]
        payload = json.dumps({"results": results}, separators=(",", ":")).encode()
        file.write(b"\x01" + struct.pack(">Q", len(payload)) + payload)
        file.flush()


def main() -> None:
    if sys.argv[1:2] == ["--role"]:
        {"plugin": plugin.run, "bare-source": bare_source, "bare-function": bare_function}[sys.argv[2]]()
        return
    wanted = sys.argv[1:] or ["tuples", "bare-tuples", "calls", "bare-calls", "async-calls", "latency"]
    for what in wanted:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{what:12} {measure(what, folder)}", flush=True)


if __name__ == "__main__":
    main()

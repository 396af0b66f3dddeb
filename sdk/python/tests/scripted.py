"""A scripted host over real sockets, and plugins as processes of their own."""

from __future__ import annotations

import os
import queue
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Optional

from mangrove import _link
from mangrove.testing import Channel, Control

SOURCES = Path(__file__).resolve().parents[1] / "src"
TIMEOUT = 20.0
MAX_MESSAGE = 32 * 1024 * 1024
PAIR, PUSH, PULL = 16, 80, 81


class Listener:
    """Accepts SP connections as the protocol that it is told. An ipc path, or a TCP port of the loopback."""

    def __init__(self, path: Optional[Path] = None, tls: Optional[ssl.SSLContext] = None) -> None:
        self._tls = tls
        self.ipc = path is not None
        if path is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.bind(str(path))
            self.address = f"ipc://{path}"
        else:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._socket.bind(("127.0.0.1", 0))
            scheme = "tls+tcp" if tls else "tcp"
            self.port = self._socket.getsockname()[1]
            self.address = f"{scheme}://127.0.0.1:{self.port}"
        self._socket.listen()
        self._socket.settimeout(TIMEOUT)
        self.greeting = b""

    def accept_socket(self, protocol: int) -> socket.socket:
        sock, _ = self._socket.accept()
        sock.settimeout(TIMEOUT)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True)
        while len(self.greeting) < 8:
            self.greeting += sock.recv(8 - len(self.greeting))
        self.greeting = b""
        sock.sendall(b"\x00SP\x00" + struct.pack(">HH", protocol, 0))
        return sock

    def accept(self, protocol: int) -> _link.Connection:
        return _link.Connection(self.accept_socket(protocol), self.ipc, MAX_MESSAGE)

    def pending(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def close(self) -> None:
        self._socket.close()


class ScriptedHost:
    """Starts one plugin and speaks with it."""

    def __init__(self, folder: Path, *, control: Optional[Listener] = None, **limits: int) -> None:
        self.folder = folder
        self.listener = control or Listener(folder / "control")
        self.limits = {"message": MAX_MESSAGE, "batch": 1024, **limits}
        self.control: Control
        self.process: subprocess.Popen[str]
        self._listeners: list[Listener] = [self.listener]
        self._connections: list[_link.Connection] = []
        self._threads: list[threading.Thread] = []
        self._uses = 0

    def __enter__(self) -> ScriptedHost:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "process"):
            self.process.kill()
            self.process.communicate()
        for thread in self._threads:
            thread.join(TIMEOUT)
        for connection in self._connections:
            connection.release()
        for listener in self._listeners:
            listener.close()

    def spawn(self, script: str, **environment: str) -> None:
        """Starts a plugin of this source text."""
        (self.folder / "plugin.py").write_text(script, encoding="utf-8")
        self.spawn_in(self.folder, "plugin.py", **environment)

    def spawn_in(self, folder: Path, program: str, **environment: str) -> None:
        """Starts the plugin of a folder."""
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", program],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "MANGROVE_CONTROL": self.listener.address,
                "MANGROVE_TOKEN": "0123456789abcdef0123456789abcdef",
                "MANGROVE_PLUGIN": "scripted",
                "PYTHONPATH": str(SOURCES),
                **environment,
            },
        )

    def greet(self) -> dict[str, Any]:
        """Takes a control connection and its ``hello``, without answering."""
        connection = self.listener.accept(PAIR)
        self._connections.append(connection)
        self.control = Control(connection, TIMEOUT)
        hello = Channel(connection).recv()
        assert hello is not None
        return hello

    def welcome(self) -> dict[str, Any]:
        """Takes a control connection, answers its ``hello``, and serves it from now on."""
        hello = self.greet()
        self.control.send(
            {
                "type": "welcome",
                "version": 1,
                "host": "scripted/1",
                "instance": 0,
                "encoding": "json",
                "limits": self.limits,
                "pingInterval": 10000,
                "news": "unknown fields are ignored",
            }
        )
        thread = threading.Thread(target=self.control.serve, daemon=True)
        thread.start()
        self._threads.append(thread)
        return hello

    def listen(self) -> Listener:
        """A listener of the control channel's kind for a data channel."""
        path = self.folder / f"data-{len(self._listeners)}"
        listener = Listener(path if self.listener.ipc else None)
        self._listeners.append(listener)
        return listener

    def start(self, kind: str, symbol: str, listener: Optional[Listener] = None, **fields: Any) -> tuple[int, Channel]:
        """Starts a symbol; its use and its data channel."""
        listener = listener or self.listen()
        self._uses += 1
        use = self._uses
        self.control.scopes[use] = (symbol, "rule1")
        message = {
            "ruleId": "rule1",
            "opId": "op",
            "instanceId": 0,
            "config": {},
            "address": listener.address,
            **fields,
        }
        started = self.control.ask("start", use=use, kind=kind, symbol=symbol, **message)
        channel = self.accept(listener, kind)
        started.result(TIMEOUT)
        return use, channel

    def accept(self, listener: Listener, kind: str) -> Channel:
        """Takes a data connection."""
        protocol = {"source": PULL, "sink": PUSH, "function": PAIR}[kind]
        connection = listener.accept(protocol)
        self._connections.append(connection)
        return Channel(connection)

    def ended(self) -> tuple[int, str]:
        """The status that the process exits with, and what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, errors

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


def collect(channel: Channel) -> tuple[queue.SimpleQueue[Any], threading.Thread]:
    """Reads a channel to its end on a thread."""
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        while (message := channel.recv()) is not None:
            messages.put(message)
        messages.put(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return messages, thread

"""A host in the test's own process, for tests of plugins: no other process, no files.

    from mangrove.testing import Host
    from my_plugin import plugin

    def test_shout():
        with Host(plugin) as host:
            assert host.function("shout").call("a") == "A"

What is not answered in time raises ``TimeoutError``; what is answered with an error raises ``mangrove.Error``.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import logging
import socket
import threading
from typing import Any, Callable, Optional

from . import _json, _link, _logs
from ._errors import ConnectionLost, Error, WireError
from ._loop import Loop
from ._metrics import Flusher
from ._plugin import Plugin
from ._runtime import Runtime, open_session

__all__ = ["Control", "Function", "Host", "Sink", "Source"]

_MAX_MESSAGE = 32 * 1024 * 1024

# Each host has a logger of its own, so that two at a time keep their lines apart.
_numbers = itertools.count(1)


class Control:
    """The host's end of a control connection: requests, notes, and the state that the plugin keeps."""

    def __init__(self, connection: _link.Connection, timeout: float) -> None:
        self.connection = connection
        self.timeout = timeout
        self.notes: list[dict[str, Any]] = []
        self.state: dict[tuple[str, str], dict[str, Any]] = {}
        self.scopes: dict[int, tuple[str, str]] = {}
        self.closed = False
        self._changed = threading.Condition()
        self._last = 0
        self._answers: dict[int, concurrent.futures.Future[Any]] = {}

    def serve(self) -> None:
        """Receives until the plugin closes."""
        with contextlib.suppress(OSError, WireError):
            while True:
                payload = self.connection.recv()
                if payload is None:
                    break
                self._handle(_json.decode(payload))
        with self._changed:
            self.closed = True
            answers, self._answers = self._answers, {}
            self._changed.notify_all()
        for future in answers.values():
            future.set_exception(ConnectionLost("the plugin closed its control connection"))

    def _handle(self, message: dict[str, Any]) -> None:
        if message["type"] == "answer":
            with self._changed:
                future = self._answers.pop(message["id"])
            if "error" in message:
                future.set_exception(Error(message["error"]))
            else:
                future.set_result(message.get("value"))
        elif "id" in message:
            answer: dict[str, Any] = {"type": "answer", "id": message["id"]}
            try:
                answer["value"] = self._keep(message)
            except Error as error:
                answer["error"] = str(error)
            self.send(answer)
        else:
            with self._changed:
                self.notes.append(message)
                self._changed.notify_all()

    def _keep(self, message: dict[str, Any]) -> Any:
        kind = message["type"]
        if kind == "ping":
            return None
        symbol, rule = self.scopes[message["use"]]
        values = self.state.setdefault((symbol, message.get("rule", rule)), {})
        key = message["key"]
        if kind == "get":
            return values.get(key)
        if kind == "put":
            values[key] = message["value"]
        elif kind == "delete":
            values.pop(key, None)
        elif kind == "add":
            old = values.get(key, 0)
            if isinstance(old, bool) or not isinstance(old, (int, float)):
                raise Error(f"the value of {key!r} is no number")
            values[key] = old + message["by"]
            return values[key]
        else:
            raise Error(f"unknown request {kind!r}")
        return None

    def send(self, message: Any) -> None:
        """Sends a message as it is."""
        self.connection.send(_json.encode(message))

    def ask(self, kind: str, /, **fields: Any) -> concurrent.futures.Future[Any]:
        """Sends a request; its answer comes into the future."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        with self._changed:
            if self.closed:
                raise ConnectionLost("the plugin closed its control connection")
            self._last += 1
            number = self._last
            self._answers[number] = future
        self.send({"type": kind, "id": number, **fields})
        return future

    def request(self, kind: str, /, **fields: Any) -> Any:
        """Sends a request and waits for its answer; raises ``Error`` or ``TimeoutError``."""
        return _result(self.ask(kind, **fields), self.timeout)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first note like this, also one that has come before; raises ``TimeoutError``."""

        def find() -> Optional[dict[str, Any]]:
            return next((note for note in self.notes if wanted(note)), None)

        with self._changed:
            self._changed.wait_for(lambda: find() is not None or self.closed, self.timeout)
            found = find()
        if found is None:
            raise TimeoutError(f"no such note came within {self.timeout:g} s, but {self.notes[-5:]}")
        return found


def _result(future: concurrent.futures.Future[Any], timeout: float) -> Any:
    try:
        return future.result(timeout)
    except concurrent.futures.TimeoutError:
        raise TimeoutError(f"the plugin did not answer within {timeout:g} s") from None


class Channel:
    """The host's end of a data channel."""

    def __init__(self, connection: _link.Connection) -> None:
        self.connection = connection

    def send(self, message: Any) -> None:
        """Sends a message as it is."""
        self.connection.send(_json.encode(message))

    def recv(self) -> Optional[dict[str, Any]]:
        """The next message; none when the plugin has closed the channel."""
        payload = self.connection.recv()
        if payload is None:
            return None
        message: dict[str, Any] = _json.decode(payload)
        return message


class Source:
    """A source that was started."""

    def __init__(self, control: Control, use: int, channel: Channel) -> None:
        self._control = control
        self._use = use
        self._channel = channel
        self._waiting: list[tuple[dict[str, Any], Any]] = []
        self.seq = 0
        """The number of the last batch that was read."""
        self.offset: Any = None
        """The last offset that was read."""
        self.errors: list[str] = []
        """The errors that it reported, and the one that it ended with."""
        self.ended = False
        """Whether it ended by itself."""

    def _read(self) -> bool:
        message = self._channel.recv()
        if message is None:
            return False
        self.seq += 1
        if message["seq"] != self.seq:
            raise AssertionError(f"batch {message['seq']} comes where {self.seq} was expected")
        if "error" in message:
            self.errors.append(message["error"])
        self.ended = self.ended or bool(message.get("end"))
        tuples = message.get("tuples", [])
        meta = message.get("meta", [None] * len(tuples))
        self.offset = message.get("offset", self.offset)
        self._waiting += zip(tuples, meta)
        return True

    def take_with_meta(self, count: int) -> list[tuple[dict[str, Any], Any]]:
        """The next tuples with their meta; fewer if it ends before."""
        while len(self._waiting) < count and not self.ended and self._read():
            pass
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def take(self, count: int) -> list[dict[str, Any]]:
        """The next tuples; fewer if it ends before."""
        return [data for data, _ in self.take_with_meta(count)]

    def commit(self) -> None:
        """Tells it that all that was read is safe."""
        self._control.send({"type": "commit", "use": self._use, "seq": self.seq})

    def stop(self) -> list[dict[str, Any]]:
        """Stops it; returns what it had sent and was not taken."""
        answer = self._control.ask("stop", use=self._use, timeout=int(self._control.timeout * 1000))
        while self._read():
            pass
        seq = _result(answer, self._control.timeout)["seq"]
        if seq != self.seq:
            raise AssertionError(f"its last batch is {self.seq}, it said {seq}")
        return self.take(len(self._waiting))


class Sink:
    """A sink that was started."""

    def __init__(self, control: Control, use: int, channel: Channel) -> None:
        self._control = control
        self._use = use
        self._channel = channel
        self._seq = 0

    def send(self, *results: Any) -> None:
        """Gives it results in one batch and waits until they are safe; raises ``Error`` for the first that failed."""
        self._seq += 1
        self._channel.send({"seq": self._seq, "results": list(results)})
        acked = self._control.wait_for(
            lambda note: note["type"] == "ack" and note["use"] == self._use and note["seq"] == self._seq
        )
        for _, error in acked.get("errors", []):
            raise Error(error)

    def stop(self) -> None:
        """Stops it."""
        timeout = int(self._control.timeout * 1000)
        self._control.request("stop", use=self._use, timeout=timeout, seq=self._seq)


class Function:
    """A function that was started."""

    def __init__(self, control: Control, use: int, symbol: str, channel: Channel) -> None:
        self._control = control
        self._use = use
        self._symbol = symbol
        self._channel = channel
        self._last = 0

    def call(self, *args: Any, rule: str = "rule1") -> Any:
        """The result of one call; raises ``Error``."""
        (result,) = self.call_all([list(args)], rule=rule)
        if isinstance(result, Error):
            raise result
        return result

    def call_all(self, calls: list[list[Any]], rule: str = "rule1") -> list[Any]:
        """The results of many calls that are made together; an ``Error`` stands where one failed."""
        numbers = {self._last + 1 + index: index for index in range(len(calls))}
        self._last += len(calls)
        context = {"ruleId": rule, "opId": "project", "instanceId": 0, "funcId": 0}
        timeout = int(self._control.timeout * 1000)
        self._channel.send({"context": context, "timeout": timeout, "calls": list(zip(numbers, calls))})
        results: list[Any] = [None] * len(calls)
        while numbers:
            message = self._channel.recv()
            if message is None:
                raise ConnectionLost(f"function {self._symbol} closed its channel")
            for number, result in message.get("results", []):
                results[numbers.pop(number)] = result
            for number, error in message.get("errors", []):
                results[numbers.pop(number)] = Error(error)
        return results

    def validate(self, *args: Any) -> None:
        """Raises ``Error`` if it cannot be called with such arguments."""
        self._control.request("validate", symbol=self._symbol, args=list(args))

    def stop(self) -> None:
        """Stops it."""
        self._control.request("stop", use=self._use, timeout=int(self._control.timeout * 1000))


class Host:
    """A host of one plugin. ``timeout``: seconds to wait for anything; the limits are those of the contract."""

    def __init__(
        self, plugin: Plugin, *, timeout: float = 10.0, max_batch: int = 1024, max_message: int = _MAX_MESSAGE
    ) -> None:
        self._plugin = plugin
        self._timeout = timeout
        self._limits = {"message": max_message, "batch": max_batch}
        self._loop = Loop()
        self._flusher = Flusher()
        self._handler = _logs.HostHandler()
        self._logger = logging.getLogger(f"{plugin.name or 'plugin'}-{next(_numbers)}")
        self._logger.setLevel(logging.DEBUG)
        self._channels: dict[str, _link.Connection] = {}
        self._open: list[_link.Connection] = []
        self._uses = 0
        theirs, ours = self._pair()
        self.control = Control(ours, timeout)
        self._theirs = theirs
        self.hello: dict[str, Any] = {}
        """The plugin's first message."""
        self._threads: list[threading.Thread] = []

    def _pair(self) -> tuple[_link.Connection, _link.Connection]:
        theirs, ours = socket.socketpair()
        limit = self._limits["message"]
        return _link.Connection(theirs, True, limit), _link.Connection(ours, True, limit)

    def __enter__(self) -> Host:
        self._logger.addHandler(self._handler)
        self._start(self._serve)
        payload = self.control.connection.recv()
        self.hello = _json.decode(payload or b"{}")
        self.control.send(
            {
                "type": "welcome",
                "version": 1,
                "host": "mangrove-testing",
                "instance": 0,
                "encoding": "json",
                "limits": self._limits,
                "pingInterval": 10000,
            }
        )
        self._start(self.control.serve)
        return self

    def __exit__(self, *_: object) -> None:
        self.control.connection.close()
        for connection in self._open:
            connection.close()
        for thread in self._threads:
            thread.join(self._timeout)
        self._loop.close()
        self._flusher.close()
        self._logger.removeHandler(self._handler)
        for connection in [*self._open, *self._channels.values(), self._theirs, self.control.connection]:
            connection.release()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="mangrove-testing", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _serve(self) -> None:
        session = open_session(
            self._theirs, self._plugin.registry, "", self._plugin.name or "", "mangrove-python/testing"
        )
        self._handler.session = session
        runtime = Runtime(
            self._plugin.registry, session, self._connect, self._loop, self._flusher, self._logger, lambda _: None
        )
        try:
            runtime.serve()
        finally:
            self._handler.session = None

    def _connect(self, address: str, protocol: int, given_up: Optional[threading.Event]) -> Optional[_link.Connection]:
        # Only once: a channel whose other end the test has closed is not dialed again.
        return self._channels.pop(address, None)

    def _begin(self, kind: str, symbol: str, rule: str, **fields: Any) -> tuple[int, Channel]:
        self._uses += 1
        use = self._uses
        address = f"test://{use}"
        theirs, ours = self._pair()
        self._channels[address] = theirs
        self._open.append(ours)
        self.control.scopes[use] = (symbol, rule)
        self.control.request("start", use=use, kind=kind, symbol=symbol, address=address, **fields)
        return use, Channel(ours)

    def source(
        self,
        symbol: str,
        config: Optional[dict[str, Any]] = None,
        *,
        data_source: str = "",
        offset: Any = None,
        rule: str = "rule1",
    ) -> Source:
        """Starts a source."""
        more = {} if offset is None else {"offset": offset}
        use, channel = self._begin(
            "source",
            symbol,
            rule,
            ruleId=rule,
            opId="demo",
            instanceId=0,
            config=config or {},
            dataSource=data_source,
            **more,
        )
        return Source(self.control, use, channel)

    def sink(self, symbol: str, config: Optional[dict[str, Any]] = None, *, rule: str = "rule1") -> Sink:
        """Starts a sink that acknowledges."""
        use, channel = self._begin(
            "sink", symbol, rule, ruleId=rule, opId="sink", instanceId=0, config=config or {}, ack=True
        )
        return Sink(self.control, use, channel)

    def function(self, symbol: str) -> Function:
        """Starts a function."""
        use, channel = self._begin("function", symbol, "")
        return Function(self.control, use, symbol, channel)

    def state(self, symbol: str, rule: str = "rule1") -> dict[str, Any]:
        """What a symbol keeps for a rule; it may be changed, to start with it."""
        return self.control.state.setdefault((symbol, rule), {})

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The lines that the plugin logged so far."""
        return self._notes("log")

    @property
    def errors(self) -> list[str]:
        """The errors that symbols reported so far, without those of sources, batches and calls."""
        return [note["error"] for note in self._notes("error")]

    @property
    def metrics(self) -> dict[tuple[str, str], Any]:
        """The metrics so far, by symbol and name."""
        self._flusher.flush()
        values: dict[tuple[str, str], Any] = {}
        for note in self._notes("metric"):
            name = (self.control.scopes[note["use"]][0], note["name"])
            values[name] = values.get(name, 0) + note["value"] if note["kind"] == "counter" else note["value"]
        return values

    def _notes(self, kind: str) -> list[dict[str, Any]]:
        # What was sent before the answer to this has been noted.
        self.control.request("ping")
        return [note for note in self.control.notes if note["type"] == kind]

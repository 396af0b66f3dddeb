"""The plugin: where symbols are registered, and the process's main thread: dialing, signals, the exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from typing import Any, Callable, Optional, TypeVar

from . import _address, _link, _logs, _wire
from ._adapt import function_maker, sink_maker, source_maker
from ._errors import ContractError, Error, Refused, WireError, describe
from ._link import Connection
from ._loop import Loop
from ._metrics import Flusher
from ._registry import FunctionEntry, Registry
from ._runtime import MAX_OPENING, Runtime, open_session
from ._version import __version__

log = logging.getLogger("mangrove")

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds for the symbols to end when a signal asks for it.
_SIGNAL_TIMEOUT = 5.0
# A connection that lived as long was a good one: the next dial is at once.
_GOOD_CONNECTION = 1.0


class Plugin:
    """A plugin and its symbols.

    ``name`` is the plugin's name; a host that starts the plugin tells it, so it may be left out.
    """

    def __init__(self, name: Optional[str] = None) -> None:
        self.name = name
        self.registry = Registry()

    def source(self, name: str) -> Callable[[T], T]:
        """Registers a source: a class derived from ``Source`` or ``AsyncSource``, or a function.

        A function takes any of ``config``, ``data_source``, ``ctx`` and ``output``. It yields tuples, or calls
        ``output.send``; it may be a coroutine or an asynchronous generator.
        """

        def register(target: T) -> T:
            self.add_source(name, target)
            return target

        return register

    def sink(self, name: str) -> Callable[[T], T]:
        """Registers a sink: a class derived from ``Sink`` or ``AsyncSink``, or a function called with each result.

        A function takes any of ``result``, ``config`` and ``ctx``; it may be a coroutine.
        """

        def register(target: T) -> T:
            self.add_sink(name, target)
            return target

        return register

    def function(self, name: str, *, aggregate: Optional[bool] = None, threads: int = 0) -> Callable[[T], T]:
        """Registers a function: a class derived from ``Function`` or ``AsyncFunction``, or a function.

        A function takes its arguments as SQL gives them, and ``ctx`` if it has a parameter of that name; how many
        arguments it takes is what ``validate`` checks. ``aggregate``: each argument is a list. ``threads``: calls that
        wait for something run on so many threads instead of one after the other; from 0 to 64.
        """

        def register(target: T) -> T:
            self.add_function(name, target, aggregate=aggregate, threads=threads)
            return target

        return register

    def add_source(self, name: str, target: Any) -> None:
        """As ``source``, without decorating."""
        self.registry.sources[_new(name, self.registry.sources)] = source_maker(target)

    def add_sink(self, name: str, target: Any) -> None:
        """As ``sink``, without decorating."""
        self.registry.sinks[_new(name, self.registry.sinks)] = sink_maker(target)

    def add_function(self, name: str, target: Any, *, aggregate: Optional[bool] = None, threads: int = 0) -> None:
        """As ``function``, without decorating."""
        if not 0 <= threads <= 64:
            raise ValueError(f"function {name!r}: threads is {threads}, expected 0 to 64")
        make = function_maker(name, target, aggregate)
        if aggregate is None:
            aggregate = bool(getattr(target, "aggregate", False))
        self.registry.functions[_new(name, self.registry.functions)] = FunctionEntry(make, aggregate, threads)

    def run(self) -> None:
        """Serves the host that started this process, until it says that this is the end. Then exits with status 0.

        For the main thread. Exits with status 2 if no host has started the process, with 1 if the host refuses it.
        """
        control = os.environ.get("MANGROVE_CONTROL")
        if not control:
            _exit(2, "this is a plugin: a Mangrove host starts it (MANGROVE_CONTROL is not set)")
            return
        name = os.environ.get("MANGROVE_PLUGIN") or self.name or ""
        try:
            address = _address.parse(control)
        except Error as error:
            _exit(2, f"MANGROVE_CONTROL: {error}")
            return
        process = _Process(self.registry, address, os.environ.get("MANGROVE_TOKEN", ""), name)
        status, reason = process.run()
        _exit(status, reason)


def _new(name: str, known: dict[str, Any]) -> str:
    if not name or name in known:
        raise ValueError(f"symbol {name!r} is there twice" if name else "a symbol needs a name")
    return name


def _exit(status: int, reason: str) -> None:
    if reason:
        print(reason, file=sys.stderr, flush=True)
    sys.exit(status)


class _Process:
    """The plugin's life as a process of its own.

    The main thread waits for one of: a signal, ``shutdown``, a refusal. Another one dials and serves the connection.
    """

    def __init__(self, registry: Registry, address: _address.Address, token: str, name: str) -> None:
        self._registry = registry
        self._address = address
        self._token = token
        self._name = name
        self._loop = Loop()
        self._flusher = Flusher()
        self._handler = _logs.HostHandler()
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        # The main thread waits at one end. Signals write to the other, and so does whoever has an event: a thread that
        # waits for a lock or queue may miss a signal that comes just before.
        self._bell, self._bell_pull = socket.socketpair()
        self._over = threading.Event()
        self._runtime: Optional[Runtime] = None
        self._connection: Optional[Connection] = None

    def run(self) -> tuple[int, str]:
        _logs.install(self._handler)
        self._bell_pull.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._bell_pull.fileno(), warn_on_full_buffer=False)
        serving = threading.Thread(target=self._serve, name="mangrove-control", daemon=True)
        serving.start()
        event, value = self._wait()
        self._over.set()
        status, reason = 0, ""
        if event == "stop":
            if self._runtime is not None:
                self._runtime.stop_all(value)
        else:
            status, reason = 1, value
        self._flusher.close()
        self._handler.session = None
        if self._connection is not None:
            self._connection.close()
        serving.join(_GOOD_CONNECTION)
        self._loop.close()
        signal.set_wakeup_fd(-1)
        self._bell.close()
        self._bell_pull.close()
        return status, reason

    def _tell(self, event: str, value: Any) -> None:
        self._events.put((event, value))
        # A full buffer wakes the main thread as well; closed: this is the end already.
        with contextlib.suppress(OSError):
            self._bell_pull.send(b"\0")

    def _wait(self) -> tuple[str, Any]:
        while True:
            signals = self._bell.recv(64)
            if not self._events.empty():
                return self._events.get()
            if any(number in signals for number in _SIGNALS):
                return "stop", _SIGNAL_TIMEOUT

    def _serve(self) -> None:
        delays = _link.backoff()
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self._serve_once()
            except Refused as error:
                self._tell("fail", str(error))
                return
            except (OSError, WireError, ContractError) as error:
                if self._over.is_set():
                    return
                log.warning("no connection to the host at %s: %s", self._address, describe(error))
            except Exception as error:  # a mistake in here must not leave a process that does nothing
                log.exception("the plugin cannot go on")
                self._tell("fail", describe(error))
                return
            if time.monotonic() - began > _GOOD_CONNECTION:
                delays = _link.backoff()
            self._over.wait(next(delays))

    def _serve_once(self) -> None:
        connection = _link.dial(self._address, _wire.PAIR, MAX_OPENING)
        self._connection = connection
        try:
            session = open_session(
                connection, self._registry, self._token, self._name, f"mangrove-python/{__version__}"
            )
            session.address = self._address
            self._runtime = Runtime(
                self._registry,
                session,
                Dialer(self._address, session.welcome.max_message),
                self._loop,
                self._flusher,
                logging.getLogger("plugin"),
                lambda timeout: self._tell("stop", timeout),
            )
            self._handler.session = session
            try:
                self._runtime.serve()
            finally:
                self._handler.session = None
                self._runtime = None
        finally:
            connection.release()


class Dialer:
    """Dials data channels; an address without a host has that of the control connection."""

    def __init__(self, control: _address.Address, limit: int) -> None:
        self._control = control
        self._limit = limit

    def __call__(self, address: str, protocol: int, given_up: Optional[threading.Event]) -> Optional[Connection]:
        where = _address.parse(address, self._control)
        if given_up is None:
            return _link.dial(where, protocol, self._limit)
        return _link.redial(where, protocol, self._limit, given_up)

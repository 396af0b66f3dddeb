"""Serves a control connection: opens it, takes the host's requests and gives each a thread, ends what is to end.

The thread that receives never runs an author's code, so a ping is answered whatever the symbols do.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable, Optional

from . import _json, _messages
from ._errors import ContractError, Refused, WireError, describe
from ._function import FunctionUse
from ._link import Connection
from ._loop import Loop
from ._messages import Start, Welcome
from ._metrics import Flusher
from ._registry import Registry
from ._session import Session
from ._sink import SinkUse
from ._source import SourceUse
from ._use import Connector, Parts, Use

log = logging.getLogger("mangrove")

# Of the time that the host waits for an answer, how much a symbol has before the answer is given without it.
_SHARE = 0.9
# Seconds that symbols have to end when the connection to the host is gone.
_GRACE = 2.0
# What the host sends before its limits are known is small.
MAX_OPENING = 1024 * 1024


def open_session(connection: Connection, registry: Registry, token: str, name: str, sdk: str) -> Session:
    """Says hello and reads the answer; raises ``Refused``, ``OSError``, ``WireError`` or ``ContractError``."""
    hello = _messages.hello(
        token, name, sdk, list(registry.sources), list(registry.sinks), registry.function_declarations()
    )
    connection.send(_json.encode(hello))
    payload = connection.recv()
    if payload is None:
        raise WireError("the host closed the connection before its welcome")
    message = _messages.read(payload)
    kind = _messages.text(message, "type")
    if kind == "refused":
        raise Refused(f"the host refuses the plugin: {message.get('reason')} (its versions: {message.get('versions')})")
    if kind != "welcome":
        raise ContractError(f"the first message is {kind!r}, expected welcome or refused")
    welcome = Welcome.read(message)
    connection.set_limit(welcome.max_message)
    return Session(connection, welcome)


class Runtime:
    """The symbols in use, and the requests that start and stop them. One for each control connection."""

    def __init__(
        self,
        registry: Registry,
        session: Session,
        connect: Connector,
        loop: Loop,
        flusher: Flusher,
        logger: logging.Logger,
        shut_down: Callable[[float], None],
    ) -> None:
        self._registry = registry
        self._session = session
        self._parts = Parts(session, connect, loop, flusher, logger)
        self._shut_down = shut_down
        self._lock = threading.Lock()
        self._uses: dict[int, Use] = {}
        self._functions: dict[str, Any] = {}
        self._requests: dict[str, Callable[[int, dict[str, Any]], None]] = {
            "start": self._start,
            "stop": self._stop,
            "validate": self._validate,
            "ping": lambda number, _: self._session.answer(number),
        }
        self._notes: dict[str, Callable[[dict[str, Any]], None]] = {
            "answer": session.handle_answer,
            "commit": self._commit,
            "shutdown": self._shutdown,
        }

    def serve(self) -> None:
        """Receives until the connection is gone, then drops every use."""
        try:
            while True:
                payload = self._session.connection.recv()
                if payload is None:
                    break
                try:
                    self._handle(payload)
                except ContractError as error:
                    log.warning("the host broke the contract: %s", error)
        except (OSError, WireError) as error:
            log.debug("the connection to the host broke: %s", error)
        finally:
            self._session.lose()
            self._drop_all()

    def _handle(self, payload: bytes) -> None:
        message = _messages.read(payload)
        kind = _messages.text(message, "type")
        note = self._notes.get(kind)
        if note is not None:
            note(message)
            return
        if "id" not in message:
            if kind in self._requests:
                raise ContractError(f"{kind}: id is missing, expected an integer from 0")
            return
        number = _messages.unsigned(message, "id")
        request = self._requests.get(kind)
        if request is None:
            self._session.answer(number, error=f"unknown request {kind!r}")
            return
        try:
            request(number, message)
        except ContractError as error:
            self._session.answer(number, error=f"{kind}: {error}")

    # Requests.

    def _start(self, number: int, message: dict[str, Any]) -> None:
        start = Start.read(message)
        if not self._registry.knows(start.kind, start.symbol):
            raise ContractError(f"{start.kind} {start.symbol!r} is unknown to this plugin")
        use = self._make(start)
        with self._lock:
            if start.use in self._uses:
                raise ContractError(f"use {start.use} has been started before")
            self._uses[start.use] = use
        _spawn(f"{start.symbol}-{start.use}", use.live, number, lambda: self._forget(start.use))

    def _make(self, start: Start) -> Use:
        if start.kind == "source":
            return SourceUse(start, self._parts, self._registry.sources[start.symbol])
        if start.kind == "sink":
            return SinkUse(start, self._parts, self._registry.sinks[start.symbol])
        threads = self._registry.functions[start.symbol].threads
        return FunctionUse(start, self._parts, lambda: self._take_function(start.symbol), threads)

    def _take_function(self, symbol: str) -> Any:
        """The function that has validated arguments, or a new one."""
        with self._lock:
            known = self._functions.pop(symbol, None)
        return known or self._registry.functions[symbol].make()

    def _forget(self, use: int) -> None:
        with self._lock:
            self._uses.pop(use, None)

    def _stop(self, number: int, message: dict[str, Any]) -> None:
        use = _messages.unsigned(message, "use")
        timeout = _messages.unsigned(message, "timeout", 5000) / 1000
        seq = _messages.unsigned(message, "seq", None)
        with self._lock:
            found = self._uses.get(use)
        if found is None:
            raise ContractError(f"use {use} is unknown")
        if seq is None and isinstance(found, SinkUse):
            raise ContractError("seq is missing, expected an integer from 0")

        def work(use_found: Use) -> None:
            value = use_found.stop(timeout * _SHARE, seq)
            self._forget(use)
            self._session.answer(number, value)

        _spawn(f"stop-{use}", work, found)

    def _validate(self, number: int, message: dict[str, Any]) -> None:
        symbol = _messages.text(message, "symbol")
        args = _messages.array(message, "args")
        if symbol not in self._registry.functions:
            raise ContractError(f"function {symbol!r} is unknown to this plugin")

        def work() -> None:
            error: Optional[str] = None
            try:
                self._function(symbol).validate(args)
            except BaseException as problem:
                error = describe(problem)
            self._session.answer(number, error=error)

        _spawn(f"validate-{symbol}", work)

    def _function(self, symbol: str) -> Any:
        """The function that is started, or one that will be."""
        with self._lock:
            for use in self._uses.values():
                if isinstance(use, FunctionUse) and use.start.symbol == symbol and use.function is not None:
                    return use.function
            known = self._functions.get(symbol)
        if known is None:
            known = self._registry.functions[symbol].make()
            with self._lock:
                known = self._functions.setdefault(symbol, known)
        return known

    # Notes.

    def _commit(self, message: dict[str, Any]) -> None:
        use = _messages.unsigned(message, "use")
        seq = _messages.unsigned(message, "seq")
        with self._lock:
            found = self._uses.get(use)
        # One that has just been stopped may still be told.
        if isinstance(found, SourceUse):
            found.commit(seq)

    def _shutdown(self, message: dict[str, Any]) -> None:
        self._shut_down(_messages.unsigned(message, "timeout", 5000) / 1000)

    # The end.

    def stop_all(self, timeout: float) -> None:
        """Stops every use, all at once, within ``timeout`` seconds."""
        with self._lock:
            uses = list(self._uses.values())
        threads = [_spawn(f"stop-{use.start.use}", use.stop, timeout * _SHARE, None) for use in uses]
        for thread in threads:
            thread.join()

    def _drop_all(self) -> None:
        with self._lock:
            uses = list(self._uses.values())
            self._uses.clear()
        for use in uses:
            use.drop()
        deadline = time.monotonic() + _GRACE
        for use in uses:
            if not use.ended.wait(max(0.0, deadline - time.monotonic())):
                log.warning("%s %s does not end, it is left alone", use.start.kind, use.start.symbol)


def _spawn(name: str, work: Callable[..., object], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    thread.start()
    return thread

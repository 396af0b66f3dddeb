"""What a symbol is given to work with: where it runs, its state, logger, metrics, and when to end.

``Context`` is for symbols of plain functions and methods, ``AsyncContext`` for coroutines.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from . import _json
from ._errors import StateError, describe
from ._metrics import Metrics, Number

if TYPE_CHECKING:
    from ._loop import Loop
    from ._outbox import Outbox
    from ._session import Session

__all__ = ["AsyncContext", "AsyncOutput", "AsyncState", "Context", "Output", "State"]

_MAX_KEY = 256
_MAX_VALUE = 1024 * 1024
# An asynchronous source that never has to wait would keep the loop from all others.
_SENDS_PER_TURN = 64


class _StateRequests:
    """Makes the requests of one scope, a symbol in a rule; pure."""

    def __init__(self, use: int, rule: Optional[str]) -> None:
        self._scope: dict[str, Any] = {"use": use}
        if rule is not None:
            self._scope["rule"] = rule

    def message(self, kind: str, key: str, **more: Any) -> dict[str, Any]:
        if not isinstance(key, str) or not 0 < len(key.encode("utf-8", "replace")) <= _MAX_KEY:
            raise ValueError(f"{key!r} is no key, expected a text of 1 to {_MAX_KEY} bytes")
        return {"type": kind, **self._scope, "key": key, **more}

    def put(self, key: str, value: Any) -> dict[str, Any]:
        size = len(_json.encode(value))
        if size > _MAX_VALUE:
            raise ValueError(f"the value of {key!r} has {size} bytes, expected at most {_MAX_VALUE}")
        return self.message("put", key, value=value)

    def add(self, key: str, by: Number) -> dict[str, Any]:
        if isinstance(by, bool) or not isinstance(by, (int, float)):
            raise TypeError(f"{by!r} cannot be added to {key!r}, expected a number")
        return self.message("add", key, by=by)


class State:
    """Values that the host keeps for this symbol and rule; they survive the plugin and the host.

    Keys have 1 to 256 bytes, values are JSON of up to 1 MiB, at most 10,000 keys. Each call asks the host and waits;
    it raises ``StateError`` if the host refuses or does not answer in 5 s, ``ConnectionLost`` if it is gone,
    ``ValueError`` or ``TypeError`` for what cannot be a key or value.
    """

    def __init__(self, session: Session, requests: _StateRequests) -> None:
        self._session = session
        self._requests = requests

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default`` if there is none."""
        value = self._session.request(self._requests.message("get", key))
        return default if value is None else value

    def put(self, key: str, value: Any) -> None:
        """Sets the value."""
        self._session.request(self._requests.put(key, value))

    def delete(self, key: str) -> None:
        """Removes the key, if it is there."""
        self._session.request(self._requests.message("delete", key))

    def add(self, key: str, by: Number = 1) -> Number:
        """Adds to a number and returns it; a missing key counts as 0."""
        return _number(self._session.request(self._requests.add(key, by)))


class AsyncState:
    """``State`` for coroutines."""

    def __init__(self, session: Session, requests: _StateRequests) -> None:
        self._session = session
        self._requests = requests

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default`` if there is none."""
        value = await self._session.request_async(self._requests.message("get", key))
        return default if value is None else value

    async def put(self, key: str, value: Any) -> None:
        """Sets the value."""
        await self._session.request_async(self._requests.put(key, value))

    async def delete(self, key: str) -> None:
        """Removes the key, if it is there."""
        await self._session.request_async(self._requests.message("delete", key))

    async def add(self, key: str, by: Number = 1) -> Number:
        """Adds to a number and returns it; a missing key counts as 0."""
        return _number(await self._session.request_async(self._requests.add(key, by)))


def _number(value: Any) -> Number:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise StateError(f"the host answered {value!r}, expected a number")
    return value


class _Place:
    """What both kinds of context have."""

    rule_id: str
    """The rule that uses the symbol."""
    op_id: str
    """The operator of the rule's graph."""
    instance_id: int
    """The number of the operator's instance, from 0."""
    func_id: int
    """The number of a function's use within the rule; 0 for sources and sinks."""
    logger: Logger
    """A logger whose lines go to the host, with ``extra`` as fields."""
    metrics: Metrics
    """Counters and gauges of this symbol in this rule."""
    offset: Any
    """Sources: what was last known to be safe, given to ``Output.send`` earlier; or none."""

    def _copy_place(self, other: _Place) -> None:
        self.rule_id = other.rule_id
        self.op_id = other.op_id
        self.instance_id = other.instance_id
        self.func_id = other.func_id
        self.logger = other.logger
        self.metrics = other.metrics
        self.offset = other.offset


class Context(_Place):
    """Where a symbol of plain methods runs, and what it may use there."""

    def __init__(
        self,
        session: Session,
        use: int,
        logger: Logger,
        metrics: Metrics,
        cancellation: Cancellation,
        *,
        rule_id: str = "",
        op_id: str = "",
        instance_id: int = 0,
        func_id: int = 0,
        offset: Any = None,
        state_rule: Optional[str] = None,
    ) -> None:
        self.rule_id = rule_id
        self.op_id = op_id
        self.instance_id = instance_id
        self.func_id = func_id
        self.logger = logger
        self.metrics = metrics
        self.offset = offset
        self._session = session
        self._requests = _StateRequests(use, state_rule)
        self._cancellation = cancellation
        self.state = State(session, self._requests)

    @property
    def cancelled(self) -> bool:
        """True when the symbol has to end."""
        return self._cancellation.event.is_set()

    def wait(self, seconds: Optional[float] = None) -> bool:
        """Sleeps, but not beyond the moment when the symbol has to end; returns ``cancelled``."""
        return self._cancellation.event.wait(seconds)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Calls this, on a thread of its own, when the symbol has to end; at once if that is now."""
        self._cancellation.on_cancel(callback)


class AsyncContext(_Place):
    """Where a symbol of coroutines runs, and what it may use there."""

    def __init__(self, context: Context) -> None:
        self._copy_place(context)
        self._cancellation = context._cancellation
        self.state = AsyncState(context._session, context._requests)

    @property
    def cancelled(self) -> bool:
        """True when the symbol has to end."""
        return self._cancellation.event.is_set()


class Cancellation:
    """That a symbol has to end, and whom to tell."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def on_cancel(self, callback: Callable[[], object]) -> None:
        with self._lock:
            if not self.event.is_set():
                self._callbacks.append(callback)
                return
        _call_all([callback])

    def cancel(self) -> None:
        with self._lock:
            self.event.set()
            callbacks, self._callbacks = self._callbacks, []
        if callbacks:
            threading.Thread(target=_call_all, args=(callbacks,), name="mangrove-cancel", daemon=True).start()


def _call_all(callbacks: list[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:
            logging.getLogger("mangrove").exception("a cancellation callback failed")


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class Logger(_Adapter):
    """A standard logger adapter; what is given as ``extra`` becomes the fields of the line."""

    def __init__(self, logger: logging.Logger, use: int) -> None:
        super().__init__(logger, {})
        self._use = use

    def process(self, msg: Any, kwargs: Any) -> Any:
        fields = kwargs.get("extra") or {}
        kwargs["extra"] = {"mangrove_use": self._use, "mangrove_fields": dict(fields)}
        return msg, kwargs


class Output:
    """Where a source of plain methods sends its tuples. Any of its threads may."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._put = outbox.put

    def send(self, data: dict[str, Any], meta: Optional[dict[str, Any]] = None, offset: Any = None) -> None:
        """Sends a tuple, and waits before it while the host is slow.

        ``offset``: any JSON that lets the source go on behind this tuple. Raises ``Stopped`` when the host has stopped
        the source, ``TypeError`` or ``ValueError`` for what is no JSON object or too large.
        """
        self._put(data, meta, offset)

    def report(self, error: Union[str, BaseException]) -> None:
        """Tells of an error that the source survives; raises ``Stopped``."""
        self._outbox.report(_text(error))


class AsyncOutput:
    """Where a source of coroutines sends its tuples."""

    def __init__(self, outbox: Outbox, loop: Loop) -> None:
        self._outbox = outbox
        self._loop = loop
        self._sends = 0

    async def send(self, data: dict[str, Any], meta: Optional[dict[str, Any]] = None, offset: Any = None) -> None:
        """As ``Output.send``; a call that is cancelled while it waits has sent nothing."""
        self._sends += 1
        if self._sends % _SENDS_PER_TURN == 0:
            await asyncio.sleep(0)
        room = asyncio.Event()
        while not self._outbox.put(data, meta, offset, lambda: self._loop.call(room.set)):
            await room.wait()
            room.clear()

    async def report(self, error: Union[str, BaseException]) -> None:
        """Tells of an error that the source survives; raises ``Stopped``."""
        room = asyncio.Event()
        while not self._outbox.report(_text(error), lambda: self._loop.call(room.set)):
            await room.wait()
            room.clear()


def _text(error: Union[str, BaseException]) -> str:
    return error if isinstance(error, str) else describe(error)

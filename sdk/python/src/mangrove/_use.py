"""One started symbol. Here: the life that sources, sinks and functions share.

    opening ──▶ running ──▶ ended          by itself, or because it was stopped
       └──────────────────▶ ended          it did not open, or was dropped meanwhile

Each use has a thread of its own, on which its plain methods run. Driven by ``_runtime``.
"""

from __future__ import annotations

import logging
import threading
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable, Optional

from . import _messages
from ._errors import Error, describe
from ._link import Connection
from ._loop import Loop
from ._messages import Start
from ._metrics import Flusher, Metrics
from ._session import Session
from .context import Cancellation, Context, Logger

log = logging.getLogger("mangrove")

_MAX_TRACED = 100

# Dials a data channel: the address, our SP protocol, whether to go on trying until the event is set.
Connector = Callable[[str, int, Optional[threading.Event]], Optional[Connection]]


@dataclass(frozen=True)
class Parts:
    """What a use is given to work with."""

    session: Session
    connect: Connector
    loop: Loop
    flusher: Flusher
    logger: logging.Logger


class Use(ABC):
    """A started symbol."""

    # Our SP protocol on its data channel.
    protocol: int

    def __init__(self, start: Start, parts: Parts) -> None:
        self.start = start
        self.parts = parts
        self.session = parts.session
        self.cancellation = Cancellation()
        self.ended = threading.Event()
        self.dropped = threading.Event()
        self.connection: Optional[Connection] = None
        self.metrics = Metrics(start.use, parts.session.note, parts.flusher)
        self.logger = Logger(parts.logger.getChild(start.symbol), start.use)
        self.context = self.make_context()
        self._opened = threading.Event()
        self._traced: set[tuple[Any, ...]] = set()

    def make_context(self, **place: Any) -> Context:
        """A context of this use, by default for where it was started."""
        start = self.start
        if not place:
            place = {"rule_id": start.rule_id, "op_id": start.op_id, "instance_id": start.instance_id}
        return Context(
            self.session,
            start.use,
            self.logger,
            self.metrics,
            self.cancellation,
            offset=start.offset,
            **place,
        )

    def report(self, error: str) -> None:
        """Tells the host of an error that the symbol survives."""
        self.session.note(_messages.use_error(self.start.use, error))

    def trace(self, error: BaseException) -> None:
        """Logs where an error that the author did not foresee comes from, once for each place."""
        if isinstance(error, Error) or error.__traceback__ is None:
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = (frame.filename, frame.lineno, type(error))
        if place not in self._traced and len(self._traced) < _MAX_TRACED:
            self._traced.add(place)
            self.logger.error("%s %s failed", self.start.kind, self.start.symbol, exc_info=error)

    # The thread of the use.

    def live(self, request: int, failed: Callable[[], None]) -> None:
        """Opens the symbol, answers the request, runs it and closes it.

        ``failed`` is called if it does not open, before the host is told.
        """
        try:
            problem = self._begin()
            if problem is not None:
                failed()
                self.session.answer(request, error=problem)
                return
            self.session.answer(request)
            self._opened.set()
            if self.dropped.is_set():
                self.drop()
            self._run()
        finally:
            if self.connection is not None:
                self.connection.release()
            self.metrics.flush()
            self._opened.set()
            self.ended.set()

    def _begin(self) -> Optional[str]:
        try:
            self.open()
        except BaseException as error:  # even sys.exit(): the other symbols go on
            self.trace(error)
            return describe(error)
        try:
            self.connection = self.parts.connect(self.start.address, self.protocol, None)
        except Exception as error:
            self._close()
            return f"cannot dial {self.start.address}: {describe(error)}"
        return None

    def _run(self) -> None:
        try:
            self.run()
        except BaseException as error:  # as above
            self.trace(error)
            self.report(describe(error))
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self.close()
        except BaseException as error:  # as above
            self.trace(error)
            self.report(f"close: {describe(error)}")

    @abstractmethod
    def open(self) -> None:
        """Opens the author's symbol."""

    @abstractmethod
    def run(self) -> None:
        """Works until stopped or dropped, or until there is no more to do."""

    @abstractmethod
    def close(self) -> None:
        """Closes the author's symbol."""

    def reconnect(self) -> bool:
        """The data channel broke: dials it until it works; says whether to go on."""
        if self.connection is not None:
            self.connection.release()
        if self.cancellation.event.is_set() or self.dropped.is_set():
            return False
        self.connection = self.parts.connect(self.start.address, self.protocol, self.cancellation.event)
        if self.connection is not None and self.cancellation.event.is_set():
            # Stopped in the meantime, with the connection before this one.
            self.connection.close()
        return self.connection is not None

    # Other threads.

    def stop(self, timeout: float, seq: Optional[int]) -> Any:
        """Stops the use, waits for its end up to ``timeout`` seconds, and returns what the host is answered."""
        if not self._opened.wait(timeout):
            log.warning("%s %s is stopped, but still opening", self.start.kind, self.start.symbol)
            self.drop()
            return None
        self.begin_stop(seq)
        if not self.ended.wait(timeout):
            log.warning("%s %s did not end within %g s", self.start.kind, self.start.symbol, timeout)
            self.drop()
        return self.stop_value()

    @abstractmethod
    def begin_stop(self, seq: Optional[int]) -> None:
        """Has the use end after what is on its way: for a sink up to batch ``seq``, or what has arrived."""

    def stop_value(self) -> Any:
        """What the host is answered when it has stopped the use."""
        return None

    def drop(self) -> None:
        """Has the use end at once: nobody is interested in it any more."""
        self.dropped.set()
        self.cancellation.cancel()
        if self.connection is not None:
            self.connection.close()

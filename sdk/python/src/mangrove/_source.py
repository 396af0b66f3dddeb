"""A source in use: the author's ``run`` on the use's thread, and a thread that sends what it has gathered."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from typing import Any, Optional

from . import _wire
from ._adapt import BridgedSource, SourceMaker
from ._errors import Stopped, describe
from ._messages import Start
from ._outbox import Outbox
from ._use import Parts, Use, log
from .context import Output
from .symbols import AsyncSource, Source

# Offsets of batches that were sent and not committed: the oldest are forgotten.
_MAX_OFFSETS = 4096


class SourceUse(Use):
    """A started source."""

    protocol = _wire.PUSH

    _source: Source

    def __init__(self, start: Start, parts: Parts, make: SourceMaker) -> None:
        super().__init__(start, parts)
        self._make = make
        self._commits = False
        welcome = parts.session.welcome
        self._outbox = Outbox(welcome.max_message, welcome.max_batch)
        self._seq = 0
        self._offsets: collections.deque[tuple[int, Any]] = collections.deque(maxlen=_MAX_OFFSETS)

    def open(self) -> None:
        source = self._make()
        if isinstance(source, AsyncSource):
            self._source = BridgedSource(source, self.parts.loop)
            self._commits = type(source).commit is not AsyncSource.commit
        else:
            self._source = source
            self._commits = type(source).commit is not Source.commit
        self._source.open(self.start.config, self.start.data_source, self.context)

    def run(self) -> None:
        sender = threading.Thread(target=self._send_all, name=f"{self.start.symbol}-sender", daemon=True)
        sender.start()
        error: Optional[str] = None
        try:
            self._source.run(Output(self._outbox), self.context)
        except (Stopped, concurrent.futures.CancelledError) as stopped:
            if not self.cancellation.event.is_set():
                error = describe(stopped)
        except BaseException as problem:
            error = describe(problem)
            self.trace(problem)
        finally:
            # Sends nothing if it was stopped: the outbox is closed then.
            self._outbox.end(error)
            sender.join()

    def close(self) -> None:
        self._source.close()

    def _send_all(self) -> None:
        more = True
        while more:
            messages, committed, more = self._outbox.take()
            if messages and not self._send(messages):
                self._outbox.abort()
                return
            if committed is not None:
                self._tell_committed(committed)

    def _send(self, messages: list[Any]) -> bool:
        seq = self._seq
        while self.connection is not None:
            try:
                payloads = [message.payload(seq + 1 + index) for index, message in enumerate(messages)]
                self.connection.send_frames(b"".join(map(self.connection.frame, payloads)))
            except OSError as error:
                log.debug("source %s: its data channel broke: %s", self.start.symbol, error)
                if not self.reconnect():
                    return False
                continue
            if self._commits:
                self._offsets.extend(
                    (seq + 1 + index, message.offset)
                    for index, message in enumerate(messages)
                    if message.offset is not None
                )
            self._seq = seq + len(messages)
            return True
        return False

    def _tell_committed(self, seq: int) -> None:
        offset = None
        while self._offsets and self._offsets[0][0] <= seq:
            offset = self._offsets.popleft()[1]
        if offset is not None:
            try:
                self._source.commit(offset)
            except BaseException as error:
                self.trace(error)
                self.report(f"commit: {describe(error)}")

    def commit(self, seq: int) -> None:
        """The host has made the batches up to ``seq`` safe."""
        if self._commits:
            self._outbox.commit(seq)

    def begin_stop(self, seq: Optional[int]) -> None:
        self._outbox.close()
        self.cancellation.cancel()

    def stop_value(self) -> Any:
        return {"seq": self._seq}

    def drop(self) -> None:
        self._outbox.abort()
        super().drop()

"""A sink in use: its thread receives batches, gives each result to the author's ``collect`` and acknowledges."""

from __future__ import annotations

import threading
from typing import Optional

from . import _messages, _wire
from ._adapt import BridgedSink, SinkMaker, collect_all
from ._errors import ContractError, WireError, describe
from ._messages import Start
from ._use import Parts, Use, log
from .symbols import AsyncSink, Sink


class SinkUse(Use):
    """A started sink."""

    protocol = _wire.PULL

    _sink: Sink

    def __init__(self, start: Start, parts: Parts, make: SinkMaker) -> None:
        super().__init__(start, parts)
        self._make = make
        self._lock = threading.Lock()
        # The last batch that was collected, and the one to stop after.
        self._seq = 0
        self._last: Optional[int] = None

    def open(self) -> None:
        sink = self._make()
        self._sink = BridgedSink(sink, self.parts.loop) if isinstance(sink, AsyncSink) else sink
        self._sink.open(self.start.config, self.context)

    def close(self) -> None:
        self._sink.close()

    def run(self) -> None:
        while self.connection is not None:
            try:
                payload = self.connection.recv()
            except (OSError, WireError) as error:
                self._complain(error)
                payload = None
            if payload is None:
                if not self.reconnect():
                    return
                continue
            try:
                self._take(payload)
            except ContractError as error:
                self.report(str(error))
            with self._lock:
                if self._last is not None and self._seq >= self._last:
                    return

    def _complain(self, error: Exception) -> None:
        if not self.cancellation.event.is_set():
            log.warning("sink %s: its data channel broke: %s", self.start.symbol, error)

    def _take(self, payload: bytes) -> None:
        message = _messages.read(payload)
        seq = _messages.unsigned(message, "seq")
        results = _messages.array(message, "results")
        if seq <= self._seq:
            raise ContractError(f"batch {seq} comes after batch {self._seq}: it is left out")
        if seq > self._seq + 1:
            self.report(f"seq is {seq}, expected {self._seq + 1}: batches are missing")
        if isinstance(self._sink, BridgedSink):
            failed = self._sink.collect_all(results, self.context)
        else:
            failed = collect_all(self._sink, results, self.context)
        self._seq = seq
        for _, error in failed:
            self.trace(error)
        errors = [(index, describe(error)) for index, error in failed]
        if self.start.ack:
            self.session.note(_messages.ack(self.start.use, seq, errors))
            return
        for _, text in errors:
            self.report(text)

    def begin_stop(self, seq: Optional[int]) -> None:
        with self._lock:
            if seq is not None and self._seq < seq:
                self._last = seq
                return
            self._last = self._seq if seq is not None else None
        self.cancellation.cancel()
        if self.connection is not None:
            self.connection.end_reading()

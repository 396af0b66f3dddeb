"""The tuples of one source on their way to the host: gathered by the author's thread, taken by the sender's.

Tuples collect in an open batch as long as the sender is busy, so a single one goes at once and many go together.
Bounded: with ``_MAX_FULL`` batches waiting, whoever sends has to wait. Knows no socket.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional

from . import _json
from ._errors import Stopped, clean

_MAX_FULL = 4
_BATCH_BYTES = 256 * 1024
# What a batch has around its tuples: names, a number, brackets.
_ENVELOPE = 128
# Room for a comma after a tuple, and for a `null` in `meta`.
_PER_TUPLE = 6


class _Batch:
    __slots__ = ("meta", "offset", "offset_value", "size", "tuples")

    def __init__(self) -> None:
        self.tuples: list[bytes] = []
        # None until the first tuple with meta.
        self.meta: Optional[list[bytes]] = None
        self.offset = b""
        self.offset_value: Any = None
        self.size = _ENVELOPE


class Sent:
    """One message for the host, without its number."""

    __slots__ = ("body", "offset")

    def __init__(self, body: list[bytes], offset: Any) -> None:
        self.body = body
        self.offset = offset

    def payload(self, seq: int) -> bytes:
        return b'{"seq":%d,%b}' % (seq, b"".join(self.body))


def _batch_message(batch: _Batch) -> Sent:
    body = [b'"tuples":[', b",".join(batch.tuples), b"]"]
    if batch.meta is not None:
        missing = len(batch.tuples) - len(batch.meta)
        body += [b',"meta":[', b",".join(batch.meta + [b"null"] * missing), b"]"]
    if batch.offset:
        body += [b',"offset":', batch.offset]
    return Sent(body, batch.offset_value)


class Outbox:
    """The queue between a source and the thread that sends for it."""

    def __init__(self, max_message: int, max_batch: int) -> None:
        self._max_message = max_message
        self._max_batch = max_batch
        self._max_bytes = min(_BATCH_BYTES, max_message)
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self._full: list[Sent] = []
        self._open = _Batch()
        self._sender_waits = False
        self._closed = False
        self._wakers: list[Callable[[], None]] = []
        self._committed: Optional[int] = None

    # The author's side.

    def put(
        self,
        data: Any,
        meta: Any = None,
        offset: Any = None,
        waker: Optional[Callable[[], None]] = None,
    ) -> bool:
        """Takes a tuple, and waits for room before it. With a ``waker`` it does not wait: when there is no room it
        returns false, takes nothing and calls the waker as soon as there is.

        Raises ``Stopped``, ``TypeError`` or ``ValueError``.
        """
        if not isinstance(data, dict):
            data = _as_object(data, "a tuple")
        text = _json.encode(data)
        size = len(text) + _PER_TUPLE
        meta_text = offset_text = b""
        if meta is not None:
            meta_text = _json.encode(meta if isinstance(meta, dict) else _as_object(meta, "meta"))
            size += len(meta_text)
        if offset is not None:
            offset_text = _json.encode(offset)
        if size + len(offset_text) + _ENVELOPE > self._max_message:
            raise ValueError(
                f"a tuple of {len(text)} bytes does not fit into a message, expected at most {self._max_message}"
            )
        with self._lock:
            batch = self._open
            if self._closed or batch.size + size + len(offset_text) > self._max_bytes or len(self._full) >= _MAX_FULL:
                if not self._make_room(waker):
                    return False
                batch = self._open
            tuples = batch.tuples
            if meta_text:
                if batch.meta is None:
                    batch.meta = []
                if len(batch.meta) < len(tuples):
                    batch.meta += [b"null"] * (len(tuples) - len(batch.meta))
                batch.meta.append(meta_text)
            tuples.append(text)
            batch.size += size
            if offset_text:
                batch.size += len(offset_text) - len(batch.offset)
                batch.offset = offset_text
                batch.offset_value = offset
            if len(tuples) >= self._max_batch:
                self._close_batch()
            if self._sender_waits:
                self._filled.notify()
        return True

    def report(self, error: str, waker: Optional[Callable[[], None]] = None) -> bool:
        """Takes an error that the source survives; otherwise like ``put``."""
        body = [b'"error":', _json.encode(clean(error) or "unknown error")]
        with self._lock:
            if not self._make_room(waker):
                return False
            self._close_batch()
            self._full.append(Sent(body, None))
            self._filled.notify()
        return True

    def end(self, error: Optional[str]) -> None:
        """The last message, unless the source was stopped: it ends by itself. Nothing can be put after it."""
        body = [b'"end":true']
        if error is not None:
            body += [b',"error":', _json.encode(error)]
        with self._lock:
            if not self._closed:
                self._close_batch()
                self._full.append(Sent(body, None))
                self._close()

    def _make_room(self, waker: Optional[Callable[[], None]]) -> bool:
        # The lock is held.
        while True:
            if self._closed:
                raise Stopped("the source was stopped")
            if len(self._full) < _MAX_FULL:
                # The tuple at hand did not fit into the open batch.
                if self._open.tuples:
                    self._close_batch()
                return True
            if waker is not None:
                self._wakers.append(waker)
                return False
            self._emptied.wait()

    def _close_batch(self) -> None:
        if self._open.tuples:
            self._full.append(_batch_message(self._open))
            self._open = _Batch()

    # The host's side.

    def close(self) -> None:
        """Takes no more; what is here can still be taken out."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._filled.notify_all()
        self._wake_authors()

    def abort(self) -> None:
        """Takes no more and forgets what is here."""
        with self._lock:
            self._full.clear()
            self._open = _Batch()
            self._committed = None
            self._close()

    def commit(self, seq: int) -> None:
        """Notes that the host has made batch ``seq`` safe."""
        with self._lock:
            self._committed = seq
            self._filled.notify()

    def _wake_authors(self) -> None:
        self._emptied.notify_all()
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            waker()

    # The sender's side.

    def take(self) -> tuple[list[Sent], Optional[int], bool]:
        """What has gathered, the number that was committed since, and whether more may come; waits for any of them."""
        with self._lock:
            while not (self._full or self._open.tuples or self._closed or self._committed is not None):
                self._sender_waits = True
                self._filled.wait()
                self._sender_waits = False
            self._close_batch()
            full, self._full = self._full, []
            committed, self._committed = self._committed, None
            if full:
                self._wake_authors()
            return full, committed, bool(full) or not self._closed


def _as_object(value: Any, what: str) -> dict[str, Any]:
    try:
        return {**value}
    except TypeError:
        raise TypeError(f"{what} is a {type(value).__name__}, expected a dict") from None

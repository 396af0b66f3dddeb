"""The one asyncio loop that all coroutines of a plugin run on, in a thread of its own; started when first needed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from typing import Any, Callable, Coroutine, Optional, TypeVar

from ._errors import describe

T = TypeVar("T")
Cancel = Callable[[], None]


class Exited(RuntimeError):
    """A coroutine wanted to end the whole process."""


async def contained(work: Coroutine[Any, Any, T]) -> T:
    """The same, but ``sys.exit()`` in it is an error like others: it must not end the loop of all."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise Exited(describe(error)) from error


class Loop:
    """The loop, for the plugin's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: Optional[asyncio.AbstractEventLoop] = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(self._loop,), name="mangrove-asyncio", daemon=True).start()
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Has the loop call this soon."""
        # A loop that was closed has no use for it.
        with contextlib.suppress(RuntimeError):
            self._running().call_soon_threadsafe(function, *args)

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Has the loop run this."""
        return asyncio.run_coroutine_threadsafe(contained(work), self._running())

    def submit_cancellable(self, work: Coroutine[Any, Any, T]) -> tuple[concurrent.futures.Future[T], Cancel]:
        """The same, with what cancels the coroutine: the future is done when the coroutine is, not before."""
        tasks: list[asyncio.Task[T]] = []
        cancelled = False

        async def supervise() -> T:
            task = asyncio.ensure_future(contained(work))
            tasks.append(task)
            if cancelled:
                task.cancel()
            return await task

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            for task in tasks:
                task.cancel()

        return asyncio.run_coroutine_threadsafe(supervise(), self._running()), lambda: self.call(cancel)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Has the loop run this and waits for it; not for the loop's own thread."""
        return self.submit(work).result()

    def close(self) -> None:
        """Ends the loop."""
        with self._lock:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._loop.stop)

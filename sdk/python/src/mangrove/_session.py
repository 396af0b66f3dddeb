"""One control connection after its welcome: requests and their answers, notes. Any thread may use it.

It knows the form of requests and answers, not what they ask for; ``_runtime`` receives and hands answers in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from typing import Any, Optional

from . import _json, _messages
from ._address import Address
from ._errors import ConnectionLost, ContractError, StateError
from ._link import Connection

# Seconds until a request of ours has to be answered.
REQUEST_TIMEOUT = 5.0

_Answer = concurrent.futures.Future[Any]


class Session:
    """The plugin's end of a control connection."""

    def __init__(self, connection: Connection, welcome: _messages.Welcome, address: Optional[Address] = None) -> None:
        self.connection = connection
        self.welcome = welcome
        self.address = address
        self.lost = False
        self._lock = threading.Lock()
        self._last = 0
        self._open: dict[int, _Answer] = {}

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; raises ``ConnectionLost``, ``TypeError`` or ``ValueError``."""
        payload = _json.encode(message)
        if len(payload) > self.welcome.max_message:
            raise ValueError(f"a message of {len(payload)} bytes, expected at most {self.welcome.max_message}")
        try:
            if self.lost:
                raise OSError("it broke")
            self.connection.send(payload)
        except OSError as error:
            raise ConnectionLost(f"no connection to the host: {error}") from None

    def note(self, message: dict[str, Any]) -> bool:
        """Sends a message that nobody misses when the connection is gone; says whether it went."""
        try:
            self.send(message)
        except ConnectionLost:
            return False
        return True

    def answer(self, number: int, value: Any = None, error: Optional[str] = None) -> None:
        """Answers a request of the host."""
        try:
            self.note(_messages.answer(number, value, error))
        except (TypeError, ValueError) as problem:
            self.note(_messages.answer(number, error=f"the answer is no JSON: {problem}"))

    def _ask(self, message: dict[str, Any]) -> tuple[int, _Answer]:
        future: _Answer = concurrent.futures.Future()
        with self._lock:
            self._last += 1
            number = self._last
            self._open[number] = future
        try:
            self.send({**message, "id": number})
        except BaseException:
            self._forget(number)
            raise
        # It may have broken between the two, after lose() looked.
        if self.lost:
            self._settle(number, error=ConnectionLost("the connection to the host broke"))
        return number, future

    def _forget(self, number: int) -> Optional[_Answer]:
        with self._lock:
            return self._open.pop(number, None)

    def _settle(self, number: int, value: Any = None, error: Optional[Exception] = None) -> bool:
        future = self._forget(number)
        if future is None:
            return False
        # Whoever awaited it may have been cancelled in the meantime.
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        return True

    def request(self, message: dict[str, Any]) -> Any:
        """Asks the host and waits for its answer.

        Raises ``StateError`` for an error answer or none in 5 s, and ``ConnectionLost``.
        """
        number, future = self._ask(message)
        try:
            return future.result(REQUEST_TIMEOUT)
        except concurrent.futures.TimeoutError:
            raise _no_answer(message) from None
        finally:
            self._forget(number)

    async def request_async(self, message: dict[str, Any]) -> Any:
        """The same for a coroutine."""
        number, future = self._ask(message)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), REQUEST_TIMEOUT)
        except asyncio.TimeoutError:
            raise _no_answer(message) from None
        finally:
            self._forget(number)

    def handle_answer(self, message: dict[str, Any]) -> None:
        """Takes an answer of the host; raises ``ContractError``."""
        number = _messages.unsigned(message, "id")
        error = message.get("error")
        problem = None if error is None else StateError(str(error))
        if not self._settle(number, message.get("value"), problem):
            raise ContractError(f"an answer with id {number}, which is no open request")

    def lose(self) -> None:
        """The connection is gone: every request fails."""
        self.lost = True
        with self._lock:
            numbers = list(self._open)
        for number in numbers:
            self._settle(number, error=ConnectionLost("the connection to the host broke"))


def _no_answer(message: dict[str, Any]) -> StateError:
    return StateError(f"the host did not answer {message['type']!r} within {REQUEST_TIMEOUT:g} s")

"""A function in use: calls come in messages of many, results go back in messages of many.

A plain function is called on the use's own thread, which parses a message, makes its calls and writes their results,
all at once. Coroutines and functions with ``threads`` work elsewhere; a second thread gathers and sends their results.

A call that the host has given up is not begun any more, in either place: its deadline is counted from when its message
came, so a plain function that takes its time looks now and then at what has come meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import math
import queue
import threading
import time
from collections import deque
from typing import Any, Callable, Iterable, Optional, Union

from . import _json, _messages, _wire
from ._adapt import FunctionMaker, plain_function
from ._errors import ContractError, Error, WireError, describe
from ._loop import contained
from ._messages import Start
from ._use import Parts, Use, log
from .context import AsyncContext, Context
from .symbols import AsyncFunction, Function

# Seconds after which the results of a message's first calls go without waiting for its others.
_GATHER = 0.02
# Bytes of messages, each with so much for itself, that are taken in while calls of one before them are made.
_AHEAD = 1024 * 1024
_PER_MESSAGE = 256
# Calls that coroutines and threads may have at a time; more wait in the socket.
_MAX_CALLS = 8192
_MAX_CONTEXTS = 1024

_Results = list[tuple[int, Any]]
_Errors = list[tuple[int, str]]
_Calls = list[tuple[int, list[Any]]]
# With the time, by `time.monotonic`, at which nobody waits for the calls any more.
_Execute = Callable[[_Calls, Context, float], None]

_GIVEN_UP = "the call was cancelled: nobody waits for it any more"


def _are_calls(calls: list[Any]) -> bool:
    try:
        for number, args in calls:
            if type(number) is not int or number < 0 or type(args) is not list:
                return False
    except (TypeError, ValueError):  # no pair
        return False
    return True


class FunctionUse(Use):
    """A started function."""

    protocol = _wire.PAIR

    def __init__(self, start: Start, parts: Parts, make: FunctionMaker, threads: int) -> None:
        super().__init__(start, parts)
        self._make = make
        self._threads = threads
        self.function: Union[Function, AsyncFunction, None] = None
        self._contexts: dict[tuple[Any, ...], Context] = {}
        self._elsewhere: Optional[_Elsewhere] = None
        self._execute: _Execute
        # What has come while calls of a plain function were made: messages and when they came, calls among theirs that
        # were cancelled since, and the room that all of it has taken since there was nothing.
        self._ahead: deque[tuple[dict[str, Any], float]] = deque()
        self._cancelled: set[int] = set()
        self._taken = 0

    def open(self) -> None:
        function = self.function = self._make()
        if isinstance(function, AsyncFunction):
            self._elsewhere = _OnLoop(self, function)
        elif self._threads > 0:
            self._elsewhere = _OnThreads(self, function, self._threads)
        else:
            self._execute = functools.partial(self._execute_here, plain_function(function), function.exec)
        function.open()
        if self._elsewhere is not None:
            self._elsewhere.begin()
            self._execute = self._elsewhere.execute

    def close(self) -> None:
        if self._elsewhere is not None:
            self._elsewhere.end()
        if self.function is not None:
            self.function.close()

    def run(self) -> None:
        while self.connection is not None:
            try:
                if self._ahead:
                    self._take(*self._ahead.popleft())
                    continue
                if self._taken:
                    self._cancelled.clear()
                    self._taken = 0
                payload = self.connection.recv()
            except ContractError as error:
                self.report(str(error))
                continue
            except (OSError, WireError) as error:
                if not self.cancellation.event.is_set():
                    log.warning("function %s: its channel broke: %s", self.start.symbol, error)
                payload = None
            if payload is None:
                # After a stop the results of the last calls still go out.
                if self.cancellation.event.is_set() or not self.reconnect():
                    return
                continue
            try:
                self._take(_messages.read(payload), self.connection.arrived)
            except ContractError as error:
                self.report(str(error))

    def _take(self, message: dict[str, Any], arrived: float) -> None:
        if "calls" in message:
            calls = _messages.array(message, "calls")
            if not _are_calls(calls):
                broken = next(call for call in calls if not _are_calls([call]))
                raise ContractError(f"a call is {_messages.shown(broken)}, expected a number and an array of arguments")
            context = self._context(_messages.mapping(message, "context"))
            timeout = _messages.seconds(message, "timeout", 0)
            self._execute(calls, context, arrived + timeout if timeout > 0 else math.inf)
        elif "cancel" in message:
            if self._elsewhere is not None:
                self._elsewhere.cancel(_messages.array(message, "cancel"))
        else:
            raise ContractError("a message to a function has neither calls nor cancel")

    def _context(self, place: dict[str, Any]) -> Context:
        key = (
            _messages.text(place, "ruleId", ""),
            _messages.text(place, "opId", ""),
            _messages.unsigned(place, "instanceId", 0),
            _messages.unsigned(place, "funcId", 0),
        )
        context = self._contexts.get(key)
        if context is None:
            if len(self._contexts) >= _MAX_CONTEXTS:
                self._contexts.clear()
            context = self.make_context(
                rule_id=key[0], op_id=key[1], instance_id=key[2], func_id=key[3], state_rule=key[0]
            )
            self._contexts[key] = context
        return context

    def _execute_here(
        self,
        plain: Optional[Callable[..., Any]],
        execute: Callable[[list[Any], Context], Any],
        calls: _Calls,
        context: Context,
        deadline: float,
    ) -> None:
        results: _Results = []
        errors: _Errors = []
        clock = time.monotonic
        while True:
            calls, given_up = self._wanted(calls, clock() >= deadline)
            errors += given_up
            until = min(clock() + _GATHER, deadline)
            rest = iter(calls)
            for number, args in rest:
                try:
                    results.append((number, plain(*args) if plain is not None else execute(args, context)))
                except BaseException as error:  # even sys.exit(): it is one call's error
                    self.trace(error)
                    errors.append((number, describe(error)))
                if clock() > until:
                    break
            else:
                if results or errors:
                    self.send(results, errors)
                return
            self.send(results, errors)
            results, errors = [], []
            self._look_ahead()
            calls = list(rest)

    def _wanted(self, calls: _Calls, is_late: bool) -> tuple[_Calls, _Errors]:
        """The calls that somebody waits for, and what comes of the others."""
        if is_late:
            return [], [(number, _GIVEN_UP) for number, _ in calls]
        if not self._cancelled:
            return calls, []
        given_up = [(number, _GIVEN_UP) for number, _ in calls if number in self._cancelled]
        return [call for call in calls if call[0] not in self._cancelled], given_up

    def _look_ahead(self) -> None:
        """Takes in what has come, so that it is known since when it is here, and what was cancelled."""
        while self.connection is not None and self._taken < _AHEAD:
            try:
                payload = self.connection.recv_ready()
            except (OSError, WireError):
                return  # `run` finds that, too
            if payload is None:
                return
            self._taken += len(payload) + _PER_MESSAGE
            try:
                message = _messages.read(payload)
                if "calls" in message:
                    self._ahead.append((message, self.connection.arrived))
                else:
                    cancelled = _messages.array(message, "cancel")
                    self._cancelled.update(number for number in cancelled if type(number) is int)
            except ContractError as error:
                self.report(str(error))

    def send(self, results: _Results, errors: _Errors) -> None:
        """Sends what came out of calls, in messages of as many as the host takes."""
        if self.connection is None:
            return
        most = self.session.welcome.max_batch
        if len(results) + len(errors) > most:
            for at in range(0, len(results), most):
                self.send(results[at : at + most], [])
            for at in range(0, len(errors), most):
                self.send([], errors[at : at + most])
            return
        message: dict[str, Any] = {}
        if results:
            message["results"] = results
        if errors:
            message["errors"] = errors
        limit = self.session.welcome.max_message
        try:
            payload = _json.encode(message)
            if len(payload) > limit:
                raise ValueError(f"a result of {len(payload)} bytes, expected at most {limit}")
        except (TypeError, ValueError) as problem:
            self._send_apart(results, errors, problem)
            return
        try:
            self.connection.send(payload)
        except OSError as error:
            # Nobody waits for them any more: the host gives up calls whose channel breaks.
            self._ahead.clear()
            log.debug("function %s: results were lost: %s", self.start.symbol, error)

    def _send_apart(self, results: _Results, errors: _Errors, problem: Exception) -> None:
        """Finds what cannot be sent, and sends all the rest."""
        if results and errors:
            self.send(results, [])
            self.send([], errors)
        elif len(results) + len(errors) > 1:
            for half in (slice(len(results) // 2), slice(len(results) // 2, None)):
                if results:
                    self.send(results[half], [])
            for half in (slice(len(errors) // 2), slice(len(errors) // 2, None)):
                if errors:
                    self.send([], errors[half])
        elif results:
            self.send([], [(results[0][0], f"the result cannot be sent: {problem}")])
        else:
            self.send([], [(errors[0][0], "the text of the error is too long")])

    def begin_stop(self, seq: Optional[int]) -> None:
        self.cancellation.cancel()
        if self.connection is not None:
            self.connection.end_reading()

    def drop(self) -> None:
        super().drop()
        if self._elsewhere is not None:
            self._elsewhere.abandon()


class _Elsewhere:
    """Calls that are made on other threads: how many there are, and a thread that sends their results."""

    def __init__(self, use: FunctionUse) -> None:
        self.use = use
        lock = threading.Lock()
        self._done = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._open = 0
        self._ended = False
        self._abandoned = False
        self._results: _Results = []
        self._errors: _Errors = []
        self._sender = threading.Thread(target=self._send_all, name=f"{use.start.symbol}-sender", daemon=True)

    def begin(self) -> None:
        self._sender.start()

    def execute(self, calls: _Calls, context: Context, deadline: float) -> None:
        with self._room:
            while self._open >= _MAX_CALLS and not self._abandoned:
                self._room.wait()
            self._open += len(calls)
        self.make(calls, context, deadline)

    def make(self, calls: _Calls, context: Context, deadline: float) -> None:
        raise NotImplementedError

    def cancel(self, numbers: list[Any]) -> None:
        """Nobody waits for these calls any more."""

    def finished(self, number: int, result: Any, error: Optional[BaseException]) -> None:
        with self._done:
            self._open -= 1
            if error is None:
                self._results.append((number, result))
            else:
                self._errors.append((number, describe(error)))
                self.use.trace(error)
            self._done.notify()
            self._room.notify()

    def _send_all(self) -> None:
        while True:
            with self._done:
                while not (self._results or self._errors or self._abandoned or (self._ended and self._open == 0)):
                    self._done.wait()
                results, self._results = self._results, []
                errors, self._errors = self._errors, []
            if self._abandoned or not (results or errors):
                return
            self.use.send(results, errors)

    def abandon(self) -> None:
        """Nobody waits for any call any more."""
        with self._done:
            self._abandoned = True
            self._done.notify_all()
            self._room.notify_all()

    def end(self) -> None:
        """Waits for the calls there are, unless they are abandoned."""
        with self._done:
            self._ended = True
            self._done.notify()
        self._sender.join()


class _OnLoop(_Elsewhere):
    def __init__(self, use: FunctionUse, function: AsyncFunction) -> None:
        super().__init__(use)
        self._function = function
        self._loop = use.parts.loop
        # Only the loop's thread uses it.
        self._tasks: dict[int, asyncio.Task[Any]] = {}

    def make(self, calls: _Calls, context: Context, deadline: float) -> None:
        self._loop.call(self._spawn, calls, AsyncContext(context), deadline)

    async def _begin(self, args: list[Any], context: AsyncContext, deadline: float) -> Any:
        # Coroutines before this one may have computed for long without waiting for anything.
        if time.monotonic() >= deadline:
            raise Error(_GIVEN_UP)
        return await self._function.exec(args, context)

    def _spawn(self, calls: _Calls, context: AsyncContext, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        group: set[asyncio.Task[Any]] = set()
        delay = deadline - time.monotonic()
        timer = loop.call_later(delay, _cancel_all, group) if delay < math.inf else None

        def done(number: int, task: asyncio.Task[Any]) -> None:
            group.discard(task)
            if not group and timer is not None:
                timer.cancel()
            if self._tasks.get(number) is task:
                del self._tasks[number]
            if task.cancelled():
                self.finished(number, None, Error(_GIVEN_UP))
                return
            error = task.exception()
            self.finished(number, None if error else task.result(), error)

        for number, args in calls:
            task = asyncio.ensure_future(contained(self._begin(args, context, deadline)))
            self._tasks[number] = task
            group.add(task)
            task.add_done_callback(functools.partial(done, number))

    def cancel(self, numbers: list[Any]) -> None:
        def find() -> None:
            _cancel_all([self._tasks[number] for number in numbers if type(number) is int and number in self._tasks])

        self._loop.call(find)

    def abandon(self) -> None:
        super().abandon()
        self._loop.call(lambda: _cancel_all(self._tasks.values()))


def _cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in list(tasks):
        task.cancel()


_NOBODYS: tuple[list[Any], Optional[Context], float] = ([], None, 0.0)


class _OnThreads(_Elsewhere):
    def __init__(self, use: FunctionUse, function: Function, threads: int) -> None:
        super().__init__(use)
        self._function = function
        self._threads = threads
        # Calls in their order, and what is left of them until somebody makes them or nobody waits for them any more.
        self._calls: queue.SimpleQueue[Optional[int]] = queue.SimpleQueue()
        self._waiting: dict[int, tuple[list[Any], Context, float]] = {}

    def begin(self) -> None:
        super().begin()
        for index in range(self._threads):
            name = f"{self.use.start.symbol}-{index}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def make(self, calls: _Calls, context: Context, deadline: float) -> None:
        for number, args in calls:
            self._waiting[number] = (args, context, deadline)
            self._calls.put(number)

    def cancel(self, numbers: list[Any]) -> None:
        for number in numbers:
            if type(number) is int:
                self._waiting.pop(number, None)

    def abandon(self) -> None:
        super().abandon()
        self._waiting.clear()

    def _work(self) -> None:
        while True:
            number = self._calls.get()
            if number is None:
                return
            args, context, deadline = self._waiting.pop(number, _NOBODYS)
            if context is None or time.monotonic() >= deadline:
                self.finished(number, None, Error(_GIVEN_UP))
                continue
            try:
                result = self._function.exec(args, context)
            except BaseException as error:  # as above
                self.finished(number, None, error)
            else:
                self.finished(number, result, None)

    def end(self) -> None:
        super().end()
        for _ in range(self._threads):
            self._calls.put(None)

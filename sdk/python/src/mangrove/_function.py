"""A function in use: calls come in messages of many, results go back in messages of many.

A plain function is called on the use's own thread, which parses a message, makes its calls and writes their results,
all at once. Coroutines and functions with ``threads`` work elsewhere; a second thread gathers and sends their results.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
import time
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
# Calls that coroutines and threads may have at a time; more wait in the socket.
_MAX_CALLS = 8192
_MAX_CONTEXTS = 1024

_Results = list[tuple[int, Any]]
_Errors = list[tuple[int, str]]
_Execute = Callable[[list[Any], Context, float], None]


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
                payload = self.connection.recv()
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
                self._take(payload)
            except ContractError as error:
                self.report(str(error))

    def _take(self, payload: bytes) -> None:
        message = _messages.read(payload)
        if "calls" in message:
            calls = _messages.array(message, "calls")
            if not _are_calls(calls):
                broken = next(call for call in calls if not _are_calls([call]))
                raise ContractError(f"a call is {_messages.shown(broken)}, expected a number and an array of arguments")
            context = self._context(_messages.mapping(message, "context"))
            timeout = _messages.seconds(message, "timeout", 0)
            self._execute(calls, context, timeout)
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
        calls: list[Any],
        context: Context,
        _timeout: float,
    ) -> None:
        results: _Results = []
        errors: _Errors = []
        clock = time.monotonic
        until = clock() + _GATHER
        for number, args in calls:
            try:
                results.append((number, plain(*args) if plain is not None else execute(args, context)))
            except BaseException as error:  # even sys.exit(): it is one call's error
                self.trace(error)
                errors.append((number, describe(error)))
            if clock() > until:
                self.send(results, errors)
                results, errors = [], []
                until = clock() + _GATHER
        if results or errors:
            self.send(results, errors)

    def send(self, results: _Results, errors: _Errors) -> None:
        """Sends what came out of calls."""
        if self.connection is None:
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

    def execute(self, calls: list[Any], context: Context, timeout: float) -> None:
        with self._room:
            while self._open >= _MAX_CALLS and not self._abandoned:
                self._room.wait()
            self._open += len(calls)
        self.make(calls, context, timeout)

    def make(self, calls: list[Any], context: Context, timeout: float) -> None:
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

    def make(self, calls: list[Any], context: Context, timeout: float) -> None:
        self._loop.call(self._spawn, calls, AsyncContext(context), timeout)

    def _spawn(self, calls: list[Any], context: AsyncContext, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        group: set[asyncio.Task[Any]] = set()
        deadline = loop.call_later(timeout, _cancel_all, group) if timeout > 0 else None

        def done(number: int, task: asyncio.Task[Any]) -> None:
            group.discard(task)
            if not group and deadline is not None:
                deadline.cancel()
            if self._tasks.get(number) is task:
                del self._tasks[number]
            if task.cancelled():
                self.finished(number, None, Error("the call was cancelled: nobody waits for it any more"))
                return
            error = task.exception()
            self.finished(number, None if error else task.result(), error)

        for number, args in calls:
            task = asyncio.ensure_future(contained(self._function.exec(args, context)))
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


class _OnThreads(_Elsewhere):
    def __init__(self, use: FunctionUse, function: Function, threads: int) -> None:
        super().__init__(use)
        self._function = function
        self._threads = threads
        self._calls: queue.SimpleQueue[Optional[tuple[int, list[Any], Context]]] = queue.SimpleQueue()

    def begin(self) -> None:
        super().begin()
        for index in range(self._threads):
            name = f"{self.use.start.symbol}-{index}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def make(self, calls: list[Any], context: Context, timeout: float) -> None:
        for number, args in calls:
            self._calls.put((number, args, context))

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return
            number, args, context = call
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

"""Makes classes of what authors write as functions, and plain symbols of those with coroutines."""

from __future__ import annotations

import asyncio
import inspect
import types
from typing import Any, Callable, Optional, Type, Union, cast

from . import _loop
from .context import AsyncContext, AsyncOutput, Context, Output
from .symbols import AsyncFunction, AsyncSink, AsyncSource, Function, Sink, Source

SourceMaker = Callable[[], Union[Source, AsyncSource]]
SinkMaker = Callable[[], Union[Sink, AsyncSink]]
FunctionMaker = Callable[[], Union[Function, AsyncFunction]]

# By these names the parameters of an author's function are given.
_SOURCE_NAMES = ("output", "config", "data_source", "ctx")
_SINK_NAMES = ("result", "config", "ctx")


def _wanted(function: Callable[..., Any], names: tuple[str, ...], kind: str) -> list[str]:
    parameters = inspect.signature(function).parameters
    for name, parameter in parameters.items():
        if name not in names and parameter.default is parameter.empty:
            raise TypeError(f"{kind} {function.__name__}: parameter {name!r}, expected some of {', '.join(names)}")
    return [name for name in parameters if name in names]


def source_maker(target: Any) -> SourceMaker:
    """What makes the source that an author has written as a class or as a function."""
    if inspect.isclass(target):
        if not issubclass(target, (Source, AsyncSource)):
            raise TypeError(f"source {target.__name__}, expected a class derived from Source or AsyncSource")
        return cast(SourceMaker, target)
    wanted = _wanted(target, _SOURCE_NAMES, "source")
    if inspect.isasyncgenfunction(target) or inspect.iscoroutinefunction(target):
        return lambda: _AsyncSourceOf(target, wanted)
    return lambda: _SourceOf(target, wanted)


class _SourceOf(Source):
    def __init__(self, function: Callable[..., Any], wanted: list[str]) -> None:
        self._function = function
        self._wanted = wanted
        self._values: dict[str, Any] = {}

    def open(self, config: dict[str, Any], data_source: str, ctx: Context) -> None:
        self._values = {"config": config, "data_source": data_source}

    def run(self, output: Output, ctx: Context) -> None:
        values = {**self._values, "output": output, "ctx": ctx}
        tuples = self._function(**{name: values[name] for name in self._wanted})
        if isinstance(tuples, types.GeneratorType):
            try:
                send = output.send
                for data in tuples:
                    send(data)
            finally:
                tuples.close()


class _AsyncSourceOf(AsyncSource):
    def __init__(self, function: Callable[..., Any], wanted: list[str]) -> None:
        self._function = function
        self._wanted = wanted
        self._values: dict[str, Any] = {}

    async def open(self, config: dict[str, Any], data_source: str, ctx: AsyncContext) -> None:
        self._values = {"config": config, "data_source": data_source}

    async def run(self, output: AsyncOutput, ctx: AsyncContext) -> None:
        values = {**self._values, "output": output, "ctx": ctx}
        tuples = self._function(**{name: values[name] for name in self._wanted})
        if not isinstance(tuples, types.AsyncGeneratorType):
            await tuples
            return
        try:
            async for data in tuples:
                await output.send(data)
        finally:
            await tuples.aclose()


def sink_maker(target: Any) -> SinkMaker:
    """What makes the sink that an author has written as a class or as a function."""
    if inspect.isclass(target):
        if not issubclass(target, (Sink, AsyncSink)):
            raise TypeError(f"sink {target.__name__}, expected a class derived from Sink or AsyncSink")
        return target
    wanted = _wanted(target, _SINK_NAMES, "sink")
    if inspect.iscoroutinefunction(target):
        return lambda: _AsyncSinkOf(target, wanted)
    return lambda: _SinkOf(target, wanted)


class _SinkOf(Sink):
    def __init__(self, function: Callable[..., Any], wanted: list[str]) -> None:
        self._function = function
        self._wanted = wanted
        self._config: dict[str, Any] = {}

    def open(self, config: dict[str, Any], ctx: Context) -> None:
        self._config = config

    def collect(self, result: Any, ctx: Context) -> None:
        values = {"result": result, "config": self._config, "ctx": ctx}
        self._function(**{name: values[name] for name in self._wanted})


class _AsyncSinkOf(AsyncSink):
    def __init__(self, function: Callable[..., Any], wanted: list[str]) -> None:
        self._function = function
        self._wanted = wanted
        self._config: dict[str, Any] = {}

    async def open(self, config: dict[str, Any], ctx: AsyncContext) -> None:
        self._config = config

    async def collect(self, result: Any, ctx: AsyncContext) -> None:
        values = {"result": result, "config": self._config, "ctx": ctx}
        await self._function(**{name: values[name] for name in self._wanted})


def function_maker(name: str, target: Any, aggregate: Optional[bool]) -> FunctionMaker:
    """What makes the function that an author has written as a class or as a function."""
    if inspect.isclass(target):
        if not issubclass(target, (Function, AsyncFunction)):
            raise TypeError(f"function {target.__name__}, expected a class derived from Function or AsyncFunction")
        return target
    signature = inspect.signature(target)
    wants_ctx = "ctx" in signature.parameters
    if wants_ctx:
        signature = signature.replace(parameters=[p for n, p in signature.parameters.items() if n != "ctx"])
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise TypeError(f"function {name}: parameter {parameter.name!r} is never given, SQL has no names")
    kind: Type[Any] = _AsyncFunctionOf if inspect.iscoroutinefunction(target) else _FunctionOf
    return lambda: kind(name, target, signature, wants_ctx, bool(aggregate))


def _check_arguments(name: str, signature: inspect.Signature, args: list[Any]) -> None:
    least = most = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = 1_000_000
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
    if least <= len(args) <= most:
        return
    if least == most:
        takes = "1 argument" if most == 1 else f"{most} arguments"
    elif most >= 1_000_000:
        takes = f"{least} or more arguments"
    else:
        takes = f"{least} to {most} arguments"
    raise ValueError(f"{name} takes {takes}, found {len(args)}")


class _Wrapped:
    """What a wrapped function and a wrapped coroutine function have in common."""

    def __init__(
        self, name: str, function: Callable[..., Any], signature: inspect.Signature, wants_ctx: bool, aggregate: bool
    ) -> None:
        self._name = name
        self._function = function
        self._signature = signature
        self._wants_ctx = wants_ctx
        self.aggregate = aggregate

    def validate(self, args: list[Any]) -> None:
        _check_arguments(self._name, self._signature, args)


class _FunctionOf(_Wrapped, Function):
    def exec(self, args: list[Any], ctx: Context) -> Any:
        if self._wants_ctx:
            return self._function(*args, ctx=ctx)
        return self._function(*args)


def plain_function(function: Function) -> Optional[Callable[..., Any]]:
    """The author's own function behind ``function``, if it is one that is given its arguments and nothing else."""
    if isinstance(function, _FunctionOf) and not function._wants_ctx:
        return function._function
    return None


class _AsyncFunctionOf(_Wrapped, AsyncFunction):
    async def exec(self, args: list[Any], ctx: AsyncContext) -> Any:
        if self._wants_ctx:
            return await self._function(*args, ctx=ctx)
        return await self._function(*args)


class BridgedSource(Source):
    """A source of coroutines, for the threads that run sources."""

    def __init__(self, inner: AsyncSource, loop: _loop.Loop) -> None:
        self._inner = inner
        self._loop = loop

    def open(self, config: dict[str, Any], data_source: str, ctx: Context) -> None:
        self._loop.run(self._inner.open(config, data_source, AsyncContext(ctx)))

    def run(self, output: Output, ctx: Context) -> None:
        work = self._inner.run(AsyncOutput(output._outbox, self._loop), AsyncContext(ctx))
        running, cancel = self._loop.submit_cancellable(work)
        ctx.on_cancel(cancel)
        running.result()

    def close(self) -> None:
        self._loop.run(self._inner.close())

    def commit(self, offset: Any) -> None:
        self._loop.run(self._inner.commit(offset))


def collect_all(sink: Sink, results: list[Any], ctx: Context) -> list[tuple[int, BaseException]]:
    """Gives results to a sink, one after the other; returns which failed."""
    failed: list[tuple[int, BaseException]] = []
    for index, result in enumerate(results):
        try:
            sink.collect(result, ctx)
        except BaseException as error:  # even sys.exit(): it is one result's error
            failed.append((index, error))
    return failed


class BridgedSink(Sink):
    """A sink of coroutines, for the threads that run sinks."""

    def __init__(self, inner: AsyncSink, loop: _loop.Loop) -> None:
        self._inner = inner
        self._loop = loop

    def open(self, config: dict[str, Any], ctx: Context) -> None:
        self._loop.run(self._inner.open(config, AsyncContext(ctx)))

    def collect_all(self, results: list[Any], ctx: Context) -> list[tuple[int, BaseException]]:
        """All results of a batch in one go: a change of threads takes longer than most calls."""
        return self._loop.run(self._collect_all(results, AsyncContext(ctx)))

    async def _collect_all(self, results: list[Any], ctx: AsyncContext) -> list[tuple[int, BaseException]]:
        failed: list[tuple[int, BaseException]] = []
        for index, result in enumerate(results):
            try:
                await self._inner.collect(result, ctx)
            except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
                failed.append((index, error))
        return failed

    def close(self) -> None:
        self._loop.run(self._inner.close())

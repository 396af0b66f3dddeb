"""What an author derives symbols from: a source, a sink and a function, each with plain methods or with coroutines.

Plain methods run on threads of the symbol's own, coroutines on the plugin's one asyncio loop.
"""

from __future__ import annotations

from typing import Any

from .context import AsyncContext, AsyncOutput, Context, Output

__all__ = ["AsyncFunction", "AsyncSink", "AsyncSource", "Function", "Sink", "Source"]


class Source:
    """Brings data in. One object for each use; ``open``, ``run`` and ``close`` are called on one thread."""

    def open(self, config: dict[str, Any], data_source: str, ctx: Context) -> None:
        """Takes the configuration and connects; what it raises is why the stream or rule does not start."""

    def run(self, output: Output, ctx: Context) -> None:
        """Sends tuples until there are no more or ``ctx.cancelled``; what it raises ends the source with this error."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives back what ``open`` took."""

    def commit(self, offset: Any) -> None:
        """Every result of the tuples up to this offset is safe. Called on another thread than ``run``."""


class AsyncSource:
    """``Source`` with coroutines. When the host stops it, ``run`` is cancelled."""

    async def open(self, config: dict[str, Any], data_source: str, ctx: AsyncContext) -> None:
        """Takes the configuration and connects; what it raises is why the stream or rule does not start."""

    async def run(self, output: AsyncOutput, ctx: AsyncContext) -> None:
        """Sends tuples until there are no more; what it raises ends the source with this error."""
        raise NotImplementedError

    async def close(self) -> None:
        """Gives back what ``open`` took."""

    async def commit(self, offset: Any) -> None:
        """Every result of the tuples up to this offset is safe."""


class Sink:
    """Takes results out. One object for each use, whose methods are called on one thread."""

    def open(self, config: dict[str, Any], ctx: Context) -> None:
        """Takes the configuration and connects; what it raises is why the rule does not start."""

    def collect(self, result: Any, ctx: Context) -> None:
        """Takes one result: a list of rows, or one object with ``sendSingle``.

        Return when it is safe: that acknowledges it. What it raises is the error of this result alone.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Gives back what ``open`` took."""


class AsyncSink:
    """``Sink`` with coroutines; results come one after the other."""

    async def open(self, config: dict[str, Any], ctx: AsyncContext) -> None:
        """Takes the configuration and connects; what it raises is why the rule does not start."""

    async def collect(self, result: Any, ctx: AsyncContext) -> None:
        """Takes one result; see ``Sink.collect``."""
        raise NotImplementedError

    async def close(self) -> None:
        """Gives back what ``open`` took."""


class _AnyFunction:
    aggregate: bool = False
    """True: each argument is the list of a column's values."""

    def validate(self, args: list[Any]) -> None:
        """Raises if a rule must not call it like this; ``args`` are literals, or the SQL text of what is none."""

    def open(self) -> None:
        """Called before the first call."""

    def close(self) -> None:
        """Called after the last call."""


class Function(_AnyFunction):
    """Is called in SQL. One object for all rules; calls come one after the other, unless it was registered with
    ``threads``."""

    def exec(self, args: list[Any], ctx: Context) -> Any:
        """The result of one call; what it raises is the error of this call."""
        raise NotImplementedError


class AsyncFunction(_AnyFunction):
    """``Function`` with a coroutine: calls run together. One whose deadline has passed is cancelled."""

    async def exec(self, args: list[Any], ctx: AsyncContext) -> Any:
        """The result of one call; what it raises is the error of this call."""
        raise NotImplementedError

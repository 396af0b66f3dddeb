"""The names and shapes of the package ``ekuiper`` for Python, on Mangrove's own contract.

A plugin that was written for that package needs another import, and nothing else:

    from mangrove.ekuiper import Context, Function, PluginConfig, Sink, Source, plugin

What is different underneath: ``emit`` waits while the host is slow instead of raising a timeout; what it is given after
the source was stopped raises ``mangrove.Stopped``. An exception in ``collect`` is the error of one result and does not
end the sink. A result is acknowledged when ``collect`` returns without ``ack_error`` having been called.
"""

from __future__ import annotations

import functools
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from . import context as _context
from . import symbols as _symbols
from ._errors import Error
from ._json import encode as _encode
from ._plugin import Plugin
from ._registry import FunctionEntry

__all__ = ["Context", "Function", "PluginConfig", "Sink", "Source", "plugin"]


class Context:
    """Where a symbol runs, and for a source where its tuples go."""

    def __init__(self, inner: _context.Context, output: Optional[_context.Output] = None) -> None:
        self._inner = inner
        self._output = output
        self._failed: Optional[str] = None

    def get_rule_id(self) -> str:
        """The rule's id."""
        return self._inner.rule_id

    def get_op_id(self) -> str:
        """The operator's id."""
        return self._inner.op_id

    def get_instance_id(self) -> int:
        """The number of the operator's instance."""
        return self._inner.instance_id

    def get_logger(self) -> _Logger:
        """A logger, which can also be written to like a file."""
        return _Logger(self._inner.logger)

    def emit(self, message: dict[str, Any], meta: Optional[dict[str, Any]] = None) -> None:
        """Sends a tuple."""
        self._for_source().send(message, meta)

    def emit_error(self, error: str) -> None:
        """Reports an error of the source."""
        self._for_source().report(str(error))

    def _for_source(self) -> _context.Output:
        if self._output is None:
            raise Error("only a source emits, from when it is open")
        return self._output

    def ack_ok(self) -> None:
        """The result at hand is safe."""

    def ack_error(self, error: str) -> None:
        """The result at hand failed."""
        self._failed = str(error)

    def _take_failure(self) -> Optional[str]:
        failed, self._failed = self._failed, None
        return failed


class _Logger:
    """The published package returns a file here, though it says a logger: this is both."""

    def __init__(self, logger: _context.Logger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def write(self, text: str) -> int:
        if text.strip():
            self._logger.info(text.rstrip())
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


class Source:
    """Brings data in."""

    def configure(self, datasource: str, conf: dict[str, Any]) -> Any:
        """Takes the configuration; raises if it is wrong."""

    def open(self, ctx: Context) -> Any:
        """Sends tuples until ``close`` is called, on another thread."""

    def close(self, ctx: Context) -> Any:
        """Has ``open`` return."""


class Sink:
    """Takes results out."""

    def configure(self, conf: dict[str, Any]) -> Any:
        """Takes the configuration; raises if it is wrong."""

    def open(self, ctx: Context) -> Any:
        """Connects."""

    def collect(self, ctx: Context, data: Any) -> Any:
        """Takes one result, as the bytes of its JSON."""

    def close(self, ctx: Context) -> Any:
        """Gives back what was taken."""


class Function:
    """Is called in SQL."""

    def validate(self, args: list[Any]) -> Any:
        """What is wrong with such arguments; an empty text if nothing is."""
        return ""

    def exec(self, args: list[Any], ctx: Context) -> Any:
        """The result of one call."""
        raise NotImplementedError

    def is_aggregate(self) -> bool:
        """Whether it is for groups."""
        return False


class PluginConfig:
    """A plugin's name, and what makes its symbols."""

    def __init__(
        self,
        name: str,
        sources: dict[str, Callable[[], Source]],
        sinks: dict[str, Callable[[], Sink]],
        functions: dict[str, Callable[[], Function]],
    ) -> None:
        self.name = name
        self.sources = sources
        self.sinks = sinks
        self.functions = functions

    def get(self, plugin_type: str, symbol_name: str) -> Any:
        """What makes this symbol; ``plugin_type``: source, sink or func."""
        kinds: dict[str, Any] = {"source": self.sources, "sink": self.sinks, "func": self.functions}
        return kinds[plugin_type][symbol_name] if plugin_type in kinds else None


class _SourceAdapter(_symbols.Source):
    def __init__(self, make: Callable[[], Source]) -> None:
        self._inner = make()
        self._closing = threading.Lock()
        self._closed = False

    def open(self, config: dict[str, Any], data_source: str, ctx: _context.Context) -> None:
        self._inner.configure(data_source, config)
        self._context = Context(ctx)

    def run(self, output: _context.Output, ctx: _context.Context) -> None:
        self._context = Context(ctx, output)
        # There it is called on another thread as well: it is what ends open().
        ctx.on_cancel(self.close)
        self._inner.open(self._context)

    def close(self) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._inner.close(self._context)


class _SinkAdapter(_symbols.Sink):
    def __init__(self, make: Callable[[], Sink]) -> None:
        self._inner = make()

    def open(self, config: dict[str, Any], ctx: _context.Context) -> None:
        self._context = Context(ctx)
        self._inner.configure(config)
        self._inner.open(self._context)

    def collect(self, result: Any, ctx: _context.Context) -> None:
        self._context._take_failure()
        self._inner.collect(self._context, _encode(result))
        failed = self._context._take_failure()
        if failed is not None:
            raise Error(failed)

    def close(self) -> None:
        self._inner.close(self._context)


class _FunctionAdapter(_symbols.Function):
    def __init__(self, inner: Function) -> None:
        self._inner = inner
        self._last: Optional[tuple[_context.Context, Context]] = None

    def validate(self, args: list[Any]) -> None:
        problem = self._inner.validate(args)
        if problem:
            raise Error(str(problem))

    def exec(self, args: list[Any], ctx: _context.Context) -> Any:
        if self._last is None or self._last[0] is not ctx:
            self._last = (ctx, Context(ctx))
        return self._inner.exec(args, self._last[1])


@dataclass
class _PluginModule:
    """Stands for the module ``ekuiper.plugin``."""

    conf: Optional[PluginConfig] = field(default=None)

    def start(self, c: PluginConfig) -> None:
        """Serves the host until it says that this is the end."""
        self.conf = c
        adapt(c).run()


def adapt(config: PluginConfig) -> Plugin:
    """The same as a ``mangrove.Plugin``, for ``mangrove.testing``."""
    adapted = Plugin(config.name)
    for name, source in config.sources.items():
        adapted.registry.sources[name] = functools.partial(_SourceAdapter, source)
    for name, sink in config.sinks.items():
        adapted.registry.sinks[name] = functools.partial(_SinkAdapter, sink)
    for name, function in config.functions.items():
        inner = function()
        make = functools.partial(_FunctionAdapter, inner)
        adapted.registry.functions[name] = FunctionEntry(make, bool(inner.is_aggregate()), 0)
    return adapted


plugin = _PluginModule()

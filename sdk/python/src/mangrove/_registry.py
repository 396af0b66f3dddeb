"""What a plugin has: its sources, sinks and functions by name. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ._adapt import FunctionMaker, SinkMaker, SourceMaker


@dataclass(frozen=True)
class FunctionEntry:
    """A function: what makes it, whether it is for groups, and on how many threads its calls run (0: one after
    the other)."""

    make: FunctionMaker
    aggregate: bool
    threads: int


@dataclass
class Registry:
    """The symbols of a plugin."""

    sources: dict[str, SourceMaker] = field(default_factory=dict)
    sinks: dict[str, SinkMaker] = field(default_factory=dict)
    functions: dict[str, FunctionEntry] = field(default_factory=dict)

    def knows(self, kind: str, symbol: str) -> bool:
        """Whether there is such a symbol."""
        if kind == "source":
            return symbol in self.sources
        return symbol in (self.sinks if kind == "sink" else self.functions)

    def function_declarations(self) -> list[Any]:
        """The functions as ``hello`` lists them."""
        return [
            {"name": name, "aggregate": True} if entry.aggregate else name for name, entry in self.functions.items()
        ]

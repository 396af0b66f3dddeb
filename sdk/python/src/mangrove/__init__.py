"""Write plugins for Mangrove: sources, sinks and functions that its rules use.

from mangrove import Plugin

plugin = Plugin()

@plugin.function("shout")
def shout(text: str) -> str:
    return text.upper()

if __name__ == "__main__":
    plugin.run()
"""

from ._errors import ConnectionLost, Error, StateError, Stopped
from ._metrics import Counter, Gauge, Metrics
from ._plugin import Plugin
from ._version import __version__
from .context import AsyncContext, AsyncOutput, AsyncState, Context, Output, State
from .symbols import AsyncFunction, AsyncSink, AsyncSource, Function, Sink, Source

__all__ = [
    "AsyncContext",
    "AsyncFunction",
    "AsyncOutput",
    "AsyncSink",
    "AsyncSource",
    "AsyncState",
    "ConnectionLost",
    "Context",
    "Counter",
    "Error",
    "Function",
    "Gauge",
    "Metrics",
    "Output",
    "Plugin",
    "Sink",
    "Source",
    "State",
    "StateError",
    "Stopped",
    "__version__",
]

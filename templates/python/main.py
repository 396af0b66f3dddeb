"""The plugin {{name}}: a source, a sink and a function."""

import json
from typing import Any

from mangrove import Context, Error, Function, Output, Plugin, Sink, Source

plugin = Plugin("{{name}}")


class Numbers(Source):
    """Counts, and goes on where it was when it is started again."""

    def open(self, config: dict[str, Any], data_source: str, ctx: Context) -> None:
        self.interval = config.get("interval", 1000)
        self.count = config.get("count", 0)
        for value in (self.interval, self.count):
            if not isinstance(value, int):
                raise Error(f"{value!r} is not an integer")
        self.last = ctx.offset or 0

    def run(self, output: Output, ctx: Context) -> None:
        n = self.last
        while not ctx.cancelled and (self.count == 0 or n < self.count):
            if self.interval > 0 and ctx.wait(self.interval / 1000):
                break
            n += 1
            output.send({"n": n}, offset=n)


class Lines(Sink):
    """Appends each result to a file, as a line of JSON."""

    def open(self, config: dict[str, Any], ctx: Context) -> None:
        path = config.get("path")
        if not isinstance(path, str):
            raise Error("path is missing; expected a file")
        self.file = open(path, "a", encoding="utf-8")

    def collect(self, result: Any, ctx: Context) -> None:
        self.file.write(json.dumps(result) + "\n")
        # The host takes it for safe when this returns.
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Shout(Function):
    """A text in capital letters."""

    def validate(self, args: list[Any]) -> None:
        if len(args) != 1:
            raise Error("it takes 1 argument")

    def exec(self, args: list[Any], ctx: Context) -> Any:
        if not isinstance(args[0], str):
            raise Error("it takes a text")
        return args[0].upper()


plugin.add_source("{{symbol}}_numbers", Numbers)
plugin.add_sink("{{symbol}}_lines", Lines)
plugin.add_function("{{symbol}}_shout", Shout)

if __name__ == "__main__":
    plugin.run()

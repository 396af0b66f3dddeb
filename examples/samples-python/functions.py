"""The functions: a class where there is something to say about arguments, plain functions and a coroutine elsewhere."""

import asyncio
from typing import Any

from mangrove import Context, Error, Function


class Echo(Function):
    """``echo_python(x)``: its argument."""

    def validate(self, args: list[Any]) -> None:
        if len(args) != 1:
            raise Error("echo takes 1 argument")

    def exec(self, args: list[Any], ctx: Context) -> Any:
        return args[0]


async def slow(ms: float, x: Any) -> Any:
    """``slow_python(ms, x)``: ``x`` after so many milliseconds. A coroutine: it holds no other call."""
    await asyncio.sleep(ms / 1000)
    return x


def fail(text: str) -> None:
    """``fail_python(text)``: an error with this text; with ``panic`` one that nobody expects."""
    if text == "panic":
        raise SystemExit("panic")
    raise Error(text)


def total(xs: list[Any]) -> float:
    """``total_python(xs)``: the sum of the numbers among the values of a group."""
    return sum(x for x in xs if isinstance(x, (int, float)) and not isinstance(x, bool))


def tally(key: str, ctx: Context) -> float:
    """``tally_python(key)``: adds 1 to a counter in the state of the rule, and returns it."""
    return ctx.state.add(key)

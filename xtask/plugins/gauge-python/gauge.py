"""The Python side of ``cargo figures plugins``: a source and a function that cost next to nothing."""

from mangrove import Context, Output, Plugin

plugin = Plugin()

TEXT = (
    "The quick brown fox jumps over the lazy dog, again and again, until the dog is tired of it, and "
    "the fox too, and both lie down in the sun."
)


@plugin.source("gaugepy_flood")
def flood(output: Output, ctx: Context) -> None:
    """Objects of 200 bytes, as fast as it can."""
    n = 0
    while not ctx.cancelled:
        n += 1
        output.send({"n": n, "at": 1_700_000_000_000_000, "text": TEXT})


@plugin.function("gaugepy_same")
def same(value: object) -> object:
    """Its argument."""
    return value


if __name__ == "__main__":
    plugin.run()

"""A plugin on the Python SDK that says which of its processes did what. Its arguments are the names of its symbols."""

import json
import os
import sys
import time

from mangrove import Plugin

SOURCE, SINK, FUNCTION = sys.argv[2:]
WHO = [int(os.environ["MANGROVE_INSTANCE"]), os.getpid()]

plugin = Plugin()


@plugin.source(SOURCE)
def count(ctx, output):
    n = ctx.offset or 0
    while not ctx.wait(0.002):
        n += 1
        output.send({"n": n, "instance": WHO[0], "pid": WHO[1]}, offset=n)


def wait(gate):
    """Whoever is given a gate does nothing else until it is there."""
    while gate is not None and not os.path.exists(gate):
        time.sleep(0.002)


@plugin.sink(SINK)
def keep(result, config):
    """Appends to the file that the rule names who was given what."""
    number, gate = result
    wait(gate)
    with open(config["path"], "a") as file:
        file.write(json.dumps([*WHO, number]) + "\n")


@plugin.function(FUNCTION)
def who(value, gate=None):
    wait(gate)
    return [*WHO, value]


if __name__ == "__main__":
    plugin.run()

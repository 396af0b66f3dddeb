"""What a bare Python loop can do, and nothing else: ``calls`` parses messages of calls and writes messages of results,
``tuples`` writes messages of tuples.

Prints how many of them a second it has come to in the seconds of its second argument.
"""

import json
import sys
import time

TEXT = (
    "The quick brown fox jumps over the lazy dog, again and again, until the dog is tired of it, and "
    "the fox too, and both lie down in the sun."
)

MANY = 256

# As long as the numbers of a rule that has run for a moment.
FIRST = 1_000_000

calls = [[n, [n]] for n in range(FIRST, FIRST + MANY)]
message = json.dumps(
    {"context": {"ruleId": "r", "opId": "project", "instanceId": 0, "funcId": 0}, "timeout": 5000, "calls": calls},
    separators=(",", ":"),
).encode()


def same(value: object) -> object:
    """The function that is called."""
    return value


def call() -> None:
    """The calls of one message."""
    received = json.loads(message)
    results = [[call, same(*args)] for call, args in received["calls"]]
    json.dumps({"results": results}, separators=(",", ":")).encode()


def send() -> None:
    """The tuples of one message."""
    tuples = [{"n": n, "at": 1_700_000_000_000_000, "text": TEXT} for n in range(FIRST, FIRST + MANY)]
    json.dumps({"seq": 1, "tuples": tuples}, separators=(",", ":")).encode()


work = {"calls": call, "tuples": send}[sys.argv[1]]
start, done = time.monotonic(), 0
end = start + float(sys.argv[2])
while time.monotonic() < end:
    work()
    done += MANY
print(done / (time.monotonic() - start))

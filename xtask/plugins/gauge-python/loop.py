"""What a bare Python loop can do: it parses messages of calls and writes messages of results, and nothing else.

Prints the calls per second that it has come to in the seconds of its argument.
"""

import json
import sys
import time

calls = [[n, [n]] for n in range(256)]
message = json.dumps(
    {"context": {"ruleId": "r", "opId": "project", "instanceId": 0, "funcId": 0}, "timeout": 5000, "calls": calls},
    separators=(",", ":"),
).encode()


def same(value: object) -> object:
    """The function that is called."""
    return value


end = time.monotonic() + float(sys.argv[1])
start, done = time.monotonic(), 0
while time.monotonic() < end:
    received = json.loads(message)
    results = [[call, same(*args)] for call, args in received["calls"]]
    answer = json.dumps({"results": results}, separators=(",", ":")).encode()
    done += len(received["calls"])
print(done / (time.monotonic() - start))

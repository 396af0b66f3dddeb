"""The source ``counter_python``: numbers in turn, which can be replayed from any of them."""

import os
from typing import Any, Optional

from mangrove import Context, Error, Output, Source


class Counter(Source):
    """Sends ``{"n": 1, "pid": …, "pad": "xxx"}`` and so on, with the number as offset.

    Properties: ``count`` (0: no end), ``interval`` in ms (0: as fast as possible), ``size`` of the padding in bytes,
    ``fail_at``: instead of this number an error is reported.
    """

    def open(self, config: dict[str, Any], data_source: str, ctx: Context) -> None:
        self.count = _natural(config, "count", 0) or 0
        self.interval = (_natural(config, "interval", 0) or 0) / 1000
        self.pad = "x" * (_natural(config, "size", 0) or 0)
        self.fail_at = _natural(config, "fail_at", None)
        self.data_source = data_source
        if ctx.offset is not None and (not isinstance(ctx.offset, int) or ctx.offset < 0):
            raise Error(f"the offset is {ctx.offset!r}, expected the last number that was sent")
        self.n = ctx.offset or 0

    def run(self, output: Output, ctx: Context) -> None:
        pid = os.getpid()
        meta = {"source": self.data_source}
        while not ctx.cancelled and (self.count == 0 or self.n < self.count):
            n = self.n + 1
            if n == self.fail_at:
                output.report(f"told to fail at {n}")
            else:
                output.send({"n": n, "pid": pid, "pad": self.pad}, meta, offset=n)
            self.n = n
            if self.interval > 0:
                ctx.wait(self.interval)


def _natural(config: dict[str, Any], name: str, default: Optional[int]) -> Optional[int]:
    value = config.get(name, default)
    if value is default:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Error(f"{name} is {value!r}, expected an integer from 0")
    return value

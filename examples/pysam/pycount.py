"""The source ``pycount``: numbers in turn, so that a gap or a repetition is seen at once."""

import threading

from ekuiper import Context, Source
from pynng import Timeout


class CountSource(Source):
    """Sends ``{"n": n, "topic": <DATASOURCE>}`` for n = ``start``, ``start`` + 1, … at ``interval`` ms.

    With ``count`` it ends after so many.
    """

    def __init__(self):
        self.topic = ""
        self.start = 0
        self.count = None
        self.interval = 1.0
        self.stopping = threading.Event()

    def configure(self, datasource: str, conf: dict):
        self.topic = datasource
        self.start = int(conf.get("start", 0))
        self.interval = float(conf.get("interval", 1000)) / 1000
        if self.interval < 0:
            raise ValueError("pycount: interval is negative; expected milliseconds from 0")
        if conf.get("count") is not None:
            self.count = int(conf["count"])

    def open(self, ctx: Context):
        n = self.start
        while self.count is None or n < self.start + self.count:
            # Set by close(), which the SDK calls from its control thread.
            if self.stopping.wait(self.interval):
                return
            try:
                ctx.emit({"n": n, "topic": self.topic}, {"instance": ctx.get_instance_id()})
            except Timeout:
                # The host takes nothing at the moment. The number was not sent: try it again.
                continue
            n += 1
        # When open() returns the SDK closes the channel, which would lose what is still on its way.
        self.stopping.wait()

    def close(self, ctx: Context):
        self.stopping.set()

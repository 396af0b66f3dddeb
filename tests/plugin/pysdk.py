"""A plugin on the published ekuiper package: every kind of symbol, with switches in the conf keys."""
import json
import os
import sys
import time

from ekuiper import Function, PluginConfig, Sink, Source, plugin


class Counter(Source):
    """Sends {"n": 0}, {"n": 1}, … to the number of conf's "count", with a pause of conf's "pause" seconds."""

    def configure(self, datasource, conf):
        if conf.get("fail"):
            raise ValueError("it was told to fail")
        self.datasource = datasource
        self.count = conf.get("count", 3)
        self.pause = conf.get("pause", 0)
        self.stopped = False

    def open(self, ctx):
        for n in range(self.count):
            if self.stopped:
                return
            time.sleep(self.pause)
            ctx.emit({"n": n, "pid": os.getpid()}, {"datasource": self.datasource})
        if hasattr(ctx, "emit_error"):
            ctx.emit_error("that was all")
        while not self.stopped:
            time.sleep(0.01)

    def close(self, ctx):
        self.stopped = True
        print("source closed")


class File(Sink):
    """Appends what it gets to conf's "path", and acknowledges it when it can; "bad" is answered with an error."""

    def configure(self, conf):
        self.path = conf["path"]

    def open(self, ctx):
        pass

    def collect(self, ctx, data):
        text = data.decode() if isinstance(data, bytes) else json.dumps(data)
        with open(self.path, "a") as file:
            file.write(text + "\n")
        if not hasattr(ctx, "ack_ok"):
            return
        if "bad" in text:
            ctx.ack_error("it is bad")
        elif "quiet" not in text:
            ctx.ack_ok()

    def close(self, ctx):
        print("sink closed")


class Echo(Function):
    """Returns its argument; "sleep:<seconds>" does so late, "exit" ends the process, "raise" raises."""

    def validate(self, args):
        return "" if len(args) == 1 else "expected one argument"

    def exec(self, args, ctx):
        word = args[0]
        if isinstance(word, str) and word.startswith("sleep:"):
            time.sleep(float(word[6:]))
        if word == "exit":
            print("told to exit", file=sys.stderr, flush=True)
            os._exit(7)
        if word == "raise":
            raise ValueError("told to raise")
        if word == "pid":
            return os.getpid()
        return word

    def is_aggregate(self):
        return False


if __name__ == "__main__":
    name = os.path.basename(os.getcwd())
    symbols = json.load(open(name + ".json"))
    plugin.start(PluginConfig(
        name,
        {symbol: Counter for symbol in symbols.get("sources", [])},
        {symbol: File for symbol in symbols.get("sinks", [])},
        {symbol: Echo for symbol in symbols.get("functions", [])},
    ))

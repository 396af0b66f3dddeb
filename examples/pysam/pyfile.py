"""The sink ``pyfile``: appends each row of a result to a file, one JSON object per line."""

import json

from ekuiper import Context, Sink


class FileSink(Sink):
    """Writes to the file ``path``; with ``requireAck`` it acknowledges what is written."""

    def __init__(self):
        self.path = ""
        self.require_ack = False
        self.file = None

    def configure(self, conf: dict):
        self.path = conf.get("path") or ""
        if not self.path:
            raise ValueError("pyfile: path is missing; expected the file to write to")
        self.require_ack = bool(conf.get("requireAck", False))

    def open(self, ctx: Context):
        self.file = open(self.path, "a", encoding="utf-8")
        # Packages before 1.14 know no acknowledgements: the host has to do without.
        self.require_ack = self.require_ack and hasattr(ctx, "ack_ok")

    def collect(self, ctx: Context, data):
        try:
            result = json.loads(data)
            for row in result if isinstance(result, list) else [result]:
                self.file.write(json.dumps(row) + "\n")
            self.file.flush()
        except (OSError, ValueError) as error:
            # Raised from here it would end the sink.
            print("pyfile: a result was not written: {}".format(error), flush=True)
            if self.require_ack:
                ctx.ack_error(str(error) or type(error).__name__)
            return
        # A host that wants no acknowledgements does not read them, and sending would wait for it.
        if self.require_ack:
            ctx.ack_ok()

    def close(self, ctx: Context):
        if self.file is not None:
            self.file.close()

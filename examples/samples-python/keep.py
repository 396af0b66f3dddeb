"""The sink ``keep_python``: appends each result to a file, as a line of JSON."""

import json
from typing import Any

from mangrove import Context, Error, Sink


class Keep(Sink):
    """Properties: ``path`` of the file; ``fail``: results that contain this text are refused."""

    def open(self, config: dict[str, Any], ctx: Context) -> None:
        path = config.get("path")
        if not isinstance(path, str) or not path:
            raise Error("path is missing, expected the file to append to")
        self.fail = config.get("fail") or ""
        if not isinstance(self.fail, str):
            raise Error(f"fail is {self.fail!r}, expected a text")
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def collect(self, result: Any, ctx: Context) -> None:
        line = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
        if self.fail and self.fail in line:
            raise Error("told to fail")
        self.file.write(line + "\n")
        # What is acknowledged must survive this process; that it survives the machine is not promised.
        self.file.flush()

    def close(self) -> None:
        self.file.close()

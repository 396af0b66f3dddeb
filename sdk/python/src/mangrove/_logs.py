"""The standard library's logging, told to the host; to standard error while there is none."""

from __future__ import annotations

import logging
import sys
from typing import Any, Optional

from ._errors import clean
from ._session import Session

_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"), (logging.DEBUG, "debug"))


def _level(number: int) -> str:
    return next((name for least, name in _LEVELS if number >= least), "trace")


class HostHandler(logging.Handler):
    """Sends each line to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.session: Optional[Session] = None
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            session = self.session
            if session is None or not session.note(_message(record, line)):
                print(f"{record.levelname} {record.name}: {line}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def _message(record: logging.LogRecord, line: str) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "log", "level": _level(record.levelno), "message": clean(line)}
    use = getattr(record, "mangrove_use", None)
    if use is not None:
        message["use"] = use
    fields = getattr(record, "mangrove_fields", None)
    if fields:
        message["fields"] = {clean(str(name)): _plain(value) for name, value in fields.items()}
    return message


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    return clean(str(value))


def install(handler: HostHandler) -> None:
    """Has all logging go to the host, unless the author has set up logging: then this is one handler more."""
    root = logging.getLogger()
    if not root.handlers and root.level == logging.WARNING:
        root.setLevel(logging.INFO)
    root.addHandler(handler)

"""JSON as it goes over the wire: compact UTF-8, no NaN. Knows nothing of the messages."""

from __future__ import annotations

import json
from json import encoder as _encoder
from typing import Any, Callable, NoReturn


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is no JSON value")


_slow = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False, default=_refuse
)


def _fast_encoder() -> Callable[[Any], str]:
    # JSONEncoder.encode sets up a new C encoder for each value, which takes longer than encoding a small object.
    # Keeping one is not in the library's documentation, so it is tried, and done without where it does not work.
    make = getattr(_encoder, "c_make_encoder", None)
    quote = getattr(_encoder, "encode_basestring", None)
    if make is None or quote is None:
        return _slow.encode
    sample = {"a": [1, 2.5, "é\n", None, True], "b": {"c": -1}}
    try:
        encode = make(None, _refuse, quote, None, ":", ",", False, False, False)
        if "".join(encode(sample, 0)) != _slow.encode(sample):
            return _slow.encode
    except Exception:
        return _slow.encode
    return lambda value: "".join(encode(value, 0))


_text = _fast_encoder()


def encode(value: Any) -> bytes:
    """The value as compact JSON.

    Raises ``TypeError`` or ``ValueError`` (NaN, an infinity, half a surrogate pair, a loop) if JSON has no such value.
    """
    try:
        return _text(value).encode()
    except RecursionError:
        raise ValueError("the value is nested too deeply for JSON, or contains itself") from None


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


_decode = json.JSONDecoder(parse_constant=_constant).decode


def decode(data: bytes) -> Any:
    """The value of a JSON text in UTF-8; raises ``ValueError`` if it is none."""
    try:
        return _decode(str(data, "utf-8"))
    except RecursionError:
        raise ValueError("the value is nested too deeply") from None


def excerpt(data: bytes) -> str:
    """The beginning of a message, for an error's text."""
    text = data[:60].decode("utf-8", "replace")
    return repr(text + "…" if len(data) > 60 else text)

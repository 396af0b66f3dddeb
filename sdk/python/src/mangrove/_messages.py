"""The messages of the contract, version 1, as far as the plugin's side reads and writes them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

from . import _json
from ._errors import ContractError

VERSION = 1
KINDS = ("source", "sink", "function")

_MISSING = object()


def _field(message: dict[str, Any], name: str, expected: str, types: Any, default: Any = _MISSING) -> Any:
    value = message.get(name, default)
    if value is _MISSING:
        raise ContractError(f"{name} is missing, expected {expected}")
    # To Python a bool is an int.
    if value is not default and (not isinstance(value, types) or isinstance(value, bool) is not (types is bool)):
        raise ContractError(f"{name} is {_json.excerpt(_json.encode(value))}, expected {expected}")
    return value


def text(message: dict[str, Any], name: str, default: Any = _MISSING) -> str:
    """A field that holds a text."""
    return str(_field(message, name, "a text", str, default))


def unsigned(message: dict[str, Any], name: str, default: Any = _MISSING) -> Any:
    """A field that holds an integer from 0."""
    value = _field(message, name, "an integer from 0", int, default)
    if value is not default and value < 0:
        raise ContractError(f"{name} is {value}, expected an integer from 0")
    return value


def array(message: dict[str, Any], name: str, default: Any = _MISSING) -> Any:
    """A field that holds an array."""
    return _field(message, name, "an array", list, default)


def mapping(message: dict[str, Any], name: str, default: Any = _MISSING) -> Any:
    """A field that holds an object."""
    return _field(message, name, "an object", dict, default)


def read(payload: bytes) -> dict[str, Any]:
    """The JSON object that a message is."""
    try:
        message = _json.decode(payload)
    except ValueError as error:
        raise ContractError(f"{_json.excerpt(payload)} is no JSON, expected an object: {error}") from None
    if not isinstance(message, dict):
        raise ContractError(f"{_json.excerpt(payload)} is no JSON object")
    return message


@dataclass(frozen=True)
class Welcome:
    """The host's answer to ``hello``."""

    host: str
    instance: int
    max_message: int
    max_batch: int

    @staticmethod
    def read(message: dict[str, Any]) -> Welcome:
        version = unsigned(message, "version")
        if version != VERSION:
            raise ContractError(f"version is {version}, expected {VERSION}")
        limits = mapping(message, "limits")
        max_message = unsigned(limits, "message")
        max_batch = unsigned(limits, "batch")
        if max_message < 1024 or max_batch < 1:
            raise ContractError(f"limits are {max_message} bytes and {max_batch}, expected at least 1024 and 1")
        return Welcome(text(message, "host", ""), unsigned(message, "instance", 0), max_message, max_batch)


@dataclass(frozen=True)
class Start:
    """The host's request that a symbol starts."""

    use: int
    kind: str
    symbol: str
    address: str
    rule_id: str
    op_id: str
    instance_id: int
    config: dict[str, Any]
    data_source: str
    offset: Any
    ack: bool

    @staticmethod
    def read(message: dict[str, Any]) -> Start:
        kind = text(message, "kind")
        if kind not in KINDS:
            raise ContractError(f"kind is {kind!r}, expected source, sink or function")
        return Start(
            use=unsigned(message, "use"),
            kind=kind,
            symbol=text(message, "symbol"),
            address=text(message, "address"),
            rule_id=text(message, "ruleId", ""),
            op_id=text(message, "opId", ""),
            instance_id=unsigned(message, "instanceId", 0),
            config=mapping(message, "config", None) or {},
            data_source=text(message, "dataSource", ""),
            offset=message.get("offset"),
            ack=bool(_field(message, "ack", "true or false", bool, False)),
        )


def hello(token: str, plugin: str, sdk: str, sources: Sequence[str], sinks: Sequence[str], functions: Any) -> Any:
    """The plugin's first message."""
    return {
        "type": "hello",
        "versions": [VERSION],
        "token": token,
        "plugin": plugin,
        "sdk": sdk,
        "symbols": {"sources": list(sources), "sinks": list(sinks), "functions": functions},
        "encodings": ["json"],
    }


def answer(number: int, value: Any = None, error: Optional[str] = None) -> dict[str, Any]:
    """The answer to the request ``number``."""
    message: dict[str, Any] = {"type": "answer", "id": number}
    if error is not None:
        message["error"] = error
    elif value is not None:
        message["value"] = value
    return message


def use_error(use: int, error: str) -> dict[str, Any]:
    """A note of an error that the symbol survives."""
    return {"type": "error", "use": use, "error": error}


def ack(use: int, seq: int, errors: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """A note that the results up to batch ``seq`` are safe, but for those of it that failed."""
    message: dict[str, Any] = {"type": "ack", "use": use, "seq": seq}
    if errors:
        message["errors"] = errors
    return message

"""Addresses: ``ipc:///path``, ``tcp://host:port`` and ``tls+tcp://host:port``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ._errors import AddressError

IPC = "ipc"
TCP = "tcp"
TLS = "tls+tcp"


@dataclass(frozen=True)
class Address:
    """Where to dial; ``path`` for ipc, ``host`` and ``port`` for the others."""

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.scheme == IPC:
            return f"{self.scheme}://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str, control: Optional[Address] = None) -> Address:
    """Reads an address; the host ``*`` stands for that of the control address. Raises ``AddressError``."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in (IPC, TCP, TLS) or not rest or "\0" in rest:
        raise AddressError(f"{text!r} is no address, expected ipc://, tcp:// or tls+tcp://")
    if scheme == IPC:
        return Address(scheme, path=rest)
    host, found, port_text = rest.rpartition(":")
    port = int(port_text) if port_text.isascii() and port_text.isdigit() else 0
    if not found or not host or not 0 < port < 65536:
        raise AddressError(f"{text!r} is no address, expected {scheme}://host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if host == "*":
        if control is None or not control.host:
            raise AddressError(f"{text!r} needs a control address with a host")
        host = control.host
    return Address(scheme, host=host, port=port)

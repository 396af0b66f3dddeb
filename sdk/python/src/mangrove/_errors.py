"""The errors of the SDK and how an error of the author's code is put into words. Knows no socket and no thread."""

from __future__ import annotations

from typing import Type

# A longer text tells no more, and has to fit into one message.
_MAX_TEXT = 8192


class Error(Exception):
    """An error whose text goes to the host as it is; raise it, or one of your own derived from it."""


class Stopped(Error):
    """The host has stopped this source: nothing more can be sent. Let it leave ``run``."""


class ConnectionLost(Error):
    """The connection to the host broke while an answer was awaited."""


class StateError(Error):
    """The host refused a request for state, or did not answer in time."""


class WireError(Error):
    """A peer broke the rules of SP: the connection is closed."""


class ContractError(Error):
    """A message from the host broke the contract; the text says what was expected."""


class AddressError(Error):
    """An address that cannot be dialed."""


class Refused(Error):
    """The host refused the plugin, or offers no version of the contract that both know."""


# Their text alone tells what went wrong; that of others, as ``KeyError('x')``, needs the name of the type.
_PLAIN: tuple[Type[BaseException], ...] = (Error, ValueError, RuntimeError, OSError)


def describe(error: BaseException) -> str:
    """One text for an error: its message, with the type's name where the message alone would not do."""
    try:
        text = str(error)
    except Exception:  # an author's __str__ may itself fail
        text = ""
    if not text:
        text = type(error).__name__
    elif not isinstance(error, _PLAIN):
        text = f"{type(error).__name__}: {text}"
    return clean(text)


def clean(text: str) -> str:
    """The text as it may go to the host: not too long, and without half surrogate pairs, which UTF-8 does not know."""
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8")

"""One-line descriptions of errors of users' networks, for messages and notes."""

import re

from pullback.errors import PullbackError, with_message

_MOST = 200
"""Largest number of characters in a line."""


def one_line(error: BaseException) -> str:
    """The type and the first sentence of an error, at most 200 characters. For Pullback's errors, the first line."""
    if isinstance(error, Exception):
        with_message(error)
    if isinstance(error, PullbackError):
        return str(error).strip().partition("\n")[0]
    message = " ".join(str(error).split())
    if "use_reentrant=True" in message:
        return "checkpointing with use_reentrant=True cannot be differentiated here; use_reentrant=False can"
    if "setup_context" in message or "generate_vmap_rule" in message:
        return (
            "an autograd.Function of the network has no derivative in forward mode; torch's checkpointing has one with "
            "use_reentrant=False"
        )
    first = re.split(r"(?<=[a-z\d)`'\"])[.!?](?= [A-Z]|$)", message, maxsplit=1)[0]
    shortened = first if len(first) <= _MOST else f"{first[: _MOST - 3]}..."
    return f"{type(error).__name__}: {shortened}" if shortened else type(error).__name__

"""Finds the reason why a process ended in the text that it printed."""

import re

from pullback.errors import PullbackError

_LONGEST = 2000
_RAISED = re.compile(r"[A-Za-z_]\w*(\.\w+)*(:|$)")
"""The last line of a traceback: the name of the error, and usually its message."""


def last_words(printed: str) -> str:
    """Return the reason why a command ended, from its output: its error message, or the last line.

    Only the last line of a traceback is returned. A long text is cut at its end, not at its beginning: the service
    recognises a path by its beginning and removes it.

    Args:
        printed: standard output and error, or the end of them.

    Returns:
        The reason without a full stop; empty if nothing was printed.
    """
    text = printed.strip()
    before, mark, message = text.rpartition("error: ")
    if mark and (not before or before.endswith("\n")) and "Traceback (most recent call last)" not in message:
        return _cut(message)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in text:
        raised = next((line for line in reversed(lines) if _RAISED.match(line)), "an error that it did not name")
        return _cut(f"it failed with {raised}")
    return _cut(lines[-1]) if lines else ""


def reason_of(error: BaseException) -> str:
    """Return an error's message for the record: the whole message of a PullbackError, one line of any other error.

    The message of a worker's error contains the traceback of the worker's process, which is left out.
    """
    text = str(error)
    if isinstance(error, PullbackError) and "Traceback (most recent call last)" not in text:
        return text
    words = last_words(text)
    return words or f"it failed with {type(error).__name__}"


def _cut(text: str) -> str:
    text = text.strip().removesuffix(".")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()}…"

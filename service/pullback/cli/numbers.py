"""Standard output of commands with `--json`: it carries only the JSON.

The user's code may print, in Python, in C or through a logger. As soon as `--json` is parsed, all printed text
goes to standard error, and only the JSON goes to the original standard output.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import typer

_numbers: IO[str] | None = None
"""Stream of the JSON; None while nothing is diverted."""
_whole_process = False


def until_exit() -> None:
    """Divert until the process ends, so that text buffered in C or printed at exit does not follow the JSON."""
    global _whole_process
    _whole_process = True


def only_numbers(context: typer.Context, wanted: bool) -> bool:
    """Callback of the option `--json`."""
    if wanted and not context.resilient_parsing and _numbers is None:
        context.call_on_close(_divert())
    return wanted


def stream() -> IO[str]:
    """Return the stream of the JSON."""
    return sys.stdout if _numbers is None else _numbers


def _divert() -> Callable[[], None]:
    """Send standard output to standard error; return a function that undoes it."""
    global _numbers
    outer, saved = sys.stdout, -1
    outer.flush()
    _numbers = outer
    with suppress(OSError, ValueError, AttributeError):  # a stream without a descriptor, as in tests
        if outer.fileno() == 1:
            saved = os.dup(1)
            os.dup2(2, 1)
            _numbers = open(saved, "w", encoding=outer.encoding, errors=outer.errors, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stderr

    def end() -> None:
        global _numbers
        if _whole_process and saved >= 0:
            return
        _numbers, sys.stdout = None, outer
        if saved >= 0:
            os.dup2(saved, 1)
            os.close(saved)

    return end

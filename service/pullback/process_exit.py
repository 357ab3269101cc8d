"""Ends a process after its work without Python's finalization, which native threads can abort.

Threads of Icechunk and of zarr may still run while Python finalizes. Before version 3.14, Python ends such a thread
when it asks for the interpreter, by unwinding its stack through native frames. Now and then that aborts the process: a
command that has done its work would end by SIGABRT. Finalization also takes a tenth of a second once torch is imported.
"""

import atexit
import ctypes
import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

_code: int | None = None
"""The code of `exit_with`; None before it is called."""


def skip_finalization() -> None:
    """End this process right after its exit functions, if it ends by `exit_with`.

    Call it before heavy imports: exit functions run in reverse order of registration. Those that are registered later
    still run; earlier ones do not, except that of `logging`.
    """
    atexit.register(_end)


def exit_with(code: int) -> NoReturn:
    """Exit with a code, through SystemExit."""
    global _code
    _code = code
    sys.exit(code)


def _end() -> None:
    if _code is None:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with suppress(OSError, AttributeError, TypeError):  # text that C libraries have buffered
        ctypes.CDLL(None).fflush(None)
    os._exit(_code)

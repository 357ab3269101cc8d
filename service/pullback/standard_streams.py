"""Opens closed standard streams, as some schedulers and daemons leave them, on the null device.

Python represents a closed stream by None, and the next opened file gets its descriptor, so that text printed by a
library would be written into that file.
"""

import os
import sys


def open_closed_streams() -> None:
    """Open each closed standard stream on the null device. Open streams stay as they are."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, usually the closed stream's
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - stays open until the process ends

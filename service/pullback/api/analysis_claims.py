"""A lock beside a sweep that the process computing its analysis holds.

The process outlives a killed service. The next service finds the lock and starts no second process.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pullback.api.catalog import Opened
from pullback.regular_files import read_regular

with suppress(ImportError):  # Windows has no fcntl: an analysis may be computed twice there
    import fcntl

_MOST_BYTES = 1000


@dataclass(frozen=True)
class Claim:
    """The right to compute an analysis of a sweep.

    Attributes:
        descriptors: of the locked file; the computing process inherits them. Empty if the system has no locks.
    """

    descriptors: tuple[int, ...] = ()

    @classmethod
    def take(cls, opened: Opened, what: str) -> "Claim | None":
        """Claim a sweep's analysis; None if another process holds the claim.

        Args:
            opened: the sweep.
            what: which analysis, in one line; `holder` returns it.
        """
        if "fcntl" not in globals():
            return cls()
        try:
            descriptor = os.open(_file(opened), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError:  # computing it twice does no harm
            return cls()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a disk without locks
            os.close(descriptor)
            return cls()
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, what.encode())
        return cls((descriptor,))

    @staticmethod
    def holder(opened: Opened) -> str | None:
        """Return which analysis of a sweep a process is computing; None if there is no such process."""
        if "fcntl" not in globals():
            return None
        try:
            descriptor = os.open(_file(opened), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(OSError):
                return read_regular(_file(opened), _MOST_BYTES).decode(errors="replace").strip()
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return None

    def close(self) -> None:
        """Close our descriptors; the process that inherited them keeps the lock."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def _file(opened: Opened) -> Path:
    path = opened.sweep.path
    return path.with_name(f".{path.name}.analysis.lock")

"""Locks on folders in use, so that a folder left by a killed process can be recognized.

A process id proves nothing: containers that share a disk number their processes independently, and a restarted
container uses the same ids. A lock (`flock` on the folder) ends with its process, however that ends, and is visible in
every container of the machine.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

with suppress(ImportError):  # Windows has none
    import fcntl


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a folder within the block. Does nothing if such locks do not exist (some network disks).

    Raises:
        FileNotFoundError: the folder was removed before it was locked.
    """
    descriptor = -1
    if "fcntl" in globals():
        descriptor = os.open(path, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for a process that checks whether the folder is in use
    try:
        if descriptor >= 0 and not path.exists():
            raise FileNotFoundError(f"{path} was removed by another process")
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Yield whether no process has locked a folder. None can lock it within the block, so it may be removed there.

    False if that is not known: another user's folder, a disk or a system without locks.
    """
    if "fcntl" not in globals():
        yield False
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        free = os.fstat(descriptor).st_uid == os.geteuid()
        if free:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                free = False
        yield free
    finally:
        os.close(descriptor)

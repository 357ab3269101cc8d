"""The driver lock: an exclusive lock on a hidden file beside a sweep's folder, so that a sweep has one driver.

Icechunk's local storage loses one of two concurrent commits, so a second driver must be refused. The operating
system releases the lock when its process ends, even after `kill -9`. The file stays: if it were removed while another
process waits for it, both could get a lock. An object store has no such lock and needs none: it refuses one of two
concurrent commits, and that driver commits again.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pullback.errors import StoreError
from pullback.regular_files import read_regular
from pullback.store.folders import make_parents, remove_empty
from pullback.store.location import Location, locate

_MOST_BYTES = 1000


@contextmanager
def driver_lock(address: Location | Path | str) -> Iterator[None]:
    """Hold the driver lock of a sweep within the block. The sweep need not exist yet.

    A sweep in an object store has no lock: other drivers may run at the same time.

    Raises:
        StoreError: another process, or another part of this one, has the lock; or the lock file cannot be written.
    """
    location = locate(address)
    if not location.is_local:
        yield
        return
    path = location.canonical.path.absolute()
    lock_file = _lock_file(location)
    # One lock for all threads of this process: the thread that releases it may not be the one that took it.
    lock = FileLock(str(lock_file), thread_local=False)
    made: list[Path] = []
    try:
        made = make_parents(path)
        before = _holder(lock_file)  # old versions of filelock empty the file when they try
        lock.acquire(timeout=0)
    except Timeout:
        holder = _holder(lock_file) or before or "another process"
        raise StoreError(
            f"{path} is held by {holder}, which drives this sweep already; nothing was changed. "
            "Follow that driver (its results appear in the sweep as they are committed), or stop it and start again: "
            "the committed shards are kept."
        ) from None
    except OSError as error:
        remove_empty(made)
        raise StoreError(
            f"{path} cannot be locked ({error.strerror or error}); nothing was changed. "
            "Check that the folder it is in is writable, or choose another."
        ) from error
    try:
        lock_file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()
        if made and not path.exists():  # no sweep was made: remove what was created for it
            lock_file.unlink(missing_ok=True)
            remove_empty(made)


def first_driver_write(location: Location) -> float | None:
    """The earliest time at which the driver that has the lock may have written to the sweep.

    Returns:
        Seconds since 1970 by the clock of the storage; None if there is no lock file.
    """
    try:
        return _lock_file(location).stat().st_mtime
    except OSError:
        return None


def note_driver_write(location: Location, written: float) -> None:
    """Note that the driver, or one of its workers, wrote a file at a time by the clock of the storage.

    A clock that was set back makes files older than their driver; `first_driver_write` must not be later than any file.
    """
    since = first_driver_write(location)
    if since is not None and written < since:
        with suppress(OSError):
            os.utime(_lock_file(location), (written, written))


def _lock_file(location: Location) -> Path:
    path = location.canonical.path.absolute()
    return path.with_name(f".{path.name}.lock")


def _holder(lock_file: Path) -> str:
    try:
        return read_regular(lock_file, _MOST_BYTES).decode(errors="replace").strip()
    except OSError:  # not there, or (on Windows) locked against reading too
        return ""

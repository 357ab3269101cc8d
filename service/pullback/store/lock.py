"""One driver a sweep: an exclusive lock on a hidden file beside the sweep's folder.

Icechunk's local storage loses one of two concurrent commits, so a second driver must be refused. The operating
system releases the lock when its holder dies, even of `kill -9`; the file stays, since removing a lock file that
another process waits for would let both in. An object store has no such lock and needs none: of two concurrent
commits it refuses one, which is then made again.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pullback.errors import StoreError
from pullback.store.folders import make_parents, remove_empty
from pullback.store.location import Location, locate


@contextmanager
def hold(address: Location | Path | str) -> Iterator[None]:
    """Be the only driver of the sweep at a place (which need not exist yet) for the length of the block.

    In an object store others may drive it at the same time.

    Raises:
        StoreError: another process, or another part of this one, holds the sweep; or the lock file cannot be
            written.
    """
    location = locate(address)
    if not location.is_local:
        yield
        return
    path = location.path.resolve()
    lock_file = path.with_name(f".{path.name}.lock")
    # A lock serves any thread of this process: a driver may well be left by another than entered it.
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
            "Follow that one (its results appear in the sweep as they are committed), or stop it and start again: "
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
        if made and not path.exists():  # nothing came of it: leave no trace
            lock_file.unlink(missing_ok=True)
            remove_empty(made)


def _holder(lock_file: Path) -> str:
    try:
        return lock_file.read_text().strip()
    except OSError:  # not there, or (on Windows) locked against reading too
        return ""

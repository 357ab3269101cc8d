"""Syncing files to the disk before anything refers to them, so that a power cut loses nothing.

A file that was written and closed stays in memory for some 30 seconds, and so does its name in its folder. Renaming
does not change that: after a power cut a renamed file can be empty. `fsync` of the file and of its folder writes both
to disk.

Icechunk syncs nothing. Its format is written bottom up (chunks, manifests, transaction log, snapshot, reference), each
file once and under a new name, except the reference. So a commit survives a power cut if all of it is synced before
the reference is replaced; see `opening.commit_on_tip`. Only folders need this: an object store answers once the data
are safe.
"""

import base64
import ctypes
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pullback.atomic_files import UNSUPPORTED, fsync

if TYPE_CHECKING:
    import icechunk

_THREADS = 8
"""Number of files that are synced at the same time. The file system writes them to the disk together."""

_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHJKMNPQRSTVWXYZ")
_ID = re.compile(rb"\xc4\x0c(?=(.{12}))", re.DOTALL)
"""Twelve bytes in MessagePack: the form of an Icechunk id in a pickled session."""


def sync(paths: Iterable[Path]) -> None:
    """Sync files and their names to the disk: each file, then each folder that contains one.

    Args:
        paths: files and folders. One that is gone is left out.

    Raises:
        OSError: the disk is full or failed.
    """
    files = list(paths)
    folders = sorted({path.parent for path in files})
    with ThreadPoolExecutor(min(_THREADS, len(files) or 1)) as threads:
        list(threads.map(fsync, files))
        list(threads.map(fsync, folders))


def sync_tree(folder: Path) -> None:
    """Sync a folder and everything in it; raises OSError as `sync` does."""
    sync([folder, *folder.rglob("*")])


def sync_filesystem(folder: Path) -> None:
    """Sync everything that any process wrote to the file system of a folder.

    Raises:
        OSError: the disk is full or failed.
    """
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, TypeError):  # not Linux
        if hasattr(os, "sync"):
            os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(descriptor) and ctypes.get_errno() not in UNSUPPORTED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def written_chunks(session: bytes, folder: Path) -> list[Path]:
    """The chunk files of a repository to which a pickled fork refers.

    Icechunk does not report which files it wrote. The pickled fork contains their ids, 12 bytes each. A file's name is
    its id in Crockford's base 32.
    """
    candidates = dict.fromkeys(_file_name(found[1]) for found in _ID.finditer(session))
    return [path for path in (folder / "chunks" / name for name in candidates) if path.exists()]


def _file_name(identity: bytes) -> str:
    return base64.b32encode(identity).rstrip(b"=").translate(_CROCKFORD).decode()


def sync_written(session: bytes, folder: Path, least: int) -> None:
    """Sync the chunks to which a pickled fork refers.

    Args:
        session: the fork, after it wrote.
        folder: the repository's.
        least: how many files it wrote. If fewer are found, the whole file system is synced.

    Raises:
        OSError: the disk is full or failed.
    """
    found = written_chunks(session, folder)
    if len(found) < least:
        sync_filesystem(folder)
    else:
        sync(found)


def sync_snapshot(repository: "icechunk.Repository", folder: Path, snapshot: str, parent: str) -> None:
    """Sync the files that a commit wrote, except chunks: manifests, transaction log and snapshot.

    Args:
        repository: the repository, in a folder.
        folder: its folder.
        snapshot: the new snapshot.
        parent: the snapshot before it, whose manifests are on the disk already.

    Raises:
        OSError: the disk is full or failed.
    """
    new = manifests_of(repository, snapshot).keys() - manifests_of(repository, parent).keys()
    paths = [folder / "manifests" / name for name in sorted(new)]
    paths += [folder / "transactions" / snapshot, folder / "snapshots" / snapshot]
    sync(paths)


def sync_reference(folder: Path, branch: str) -> None:
    """Sync a branch's reference; raises OSError if the disk is full or failed."""
    sync([folder / "refs" / f"branch.{branch}" / "ref.json", folder / "refs"])


def manifests_of(repository: "icechunk.Repository", snapshot: str) -> dict[str, int]:
    """The manifests that a snapshot refers to, and the size of each in bytes.

    Raises:
        icechunk.IcechunkError: the snapshot cannot be read.
    """
    content = json.loads(repository.inspect_snapshot(snapshot))
    return {str(each["id"]): int(each["size_bytes"]) for each in content["manifests"]}


def recently_written(path: Path, now: float, seconds: float) -> bool:
    """Whether a file changed in the last seconds, by a clock that may be ahead or behind; False if it is gone."""
    with suppress(OSError):
        return abs(now - path.stat().st_mtime) < seconds
    return False

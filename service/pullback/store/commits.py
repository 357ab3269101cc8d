"""Commits on top of the last one, which other processes may make at the same time, and which survive power cuts."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import icechunk

from pullback.store.durability import sync_reference, sync_snapshot
from pullback.store.tip import BRANCH

_ATTEMPTS = 20
_LONGEST_PAUSE = 2.0
"""Seconds to wait at most before a commit is tried again. Two drivers that commit every few seconds rarely meet
twice."""


def commit_on_tip(
    repository: icechunk.Repository,
    write: Callable[[icechunk.Session], bool],
    message: str,
    sync: Path | None = None,
) -> str:
    """Write on top of the last commit, and commit; repeat if another process has committed meanwhile.

    With `sync`, the new snapshot is written first, and the branch moves once all of the snapshot is on the disk. A
    power cut then leaves the branch at a whole commit: the one before or the new one.

    Args:
        repository: the repository.
        write: called with a session of the last commit, perhaps several times. Returns whether there is anything to
            commit.
        message: the commit's message.
        sync: the repository's folder, if the commit must survive a power cut. The chunks that it refers to must be on
            the disk already.

    Returns:
        The id of the new commit, or of the last one if there was nothing to commit.

    Raises:
        icechunk.ConflictError: another process committed in between, every time.
        icechunk.IcechunkError: the storage refused.
        OSError: the disk is full or failed.
    """
    attempt = 0
    while True:
        session = repository.writable_session(BRANCH)
        if not write(session):
            return session.snapshot_id
        try:
            return session.commit(message) if sync is None else _commit_synced(repository, session, message, sync)
        except icechunk.ConflictError:
            attempt += 1
            if attempt == _ATTEMPTS:
                raise
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * 2**attempt)))


def _commit_synced(repository: icechunk.Repository, session: icechunk.Session, message: str, folder: Path) -> str:
    """Commit so that a power cut at any moment leaves the branch at a whole commit; see `commit_on_tip`."""
    parent = session.snapshot_id
    snapshot = session.flush(message)
    sync_snapshot(repository, folder, snapshot, parent)
    repository.reset_branch(BRANCH, snapshot, from_snapshot_id=parent)
    sync_reference(folder, BRANCH)
    return snapshot

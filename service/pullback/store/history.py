"""The history of a sweep: its snapshots, which any reader can open."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import icechunk

from pullback.errors import StoreError
from pullback.store.failures import cause
from pullback.store.location import Location, locate
from pullback.store.opening import open_tip
from pullback.store.tip import BRANCH


@dataclass(frozen=True)
class Commit:
    """One of a sweep's snapshots.

    Attributes:
        id: the argument `snapshot` of `open_sweep`.
        written: time of the commit.
        message: the commit's message.
    """

    id: str
    written: datetime
    message: str

    def as_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return {"id": self.id, "written": self.written.isoformat(timespec="seconds"), "message": self.message}


def history(address: Location | Path | str, most: int | None = None) -> list[Commit]:
    """The snapshots of a sweep that can be opened, the last one first.

    Raises:
        StoreError: there is no sweep there, or it cannot be read.
    """
    location = locate(address)
    repository, tip = open_tip(location)
    pinned = tip.pinned(location)
    ancestry = repository.ancestry(branch=BRANCH) if pinned is None else repository.ancestry(snapshot_id=pinned)
    commits: list[Commit] = []
    try:
        for ancestor in ancestry:
            if ancestor.parent_id is None or len(commits) == most:  # a repository's first snapshot is empty
                break
            commits.append(Commit(ancestor.id, ancestor.written_at, ancestor.message))
    except icechunk.IcechunkError as error:
        raise StoreError(
            f"the history of {location} cannot be read ({cause(error)}); it was left as it is. "
            "Its last commit may still be readable: omit the snapshot."
        ) from error
    return commits


def remaining_snapshots(address: Location | Path | str, before: datetime) -> set[str]:
    """Return the ids of the snapshots that remain when those older than `before` are removed: the last one always does.

    Raises:
        StoreError: there is no sweep, or it cannot be read.
    """
    last, *others = history(address)
    return {last.id, *(commit.id for commit in others if commit.written >= before)}

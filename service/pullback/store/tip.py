"""The tip of a sweep in a folder: the commit that the branch refers to, and its replacement if it cannot be read.

If files were not synced (`durability`), a power cut can leave the newest ones empty, cut or missing: the reference,
the snapshot, its manifests, the configuration. Every earlier commit is still there. The newest whole one replaces the
tip: readers see it through a view of the repository (`view`), which leaves the store as it is, and a driver or a repair
sets the branch to it (`restore`).

A tip counts as unreadable only if its files were read and are wrong, or are surely missing. Temporary errors are raised
(`failures`).
"""

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import icechunk

from pullback.atomic_files import replace_file
from pullback.errors import StoreError
from pullback.store.durability import sync
from pullback.store.failures import cause, is_absent, is_damage, unavailable
from pullback.store.location import Location
from pullback.store.schema import SHARD_ARRAYS

BRANCH = "main"

_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{20}")
_AT_ONCE = 500
"""Number of snapshots that are compared at once to find the newest; a run may write a thousand in an hour."""
_MAGIC = "ICE🧊CHUNK".encode()
_TAIL = 16
_MEMBERS = ("chunks", "manifests", "snapshots", "transactions")


@dataclass(frozen=True)
class Tip:
    """The commit to read.

    Attributes:
        snapshot: its id.
        written: time of the commit; empty for the branch's own commit if it is whole.
        message: its message.
        lost: why the branch's own commit cannot be read; empty if it can.
        configuration: whether the repository's configuration can be read.
    """

    snapshot: str
    written: str = ""
    message: str = ""
    lost: str = ""
    configuration: bool = True

    def pinned(self, location: Location) -> str | None:
        """The snapshot to read by its id; None if the branch leads to it. In a folder it does, through a `view`."""
        return self.snapshot if self.lost and not location.is_local else None

    @property
    def whole(self) -> bool:
        """Whether the repository can be used as it is."""
        return not self.lost and self.configuration

    def warning(self, location: Location) -> str:
        """A sentence about a tip that is not whole: what was lost, and what is read instead."""
        if not self.lost:
            return f"the configuration of {location} cannot be read, as after a power cut; no result is lost."
        when = ", as after a power cut" if location.is_local else ""
        return (
            f"the last commit of {location} cannot be read ({self.lost}){when}. The newest one that "
            f"can, snapshot {self.snapshot} of {self.written} ({self.message}), takes its place; samples that were "
            "committed later are pending again."
        )


@dataclass(frozen=True)
class _Snapshot:
    """Content of a snapshot's file.

    Attributes:
        identity: its id.
        flushed: time of writing.
        message: its message.
        sizes: bytes of each of its manifests.
        arrays: the manifests of each array, with the number of chunks that each refers to.
    """

    identity: str
    flushed: datetime
    message: str
    sizes: dict[str, int]
    arrays: dict[str, dict[str, int]]


def find_tip(location: Location, thorough: bool = False) -> Tip:
    """Find the commit to read of a sweep in a folder: the branch's, or the newest that is whole.

    If only manifests of the branch's commit are damaged, it stays unless an earlier commit holds more.

    Args:
        location: the folder.
        thorough: also read each manifest's ends, not only its size.

    Raises:
        UnavailableError: something cannot be read at the moment.
        StoreError: no commit can be read.
    """
    folder = location.path.resolve()
    if (folder / "repo").is_file():  # Icechunk's format 2 has no files for references
        return Tip("")
    configuration = _configuration_is_whole(location, folder)
    named = _named(location, folder)
    repository = _opened(location, folder, named or None)
    reason, tip = "its reference is damaged or missing", None
    if named is not None:
        try:
            tip = _read(repository, location, folder, named)
        except _TornError as torn:
            reason = str(torn)
    if tip is not None:
        torn_manifests = _torn_manifests(location, folder, tip, thorough)
        if not torn_manifests:
            return Tip(tip.identity, configuration=configuration)
        reason = f"{len(torn_manifests)} of its manifests are damaged or missing"
        kept = _kept(tip, torn_manifests)
    found = _newest_whole(repository, location, folder, thorough)
    if found is None and tip is None:
        raise StoreError(
            f"{location} cannot be opened: {reason}, and no earlier commit is whole. It was left as it is. "
            "Restore it from a copy, or run the job with another `store`."
        )
    if tip is not None and (found is None or kept >= _kept(found, set())):
        return Tip(tip.identity, configuration=configuration)
    assert found is not None
    written = found.flushed.isoformat(sep=" ", timespec="seconds")
    return Tip(found.identity, written, found.message, reason, configuration)


_views: dict[tuple[Path, str], Path] = {}


def view(location: Location, snapshot: str) -> Location:
    """Make a temporary folder of links to a sweep's files, with the branch at another snapshot; kept until the process
    ends.

    Raises:
        StoreError: no temporary folder can be made.
    """
    folder = location.path.resolve()
    known = _views.get((folder, snapshot))
    if known is not None and known.is_dir():
        return Location(known)
    try:
        place = Path(tempfile.mkdtemp(prefix="pullback-view-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        for name in _MEMBERS:
            if (folder / name).is_dir():
                (place / name).symlink_to(folder / name, target_is_directory=True)
        _write_reference(place, snapshot)
    except OSError as error:
        raise StoreError(
            f"{location} can only be read through a temporary folder, and none can be made ({cause(error)}). "
            f"Set TMPDIR to a folder that can be written to, or repair the sweep: pullback audit {location} --repair"
        ) from error
    _views[folder, snapshot] = place
    return Location(place)


def restore(location: Location, tip: Tip) -> None:
    """Set the branch of a sweep to what `find_tip` found, and drop a damaged configuration. Requires the driver lock.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder = location.path.resolve()
    if tip.lost:
        _write_reference(folder, tip.snapshot)
    if not tip.configuration:
        (folder / "config.yaml").unlink(missing_ok=True)


class _TornError(Exception):
    """A file was read and is wrong, or is surely missing."""


def _named(location: Location, folder: Path) -> str | None:
    """The snapshot that the reference names; None if the reference is damaged or absent."""
    path = folder / "refs" / f"branch.{BRANCH}" / "ref.json"
    try:
        name = json.loads(path.read_bytes())["snapshot"]
    except FileNotFoundError as error:
        if is_absent(path, location):
            return None
        raise unavailable(location, error) from error
    except OSError as error:
        raise unavailable(location, error) from error
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and _ID.fullmatch(name) else None


def _configuration_is_whole(location: Location, folder: Path) -> bool:
    try:
        icechunk.Repository.fetch_config(icechunk.local_filesystem_storage(str(folder)))
        return True
    except icechunk.IcechunkError as error:
        if "(os error" in str(error):
            raise unavailable(location, error) from error
        return False


def _opened(location: Location, folder: Path, named: str | None) -> icechunk.Repository:
    """Open the repository to read any of its snapshots, even if its reference or configuration is damaged."""
    with suppress(icechunk.IcechunkError):
        return icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))
    place = view(location, named or "0" * 20)
    try:
        return icechunk.Repository.open(icechunk.local_filesystem_storage(str(place.path)))
    except icechunk.IcechunkError as error:
        raise unavailable(location, error) from error


def _read(repository: icechunk.Repository, location: Location, folder: Path, identity: str) -> _Snapshot:
    """Read a snapshot's file.

    Raises:
        _TornError: it is damaged or missing.
        UnavailableError: it cannot be read at the moment.
    """
    path = folder / "snapshots" / identity
    try:
        path.read_bytes()
    except FileNotFoundError as error:
        if is_absent(path, location):
            raise _TornError("its snapshot is missing") from None
        raise unavailable(location, error) from error
    except OSError as error:
        raise unavailable(location, error) from error
    try:
        content: dict[str, Any] = json.loads(repository.inspect_snapshot(identity))
    except icechunk.IcechunkError as error:
        # The file was read a moment ago, so an error without an error number of the system concerns its content.
        if is_damage(error, location) or "(os error" not in str(error):
            raise _TornError("its snapshot is damaged") from error
        raise unavailable(location, error) from error
    chunks = {str(each["id"]): int(each["num_chunk_refs"]) for each in content["manifests"]}
    arrays = {
        str(node["path"]).strip("/"): {str(each["id"]): chunks[str(each["id"])] for each in node["manifest_refs"]}
        for node in content["nodes"]
        if node["node_type"] == "array"
    }
    sizes = {str(each["id"]): int(each["size_bytes"]) for each in content["manifests"]}
    flushed = datetime.fromisoformat(str(content["flushed_at"]))
    return _Snapshot(identity, flushed, str(content["commit_message"]), sizes, arrays)


def _torn_manifests(location: Location, folder: Path, snapshot: _Snapshot, thorough: bool) -> set[str]:
    """The manifests of a snapshot that are missing, of another size, or (if thorough) partly zeros."""
    return {
        name for name, size in snapshot.sizes.items() if _is_torn(location, folder / "manifests" / name, size, thorough)
    }


def _is_torn(location: Location, path: Path, size: int, thorough: bool) -> bool:
    try:
        if path.stat().st_size != size:
            return True
        if not thorough:
            return False
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
            file.seek(max(0, size - _TAIL))
            return head != _MAGIC or not any(file.read())
    except FileNotFoundError as error:
        if is_absent(path, location):
            return True
        raise unavailable(location, error) from error
    except OSError as error:
        raise unavailable(location, error) from error


def _newest_whole(
    repository: icechunk.Repository, location: Location, folder: Path, thorough: bool
) -> _Snapshot | None:
    """The newest snapshot of a sweep that can be read with all of its manifests."""
    for batch in _newest_files(location, folder / "snapshots"):
        whole = []
        for name in batch:
            try:
                snapshot = _read(repository, location, folder, name)
            except _TornError:
                continue
            if snapshot.arrays and not _torn_manifests(location, folder, snapshot, thorough):
                whole.append(snapshot)
        if whole:
            return max(whole, key=lambda snapshot: snapshot.flushed)
    return None


def _newest_files(location: Location, folder: Path) -> Iterator[list[str]]:
    """Yield the names of snapshots in batches, the last written first."""
    try:
        with os.scandir(folder) as entries:
            files = [(entry.stat().st_mtime_ns, entry.name) for entry in entries if _ID.fullmatch(entry.name)]
    except OSError as error:
        raise unavailable(location, error) from error
    names = [name for _, name in sorted(files, reverse=True)]
    yield from (names[first : first + _AT_ONCE] for first in range(0, len(names), _AT_ONCE))


def _kept(snapshot: _Snapshot, torn: set[str]) -> int:
    """Number of shards that a snapshot holds at most, without the chunks of damaged manifests."""
    counts = [
        sum(chunks for name, chunks in snapshot.arrays[schema.name].items() if name not in torn)
        for schema in SHARD_ARRAYS
        if schema.name in snapshot.arrays
    ]
    return min(counts, default=0)


def _write_reference(folder: Path, snapshot: str) -> None:
    """Set the branch's reference to a snapshot, in one step and synced, whatever was there before."""
    path = folder / "refs" / f"branch.{BRANCH}" / "ref.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({"snapshot": snapshot}), durable=True)
    sync([path.parent, path.parent.parent])

"""A sweep whose newest files a power cut left empty, cut or missing opens at the newest commit that is whole."""

import errno
import itertools
import logging
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import xarray as xr

from pullback.errors import StoreError, UnavailableError
from pullback.store import opening
from pullback.store.audit import audit
from pullback.store.creation import create
from pullback.store.history import history
from pullback.store.lock import driver_lock
from pullback.store.maintenance import collect_garbage, repair
from pullback.store.reader import list_sweeps, open_sweep
from pullback.store.recovery import recover
from pullback.store.repository import SweepStore
from stored_sweeps import LAYOUT, commit, filled, record_of

HOW: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "missing": lambda content: None,
}
KINDS = ("reference", "snapshots", "manifests", "transactions", "config")


@pytest.fixture(autouse=True)
def warned_of_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_warned", set())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards 0 and 1 are in one commit, shard 2 in the last."""
    store = create(tmp_path_factory.mktemp("made") / "sweep", LAYOUT, {"name": "sweep", "seed": 7})
    commit(store, record_of(LAYOUT, 0), record_of(LAYOUT, 1))
    commit(store, record_of(LAYOUT, 2))
    return store.path


@pytest.fixture
def sweep(made: Path, tmp_path: Path) -> Path:
    """A copy of that sweep, which a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "sweeps" / "sweep"))


def newest(sweep: Path, kind: str) -> list[Path]:
    """The files of a kind that the last commit wrote."""
    if kind == "reference":
        return [sweep / "refs" / "branch.main" / "ref.json"]
    if kind == "config":
        return [sweep / "config.yaml"]
    if kind == "manifests":
        earlier, last = (manifests_at(sweep, commit.id) for commit in reversed(history(sweep, 2)))
        return [sweep / "manifests" / name for name in sorted(last - earlier)]
    return [sweep / kind / open_sweep(sweep).snapshot]


def manifests_at(sweep: Path, snapshot: str) -> set[str]:
    from pullback.store.durability import manifests_of
    from pullback.store.location import locate

    return {*manifests_of(opening.open_repository(locate(sweep)), snapshot)}


def damage(files: list[Path], how: str) -> None:
    for file in files:
        content = HOW[how](file.read_bytes())
        file.unlink() if content is None else file.write_bytes(content)


def finished(sweep: Path) -> xr.Dataset:
    """What the sweep holds once a driver has gone on with it to its end."""
    with driver_lock(sweep):
        recover(sweep)
        store = SweepStore.open(sweep)
        commit(store, *(record_of(LAYOUT, shard) for shard in store.pending_shards()))
    assert audit(sweep).damages == ()
    assert audit(sweep).went_back == ""
    return open_sweep(sweep).dataset(only_good=False).load()


EACH = [((kind,), how) for kind in KINDS for how in HOW]
PAIRS = zip(itertools.combinations(KINDS, 2), itertools.cycle(HOW), strict=False)
"""Each pair of kinds in one way: damage to several files is found file by file."""


@pytest.mark.parametrize(
    ("kinds", "how"),
    [*EACH, *PAIRS, (KINDS, "empty"), (KINDS, "missing")],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_with_damaged_newest_files_a_sweep_is_read_at_an_earlier_commit_and_gone_on_with(
    sweep: Path, kinds: tuple[str, ...], how: str
) -> None:
    clean = open_sweep(sweep).dataset(only_good=False).load()
    last, before = (commit.id for commit in history(sweep, 2))
    files = [file for kind in kinds for file in newest(sweep, kind)]
    damage(files, how)
    torn = "snapshots" in kinds or "manifests" in kinds
    if not (how == "zeros" and torn and "snapshots" not in kinds):  # zeros in a manifest are found by a thorough look
        assert open_sweep(sweep).snapshot == (before if torn else last)
        assert {*open_sweep(sweep).committed_shards} == {0, 1} | (set() if torn else {2})
        assert [found.name for found in list_sweeps(sweep.parent)] == ["sweep"]
        assert history(sweep)[0].id == (before if torn else last)
    assert open_sweep(sweep, before).committed_shards == [0, 1], "an earlier snapshot does not need the tip"
    found = audit(sweep)
    assert found.damages == ()
    assert found.snapshot == (before if torn else last)
    copy = sweep.with_name("copy")
    shutil.copytree(sweep, copy)
    assert repair(copy).damages == ()
    assert open_sweep(copy).committed_shards == ([0, 1] if torn else [0, 1, 2])
    assert audit(copy).went_back == ""
    for path in (sweep, copy):
        xr.testing.assert_identical(finished(path), clean)
        collect_garbage(path, older_than=opening_age())
        xr.testing.assert_identical(open_sweep(path).dataset(only_good=False).load(), clean)


def opening_age() -> timedelta:
    return timedelta(0)


@pytest.mark.parametrize("first", [0, 1])
def test_several_damaged_commits_are_gone_back_over(sweep: Path, first: int) -> None:
    commits = [commit.id for commit in history(sweep)]
    wanted = open_sweep(sweep, commits[first + 1]).committed_shards
    damage([sweep / "snapshots" / name for name in commits[: first + 1]], "empty")
    damage([sweep / "refs" / "branch.main" / "ref.json"], "missing" if first else "cut")
    assert open_sweep(sweep).committed_shards == wanted
    finished(sweep)


def test_a_lost_folder_of_references_is_found_and_made_again(sweep: Path) -> None:
    last = open_sweep(sweep).snapshot
    shutil.rmtree(sweep / "refs")
    assert open_sweep(sweep).snapshot == last
    assert [found.name for found in list_sweeps(sweep.parent)] == ["sweep"]
    assert finished(sweep) is not None


def test_reading_says_once_what_is_read_instead_and_changes_nothing(
    sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(newest(sweep, "snapshots"), "empty")
    files = {file: file.read_bytes() for file in sweep.rglob("*") if file.is_file()}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert open_sweep(sweep).status().pending == 2
    (record,) = caplog.records
    assert open_sweep(sweep).snapshot in record.getMessage()
    assert {file: file.read_bytes() for file in sweep.rglob("*") if file.is_file()} == files


def test_a_configuration_that_was_lost_is_written_anew_as_it_was(sweep: Path) -> None:
    file = sweep / "config.yaml"
    before = file.read_text()
    for length in range(0, len(before), 7):
        file.write_text(before[:length])
        with driver_lock(sweep):
            recover(sweep)
        assert "num_chunks: 6" in file.read_text(), length


def test_nothing_is_added_to_a_sweep_before_it_went_back(sweep: Path) -> None:
    damage(newest(sweep, "snapshots"), "empty")
    store = SweepStore.open(sweep)
    assert store.pending_shards() == [2]
    with pytest.raises(StoreError):
        store.fork()


def test_garbage_is_not_collected_while_the_last_commit_cannot_be_read(sweep: Path) -> None:
    damage(newest(sweep, "snapshots"), "empty")
    chunks = {*(sweep / "chunks").iterdir()}
    with pytest.raises(StoreError):
        collect_garbage(sweep, older_than=opening_age())
    assert {*(sweep / "chunks").iterdir()} == chunks


def test_where_no_commit_can_be_read_that_is_said_and_nothing_changed(sweep: Path) -> None:
    damage([*(sweep / "snapshots").iterdir()], "empty")
    for attempt in (open_sweep, SweepStore.open, audit, repair, recover):
        with pytest.raises(StoreError):
            attempt(sweep)
    assert all(not file.read_bytes() for file in (sweep / "snapshots").iterdir())


def test_a_damaged_manifest_of_old_results_costs_less_than_going_back(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep")  # all in one commit after the empty one
    last = store.snapshot
    damage(newest(store.path, "manifests")[:1], "empty")
    assert open_sweep(store.path).snapshot == last


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("kind", ["reference", "snapshots", "manifests"])
def test_trouble_that_may_pass_takes_no_sweep_back(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    path, reference = newest(sweep, kind)[0], newest(sweep, "reference")[0]
    named = reference.read_bytes()
    read, stat = Path.read_bytes, Path.stat

    def failing(whole: Callable[..., object]) -> Callable[..., object]:
        def call(self: Path, *args: object, **options: object) -> object:
            if self.name == path.name:
                raise OSError(number, os.strerror(number), str(self))
            return whole(self, *args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing(read))
        patch.setattr(Path, "stat", failing(stat))
        for attempt in (open_sweep, audit, repair, recover):
            with pytest.raises(UnavailableError):
                attempt(sweep)
    assert reference.read_bytes() == named
    assert open_sweep(sweep).committed_shards == [0, 1, 2]

"""Garbage collection removes what no commit refers to, and nothing that a reader or a running driver needs."""

import os
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from pullback.errors import StoreError
from pullback.store import maintenance
from pullback.store.audit import audit
from pullback.store.creation import create
from pullback.store.location import locate
from pullback.store.lock import driver_lock
from pullback.store.maintenance import collect_garbage
from pullback.store.objects import store_time
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.shard_writing import write_shard
from stored_sweeps import LAYOUT, chunks, commit, filled, record_of


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A clean sweep of three shards."""
    return filled(tmp_path / "sweep").path


def leave_behind(path: Path, age: timedelta = timedelta(0)) -> set[Path]:
    """What a worker leaves that is killed before its result is handed in, so long ago."""
    before = chunks(path)
    write_shard(SweepStore.open(path).fork(), record_of(LAYOUT, 1, seed=9))
    left = chunks(path) - before
    then = time.time() - age.total_seconds()
    for chunk in left:
        os.utime(chunk, (then, then))
    return left


def test_what_a_killed_worker_left_is_removed_once_it_is_old_and_nothing_else(sweep: Path) -> None:
    clean = open_sweep(sweep).dataset(only_good=False).load()
    old, recent, before = leave_behind(sweep, timedelta(days=2)), leave_behind(sweep), chunks(sweep)
    planned = collect_garbage(sweep, dry_run=True)
    assert chunks(sweep) == before, "a dry run removes nothing"
    assert planned.chunks == len(old) == 2
    with driver_lock(sweep):  # a driver is no obstacle: what its workers wrote lately is left alone
        assert collect_garbage(sweep) == planned
    assert planned.bytes > 4000
    assert chunks(sweep) == before - old
    assert recent <= chunks(sweep)
    xr.testing.assert_identical(open_sweep(sweep).dataset(only_good=False).load(), clean)
    assert collect_garbage(sweep).chunks == 0


def test_what_was_written_lately_is_removed_only_where_nobody_drives_the_sweep(sweep: Path) -> None:
    left = leave_behind(sweep)
    with driver_lock(sweep), pytest.raises(StoreError, match="held by"):
        collect_garbage(sweep, older_than=timedelta(0))
    assert left <= chunks(sweep)
    assert collect_garbage(sweep, older_than=timedelta(0)).chunks == len(left)


def test_every_commit_is_kept_unless_commits_are_expired(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep", shards=(0,))
    first = store.snapshot
    commit(store, record_of(LAYOUT, 1), record_of(LAYOUT, 2))
    clean = open_sweep(store.path).dataset(only_good=False).load()
    assert collect_garbage(store.path, older_than=timedelta(0)).snapshots == 0
    assert open_sweep(store.path, first).status().pending == 6
    planned = collect_garbage(store.path, timedelta(0), expire=timedelta(0), dry_run=True)
    assert planned.expired >= 1
    assert open_sweep(store.path, first).status().pending == 6
    removed = collect_garbage(store.path, timedelta(0), expire=timedelta(0))
    assert removed.expired == planned.expired
    assert removed.snapshots >= 1
    with pytest.raises(StoreError, match="has no snapshot"):
        open_sweep(store.path, first)
    xr.testing.assert_identical(open_sweep(store.path).dataset(only_good=False).load(), clean)
    assert audit(store.path).damages == ()
    assert SweepStore.open(store.path).pending_shards() == []


def at_clock(path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    """Have the storage, and this process, date everything by a clock that is ahead (or behind)."""
    real = maintenance.store_time
    monkeypatch.setattr(maintenance, "store_time", lambda place: real(place) + ahead)


DAYS = [timedelta(days=days) for days in (-400, -2, 0, 2, 400, 10_000)]


@pytest.mark.parametrize("ahead", DAYS)
@pytest.mark.parametrize("age", [timedelta(hours=1), timedelta(days=1)])
def test_garbage_is_collected_at_any_clock_without_loss_to_a_driver_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, age: timedelta
) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {"name": "sweep"})
    at_clock(store.path, monkeypatch, ahead)
    with driver_lock(store.path):
        for shard in range(3):
            result = write_shard(store.fork(), record_of(LAYOUT, shard))
            collect_garbage(store.path, older_than=age)  # before the driver has the result
            store.merge(shard, result)
            collect_garbage(store.path, older_than=age)  # before it is committed
            store.commit("shards")
            collect_garbage(store.path, older_than=age)
    assert audit(store.path).damages == ()
    assert open_sweep(store.path).status().pending == 0


def test_what_a_driver_whose_clock_was_set_back_wrote_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "sweep", shards=(1, 2))
    with driver_lock(store.path):
        before = chunks(store.path)
        result = write_shard(store.fork(), record_of(LAYOUT, 0))
        for chunk in chunks(store.path) - before:
            os.utime(chunk, (time.time() - 5 * 86400,) * 2)
        store.merge(0, result)
        collect_garbage(store.path)
        store.commit("shards")
    assert audit(store.path).damages == ()


def test_ages_go_by_the_clock_of_the_storage(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leave_behind(sweep)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Ahead":
            return cls.fromtimestamp(time.time() + 400 * 86400, tz)

    monkeypatch.setattr(maintenance, "datetime", Ahead)
    collect_garbage(sweep)
    assert left <= chunks(sweep), "they were written a moment ago"


def test_no_driver_begins_while_garbage_is_collected(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    expired = maintenance._before_any_driver

    def begin(*args: Any, **options: Any) -> datetime:
        found = expired(*args, **options)
        with pytest.raises(StoreError), driver_lock(sweep):
            pass
        refused.append("a driver")
        return found

    monkeypatch.setattr(maintenance, "_before_any_driver", begin)
    collect_garbage(sweep)
    assert refused


def test_the_time_of_a_folder_is_asked_for_without_a_trace(sweep: Path) -> None:
    before = sorted(sweep.parent.iterdir())
    assert abs(store_time(locate(sweep)).timestamp() - time.time()) < 60
    assert sorted(sweep.parent.iterdir()) == before

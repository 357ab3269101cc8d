"""Garbage of a sweep in an object store: what a running driver has written stays, whatever any clock shows."""

import time
from datetime import UTC, datetime, timedelta

import pytest

import s3_server
from pullback.driving.control import write_record
from pullback.driving.record import DriverRecord
from pullback.driving.remote_drivers import driver_since
from pullback.errors import StoreError
from pullback.store import maintenance
from pullback.store.audit import audit
from pullback.store.creation import create
from pullback.store.maintenance import collect_garbage
from pullback.store.shard_writing import write_shard
from stored_sweeps import LAYOUT, commit, record_of

pytestmark = s3_server.needed


def running(skew=0.0, age=100.0, life="running"):
    """The record of a driver on another machine whose clock is ahead by `skew` and which began `age` seconds ago."""
    now = time.time() + skew
    return DriverRecord(life, host="elsewhere", pid=7, began=now - age, updated=now)


@pytest.mark.parametrize("skew", [0.0, -86_400.0 * 30, 86_400.0 * 30])
def test_the_begin_of_a_driver_is_known_by_the_object_stores_clock(bucket, tmp_path, monkeypatch, skew):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    write_record(f"{bucket}/sweep", running(skew))
    since = driver_since(f"{bucket}/sweep")
    assert abs(datetime.now(UTC) - timedelta(seconds=100) - since) < timedelta(seconds=10)


@pytest.mark.parametrize("life", ["done", "failed", "cancelled", "interrupted"])
def test_a_driver_that_ended_protects_nothing(bucket, tmp_path, monkeypatch, life):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert driver_since(f"{bucket}/sweep") is None
    write_record(f"{bucket}/sweep", running(life=life))
    assert driver_since(f"{bucket}/sweep") is None


def test_garbage_collection_leaves_what_a_running_driver_wrote(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    place = f"{bucket}/sweep"
    store = create(place, LAYOUT, {})
    commit(store, record_of(LAYOUT, 0))
    result = write_shard(store.fork(), record_of(LAYOUT, 1))  # not committed yet
    write_record(place, running(age=300))
    monkeypatch.setattr(  # as if two hours had passed since
        maintenance, "store_time", lambda location: datetime.now(UTC) + timedelta(hours=2)
    )
    assert collect_garbage(place, timedelta(hours=1), driver_since=driver_since).chunks == 0
    with pytest.raises(StoreError, match="expire"):
        collect_garbage(place, timedelta(hours=1), expire=timedelta(days=1), driver_since=driver_since)
    store.merge(1, result)
    store.commit("one")
    assert audit(place).damages == ()
    write_shard(store.fork(), record_of(LAYOUT, 2))
    write_record(place, running(life="failed"))
    assert collect_garbage(place, timedelta(hours=1), driver_since=driver_since).chunks == 2

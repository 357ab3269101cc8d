"""The last commit of a sweep in an object store is lost: an earlier one takes its place, and a run goes on from it."""

import json

import numpy as np
import obstore
import pytest

import s3_server
from pullback.errors import StoreError, UnavailableError
from pullback.store import object_tip, objects
from pullback.store.audit import audit
from pullback.store.creation import create
from pullback.store.history import history
from pullback.store.maintenance import collect_garbage, repair
from pullback.store.reader import open_sweep
from pullback.store.recovery import recover
from pullback.store.repository import SweepStore
from stored_sweeps import LAYOUT, commit, record_of

pytestmark = s3_server.needed


@pytest.fixture
def sweep(bucket):
    """A sweep of two commits, a shard each."""
    store = create(f"{bucket}/sweep", LAYOUT, {"name": "sweep"})
    for shard in (0, 1):
        commit(store, record_of(LAYOUT, shard))
    return store


def lose(store, name):
    """Remove an object of a sweep."""
    place = store.location.child(name)
    obstore.delete(objects.client_of(place), place.prefix)


def test_a_lost_snapshot_is_replaced_by_the_newest_that_can_be_read_and_the_run_goes_on(sweep):
    whole = open_sweep(sweep.location).dataset().load()
    lose(sweep, f"snapshots/{sweep.snapshot}")
    assert open_sweep(sweep.location).status().good == 4
    assert [commit.message for commit in history(sweep.location)] == ["shards", "plan"]
    assert audit(sweep.location).went_back
    again = SweepStore.open(sweep.location)
    assert again.pending_shards() == [1, 2]
    with pytest.raises(StoreError):
        again.fork()
    assert recover(sweep.location)
    assert recover(sweep.location) == ""
    commit(SweepStore.open(sweep.location), record_of(LAYOUT, 1))
    np.testing.assert_array_equal(open_sweep(sweep.location).dataset().eigenvalue.values, whole.eigenvalue.values)
    assert not audit(sweep.location).went_back


def test_a_repair_goes_back_too_and_garbage_waits_for_it(sweep):
    lose(sweep, f"snapshots/{sweep.snapshot}")
    with pytest.raises(StoreError, match="--repair"):
        collect_garbage(sweep.location)
    assert repair(sweep.location).went_back
    collect_garbage(sweep.location)
    assert SweepStore.open(sweep.location).pending_shards() == [1, 2]


def test_a_snapshot_that_is_asked_for_needs_no_tip(sweep):
    first = history(sweep.location)[1].id
    lose(sweep, f"snapshots/{sweep.snapshot}")
    assert open_sweep(sweep.location, first).status().good == 4


def test_lost_manifests_leave_the_last_commit_and_their_shards_are_given_up(sweep):
    first = history(sweep.location)[1].id

    def manifests(snapshot):
        return {each["id"] for each in json.loads(sweep._repository.inspect_snapshot(snapshot))["manifests"]}

    for name in manifests(sweep.snapshot) - manifests(first):
        lose(sweep, f"manifests/{name}")
    assert not audit(sweep.location).went_back
    assert repair(sweep.location).lost_shards == [0, 1]


def test_no_sweep_is_made_over_one_whose_reference_is_lost(sweep):
    lose(sweep, "refs/branch.main/ref.json")
    with pytest.raises(StoreError, match="reference"):
        create(sweep.location, LAYOUT, {"name": "sweep"})


def test_a_sweep_without_any_readable_snapshot_is_one_sentence(sweep):
    for commit_ in history(sweep.location):
        lose(sweep, f"snapshots/{commit_.id}")
    with pytest.raises(StoreError, match="no earlier snapshot can be read"):
        open_sweep(sweep.location)


def test_a_busy_object_store_is_no_reason_to_go_back(sweep, monkeypatch):
    lose(sweep, f"snapshots/{sweep.snapshot}")
    monkeypatch.setattr(object_tip, "is_damage", lambda error, location: False)
    with pytest.raises(UnavailableError):
        open_sweep(sweep.location)

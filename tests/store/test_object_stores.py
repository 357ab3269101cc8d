"""Sweeps in an object store: a real S3 server of this machine (`s3_server`), and a stand-in for Google's."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import obstore
import pytest
import xarray as xr

import s3_server
from pullback.errors import StoreError
from pullback.store import commits, maintenance, objects, opening
from pullback.store.artifacts import load_artifact, save_artifact
from pullback.store.audit import Audit, audit
from pullback.store.creation import create
from pullback.store.location import Location, locate
from pullback.store.lock import driver_lock
from pullback.store.maintenance import collect_garbage, repair
from pullback.store.reader import list_sweeps, open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import Layout
from pullback.store.shard_writing import write_shard
from pullback.sweep.identity import attach_store
from stored_sweeps import LAYOUT, commit, filled, record_of

pytestmark = s3_server.needed


def test_a_sweep_in_an_object_store_is_as_one_in_a_folder(bucket: str, tmp_path: Path) -> None:
    store = create(f"{bucket}/sweep", LAYOUT, {"name": "sweep", "seed": 7})
    assert store.pending_shards() == [0, 1, 2]
    commit(store, *(record_of(LAYOUT, shard, quarantined=(1,)) for shard in range(3)))
    filled(tmp_path / "sweep")
    there, here = open_sweep(f"{bucket}/sweep"), open_sweep(tmp_path / "sweep")
    xr.testing.assert_identical(there.dataset().load(), here.dataset().load())
    assert there.status() == here.status()
    assert str(there.location) == f"{bucket}/sweep"
    assert open_sweep(there.path).snapshot == store.snapshot, "the form into which pathlib brings an address is read"


def test_a_fork_carries_no_credentials(bucket: str) -> None:
    fork = create(f"{bucket}/sweep", LAYOUT, {}).fork()
    assert not any(secret in fork for secret in (b"knows-nothing", b"someone", b"key.json"))
    assert len(fork) < 1_000


def test_a_place_that_is_taken_is_refused(bucket: str) -> None:
    store = create(f"{bucket}/sweep", LAYOUT, {})
    with pytest.raises(StoreError, match="is taken"):
        create(f"{bucket}/sweep", LAYOUT, {})
    assert store.pending_shards() == [0, 1, 2]


def test_a_creation_that_was_killed_before_it_was_whole_is_gone_on_with(bucket: str) -> None:
    icechunk.Repository.create(locate(f"{bucket}/sweep").storage())
    with pytest.raises(StoreError, match="not a sweep of Pullback"):
        open_sweep(f"{bucket}/sweep")
    assert create(f"{bucket}/sweep", LAYOUT, {}).pending_shards() == [0, 1, 2]


def begin_repository(address: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Leave a repository as Icechunk does before it writes the reference, which comes at the second look for it."""
    place = locate(address)
    icechunk.Repository.create(place.storage())
    client, reference = objects.client_of(place), f"{place.prefix}/refs/branch.main/ref.json"
    content = bytes(obstore.get(client, reference).bytes())
    obstore.delete(client, reference)
    looks: list[int] = []
    is_repository = opening.is_repository

    def look(location: Location) -> bool:
        looks.append(len(looks))
        if len(looks) == 2:
            obstore.put(client, reference, content)
        return is_repository(location)

    monkeypatch.setattr(opening, "is_repository", look)
    monkeypatch.setattr(opening, "_CREATION_PAUSE", 0.0)
    return looks


def test_a_repository_that_another_driver_is_creating_is_waited_for(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = begin_repository(f"{bucket}/sweep", monkeypatch)
    assert create(f"{bucket}/sweep", LAYOUT, {}).pending_shards() == [0, 1, 2]
    assert len(looks) >= 2


def test_a_driver_that_overtakes_another_between_its_look_and_its_creation_is_no_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pullback.store.creation.is_free", lambda location: True)
    begin_repository(f"{bucket}/sweep", monkeypatch)
    assert create(f"{bucket}/sweep", LAYOUT, {}).pending_shards() == [0, 1, 2]


def test_an_artifact_that_another_process_is_creating_is_replaced(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_repository(f"{bucket}/sweep.analysis.zarr", monkeypatch)
    save_artifact(f"{bucket}/sweep", "analysis", xr.Dataset({"x": 1.5}))
    loaded = load_artifact(f"{bucket}/sweep", "analysis")
    assert loaded is not None
    assert float(loaded["x"]) == 1.5


def test_a_reference_that_does_not_come_is_reported(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = begin_repository(f"{bucket}/sweep", monkeypatch)
    looks.extend((0, 0))  # past the look at which it would come
    monkeypatch.setattr(opening, "_CREATION_SECONDS", 0.0)
    with pytest.raises(StoreError, match="reference"):
        create(f"{bucket}/sweep", LAYOUT, {})


def test_two_drivers_that_make_a_sweep_at_once_have_one(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    provenance = {"format": 2, "name": "x", "sweep_id": "abc", "identity": {}}
    first: list[SweepStore] = []
    save_config = icechunk.Repository.save_config

    def meanwhile(repository: icechunk.Repository) -> None:
        save_config(repository)
        if not first:
            first.append(attach_store(f"{bucket}/sweep", LAYOUT, provenance))
            commit(first[0], record_of(LAYOUT, 1))

    monkeypatch.setattr(icechunk.Repository, "save_config", meanwhile)
    second = attach_store(f"{bucket}/sweep", LAYOUT, provenance)
    assert second.pending_shards() == [0, 2]
    with pytest.raises(StoreError, match="holds another sweep"):
        attach_store(f"{bucket}/sweep", LAYOUT, {**provenance, "sweep_id": "other", "identity": {"spec": {"seed": 1}}})


def test_of_two_drivers_the_first_result_of_each_shard_stays(bucket: str) -> None:
    one = create(f"{bucket}/sweep", LAYOUT, {})
    with driver_lock(f"{bucket}/sweep"), driver_lock(f"{bucket}/sweep"):
        other = SweepStore.open(f"{bucket}/sweep")
    for store, shards, seed in ((one, (0, 1), 1), (other, (1, 2), 2)):
        for shard in shards:
            assert store.merge(shard, write_shard(store.fork(), record_of(LAYOUT, shard, seed=seed)))
    one.commit("one")
    other.commit("other")
    assert other.uncommitted == 0
    assert not one.pending_shards()
    expected = np.concatenate([record_of(LAYOUT, shard, seed).trace for shard, seed in ((0, 1), (1, 1), (2, 2))])
    np.testing.assert_array_equal(open_sweep(f"{bucket}/sweep").dataset().trace.values, expected)
    assert not one.merge(0, write_shard(one.fork(), record_of(LAYOUT, 0, seed=3)))


def test_a_commit_in_the_middle_of_a_commit_loses_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = create(f"{bucket}/sweep", LAYOUT, {})
    other = SweepStore.open(f"{bucket}/sweep")
    for store, shards, seed in ((one, (0, 1), 1), (other, (1, 2), 2)):
        for shard in shards:
            store.merge(shard, write_shard(store.fork(), record_of(LAYOUT, shard, seed=seed)))
    whole = icechunk.Session.commit
    conflicts = []

    def overtaken(session: icechunk.Session, message: str) -> str:
        if message == "one" and not conflicts:
            conflicts.append(other.commit("other"))
        return whole(session, message)

    monkeypatch.setattr(icechunk.Session, "commit", overtaken)
    one.commit("one")
    assert conflicts
    expected = np.concatenate([record_of(LAYOUT, shard, seed).trace for shard, seed in ((0, 1), (1, 2), (2, 2))])
    np.testing.assert_array_equal(open_sweep(f"{bucket}/sweep").dataset().trace.values, expected)


def test_a_driver_that_is_overtaken_all_the_time_says_so_and_keeps_its_results(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = create(f"{bucket}/sweep", LAYOUT, {})
    one.merge(0, write_shard(one.fork(), record_of(LAYOUT, 0)))

    def overtaken(session: icechunk.Session, message: str) -> str:
        raise icechunk.ConflictError("A", "B")

    monkeypatch.setattr(commits, "_LONGEST_PAUSE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(icechunk.Session, "commit", overtaken)
        with pytest.raises(StoreError, match="other processes drive this sweep"):
            one.commit("one")
    assert one.uncommitted == 1
    one.commit("one")
    assert one.pending_shards() == [1, 2]


DRIVER = """
import sys
sys.path.insert(0, sys.argv[2])
from stored_sweeps import record_of
from pullback.store.lock import driver_lock
from pullback.store.repository import SweepStore
from pullback.store.shard_writing import write_shard
address, seed = sys.argv[1], int(sys.argv[3])
with driver_lock(address):
    store = SweepStore.open(address)
    print("ready", flush=True)
    sys.stdin.readline()
    for shard in range(20) if seed == 1 else range(29, 9, -1):
        if store.merge(shard, write_shard(store.fork(), record_of(store.layout, shard, seed=seed))):
            store.commit(f"{seed}")
"""


def test_two_drivers_at_full_speed_lose_no_shard_and_store_none_twice(bucket: str) -> None:
    layout = Layout(samples=60, latent_dim=3, components=3, shard_size=2)
    store = create(f"{bucket}/sweep", layout, {})
    arguments = [sys.executable, "-c", DRIVER, f"{bucket}/sweep", str(Path(__file__).parents[1])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    drivers = [subprocess.Popen([*arguments, str(seed)], **pipes) for seed in (1, 2)]
    assert [driver.stdout.readline() for driver in drivers] == ["ready\n", "ready\n"]
    for driver in drivers:
        driver.stdin.write("go\n")
        driver.stdin.flush()
    assert [driver.communicate(timeout=200)[1] for driver in drivers] == ["", ""]
    assert [driver.returncode for driver in drivers] == [0, 0]
    repository = icechunk.Repository.open(locate(f"{bucket}/sweep").storage())
    seen: set[int] = set()
    owner: dict[int, int] = {}
    for ancestor in reversed([*repository.ancestry(branch="main")][:-2]):
        done = {*range(30)} - {*pending_at(repository, ancestor.id)}
        assert seen < done, "each commit has what the one before it had, and more"
        owner |= dict.fromkeys(done - seen, int(ancestor.message))
        seen = done
    assert seen == {*range(30)}
    assert [owner[shard] for shard in (*range(10), *range(20, 30))] == [1] * 10 + [2] * 10
    expected = np.concatenate([record_of(layout, shard, seed=owner[shard]).trace for shard in range(30)])
    np.testing.assert_array_equal(open_sweep(store.path).dataset().trace.values, expected)


def pending_at(repository: icechunk.Repository, snapshot: str) -> list[int]:
    import zarr

    group = zarr.open_group(repository.readonly_session(snapshot_id=snapshot).store, mode="r", use_consolidated=False)
    return [shard for shard in range(30) if group["status"][2 * shard] == 0]  # type: ignore[index]


def test_damage_in_an_object_store_is_found_and_repaired(bucket: str) -> None:
    store = create(f"{bucket}/sweep", LAYOUT, {})
    commit(store, *(record_of(LAYOUT, shard) for shard in range(3)))
    clean = open_sweep(f"{bucket}/sweep").dataset().load()
    assert audit(f"{bucket}/sweep").damages == ()
    client = objects.client_of(store.location)
    chunk = min(entry["path"] for entry in obstore.list(client, f"{store.location.prefix}/chunks").collect())
    obstore.put(client, chunk, obstore.get(client, chunk).bytes().to_bytes()[:100])
    (found,) = repair(f"{bucket}/sweep").damages
    assert found.kind == "unreadable"
    assert store.pending_shards() == [found.shard]
    commit(SweepStore.open(f"{bucket}/sweep"), record_of(LAYOUT, found.shard))
    xr.testing.assert_identical(open_sweep(f"{bucket}/sweep").dataset().load(), clean)
    assert audit(f"{bucket}/sweep").damages == ()


def test_a_sweep_that_another_commits_to_is_not_repaired_over(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = create(f"{bucket}/sweep", LAYOUT, {})
    bad = record_of(LAYOUT, 0)
    bad.trace[:] = np.inf
    commit(store, bad)
    look = maintenance.examine

    def meanwhile(*arguments: Any) -> Audit:
        found = look(*arguments)
        commit(store, record_of(LAYOUT, 1))
        return found

    monkeypatch.setattr(maintenance, "examine", meanwhile)
    with pytest.raises(StoreError, match="Stop whoever drives it"):
        repair(f"{bucket}/sweep")
    assert store.pending_shards() == [2]


def test_garbage_of_an_object_store_is_removed_but_never_what_is_recent(bucket: str) -> None:
    store = create(f"{bucket}/sweep", LAYOUT, {})
    commit(store, record_of(LAYOUT, 0))
    result = write_shard(store.fork(), record_of(LAYOUT, 1))  # of a driver that has not committed it yet
    with pytest.raises(StoreError, match="at least 1h"):
        collect_garbage(f"{bucket}/sweep", timedelta(minutes=59))
    future = timedelta(seconds=-60)  # the server rounds its times
    assert collect_garbage(f"{bucket}/sweep", future, dry_run=True).chunks == 2
    assert collect_garbage(f"{bucket}/sweep", timedelta(hours=1)).chunks == 0
    store.merge(1, result)
    store.commit("one")
    assert audit(f"{bucket}/sweep").damages == ()


def test_the_sweeps_under_a_prefix_are_listed(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b", "a"):
        create(f"{bucket}/{name}", LAYOUT, {})
    save_artifact(f"{bucket}/a", "analysis", xr.Dataset({"kept": 1}))
    assert [str(sweep.location) for sweep in list_sweeps(f"{bucket}/")] == [f"{bucket}/a", f"{bucket}/b"]
    assert list_sweeps(f"{bucket}/nowhere") == []
    assert caplog.text == "", "what was kept beside a sweep is nothing to speak of"


def test_a_small_object_is_put_read_and_removed(bucket: str) -> None:
    place = locate(f"{bucket}/note")
    assert objects.get_object(place) is None
    objects.remove_object(place)
    for content in (b"one", b"two"):
        objects.put_object(place, content)
        assert objects.get_object(place) == content
    objects.remove_object(place)
    assert objects.get_object(place) is None


def test_a_result_is_kept_beside_its_sweep_and_replaced(bucket: str) -> None:
    assert load_artifact(f"{bucket}/sweep", "analysis") is None
    for value in (1, 2):
        place = save_artifact(f"{bucket}/sweep", "analysis", xr.Dataset({"kept": ("x", [value])}, attrs={"n": value}))
        found = load_artifact(f"{bucket}/sweep", "analysis")
        xr.testing.assert_identical(found, xr.Dataset({"kept": ("x", [value])}, attrs={"n": value}))
    assert str(place) == f"{bucket}/sweep.analysis.zarr"


def test_a_sweep_in_an_object_store_is_exported_to_a_folder(bucket: str, tmp_path: Path) -> None:
    commit(create(f"{bucket}/sweep", LAYOUT, {}), record_of(LAYOUT, 0))
    sweep = open_sweep(f"{bucket}/sweep")
    sweep.export(tmp_path / "out.zarr")
    plain = xr.open_zarr(tmp_path / "out.zarr", consolidated=False, chunks=None)
    np.testing.assert_array_equal(plain.eigenvalue.values[:4], record_of(LAYOUT, 0).eigenvalue)
    with pytest.raises(StoreError, match="folder of this machine only"):
        sweep.export(f"{bucket}/out.zarr")


def test_a_missing_sweep_a_missing_bucket_and_a_missing_server_are_distinguished(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match=f"no sweep at {bucket}/sweep"):
        open_sweep(f"{bucket}/sweep")
    nowhere = bucket.replace("bucket", "nothing", 1)
    with pytest.raises(StoreError, match=f"(?s){nowhere}/sweep.* cannot be .*NoSuchBucket"):
        create(f"{nowhere}/sweep", LAYOUT, {})
    if bucket.startswith("gs"):  # Google's server is named by nobody
        return
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="nothing answers at AWS_ENDPOINT_URL"):
        open_sweep(f"{bucket}/sweep")

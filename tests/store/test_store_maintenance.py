"""Damage is found wherever it is, and repaired by giving up the shards that have it; good shards are not touched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from pullback.errors import StoreError
from pullback.store import audit as audit_module
from pullback.store import bulk
from pullback.store import schema as schema_module
from pullback.store.audit import audit
from pullback.store.creation import create
from pullback.store.lock import driver_lock
from pullback.store.maintenance import repair
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import SHARD_ARRAYS, ArraySchema, Layout, ShardRecord
from stored_sweeps import LAYOUT, NATIVE, altered, chunks, commit, filled, flip_byte, record_of


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A clean sweep of three shards."""
    return filled(tmp_path / "sweep").path


def chunks_of_shard(path: Path, shard: int) -> list[Path]:
    """Make a sweep of which it is known which files a shard wrote."""
    store = create(path, LAYOUT, {"name": path.name, "seed": 7})
    written = {}
    for number in range(3):
        before = chunks(path) if number else set()
        commit(store, record_of(LAYOUT, number, quarantined=(1,)))
        written[number] = sorted(chunks(path) - before)
    return written[shard]


def in_session(path: Path, change: Callable[[zarr.Group], None]) -> None:
    """Commit a change behind Pullback's back."""
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path))).writable_session("main")
    change(zarr.open_group(session.store, mode="r+", use_consolidated=False))
    session.commit("behind its back")


def tear(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "torn": tear,
    "empty": lambda chunk: chunk.write_bytes(b"") and None,
    "flipped": lambda chunk: flip_byte(chunk, 10),
    "gone": Path.unlink,
}


def restored(path: Path, shards: list[int], clean: xr.Dataset) -> None:
    """Compute the shards again, and see that the sweep is what it was."""
    store = SweepStore.open(path)
    assert store.pending_shards() == shards
    commit(store, *(record_of(store.layout, shard, quarantined=(1,)) for shard in shards))
    assert audit(path).damages == ()
    xr.testing.assert_identical(open_sweep(path).dataset(only_good=False).load(), clean)


def test_a_whole_sweep_is_clean_and_counts_what_was_read(tmp_path: Path) -> None:
    filled(tmp_path / "sweep", shards=(0, 2))
    seen: list[tuple[int, int]] = []
    found = audit(tmp_path / "sweep", lambda done, total: seen.append((done, total)))
    assert (found.shards, found.committed, found.damages, found.lost_shards) == (3, 2, (), [])
    assert found.snapshot == open_sweep(tmp_path / "sweep").snapshot
    assert seen == [(0, 3), (3, 3)]


@pytest.mark.parametrize("together", [64, 1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_chunk_is_found_and_its_shard_restored(
    tmp_path: Path, damage: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "_SPAN_SHARDS", together)
    written = chunks_of_shard(tmp_path / "sweep", 1)
    clean = open_sweep(tmp_path / "sweep").dataset(only_good=False).load()
    assert len(written) == 2
    DAMAGES[damage](written[0])
    (found,) = audit(tmp_path / "sweep").damages
    assert (found.shard, found.kind) == (1, "unreadable")
    assert found.array in NATIVE
    assert found.what
    assert repair(tmp_path / "sweep").damages == (found,)
    restored(tmp_path / "sweep", [1], clean)


@pytest.mark.parametrize("name", ["status", "trace", "eigenvector", "metric_sum"])
def test_a_lost_reference_is_found_and_its_shard_restored(sweep: Path, name: str) -> None:
    clean = open_sweep(sweep).dataset(only_good=False).load()

    def forget(group: zarr.Group) -> None:
        array = group[name]
        assert isinstance(array, zarr.Array)
        size = 1 if name == "metric_sum" else 4
        array[size : 2 * size] = array.fill_value

    in_session(sweep, forget)
    (found,) = repair(sweep).damages
    assert (found.shard, found.array, found.kind) == (1, name, "missing")
    restored(sweep, [1], clean)


@pytest.mark.parametrize(("largest", "lost"), [(True, range(64)), (False, range(64, 69))])
def test_a_torn_manifest_is_found_and_all_of_its_shards_restored(tmp_path: Path, largest: bool, lost: range) -> None:
    layout = Layout(samples=70, latent_dim=2, components=2, shard_size=1)  # 64 shards in one manifest, 5 in another
    records = [record_of(layout, shard, quarantined=(1,)) for shard in range(70)]
    for name, count in (("sweep", 69), ("clean", 70)):
        commit(create(tmp_path / name, layout, {"seed": 7}), *records[:count])
    manifests = sorted(
        (tmp_path / "sweep" / "manifests").iterdir(), key=lambda file: file.stat().st_size, reverse=largest
    )
    for manifest in manifests:  # the first may be the numbers of the samples, of which no result depends
        whole = manifest.read_bytes()
        tear(manifest)
        found = audit(tmp_path / "sweep")
        if found.lost_shards:
            break
        manifest.write_bytes(whole)
    assert {damage.kind for damage in found.damages} == {"references"}
    assert len({damage.array for damage in found.damages}) == 1
    assert found.lost_shards == list(lost)
    assert repair(tmp_path / "sweep").damages == found.damages
    restored(tmp_path / "sweep", sorted({*lost, 69}), open_sweep(tmp_path / "clean").dataset(only_good=False).load())


def test_all_manifests_lost_are_all_shards_lost(sweep: Path) -> None:
    clean = open_sweep(sweep).dataset(only_good=False).load()
    for manifest in (sweep / "manifests").iterdir():
        manifest.unlink()
    assert repair(sweep).lost_shards == [0, 1, 2]
    restored(sweep, [0, 1, 2], clean)


@pytest.mark.parametrize(
    ("change", "damages"),
    [
        (
            lambda array: set_rows(array, slice(0, 10), array.fill_value),
            [(0, "missing"), (1, "missing"), (2, "missing")],
        ),
        (lambda array: set_rows(array, slice(8, 10), np.array([9, 8])), [(2, "wrong")]),
    ],
)
def test_lost_numbers_of_samples_are_written_anew_and_no_result_is_given_up(
    sweep: Path, change: Callable[[zarr.Array], None], damages: list[tuple[int, str]]
) -> None:
    clean = open_sweep(sweep).dataset(only_good=False).load()
    in_session(sweep, lambda group: change(group["sample"]))
    found = repair(sweep)
    assert {damage.array for damage in found.damages} == {"sample"}
    assert [(damage.shard, damage.kind) for damage in found.damages] == damages
    restored(sweep, [], clean)


def test_an_audit_reads_small_shards_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(samples=40, latent_dim=2, components=2, shard_size=1)
    path = filled(tmp_path / "many", tuple(range(30)), layout).path
    reads: list[str] = []
    read_rows = bulk.read_rows
    monkeypatch.setattr(bulk, "read_rows", lambda array, *rest: (reads.append(array.path), read_rows(array, *rest))[1])
    found = audit(path)
    assert (found.committed, found.damages) == (30, ())
    assert sorted(reads) == sorted(schema.name for schema in SHARD_ARRAYS)


@pytest.mark.parametrize("rows", [8, 1])
def test_numbers_of_samples_in_many_chunks_are_written_anew_one_chunk_at_a_time(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """With one row, the chunks are those of earlier versions: one for each shard."""
    monkeypatch.setattr(schema_module, "_ROWS_WRITTEN_ONCE", rows)
    path = filled(sweep.with_name("chunks")).path
    monkeypatch.undo()
    clean = open_sweep(path).dataset(only_good=False).load()
    in_session(path, lambda group: set_rows(group["sample"], slice(8, 10), -1))
    assert [damage.shard for damage in repair(path).damages] == [2]
    restored(path, [], clean)
    in_session(path, lambda group: set_rows(group["sample"], slice(4, 5), 7))
    assert [damage.shard for damage in repair(path).damages] == [1]
    restored(path, [], clean)


def set_rows(array: zarr.Array, rows: slice, values: object) -> None:
    array[rows] = values


def wrong(**values: object) -> ShardRecord:
    return altered(record_of(LAYOUT, 1), **values)


GOOD_RECORD = record_of(LAYOUT, 1)


@pytest.mark.parametrize(
    ("record", "array", "what"),
    [
        (wrong(eigenvalue=GOOD_RECORD.eigenvalue[:, ::-1].copy()), "eigenvalue", "do not descend"),
        (wrong(eigenvector=GOOD_RECORD.eigenvector * np.float32(1.01)), "eigenvector", "unit length"),
        (wrong(latent=np.full_like(GOOD_RECORD.latent, np.nan)), "latent", "not finite for a good sample"),
        (wrong(trace=np.full_like(GOOD_RECORD.trace, np.inf)), "trace", "not finite for a good sample"),
    ],
)
def test_numbers_that_cannot_be_right_are_found_and_their_shard_restored(
    tmp_path: Path, record: ShardRecord, array: str, what: str
) -> None:
    store = filled(tmp_path / "sweep", shards=(0, 2))
    commit(store, record)
    (found,) = repair(store.path).damages
    assert (found.shard, found.array, found.kind) == (1, array, "wrong")
    assert what in found.what
    filled(tmp_path / "clean")
    clean = open_sweep(tmp_path / "clean").dataset(only_good=False).load()
    restored(store.path, [1], clean.assign_attrs(open_sweep(store.path).dataset().attrs))


@pytest.mark.parametrize(
    ("name", "value", "array", "what"),
    [
        ("status", 0, "status", "1 of 4 samples are pending"),
        ("status", 7, "status", "unknown"),
        ("reason", 3, "reason", "exactly where"),
        ("metric_sum", np.inf, "metric_sum", "not finite"),
    ],
)
def test_what_no_worker_writes_is_found(sweep: Path, name: str, value: float, array: str, what: str) -> None:
    def spoil(group: zarr.Group) -> None:
        spoilt = group[name]
        assert isinstance(spoilt, zarr.Array)
        spoilt[1 if name == "metric_sum" else 5] = value

    in_session(sweep, spoil)
    found = [damage for damage in audit(sweep).damages if damage.array == array]
    assert [damage.shard for damage in found] == [1]
    assert what in found[0].what


def test_what_is_not_finite_in_quarantine_is_no_damage(tmp_path: Path) -> None:
    record = record_of(LAYOUT, 0, quarantined=(1,))
    for name in ("latent", "eigenvalue", "eigenvector", "trace"):
        getattr(record, name)[1] = np.nan
    commit(create(tmp_path / "sweep", LAYOUT, {}), record)
    assert audit(tmp_path / "sweep").damages == ()


def test_every_array_that_is_damaged_is_reported_by_shard(tmp_path: Path) -> None:
    written = chunks_of_shard(tmp_path / "sweep", 1)
    for chunk in written:
        chunk.unlink()
    commit(SweepStore.open(tmp_path / "sweep"))
    found = audit(tmp_path / "sweep")
    assert {(damage.shard, damage.array) for damage in found.damages} == {(1, name) for name in NATIVE}
    assert found.lost_shards == [1]


def test_an_audit_changes_nothing_and_needs_no_lock(tmp_path: Path) -> None:
    chunks_of_shard(tmp_path / "sweep", 1)[0].unlink()
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").rglob("*")}
    with driver_lock(tmp_path / "sweep"):
        assert audit(tmp_path / "sweep").lost_shards == [1]
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").rglob("*")} == files


def test_a_sweep_that_is_driven_is_not_repaired(tmp_path: Path) -> None:
    chunks_of_shard(tmp_path / "sweep", 1)[0].unlink()
    with driver_lock(tmp_path / "sweep"), pytest.raises(StoreError, match="held by"):
        repair(tmp_path / "sweep")
    assert SweepStore.open(tmp_path / "sweep").pending_shards() == []


def test_a_repair_of_a_clean_sweep_commits_nothing(sweep: Path) -> None:
    before = open_sweep(sweep).snapshot
    assert repair(sweep).damages == ()
    assert open_sweep(sweep).snapshot == before


def test_a_repair_that_cannot_be_committed_leaves_the_sweep_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks_of_shard(tmp_path / "sweep", 1)[0].unlink()

    def fail(*_: object) -> None:
        raise icechunk.IcechunkError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(icechunk.Session, "flush", fail)
        with pytest.raises(StoreError, match=r"could not be repaired .*No space left"):
            repair(tmp_path / "sweep")
    assert audit(tmp_path / "sweep").lost_shards == [1]


# Garbage.


def test_all_arrays_of_a_shard_are_looked_at(sweep: Path) -> None:
    for schema in SHARD_ARRAYS:
        shutil.copytree(sweep, sweep.with_name("copy"))

        def forget(group: zarr.Group, schema: ArraySchema = schema) -> None:
            array = group[schema.name]
            assert isinstance(array, zarr.Array)
            array[schema.rows_of(LAYOUT, 0)] = array.fill_value

        in_session(sweep.with_name("copy"), forget)
        assert [(d.shard, d.array) for d in audit(sweep.with_name("copy")).damages] == [(0, schema.name)]
        shutil.rmtree(sweep.with_name("copy"))


# Garbage, under clocks that are wrong.

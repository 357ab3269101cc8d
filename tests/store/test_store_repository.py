import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pullback.errors import StoreError
from pullback.store import chunks, creation
from pullback.store.creation import create
from pullback.store.lock import driver_lock
from pullback.store.opening import has_chunk
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import ARRAYS, GOOD, PENDING, SHARD_ARRAYS, Layout
from pullback.store.shard_writing import write_shard
from stored_sweeps import LAYOUT, altered, commit, filled, record_of


def test_a_new_sweep_is_wholly_pending(tmp_path: Path) -> None:
    store = create(tmp_path / "deep" / "sweep", LAYOUT, {"name": "quick", "nested": {"b": [1, None], "a": "é"}})
    again = SweepStore.open(store.path)
    assert again.layout == LAYOUT
    assert again.provenance == {"name": "quick", "nested": {"b": [1, None], "a": "é"}}
    assert again.pending_shards() == [0, 1, 2]
    assert again.status().tolist() == [PENDING] * 10
    assert again.status().dtype == np.uint8
    assert again.snapshot == store.snapshot


def test_a_sweep_is_created_under_the_drivers_own_lock(tmp_path: Path) -> None:
    with driver_lock(tmp_path / "new" / "sweep"):
        filled(tmp_path / "new" / "sweep")
    assert SweepStore.open(tmp_path / "new" / "sweep").pending_shards() == []


def test_a_taken_path_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep")
    with pytest.raises(StoreError, match="exists already"):
        create(tmp_path / "sweep", LAYOUT, {})
    assert store.pending_shards() == []


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(creation, "make_arrays", fail)
    with pytest.raises(StoreError, match="No space left"):
        create(tmp_path / "new" / "sweep", LAYOUT, {})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("provenance", [{"path": Path()}, {"value": float("nan")}])
def test_provenance_that_is_not_json_is_refused(tmp_path: Path, provenance: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="cannot be stored as JSON"):
        create(tmp_path / "sweep", LAYOUT, provenance)
    assert not any(tmp_path.iterdir())


def test_a_url_is_not_mistaken_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="cannot hold a sweep"):
        create("https://bucket/sweep", LAYOUT, {})
    assert not any(tmp_path.iterdir())


def test_every_array_is_stored_as_the_plan_says(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    opened = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "sweep")))
    group = zarr.open_group(opened.readonly_session("main").store, mode="r", use_consolidated=False)
    assert set(group.array_keys()) == {schema.name for schema in ARRAYS}
    for schema in ARRAYS:
        array = group[schema.name]
        assert isinstance(array, zarr.Array)
        assert array.shape == schema.shape(LAYOUT)
        assert array.dtype == np.dtype(schema.dtype)
        assert array.metadata.dimension_names == schema.dims  # type: ignore[union-attr]
        assert array.attrs["long_name"] == schema.long_name
        assert array.attrs["units"] == schema.units
        whole = array.shards or array.chunks
        if not schema.written_once:
            assert whole[0] == (1 if schema.dims[0] == "shard" else LAYOUT.shard_size), (
                "a shard of the plan, one of Zarr"
            )
        codecs = str(array.metadata.to_dict()["codecs"])
        assert "crc32c" in codecs.replace("index_codecs", ""), schema.name
        assert ("zstd" in codecs) == schema.compressed
    assert group["eigenvector"].chunks == (1, 8, 16)  # type: ignore[union-attr]


def test_creating_a_sweep_writes_no_chunk_for_each_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, looked_for = [], []

    async def count(store: icechunk.IcechunkStore, key: str, value: object) -> None:
        written.append(key)
        await original(store, key, value)

    def look(session: icechunk.Session, array: zarr.Array, chunk: int) -> bool:
        looked_for.append(chunk)
        return has_chunk(session, array, chunk)

    original = icechunk.IcechunkStore.set
    monkeypatch.setattr(icechunk.IcechunkStore, "set", count)
    monkeypatch.setattr(chunks, "has_chunk", look)
    layout = Layout(samples=200_000, latent_dim=4, components=4, shard_size=2)
    store = create(tmp_path / "sweep", layout, {})
    assert len([key for key in written if "/c/" in key]) == 4, "of `sample`, and of no other array"
    assert not looked_for
    assert len(store.pending_shards()) == 100_000
    assert sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()) < 2**20
    assert (open_sweep(store.path).dataset(only_good=False)["sample"].values == np.arange(200_000)).all()


def test_what_a_fork_wrote_is_seen_only_when_it_is_committed(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    before = store.snapshot
    result = write_shard(store.fork(), record_of(LAYOUT, 1))
    assert store.merge(1, result)
    assert store.uncommitted == 1
    assert store.pending_shards() == [0, 1, 2]
    assert store.commit("one") == store.snapshot != before
    assert store.uncommitted == 0
    assert store.pending_shards() == [0, 2]
    assert store.status().tolist() == [PENDING] * 4 + [GOOD] * 4 + [PENDING] * 2


def test_a_fork_taken_before_a_commit_still_merges_after_it(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    early = store.fork()
    late_result = write_shard(early, record_of(LAYOUT, 0))
    commit(store, record_of(LAYOUT, 1))
    assert store.fork() is early
    resumed = SweepStore.open(store.path)  # another driver, whose forks start at another commit
    commit(resumed, record_of(LAYOUT, 2))
    assert resumed.merge(0, late_result)
    resumed.commit("late")
    assert resumed.pending_shards() == []


def test_forks_and_results_are_small(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", Layout(64, 128, 128, 16), {})
    assert len(store.fork()) < 1_000
    assert len(write_shard(store.fork(), record_of(store.layout, 0))) < 10_000


def test_a_fork_serves_a_process_that_stands_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fork = create("sweep", LAYOUT, {}).fork()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = write_shard(fork, record_of(LAYOUT, 0))
    store = SweepStore.open(tmp_path / "sweep")
    assert store.merge(0, result)
    store.commit("one")
    assert store.pending_shards() == [1, 2]


@pytest.mark.parametrize("committed", [False, True])
def test_a_second_result_of_a_shard_is_ignored(tmp_path: Path, committed: bool) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    first, second = record_of(LAYOUT, 0, seed=1), record_of(LAYOUT, 0, seed=2)
    results = [write_shard(store.fork(), record) for record in (first, second)]
    assert store.merge(0, results[0])
    if committed:
        store.commit("first")
    assert not store.merge(0, results[1])
    assert store.uncommitted == (0 if committed else 1)
    store.commit("second")
    assert open_sweep(store.path).dataset().trace.values.tolist() == first.trace.tolist()


def test_a_result_of_a_shard_that_an_earlier_driver_committed_is_ignored(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep", shards=(0,))
    resumed = SweepStore.open(store.path)
    assert not resumed.merge(0, write_shard(resumed.fork(), record_of(LAYOUT, 0, seed=2)))


def test_a_result_of_another_shard_is_refused(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    with pytest.raises(StoreError, match="shard is still pending"):
        store.merge(1, write_shard(store.fork(), record_of(LAYOUT, 0)))


def test_a_part_of_a_shard_is_refused(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    session = pickle.loads(pickle.loads(store.fork())[0])
    zarr.open_group(session.store, mode="r+", use_consolidated=False)["status"][0:4] = GOOD  # type: ignore[index]
    with pytest.raises(StoreError, match="shard is still pending"):
        store.merge(0, pickle.dumps(session))
    assert store.pending_shards() == [0, 1, 2]


def test_a_shard_of_fill_values_is_a_whole_result(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    nothing = {
        schema.name: np.full_like(getattr(record_of(LAYOUT, 0), schema.name), schema.fill)
        for schema in SHARD_ARRAYS
        if schema.name not in ("status", "metric_sum")
    }
    nothing["reason"] = np.full(4, 1, np.uint8)
    nothing["status"] = np.full(4, 2, np.uint8)
    nothing["metric_sum"] = np.zeros((16, 16))
    commit(store, altered(record_of(LAYOUT, 0), **nothing))
    assert store.pending_shards() == [1, 2]
    assert open_sweep(store.path).dataset(only_good=False).load()


def test_a_record_that_does_not_fit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    with pytest.raises(ValueError, match="trace is"):
        write_shard(store.fork(), altered(record_of(LAYOUT, 0), trace=np.zeros(4, np.float32)))
    assert not (store.path / "chunks").exists() or not any((store.path / "chunks").iterdir())


def test_a_commit_of_nothing_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep")
    assert store.commit("nothing") == store.snapshot == SweepStore.open(store.path).snapshot


def test_a_failed_commit_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = create(tmp_path / "sweep", LAYOUT, {})
    assert store.merge(0, write_shard(store.fork(), record_of(LAYOUT, 0)))

    def fail(*_: object) -> None:
        raise icechunk.IcechunkError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(icechunk.Session, "flush", fail)  # in a folder, a commit is flushed before the branch moves
        with pytest.raises(StoreError, match=r"1 shards could not be committed .*No space left"):
            store.commit("fails")
    assert store.uncommitted == 1
    store.commit("works")
    assert store.pending_shards() == [1, 2]


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from stored_sweeps import LAYOUT, commit, record_of
from pullback.store.creation import create
from pullback.store.lock import driver_lock
from pullback.store.shard_writing import write_shard
with driver_lock(sys.argv[1]):
    store = create(sys.argv[1], LAYOUT, {})
    commit(store, record_of(LAYOUT, 0))
    store.merge(2, write_shard(store.fork(), record_of(LAYOUT, 2)))
    print("merged", flush=True)
    while True:
        write_shard(store.fork(), record_of(LAYOUT, 1))
"""


def test_a_killed_driver_loses_no_committed_shard(tmp_path: Path) -> None:
    path = tmp_path / "sweep"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parents[1])], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "merged\n"
    process.kill()
    process.wait()
    process.stdout.close()
    with driver_lock(path):
        resumed = SweepStore.open(path)
        assert resumed.pending_shards() == [1, 2], "shard 2 was merged, not committed"
        commit(resumed, record_of(LAYOUT, 1), record_of(LAYOUT, 2))
    assert resumed.pending_shards() == []
    trace = np.concatenate([record_of(LAYOUT, shard).trace for shard in range(3)])
    assert open_sweep(path).dataset().trace.values.tolist() == trace.tolist()


sizes = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(0, 3), st.integers(1, 8))


@settings(max_examples=15, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 100))
def test_records_of_any_size_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: tuple[int, int, int, int], seed: int
) -> None:
    samples, n, missing, shard_size = sizes
    layout = Layout(samples, n, max(1, n - missing), shard_size)
    store = create(tmp_path_factory.mktemp("sweeps") / "sweep", layout, {})
    records = [record_of(layout, shard, seed=seed) for shard in range(layout.shards)]
    commit(store, *records)
    dataset = open_sweep(store.path).dataset()
    for schema in SHARD_ARRAYS:
        rows = [getattr(record, schema.name) for record in records]
        written = np.stack(rows) if schema.dims[0] == "shard" else np.concatenate(rows)
        np.testing.assert_array_equal(dataset[schema.name].values, written)
        assert dataset[schema.name].dtype == written.dtype


def test_the_format_is_one_that_every_supported_icechunk_reads(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    assert (tmp_path / "sweep" / "refs").is_dir(), "Icechunk's format 1; format 2 has a file `repo` instead"
    assert not (tmp_path / "sweep" / "repo").exists()


def test_the_manifests_do_not_grow_with_the_square_of_the_shards(tmp_path: Path) -> None:
    layout = Layout(samples=130, latent_dim=1, components=1, shard_size=1)
    store = create(tmp_path / "sweep", layout, {})
    commit(store, *(record_of(layout, shard) for shard in range(128)))
    before = {manifest: manifest.stat().st_size for manifest in (store.path / "manifests").iterdir()}
    commit(store, record_of(layout, 128))
    after = {manifest: manifest.stat().st_size for manifest in (store.path / "manifests").iterdir()}
    written = sum(size for manifest, size in after.items() if manifest not in before)
    assert written < sum(before.values()) / 2, "the manifests of the first 128 shards were not written anew"


def test_opening_and_writing_print_no_warning(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from stored_sweeps import filled; from pathlib import Path\n"
        "from pullback.store.reader import open_sweep\n"
        "filled(Path(sys.argv[1])); open_sweep(sys.argv[1]).dataset().load()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ICECHUNK_LOG"}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program, str(tmp_path / "sweep"), str(Path(__file__).parents[1])],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = [line for line in (done.stdout + done.stderr).splitlines() if "pullback" in line or "WARN" in line]
    assert not printed


def test_a_plain_open_zarr_sees_the_same_numbers_and_dims(tmp_path: Path) -> None:
    filled(tmp_path / "sweep", shards=(0, 2))
    opened = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "sweep")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_zarr(opened.readonly_session("main").store, consolidated=False, chunks=None)
    xr.testing.assert_identical(plain.load(), open_sweep(tmp_path / "sweep").dataset(only_good=False).load())

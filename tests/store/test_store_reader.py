import pickle
import re
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from pullback.errors import StoreError
from pullback.store import arrays, chunks, root
from pullback.store.audit import audit
from pullback.store.creation import create
from pullback.store.reader import SweepStatus, list_sweeps, open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import SHARD_ARRAYS, Layout
from stored_sweeps import LAYOUT, altered, commit, filled, flip_byte, record_of


def test_the_status_counts_every_sample_once(tmp_path: Path) -> None:
    filled(tmp_path / "sweep", shards=(0, 2))
    sweep = open_sweep(tmp_path / "sweep")
    assert sweep.status() == SweepStatus(planned=10, good=5, quarantined=1, pending=4)
    assert sweep.status().as_dict() == {"planned": 10, "good": 5, "quarantined": 1, "pending": 4}
    assert sweep.reasons() == {"ASYMMETRIC": 1}


def test_a_sweep_says_what_it_is(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep")
    sweep = open_sweep(str(tmp_path / "sweep"))
    assert (sweep.name, sweep.path, sweep.layout) == ("sweep", tmp_path / "sweep", LAYOUT)
    assert sweep.provenance == {"name": "sweep", "seed": 7}
    assert sweep.snapshot == store.snapshot
    assert "sweep" in repr(sweep)


def test_a_sweep_without_a_name_has_its_folders(tmp_path: Path) -> None:
    create(tmp_path / "folder", LAYOUT, {})
    assert open_sweep(tmp_path / "folder").name == "folder"


def test_the_dataset_holds_the_good_samples_only_and_says_which(tmp_path: Path) -> None:
    filled(tmp_path / "sweep", shards=(0, 2))
    dataset = open_sweep(tmp_path / "sweep").dataset()
    assert dataset.sample.values.tolist() == [0, 2, 3, 8, 9]
    assert dict(dataset.sizes) == {"sample": 5, "latent_dim": 16, "component": 8, "shard": 3, "latent_column": 16}
    expected = np.concatenate([record_of(LAYOUT, 0).eigenvector[[0, 2, 3]], record_of(LAYOUT, 2).eigenvector])
    np.testing.assert_array_equal(dataset.eigenvector.values, expected)
    assert dataset.eigenvalue.attrs["units"] == "squared distance per squared latent unit"
    assert dataset.seconds.dtype == np.float64, "not decoded as a time difference"
    assert dataset.sel(sample=8).trace.item() == record_of(LAYOUT, 2).trace[0]


def test_any_selection_of_the_lazy_dataset_equals_that_of_the_loaded_one(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    sweep = open_sweep(tmp_path / "sweep")
    loaded = sweep.dataset().load()
    for selection in (
        {"sample": 2},
        {"sample": -1, "component": slice(None, None, -2)},
        {"sample": slice(None, None, -1)},
        {"sample": [3, 3, 0], "latent_dim": [1, 0]},
        {"sample": []},
        {"sample": xr.DataArray([0, 4], dims="p"), "component": xr.DataArray([1, 2], dims="p")},
        {"shard": 1, "latent_column": 3},
    ):
        xr.testing.assert_identical(sweep.dataset().isel(selection).load(), loaded.isel(selection))


def test_a_lazy_dataset_can_be_copied_and_pickled(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    dataset = open_sweep(tmp_path / "sweep").dataset()
    for copy in (dataset.copy(deep=True), pickle.loads(pickle.dumps(dataset))):
        xr.testing.assert_identical(copy.load(), open_sweep(tmp_path / "sweep").dataset().load())


def test_a_sample_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "sweep")
    read: list[str] = []
    whole = chunks.read
    monkeypatch.setattr(chunks, "read", lambda array, *rest: (read.append(array.basename), whole(array, *rest))[1])
    dataset = open_sweep(tmp_path / "sweep").dataset()
    read.clear()
    assert dataset.eigenvector[0].values.shape == (8, 16)
    assert read == ["eigenvector"]


def test_an_empty_sweep_reads_as_one(tmp_path: Path) -> None:
    create(tmp_path / "sweep", LAYOUT, {})
    sweep = open_sweep(tmp_path / "sweep")
    assert sweep.dataset().load().sizes["sample"] == 0
    assert sweep.reasons() == {}
    with pytest.raises(StoreError, match="no good sample yet"):
        sweep.mean_metric()


def test_the_mean_metric_is_that_of_the_good_samples(tmp_path: Path) -> None:
    layout = Layout(samples=5, latent_dim=3, components=1, shard_size=2)
    metrics = np.random.default_rng(0).normal(size=(5, 3, 3))
    store = create(tmp_path / "sweep", layout, {})
    sums = {0: metrics[:1].sum(0), 2: metrics[4:].sum(0)}  # sample 1 is quarantined, shard 1 pending
    commit(store, *(altered(record_of(layout, s, quarantined=(1,)), metric_sum=total) for s, total in sums.items()))
    np.testing.assert_allclose(open_sweep(store.path).mean_metric(), metrics[[0, 4]].mean(0), rtol=1e-15)


def test_a_reader_sees_one_snapshot_while_a_driver_commits(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep", shards=(0,))
    sweep = open_sweep(tmp_path / "sweep")
    dataset = sweep.dataset(only_good=False)  # nothing of it is read yet
    commit(store, record_of(LAYOUT, 1), record_of(LAYOUT, 2))
    assert sweep.status().pending == 6
    assert np.isnan(dataset.trace.values[4:]).all()
    assert sweep.snapshot != store.snapshot
    assert open_sweep(tmp_path / "sweep").status().pending == 0


def test_an_earlier_snapshot_reads_as_it_did(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep", shards=(0,))
    before = open_sweep(tmp_path / "sweep")
    commit(store, record_of(LAYOUT, 1), record_of(LAYOUT, 2))
    again = open_sweep(tmp_path / "sweep", before.snapshot)
    assert again.snapshot == before.snapshot != open_sweep(tmp_path / "sweep").snapshot
    assert again.status().pending == 6
    xr.testing.assert_identical(again.dataset().load(), before.dataset().load())


def test_pieces_of_an_array_are_those_of_the_dataset(tmp_path: Path) -> None:
    filled(tmp_path / "sweep", shards=(0, 2))
    sweep = open_sweep(tmp_path / "sweep")
    dataset = sweep.dataset(only_good=False)
    assert sweep.sample_status().tolist() == dataset.status.values.tolist()
    piece = sweep.values("eigenvalue", slice(2, 9), slice(1, 3))
    np.testing.assert_array_equal(piece, dataset.eigenvalue[2:9, 1:3].values)
    np.testing.assert_array_equal(sweep.values("trace", slice(0, 4)), dataset.trace[:4].values)
    forget(tmp_path / "sweep", "eigenvalue", 2)
    with pytest.raises(StoreError, match=r"'eigenvalue'.*shard 2 is committed but missing"):
        open_sweep(tmp_path / "sweep").values("eigenvalue", slice(0, 10))


@pytest.mark.parametrize("snapshot", ["Z" * 19 + "0", "no id", "", "../../etc/passwd", "é" * 20])
def test_a_snapshot_that_is_not_there_is_named(tmp_path: Path, snapshot: str) -> None:
    filled(tmp_path / "sweep")
    with pytest.raises(StoreError, match=rf"has no snapshot {re.escape(repr(snapshot))}"):
        open_sweep(tmp_path / "sweep", snapshot)


def native_chunks(path: Path) -> list[Path]:
    return sorted((path / "chunks").iterdir(), key=lambda chunk: chunk.stat().st_size)


@pytest.mark.parametrize("position", [10, -40, -2])
def test_a_flipped_byte_is_reported_not_returned(tmp_path: Path, position: int) -> None:
    filled(tmp_path / "sweep")
    for chunk in native_chunks(tmp_path / "sweep"):
        flip_byte(chunk, position)
    sweep = open_sweep(tmp_path / "sweep")
    with pytest.raises(StoreError, match="'metric_sum'"):
        sweep.mean_metric()
    with pytest.raises(StoreError, match=r"'eigenvector' of .*sweep cannot be read.*audit .*sweep --repair"):
        sweep.dataset().eigenvector.load()
    assert sweep.dataset().status.load().size == 9, "what is whole can still be read"


def test_a_flipped_byte_of_a_small_array_is_reported_not_returned(tmp_path: Path) -> None:
    # Icechunk keeps small chunks in its manifests, whose own checks miss some flips.
    filled(tmp_path / "sweep")
    expected = open_sweep(tmp_path / "sweep").dataset(only_good=False).load()
    reported = 0
    for manifest in sorted((tmp_path / "sweep" / "manifests").iterdir()):
        whole = manifest.read_bytes()
        for position in range(len(whole) // 3, len(whole), max(1, len(whole) // 8)):
            flip_byte(manifest, position)
            try:
                found = open_sweep(tmp_path / "sweep").dataset(only_good=False).load()
            except StoreError:
                reported += 1
            else:
                xr.testing.assert_identical(found, expected)
            manifest.write_bytes(whole)
    assert reported > 5


def test_a_lost_chunk_is_reported_not_read_as_fill_values(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep")
    forget(store.path, "probe_error", 1)
    sweep = open_sweep(store.path)
    assert sweep.dataset().probe_error[0].values.size == 1, "shard 0 is whole"
    with pytest.raises(StoreError, match=r"'probe_error'.*shard 1 is committed but missing"):
        sweep.dataset().probe_error.load()


def test_a_lost_status_is_reported_not_taken_for_pending(tmp_path: Path) -> None:
    store = filled(tmp_path / "sweep")
    forget(store.path, "status", 1)
    with pytest.raises(StoreError, match=r"'status'.*shard 1 is committed but missing"):
        open_sweep(store.path).status()


def forget(path: Path, name: str, shard: int) -> None:
    """Commit the loss of one chunk, as damage to Icechunk's own files can cause it."""
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path))).writable_session("main")
    array = zarr.open_group(session.store, mode="r+", use_consolidated=False)[name]
    assert isinstance(array, zarr.Array)
    array[4 * shard : 4 * shard + 4] = array.fill_value
    session.commit("forget")


def test_an_export_opens_with_plain_xarray_and_holds_everything(tmp_path: Path) -> None:
    filled(tmp_path / "sweep", shards=(0, 2))
    sweep = open_sweep(tmp_path / "sweep")
    sweep.export(tmp_path / "new" / "out.zarr")
    plain = xr.open_zarr(tmp_path / "new" / "out.zarr", consolidated=False, chunks=None).load()
    expected = sweep.dataset(only_good=False).load()
    assert plain.attrs["pullback"] == {**expected.attrs["pullback"], "snapshot": sweep.snapshot}
    xr.testing.assert_identical(plain.assign_attrs(expected.attrs), expected)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["out.zarr"]


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    (tmp_path / "out").write_text("precious")
    with pytest.raises(StoreError, match="exists already"):
        open_sweep(tmp_path / "sweep").export(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_an_export_into_the_sweep_itself_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    with pytest.raises(StoreError, match="inside the sweep itself"):
        open_sweep(tmp_path / "sweep").export(tmp_path / "sweep" / "out.zarr")
    assert not (tmp_path / "sweep" / "out.zarr").exists()


def test_an_export_of_damaged_data_leaves_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    for chunk in native_chunks(tmp_path / "sweep"):
        flip_byte(chunk)
    with pytest.raises(StoreError, match="cannot be read"):
        open_sweep(tmp_path / "sweep").export(tmp_path / "out.zarr")
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep"]


def test_a_mistyped_sweep_is_guessed(tmp_path: Path) -> None:
    filled(tmp_path / "quickstart")
    with pytest.raises(StoreError, match=r"no sweep at .*quickstrat; did you mean .*quickstart\?"):
        open_sweep(tmp_path / "quickstrat")
    with pytest.raises(StoreError, match="in that folder there are: quickstart"):
        open_sweep(tmp_path / "zzz")
    with pytest.raises(StoreError, match="none beside it"):
        open_sweep(tmp_path / "nowhere" / "zzz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["quickstart"], "looking makes no folder"


def test_a_sweep_named_without_its_folder_is_found_in_sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create(Path("sweeps/mine"), LAYOUT, {"name": "mine"})
    with pytest.raises(StoreError, match=r"no sweep at mine; did you mean sweeps/mine\?"):
        open_sweep("mine")


def test_a_folder_that_is_no_sweep_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").touch()
    foreign = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "foreign")))
    session = foreign.writable_session("main")
    zarr.create_group(session.store)
    session.commit("not a sweep")
    empty = icechunk.local_filesystem_storage(str(tmp_path / "empty"))
    icechunk.Repository.create(empty)
    for name in ("photos", "foreign", "empty"):
        with pytest.raises(StoreError, match="not a sweep of Pullback"):
            open_sweep(tmp_path / name)


def test_a_sweep_of_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pullback.store.root.FORMAT", 2)
        create(tmp_path / "sweep", LAYOUT, {})
    with pytest.raises(StoreError, match="Update Pullback"):
        open_sweep(tmp_path / "sweep")


def test_the_sweeps_of_a_folder_are_listed_by_name_and_all_else_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b", "a", ".hidden", "damaged"):
        filled(tmp_path / name, shards=())
    for snapshot in (tmp_path / "damaged" / "snapshots").iterdir():
        snapshot.write_bytes(b"")
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()
    open_sweep(tmp_path / "a").export(tmp_path / "a.zarr")
    assert [sweep.name for sweep in list_sweeps(tmp_path)] == ["a", "b"]
    assert "damaged cannot be opened" in caplog.text
    assert list_sweeps(tmp_path / "nowhere") == []


def test_a_sweep_of_an_earlier_version_opens_continues_and_is_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacks the arrays that were added since: they read as NaN, and remaining shards are written without them."""
    added = [schema for schema in SHARD_ARRAYS if schema.since > 1]
    assert added
    with monkeypatch.context() as earlier:
        kept = tuple(schema for schema in arrays.ARRAYS if schema.since == 1)
        earlier.setattr(arrays, "ARRAYS", kept)
        earlier.setattr(root, "REVISION", 1)
        create(tmp_path / "old", LAYOUT, {"name": "old", "seed": 7})
    store = SweepStore.open(tmp_path / "old")
    commit(store, record_of(LAYOUT, 0), record_of(LAYOUT, 2))
    sweep = open_sweep(tmp_path / "old")
    assert sweep.status().good == 6
    for schema in added:
        assert np.isnan(sweep.dataset()[schema.name].values).all()
        assert sweep.dataset()[schema.name].attrs["long_name"] == schema.long_name
    sweep.export(tmp_path / "out.zarr")
    assert list(audit(tmp_path / "old").damages) == []

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pullback.errors import DamagedError, StoreError
from pullback.store import artifacts
from pullback.store.artifacts import artifact_location, load_artifact, save_artifact
from pullback.store.reader import list_sweeps, open_sweep
from stored_sweeps import filled, flip_byte

RESULT = xr.Dataset(
    {
        "spectrum": (("rank",), np.arange(500.0), {"units": "1"}),
        "name": (("axis",), np.array(["first", "é"])),
        "kept": ((), np.int64(3)),
        "flag": (("axis",), np.array([True, False])),
    },
    coords={"rank": np.arange(500)},
    attrs={"snapshot": "ABC", "draws": 1000, "nested": {"a": [1, 2]}},
)


def test_a_result_comes_back_as_it_was_kept_in_memory(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save_artifact(tmp_path / "sweep", "mean-metric", RESULT).path
        found = load_artifact(tmp_path / "sweep", "mean-metric")
    assert path == tmp_path / "sweep.mean-metric.zarr"
    xr.testing.assert_identical(found, RESULT)
    (path / "zarr.json").unlink()
    assert found is not None
    assert found.spectrum.values[499] == 499


def test_what_was_never_computed_is_none(tmp_path: Path) -> None:
    assert load_artifact(tmp_path / "sweep", "analysis") is None


def test_a_result_replaces_an_earlier_one_whole(tmp_path: Path) -> None:
    save_artifact(tmp_path / "sweep", "analysis", RESULT)
    save_artifact(tmp_path / "sweep", "analysis", xr.Dataset({"other": 1}))
    xr.testing.assert_identical(load_artifact(tmp_path / "sweep", "analysis"), xr.Dataset({"other": 1}))
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep.analysis.zarr"]


def test_a_result_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    save_artifact(tmp_path / "sweep", "analysis", RESULT)
    with pytest.raises(TypeError):
        save_artifact(tmp_path / "sweep", "analysis", xr.Dataset(attrs={"path": object()}))
    xr.testing.assert_identical(load_artifact(tmp_path / "sweep", "analysis"), RESULT)
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep.analysis.zarr"]


def test_a_part_of_a_sweep_can_be_kept(tmp_path: Path) -> None:
    filled(tmp_path / "sweep")
    part = open_sweep(tmp_path / "sweep").dataset()[["eigenvalue", "trace"]]
    save_artifact(tmp_path / "sweep", "part", part)
    xr.testing.assert_identical(load_artifact(tmp_path / "sweep", "part"), part.load())
    assert [sweep.name for sweep in list_sweeps(tmp_path)] == ["sweep"]


def test_a_part_of_an_export_can_be_kept(tmp_path: Path) -> None:
    # Its encoding, chunks and shards included, is that of the export, and does not fit the part.
    filled(tmp_path / "sweep")
    open_sweep(tmp_path / "sweep").export(tmp_path / "out.zarr")
    export = xr.open_zarr(tmp_path / "out.zarr", consolidated=False, chunks=None)
    part = export[["eigenvector", "trace"]].isel(sample=[0, 5, 9], component=slice(3))
    save_artifact(tmp_path / "sweep", "part", part)
    xr.testing.assert_identical(load_artifact(tmp_path / "sweep", "part"), part.load())


def test_a_flipped_byte_of_a_result_is_reported_not_returned(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(400)  # incompressible, so that zstd does not notice the flip by chance
    dataset = xr.Dataset({"noise": ("byte", np.frombuffer(noise, np.uint8))})
    path = save_artifact(tmp_path / "sweep", "analysis", dataset).path
    flip_byte(path / "noise" / "c" / "0", 200)
    with pytest.raises(DamagedError, match="compute the result again"):
        load_artifact(tmp_path / "sweep", "analysis")


def test_a_result_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_artifact(tmp_path / "sweep", "analysis", RESULT)
    new = RESULT.assign(spectrum=RESULT.spectrum + 1)
    opened = xr.open_zarr
    calls = []

    def replaced_meanwhile(path: os.PathLike[str], **options: object) -> xr.Dataset:
        dataset = opened(path, **options)
        if not calls:
            calls.append(path)
            save_artifact(tmp_path / "sweep", "analysis", new)
        return dataset

    monkeypatch.setattr(xr, "open_zarr", replaced_meanwhile)
    xr.testing.assert_identical(load_artifact(tmp_path / "sweep", "analysis"), new)


@pytest.mark.parametrize("name", ["", "../other", "a.b", "a/b"])
def test_a_name_unfit_for_a_file_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        artifact_location("sweep", name)


def test_a_result_that_is_replaced_all_the_time_is_an_error_not_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_artifact(tmp_path / "sweep", "analysis", RESULT)
    ticks = iter(range(100))
    monkeypatch.setattr(artifacts, "_identity", lambda _: (next(ticks), 0))
    with pytest.raises(StoreError, match="replaced"):
        load_artifact(tmp_path / "sweep", "analysis")

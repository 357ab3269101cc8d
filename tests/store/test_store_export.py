"""Exports: the ending of a name is the format, and what is written opens without a word in the usual libraries."""

import csv
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pullback.errors import StoreError
from pullback.store import export as exports
from pullback.store.reader import Sweep, open_sweep
from pullback.store.schema import ARRAYS, GOOD, QUARANTINED, SHARD_ARRAYS, Layout
from stored_sweeps import LAYOUT, commit, filled, record_of


@pytest.fixture
def sweep(tmp_path):
    filled(tmp_path / "sweep", shards=(0, 2))
    return open_sweep(tmp_path / "sweep")


@pytest.mark.parametrize("name", ["out.zarr", "out"])
def test_a_zarr_export_opens_plainly_without_a_warning(sweep, tmp_path, name):
    assert sweep.export(tmp_path / name) == f"xarray.open_zarr({str(tmp_path / name)!r})"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_zarr(tmp_path / name, chunks=None).load()
    expected = sweep.dataset(only_good=False).load()
    xr.testing.assert_identical(plain.assign_attrs(expected.attrs), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = xr.open_zarr(tmp_path / name, consolidated=False, chunks=None).load()
    xr.testing.assert_identical(again, plain)


@pytest.mark.parametrize("chunk", [1, 70, 600, 4096])
@pytest.mark.parametrize("block", [1, 3000, 2**20])
def test_an_export_in_chunks_of_any_size_is_the_sweep(tmp_path, monkeypatch, chunk, block):
    layout = Layout(samples=22, latent_dim=4, components=3, shard_size=4)
    filled(tmp_path / "sweep", (0, 1, 3, 5), layout)
    sweep = open_sweep(tmp_path / "sweep")
    monkeypatch.setattr(exports, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(exports, "_BLOCK_BYTES", block)
    sweep.export(tmp_path / "out.zarr")
    expected = sweep.dataset(only_good=False).load()
    plain = xr.open_zarr(tmp_path / "out.zarr", chunks=None).load()
    xr.testing.assert_identical(plain.assign_attrs(expected.attrs), expected)
    sweep.export(tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv")["sample"].tolist() == [*range(8), *range(12, 16), 20, 21]


def test_files_and_reads_of_an_export_do_not_grow_with_the_shards(tmp_path, monkeypatch):
    layout = Layout(samples=150, latent_dim=1, components=1, shard_size=1)
    filled(tmp_path / "sweep", tuple(range(150)), layout)
    reads = []
    values = Sweep.values
    monkeypatch.setattr(Sweep, "values", lambda *arguments: (reads.append(arguments[1]), values(*arguments))[1])
    open_sweep(tmp_path / "sweep").export(tmp_path / "out.zarr")
    assert len([file for file in (tmp_path / "out.zarr").rglob("*") if file.is_file()]) <= 2 * len(ARRAYS) + 1
    assert sorted(reads) == sorted(schema.name for schema in SHARD_ARRAYS)
    reads.clear()
    open_sweep(tmp_path / "sweep").export(tmp_path / "out.csv")
    assert len(reads) <= len(SHARD_ARRAYS)


def test_a_netcdf_export_holds_every_array(sweep, tmp_path):
    sweep.export(tmp_path / "out.nc")
    with xr.open_dataset(tmp_path / "out.nc") as plain:
        expected = sweep.dataset(only_good=False)
        for name, variable in expected.items():
            np.testing.assert_array_equal(plain[name].values, variable.values, err_msg=name)
            assert plain[name].dims == variable.dims
        assert sweep.snapshot in plain.attrs["pullback"]


def test_a_csv_export_is_text_with_a_row_for_each_computed_sample(sweep, tmp_path):
    sweep.export(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").is_file()
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=True)
    dataset = sweep.dataset(only_good=False)
    status = dataset["status"].values
    computed = np.flatnonzero(status != 0)
    assert table["sample"].tolist() == computed.tolist() == [0, 1, 2, 3, 8, 9]
    assert table["status"].tolist() == [{GOOD: "good", QUARANTINED: "quarantined"}[value] for value in status[computed]]
    assert table["reason"].dropna().tolist() == ["asymmetric"]
    for name in ("trace", "trace_share", "symmetry_error", "seconds", "products", "condition"):
        np.testing.assert_array_equal(table[name], dataset[name].values[computed])
    for rank in range(LAYOUT.components):
        np.testing.assert_array_equal(table[f"eigenvalue_{rank + 1}"], dataset["eigenvalue"].values[computed, rank])
    latent = np.stack([table[f"latent_{axis}"] for axis in range(LAYOUT.latent_dim)], axis=1)
    np.testing.assert_array_equal(latent.astype(np.float32), dataset["latent"].values[computed])


def test_numbers_that_do_not_exist_are_empty_cells(tmp_path):
    store = filled(tmp_path / "sweep", shards=())
    record = record_of(LAYOUT, 0, quarantined=(1,))
    record.eigenvalue[1] = np.nan
    commit(store, record)
    open_sweep(store.path).export(tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert rows[1]["eigenvalue_1"] == ""
    assert float(rows[0]["eigenvalue_1"]) == record.eigenvalue[0, 0]


@pytest.mark.parametrize("name", ["out.txt", "out.parquet", "out.zip", "out.h5", "eyes.v2"])
def test_any_other_ending_is_refused_and_nothing_is_written(sweep, tmp_path, name):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match=r"\.csv"):
        sweep.export(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["out.nc", "out.csv", "out.zarr"])
def test_a_path_that_is_taken_or_inside_the_sweep_is_refused(sweep, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(StoreError, match="exists already"):
        sweep.export(tmp_path / name)
    assert (tmp_path / name).read_text() == "precious"
    with pytest.raises(StoreError, match="inside the sweep itself"):
        sweep.export(sweep.path / name)


@pytest.mark.parametrize("method", ["gauss_newton", "block_krylov"])
def test_an_export_says_what_was_summed(tmp_path, method):
    from pullback.store.creation import create

    layout = Layout(samples=4, latent_dim=16, components=8, shard_size=4)
    store = create(tmp_path / "sweep", layout, {"name": "mine", "method": method})
    commit(store, record_of(layout, 0))
    open_sweep(store.path).export(tmp_path / "out.zarr")
    attributes = xr.open_zarr(tmp_path / "out.zarr", chunks=None)["metric_sum"].attrs
    assert attributes["whole"] == (method == "gauss_newton")
    assert ("8 of its 16" in attributes["long_name"]) == (method == "block_krylov")

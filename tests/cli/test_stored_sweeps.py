"""Sweeps that released versions made (tests/data/sweeps) are read by every command, for ever.

The folder of each version holds what a user of it had: two finished sweeps of 12 samples, their analyses, records and
journals, the jobs and the generator. Never make these files anew; add a folder for each released format.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pullback.errors import StoreError
from pullback.metric import metric_at
from pullback.store.artifacts import artifact_names
from pullback.store.audit import audit
from pullback.store.location import locate
from pullback.store.opening import ATTRIBUTE, open_repository
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import ARRAYS, REVISION
from pullback.store.tip import BRANCH

VERSIONS = sorted((Path(__file__).parent.parent / "data" / "sweeps").iterdir())
SWEEPS = ("gauss_newton", "block_krylov")

pytestmark = [
    pytest.mark.parametrize("version", VERSIONS, ids=[path.name for path in VERSIONS]),
    pytest.mark.parametrize("name", SWEEPS),
]


@pytest.fixture
def folder(version, tmp_path, monkeypatch):
    """A user's folder as that version left it, in which the commands run."""
    shutil.copytree(version, tmp_path / "user")
    monkeypatch.chdir(tmp_path / "user")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "user"
    sys.modules.pop("mine", None)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_every_reading_command_reads_it_and_changes_nothing(folder, name, pullback):
    before = contents(f"sweeps/{name}")
    rows = json.loads(pullback("ls", "sweeps", "--json").out)
    rows = rows["sweeps"] if isinstance(rows, dict) else rows
    assert {row["name"]: row["state"] for row in rows} == dict.fromkeys(SWEEPS, "done")
    for asked in (f"{name}.yaml", f"sweeps/{name}"):
        state = json.loads(pullback("status", asked, "--json").out)
        assert (state["state"], state["good"], state["pending"]) == ("done", 12, 0)
    assert pullback("show", f"sweeps/{name}").code == 0
    shown = json.loads(pullback("show", f"sweeps/{name}", "--json").out)
    assert shown["samples"]["good"] == 12
    snapshots = json.loads(pullback("snapshots", f"sweeps/{name}", "--json").out)
    assert len(snapshots["snapshots"] if isinstance(snapshots, dict) else snapshots) >= 2
    assert json.loads(pullback("audit", f"sweeps/{name}", "--json").out)["damages"] == []
    assert json.loads(pullback("gc", f"sweeps/{name}", "--dry-run", "--json").out)["chunks"] == 0
    assert pullback("logs", f"sweeps/{name}").code == 0
    plan = json.loads(pullback("plan", f"{name}.yaml", "--json").out)
    assert (plan["finished"], plan["sweep_id"]) == (12, open_sweep(f"sweeps/{name}").provenance["sweep_id"])
    assert pullback("run", f"{name}.yaml", "--serial").code == 0
    assert contents(f"sweeps/{name}") == before


def test_its_analysis_is_found_and_another_is_made(folder, name, pullback):
    kept = artifact_names(f"sweeps/{name}")
    assert pullback("analyze", f"sweeps/{name}").code == 0
    assert artifact_names(f"sweeps/{name}") == kept, "what is kept was not computed again"
    shutil.rmtree(next(Path("sweeps").glob(f"{name}.analysis*")))
    assert pullback("analyze", f"sweeps/{name}").code == 0
    assert artifact_names(f"sweeps/{name}")
    assert pullback("report", f"sweeps/{name}", "--out", "report.html").code == 0
    assert Path("report.html").stat().st_size > 10_000


@pytest.mark.parametrize("ending", ["zarr", "nc", "csv"])
def test_it_is_exported(folder, name, pullback, ending):
    assert pullback("export", f"sweeps/{name}", f"out.{ending}").code == 0
    if ending == "csv":
        rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
        assert [row["status"] for row in rows] == ["good"] * 12
        return
    found = xr.open_zarr("out.zarr") if ending == "zarr" else xr.open_dataset("out.nc")
    np.testing.assert_array_equal(found.eigenvalue.values, open_sweep(f"sweeps/{name}").dataset().eigenvalue.values)
    found.close()


def test_its_numbers_are_those_of_today(folder, name, pullback):
    sys.path.insert(0, str(folder))
    from pullback.distances import load_distance
    from pullback.generators import load_generator

    dataset = open_sweep(f"sweeps/{name}").dataset()
    today = metric_at(load_generator("mine:make"), load_distance("mse"), dataset.latent.values, precision="float64")
    kept = dataset.sizes["component"]
    np.testing.assert_allclose(dataset.eigenvalue.values, today.eigenvalues[:, :kept].numpy(), rtol=1e-4)


def test_a_lost_shard_of_it_is_computed_again_by_the_version_of_today(folder, name, pullback):
    clean = open_sweep(f"sweeps/{name}").dataset().load()
    chunk = min(Path(f"sweeps/{name}").glob("chunks/*"), default=None)
    if chunk is None:  # everything is small enough to be in the manifests
        chunk = max(Path(f"sweeps/{name}/manifests").iterdir(), key=lambda path: path.stat().st_size)
    chunk.unlink()
    lost = audit(f"sweeps/{name}").lost_shards
    assert lost
    assert pullback("audit", f"sweeps/{name}", "--repair").code == 0
    assert SweepStore.open(f"sweeps/{name}").pending_shards() == lost
    assert pullback("run", f"{name}.yaml", "--serial").code == 0
    again = open_sweep(f"sweeps/{name}").dataset().load()
    np.testing.assert_allclose(again.eigenvalue.values, clean.eigenvalue.values, rtol=1e-5)
    assert audit(f"sweeps/{name}").damages == ()


def test_a_sweep_of_a_later_version_is_read_and_left_as_it_is(folder, name, pullback):
    """It has a column, sizes, inputs and facts that nobody knows yet."""
    location = locate(f"sweeps/{name}")
    session = open_repository(location).writable_session(BRANCH)
    group = zarr.open_group(session.store, mode="r+")
    column = group.create_array("colour", shape=(12,), chunks=(4,), dtype="int32", dimension_names=("sample",))
    column[:] = np.arange(12)
    entry = group.attrs[ATTRIBUTE]
    entry["revision"], entry["light"] = REVISION + 1, "blue"
    entry["layout"]["colours"] = 3
    entry["provenance"] |= {"mood": "fine"}
    entry["provenance"]["inputs"]["weather"] = {"sun": 1}
    group.attrs[ATTRIBUTE] = entry
    later = session.commit("as a later version does")
    before = contents(f"sweeps/{name}")
    assert json.loads(pullback("show", f"sweeps/{name}", "--json").out)["samples"]["good"] == 12
    for command in (["analyze"], ["audit"], ["snapshots"], ["gc", "--dry-run"], ["status"]):
        assert pullback(command[0], f"sweeps/{name}", *command[1:]).code == 0
    assert pullback("export", f"sweeps/{name}", "out.zarr").code == 0
    assert pullback("run", f"{name}.yaml", "--serial").code == 0, "it is done"
    assert contents(f"sweeps/{name}") == before
    with pytest.raises(StoreError, match="newer version"):
        SweepStore.open(f"sweeps/{name}").fork()
    assert open_sweep(f"sweeps/{name}").snapshot == later


def test_an_array_that_its_revision_must_have_is_missed_and_a_younger_one_is_not(folder, name, pullback):
    location = locate(f"sweeps/{name}")
    younger = [schema.name for schema in ARRAYS if schema.since > 1]
    session = open_repository(location).writable_session(BRANCH)
    group = zarr.open_group(session.store, mode="r+")
    for each in younger:
        del group[each]
    session.commit("as an earlier version would have made it")
    assert pullback("audit", f"sweeps/{name}").code == 0
    assert pullback("analyze", f"sweeps/{name}").code == 0
    session = open_repository(location).writable_session(BRANCH)
    zarr.open_group(session.store, mode="r+").attrs[ATTRIBUTE] = {
        **zarr.open_group(session.store, mode="r").attrs[ATTRIBUTE], "revision": REVISION
    }  # fmt: skip
    session.commit("as if it had lost them")
    assert pullback("audit", f"sweeps/{name}").code == 1

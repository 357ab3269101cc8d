"""A sweep that is reached through links, `..`, other working directories or trailing slashes is one sweep."""

import socket
from pathlib import Path

import psutil
import pytest
import xarray as xr

from pullback.driving import control
from pullback.driving.background import start
from pullback.driving.control import events_path, record_submission
from pullback.driving.record import DriverRecord
from pullback.driving.session import Driver
from pullback.driving.sweep_state import sweep_state
from pullback.errors import StoreError
from pullback.store.artifacts import artifact_names, load_artifact, save_artifact
from pullback.store.location import locate
from pullback.store.lock import driver_lock
from pullback.store.maintenance import collect_garbage
from stored_sweeps import filled


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a sweep at scratch/sweeps/real, and links to it and to the folders above it."""
    filled(tmp_path / "scratch" / "sweeps" / "real", (0,))
    (tmp_path / "latest").symlink_to("scratch/sweeps/real")
    (tmp_path / "again").symlink_to(tmp_path / "latest")
    (tmp_path / "parent").symlink_to("scratch/sweeps", target_is_directory=True)
    (tmp_path / "above").symlink_to(tmp_path / "scratch")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WAYS = [
    "latest",
    "again",
    "latest/",
    "./latest//",
    "parent/real",
    "above/sweeps/real",
    "above/sweeps/../sweeps/real/",
    "parent/../sweeps/real",
    "scratch/sweeps/../sweeps/real",
    "scratch/sweeps/real/.",
    "ABSOLUTE/latest",
]


def way_of(text: str, folder: Path) -> str:
    return text.replace("ABSOLUTE", str(folder))


def alive() -> DriverRecord:
    me = psutil.Process()
    return DriverRecord("running", host=socket.gethostname(), pid=me.pid, began=me.create_time(), planned=10)


@pytest.mark.parametrize("text", WAYS)
def test_every_way_to_a_sweep_has_its_lock_its_driver_its_journal_and_its_analyses(folder, text):
    real, way = folder / "scratch" / "sweeps" / "real", way_of(text, folder)
    with driver_lock(real), pytest.raises(StoreError, match="held by process"), driver_lock(way):
        pass
    with driver_lock(way), pytest.raises(StoreError, match="held by process"), driver_lock(real):
        pass
    record_submission(real, alive())
    assert sweep_state(way).state == "running"
    assert control.request_cancel(way)
    assert control.cancel_requested(real)
    assert sweep_state(way).state == sweep_state(real).state == "cancelling"
    Driver(way).log("shard")
    assert events_path(way).samefile(events_path(real))
    save_artifact(way, "mean", xr.Dataset({"x": ("n", [1.0])}))
    assert artifact_names(real) == artifact_names(way) == ["mean"]
    assert load_artifact(real, "mean") is not None
    names = {path.name for path in folder.iterdir()}
    assert names == {"scratch", "latest", "again", "parent", "above"}, "something lies beside a link"


@pytest.mark.parametrize("text", [".", "../real", "../../../latest", "../real/"])
def test_a_sweep_can_be_named_from_inside_its_folder(folder, monkeypatch, text):
    real = folder / "scratch" / "sweeps" / "real"
    monkeypatch.chdir(real)
    record_submission(real, alive())
    assert sweep_state(text).state == "running"
    assert locate(text).name == "real"
    assert locate(text).sibling("real.report.html").path.absolute().resolve() == real.with_name("real.report.html")


def test_a_second_submission_through_a_link_attaches(folder, job_of):
    real = folder / "scratch" / "sweeps" / "real"
    record_submission(real, alive())
    for way in ("latest", "parent/real", "above/sweeps/real/"):
        assert start(job_of(store=way), ("false",)) is False


def test_garbage_is_not_collected_under_a_driver_that_came_through_a_link(folder):
    from datetime import timedelta

    with driver_lock("latest"), pytest.raises(StoreError, match="held by process"):
        collect_garbage(folder / "scratch" / "sweeps" / "real", timedelta(0))


def test_a_link_to_a_place_that_is_not_there_yet_is_that_place(folder):
    (folder / "soon").symlink_to(folder / "scratch" / "new" / "mine")
    assert locate("soon").canonical.path == folder / "scratch" / "new" / "mine"
    filled(Path("soon"), (0,))
    assert (folder / "scratch" / "new" / "mine").is_dir()
    assert (folder / "soon").is_symlink()
    assert sweep_state("soon").good + sweep_state("soon").quarantined == 4


def test_links_in_a_circle_are_no_place(folder):
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    with pytest.raises(StoreError, match="circle"):
        sweep_state("one")


@pytest.fixture
def job_of():
    from pullback.spec import JobSpec

    content = {"name": "real", "generator": "toy_generators:smooth", "distance": "mse", "samples": {"count": 10}}
    return lambda **changes: JobSpec.model_validate({**content, **changes})

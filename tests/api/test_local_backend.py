"""Jobs that a service runs as processes on this machine, and the service over what they made."""

import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from served_sweeps import serving

import pullback
from pullback.analysis import analyze
from pullback.analysis.cache import save_analysis
from pullback.api.backend import LocalBackend
from pullback.api.client import ServiceError
from pullback.api.problem_details import RequestError
from pullback.driving import background
from pullback.driving.control import read_record, write_record
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.record import DriverRecord
from pullback.driving.run import run_sweep
from pullback.errors import SpecError, StoreError
from pullback.spec import JobSpec
from pullback.store.location import locate
from pullback.store.opening import open_repository
from pullback.store.reader import open_sweep
from pullback.sweep.plan import make_plan

JOB = {
    "name": "mine",
    "generator": "own_generators:smooth",
    "distance": "mse",
    "samples": {"count": 6},
    "resources": {"shard_size": 2, "workers": 1},
}
OWN_MODULE = """
from toy_generators import Smooth


def smooth():
    return Smooth()


def broken():
    raise RuntimeError("these weights are lost")
"""
TESTS = Path(__file__).parents[1]


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """A backend whose drivers find a generator of the user's own; none is left when a test ends."""
    (tmp_path / "own_generators.py").write_text(OWN_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(TESTS)]))
    yield LocalBackend(command=[sys.executable, "-m", "pullback", "run", "--serial"])
    left = read_record(tmp_path / "sweeps" / "mine")
    if left is not None and left.alive:
        psutil.Process(left.pid).kill()


def job_of(folder, **changes):
    return JobSpec.model_validate({**JOB, "store": str(folder / "mine"), **changes})


def test_a_job_that_is_being_cancelled_before_it_began_is_not_submitted_again(backend, tmp_path):
    me = psutil.Process()
    path = tmp_path / "sweeps" / "mine"
    path.parent.mkdir()
    record = DriverRecord("submitted", host=socket.gethostname(), pid=me.pid, began=me.create_time())
    write_record(path, record)
    assert backend.cancel(path)
    try:
        with pytest.raises(StoreError, match="being cancelled; nothing was started"):
            backend.submit(job_of(tmp_path / "sweeps"))
    finally:
        write_record(path, replace(record, life="cancelled"))


def ended(backend, path):
    """The state of a sweep once nobody works on it."""
    end = time.monotonic() + 120
    while (state := backend.state(path)).state in ("submitted", "starting", "running"):
        assert time.monotonic() < end, state
        time.sleep(0.05)
    return state


def test_a_submitted_job_is_run_by_a_process_of_its_own_once(backend, tmp_path):
    folder = tmp_path / "sweeps"
    job = job_of(folder)
    assert backend.submit(job).created
    assert backend.state(folder / "mine").state in ("submitted", "starting", "running")
    assert not backend.submit(job).created, "while it runs"
    state = ended(backend, folder / "mine")
    assert (state.state, state.good, state.pending) == ("done", 6, 0)
    assert state.snapshot == open_sweep(folder / "mine").snapshot
    last = read_record(folder / "mine")
    assert not backend.submit(job).created, "when it is done"
    assert backend.state(folder / "mine").state == "done"
    assert read_record(folder / "mine") == last, "nothing was started again"
    assert backend.cancel(folder / "mine") is False
    journal = backend.events(folder / "mine")
    assert journal is not None
    assert len(journal.read_text().splitlines()) > 1
    with pytest.raises(StoreError, match="another job has the name mine"):
        backend.submit(job_of(folder, samples={"count": 7}))
    # another backend, as of a service that was started anew, knows the sweep from what lies there
    assert not LocalBackend().submit(job).created
    over_http(folder, job)


def over_http(folder, job):
    """The analysis and the report of a finished sweep, through the client; and the same job again."""
    with serving(folder, LocalBackend(), allow_code=True) as (url, _), pullback.Client(url) as client:
        with pytest.raises(ServiceError, match="pullback analyze mine"):
            client.analysis("mine")
        kept = analyze(open_sweep(folder / "mine"))
        save_analysis(kept, open_sweep(folder / "mine"))
        assert client.analysis("mine") == kept.to_json()
        first = [commit.id for commit in open_repository(locate(folder / "mine")).ancestry(branch="main")][-2]
        with pytest.raises(ServiceError, match=first):
            client.analysis("mine", snapshot=first)
        report = client.report("mine")
        assert report.lstrip().startswith("<!")
        assert kept.about.snapshot in report
        assert "pullback report mine" in report
        assert client.submit(JOB) == {"id": "mine", "kind": "sweep", "created": False}
        assert client.wait("mine", timeout=0)["state"] == "done"
        with pytest.raises(ServiceError, match="another job has the name") as caught:
            client.submit({**JOB, "samples": {"count": 7}})
        assert caught.value.status == 409


def test_a_job_whose_driver_cannot_begin_says_why_and_can_be_submitted_again(backend, tmp_path):
    folder = tmp_path / "sweeps"
    job = job_of(folder, generator={"name": "own_generators:broken"})
    assert backend.submit(job).created
    state = ended(backend, folder / "mine")
    assert state.state == "failed"
    assert "these weights are lost" in state.message
    other = job_of(folder, generator={"name": "own_generators:broken"}, samples={"count": 7})
    assert backend.submit(other).created, "it left nothing, so another job may have its name"
    with pytest.raises(StoreError, match=r"differs in samples\.count \(7 there, 6 here\)"):
        backend.submit(job)
    ended(backend, folder / "mine")
    backend.submit(job)
    ended(backend, folder / "mine")
    first = read_record(folder / "mine")
    assert not backend.submit(job).created
    assert read_record(folder / "mine").pid != first.pid, "it was started again"


def test_the_same_job_with_changed_files_is_refused_and_the_files_are_named(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "served_model.py").write_text("from served_parts import linear as make\n")
    (tmp_path / "served_parts.py").write_text("from toy_generators import linear\n")
    job = job_of(tmp_path / "sweeps", generator={"name": "served_model:make"})
    run_sweep(make_plan(job), serial_pool)
    assert not backend.submit(job).created
    (tmp_path / "served_parts.py").write_text("from toy_generators import smooth as linear\n")
    with pytest.raises(StoreError, match=r"other versions of served_parts\.py"):
        backend.submit(job)


def test_nothing_is_known_of_what_was_never_submitted(backend, tmp_path):
    with pytest.raises(StoreError):
        backend.state(tmp_path / "nowhere")
    assert backend.events(tmp_path / "nowhere") is None
    assert backend.cancel(tmp_path / "nowhere") is False


def test_no_more_jobs_are_at_work_than_the_service_runs_at_once(backend, tmp_path):
    folder = tmp_path / "sweeps"
    folder.mkdir()
    me = psutil.Process()
    running = DriverRecord("running", host=socket.gethostname(), pid=me.pid, began=me.create_time())
    for name in ("a", "b", "c"):
        write_record(folder / name, running)
    write_record(folder / "d", replace(running, life="done"))
    write_record(folder / "e", replace(running, pid=2**22 + 1))
    gone = DriverRecord(
        "submitted", submission="pullback-0123456789abcdef-1", address="http://127.0.0.1:1", updated=1.0
    )
    write_record(folder / "f", gone)  # to a cluster that is no more
    few = LocalBackend(3, [sys.executable, "-c", "raise SystemExit('never')"])
    with pytest.raises(RequestError, match=r"^3 jobs") as refused:
        few.submit(job_of(folder))
    assert refused.value.status == 503
    assert read_record(folder / "mine") is None
    write_record(folder / "c", replace(running, life="done"))
    assert backend.submit(job_of(folder)).created, "there is room for one again"
    assert ended(backend, folder / "mine").state == "done"


def test_a_folder_that_cannot_be_written_to_is_reported_without_advice_for_this_machine(backend, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(background, "_start", full)
    with pytest.raises(RequestError) as caught:
        backend.submit(job_of(tmp_path))
    assert caught.value.status == 503
    assert "Read-only file system" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_job_asks_for_no_more_workers_than_there_are_cores(backend, tmp_path):
    with pytest.raises(SpecError, match=r"- resources\.workers: "):
        backend.submit(job_of(tmp_path, resources={"workers": 1000}))
    assert not (tmp_path / "mine").exists()

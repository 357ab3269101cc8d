"""Sweeps submitted to a real Ray cluster on loopback, which lets in only those with its token."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from heads import TESTS, running

from pullback import spec
from pullback.api.backend import ClusterBackend
from pullback.cluster import submission as jobs
from pullback.cluster.pool import read_token_again
from pullback.driving.control import events_path, read_record
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.driving.sweep_state import SweepState
from pullback.errors import SweepError
from pullback.jobs.plan import plan_results
from pullback.jobs.state import state_of
from pullback.jobs.submission import cluster_job
from pullback.spec import JobSpec
from pullback.store.reader import open_sweep
from pullback.sweep.plan import identify, make_plan

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

PATIENCE = 60
JOB = """\
name: mine
generator: toy_generators:smooth
distance: mse
samples: {count: 6}
store: mine
"""


@pytest.fixture(scope="module")
def head(ray_start):
    with pytest.MonkeyPatch.context() as patch, running() as made:
        for name in [name for name in os.environ if name.startswith("RAY_AUTH")]:
            patch.delenv(name)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", made.token)
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of another cluster, which Ray's own client would ask
        patch.setenv("PYTHONPATH", str(TESTS))
        read_token_again()
        yield made
    read_token_again()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job_of(store: Path, generator: str = "smooth", count: int = 6, **changes: object) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "mine",
            "generator": f"toy_generators:{generator}",
            "distance": "mse",
            "samples": {"count": count, "seed": 3},
            "store": str(store),
            "resources": {"device": "cpu", "workers": 2, "shard_size": 1},
            **changes,
        }
    )


def until(store: Path, wanted, *through: str) -> SweepState:
    """The sweep's state once it is as wanted; until then it has to be one of those it goes through."""
    deadline = time.monotonic() + PATIENCE
    while not wanted(found := jobs.sweep_state_with_cluster(store)):
        assert found.state in through, found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def begun(good: int):
    """Under way with so many samples, as its driver says."""
    return lambda found: found.driver.life == found.state == "running" and found.good >= good


def is_in(state: str):
    return lambda found: found.state == state


BEFORE = ("submitted", "starting", "running")


def test_a_sweep_that_a_service_hands_to_a_cluster_runs_once_and_equals_a_serial_one(head, folder):
    backend = ClusterBackend(head.address)
    path = folder / "sweeps" / "mine"
    job = job_of(path)
    assert backend.submit(job).created
    assert backend.state(path).state == "submitted"
    until(path, lambda found: found.driver.submission and found.state in ("starting", "running"), *BEFORE)
    assert not backend.submit(job).created
    assert not jobs.submit_to(head.address, identify(job))
    until(path, is_in("done"), *BEFORE)
    assert backend.state(path).good == 6
    assert backend.cancel(path) is False
    journal = events_path(path).read_text().splitlines()
    events = [json.loads(line)["event"] for line in journal]
    assert (events.count("run"), events[-1]) == (1, "done")
    printed = jobs.log_of(read_record(path)).splitlines()
    assert [line for line in printed if line.startswith("{") and "event" in line] == journal, "for those without a disk"

    plain = job_of(folder / "plain")
    run_sweep(make_plan(plain), serial_pool)
    there, here = open_sweep(path).dataset(), open_sweep(folder / "plain").dataset()
    np.testing.assert_array_equal(there["latent"].values, here["latent"].values)
    np.testing.assert_allclose(there["eigenvalue"].values, here["eigenvalue"].values, rtol=1e-5)


def test_a_sweep_that_is_killed_cancelled_and_stopped_keeps_what_is_done_and_is_reported_rightly(
    head, folder, monkeypatch
):
    store = folder / "mine"
    sweep = identify(job_of(store, generator="slow", count=600))
    assert jobs.submit_to(head.address, sweep)
    assert jobs.cancel(store), "it has not begun: Ray has to stop it"
    assert until(store, is_in("cancelled"), *BEFORE).driver.life == "submitted"

    assert jobs.submit_to(head.address, sweep)
    until(store, begun(0), *BEFORE)
    driver = psutil.Process(read_record(store).pid)
    driver.kill()
    psutil.wait_procs([driver], timeout=20)
    killed = until(store, is_in("stopped"), "running")
    assert (killed.exit_code, "submit the same job to resume" in killed.message) == (1, True)

    assert jobs.submit_to(head.address, sweep)
    until(store, begun(2), *BEFORE)
    assert jobs.cancel(store), "it sees this disk: by a wish"
    cancelled = until(store, is_in("cancelled"), "running", "cancelling")
    assert (cancelled.driver.life, cancelled.good >= 2, cancelled.pending > 0) == ("cancelled", True, True)
    assert not jobs.cancel(store), "nobody is left to cancel"

    assert jobs.submit_to(head.address, sweep)
    until(store, begun(cancelled.good + 1), *BEFORE)
    with monkeypatch.context() as patch:  # a driver that does not see this disk
        patch.setattr(jobs, "request_cancel", lambda store: False)
        assert jobs.cancel(store)
    stopped = until(store, is_in("cancelled"), "running", "stopped")
    assert stopped.driver.life == "interrupted", "it was killed before it could commit"
    last = [json.loads(line) for line in events_path(store).read_text().splitlines()][-1]
    assert (last["event"], last["good"]) == ("interrupted", stopped.good)
    assert stopped.good > cancelled.good


def test_a_job_that_cannot_be_planned_there_says_why(head, folder):
    job = job_of(folder / "mine", metric={"components": 999})
    assert jobs.submit_to(head.address, identify(job))
    failed = until(folder / "mine", is_in("failed"), *BEFORE)
    assert "metric.components: must be at most 6" in failed.message
    done = command("logs", "mine")
    assert "metric.components: must be at most 6" in done.stdout, done.stderr
    assert done.returncode == 0


def test_without_a_token_the_error_says_so_and_nothing_changes(head, folder):
    (folder / "job.yaml").write_text(JOB)
    refused = command("submit", "job.yaml", "--address", head.address, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "lets in only those who have its token" in refused.stderr
    assert "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["job.yaml"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "f" * 64)
        read_token_again()
        with pytest.raises(SweepError, match="lets in only those who have its token"):
            jobs.submit_to(head.address, identify(job_of(folder / "mine")))
    read_token_again()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pullback", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_an_analysis_runs_on_the_cluster_once_and_its_results_lie_beside_the_sweep(head, folder):
    run_sweep(make_plan(job_of(folder / "mine")), serial_pool)
    content = {"kind": "analysis", "name": "a", "sweep": "mine", "statistics": {"anisotropy": {"draws": 20}}}
    plan = plan_results(spec.job_of(content))
    assert jobs.submit_to(head.address, cluster_job(plan))
    assert not jobs.submit_to(head.address, cluster_job(plan)), "it is attached to"
    deadline = time.monotonic() + PATIENCE
    while (found := state_of(plan.place)).state != "done":
        assert found.state in BEFORE, found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert (found.planned, found.good, plan.finished) == (1, 1, 1)
    record = read_record(plan.place)
    assert (record.life, plan.job_id in record.submission) == ("done", True)
    assert "1 of 1 results are kept" in jobs.log_of(record)

    gone = plan_results(spec.job_of({**content, "statistics": {"anisotropy": {"draws": 30}}}))
    handed = cluster_job(gone)
    (folder / "mine").rename(folder / "moved")
    assert jobs.submit_to(head.address, handed)
    while (record := read_record(gone.place)).life == "submitted" and time.monotonic() < deadline:
        state, message = jobs._asked(record)
        if state == "FAILED":
            break
        time.sleep(0.1)
    assert message.startswith("no sweep at ")

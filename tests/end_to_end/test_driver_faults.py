"""What a driver's death at the worst moments costs, and who drives where several want to."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from command_line import call
from pullback.driving import run
from pullback.driving.background import start
from pullback.driving.control import events_path, request_cancel
from pullback.driving.sweep_state import sweep_state
from pullback.errors import StoreError
from pullback.spec import JobSpec
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore

pytestmark = pytest.mark.end_to_end

TESTS = Path(__file__).parent.parent
JOB = {
    "name": "small",
    "generator": "toy_generators:smooth",
    "distance": "mse",
    "samples": {"count": 6, "seed": 1},
    "store": "small",
    "resources": {"shard_size": 1, "batch": 1, "device": "cpu", "workers": 1},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS / "cluster")]))
    monkeypatch.syspath_prepend(TESTS / "cluster")
    monkeypatch.setattr(SweepStore, "commit", SweepStore.commit)  # fragile generators change both for good
    monkeypatch.setattr(run, "COMMIT_SECONDS", run.COMMIT_SECONDS)
    monkeypatch.setenv("PULLBACK_TEST_MARK", str(tmp_path / "died"))
    return tmp_path


def drive(folder: Path, **changes: object) -> tuple[int, str]:
    """`pullback run --serial` as a user's shell would start it, to its end."""
    (folder / "job.yaml").write_text(yaml.safe_dump({**JOB, **changes}))
    done = subprocess.run(
        [sys.executable, "-m", "pullback", "run", "job.yaml", "--serial"], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr


def here(folder: Path, **changes: object) -> int:
    """The same in this process; it leaves with the command's status."""
    (folder / "job.yaml").write_text(yaml.safe_dump({**JOB, **changes}))
    return call("run", "job.yaml", "--serial").code


def results(folder: Path) -> dict[int, bytes]:
    good = open_sweep(folder / "small").dataset().load()
    return {
        int(sample): values.tobytes() for sample, values in zip(good["sample"], good["eigenvalue"].values, strict=True)
    }


def shards_computed(folder: Path) -> list[int]:
    """The shards that drivers took results of, from the journal."""
    lines = [json.loads(line) for line in events_path(folder / "small").read_text().splitlines()]
    return [line["shard"] for line in lines if line["event"] == "shard"]


@pytest.mark.parametrize(("moment", "kept"), [("before", [0]), ("after", [0, 1])])
def test_a_driver_killed_around_a_commit_loses_what_was_not_committed_and_repeats_nothing_else(folder, moment, kept):
    generator = f"fragile_generators:killing_the_driver_{moment}_the_commit"
    assert drive(folder, generator=generator)[0] == -signal.SIGKILL
    left = results(folder)
    assert sorted(left) == kept
    assert sweep_state(folder / "small").state == "stopped"
    assert here(folder, generator=generator) == 0
    assert left.items() <= results(folder).items()
    assert len(results(folder)) == 6
    again = [shard for shard in range(6) if shards_computed(folder).count(shard) == 2]
    assert again == ([1] if moment == "before" else [])
    store, wanted = open_sweep(folder / "small").dataset().load(), folder / "clean"
    assert here(folder, store=str(wanted)) == 0
    clean = open_sweep(wanted).dataset().load()
    for name in ("latent", "eigenvalue", "eigenvector", "trace"):
        assert store[name].values.tobytes() == clean[name].values.tobytes(), name


def test_of_eight_submitters_of_one_job_at_once_one_starts_a_driver(folder):
    job = JobSpec.model_validate({**JOB, "generator": "toy_generators:slow"})
    together, begun = threading.Barrier(8), []

    def submit():
        together.wait(timeout=30)
        begun.append(start(job, [sys.executable, "-m", "pullback", "run", "--serial"]))

    submitters = [threading.Thread(target=submit) for _ in range(8)]
    for each in submitters:
        each.start()
    for each in submitters:
        each.join(timeout=60)
    assert sorted(begun) == [False] * 7 + [True]
    deadline = time.monotonic() + 120
    while sweep_state(folder / "small").exit_code == 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert sweep_state(folder / "small").state == "done"
    assert sorted(shards_computed(folder)) == list(range(6))


def test_a_job_submitted_right_after_it_was_cancelled_is_started_again_not_attached_to_what_ends(folder):
    job = JobSpec.model_validate({**JOB, "generator": "toy_generators:slow", "samples": {"count": 12, "seed": 1}})
    command = [sys.executable, "-m", "pullback", "run", "--serial"]
    assert start(job, command)
    deadline = time.monotonic() + 60
    while sweep_state(folder / "small").state != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert request_cancel(folder / "small")
    assert sweep_state(folder / "small").state == "cancelling"
    assert start(job, command)
    while sweep_state(folder / "small").exit_code == 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert sweep_state(folder / "small").state == "done"
    assert sorted(shards_computed(folder)) == list(range(12)), "and nothing was computed twice"


def test_a_disk_that_refuses_a_new_store_leaves_none(folder):
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)); "
    code = limit + "from pullback.cli import main; sys.argv = ['pullback', 'run', 'job.yaml', '--serial']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "no sweep was left there" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(StoreError):
        open_sweep(folder / "small")
    assert here(folder) == 0

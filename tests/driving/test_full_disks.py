"""Full disks and closed pipes where a driver reports, and where its store is."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from disks import fill, mounted
from pullback.cli.progress import sweep_progress
from pullback.cli.terminal import Messages
from pullback.driving import control
from pullback.driving.control import read_record, write_record
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import SweepProgress, attach, run_sweep
from pullback.driving.session import Driver, driver_session
from pullback.driving.sidecar_files import disk_trouble, sidecar_path
from pullback.driving.sweep_state import sweep_state
from pullback.store.reader import open_sweep
from pullback.sweep.plan import make_plan
from sweep_jobs import job

JOB = """\
name: toy
generator: toy_generators:smooth
distance: mse
samples: {count: 7}
resources: {shard_size: 2, workers: 1}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def run_with(**streams):
    command = [sys.executable, "-m", "pullback", "run", "job.yaml", "--serial"]
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env={**os.environ, **paths}, **streams)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_standard_error_does_not_end_a_sweep(here):
    with Path("/dev/full").open("w") as full:
        assert run_with(stderr=full, stdout=full).returncode in (0, 1)
        assert open_sweep("sweeps/toy").status().pending == 0
        assert run_with(stderr=full).returncode == 0
    assert sweep_state("sweeps/toy").state == "done"


def test_a_closed_pipe_on_standard_error_does_not_end_a_sweep(here):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run_with(stderr=writing).returncode == 0
    finally:
        os.close(writing)
    assert open_sweep("sweeps/toy").status().pending == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(), ValueError("closed")])
def test_a_journal_that_cannot_be_printed_does_not_end_a_sweep(here, error):
    def echo(line):
        raise error

    assert run_sweep(make_plan(job()), serial_pool, echo=echo).exit_code == 0


def test_a_full_disk_of_the_store_is_reported_in_place_of_a_rate(tmp_path, monkeypatch):
    with mounted(tmp_path, mib=24) as (_, place):
        monkeypatch.chdir(place)
        attach(make_plan(job()))
        with driver_session("sweeps/toy", 7) as driver:
            driver.update(life="running", samples_per_second=5.0)
            filler = fill(place)
            assert "full" in disk_trouble(place)
            time.sleep(1.1)
            driver.update(samples_per_second=0.0, message="2 shards could not be committed (No space left on device)")
            state = sweep_state("sweeps/toy")
            assert "No space left" in state.message
            assert state.driver.samples_per_second == 0
            assert state.state == "running"
            filler.unlink()
            time.sleep(1.1)
            driver.update(samples_per_second=4.0, message="")
            assert sweep_state("sweeps/toy").driver.samples_per_second == 4
        monkeypatch.chdir(tmp_path)


def test_a_record_that_its_driver_cannot_renew_shows_the_full_disk(tmp_path, monkeypatch):
    with mounted(tmp_path, mib=24) as (_, place):
        monkeypatch.chdir(place)
        attach(make_plan(job()))
        Driver("sweeps/toy", 7).update(life="running", samples_per_second=5.0)
        write_record("sweeps/toy", replace(read_record("sweeps/toy"), updated=time.time() - 60))
        assert sweep_state("sweeps/toy").driver.samples_per_second == 5, "a long shard is no trouble"
        fill(place)
        state = sweep_state("sweeps/toy")
        assert "full" in state.message
        assert state.driver.samples_per_second == 0
        monkeypatch.chdir(tmp_path)


def test_a_sweep_whose_disk_fills_up_reports_that_and_ends_once_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr("pullback.driving.run.COMMIT_SECONDS", 0.05)
    monkeypatch.setattr("pullback.sweep.worker.WRITE_PAUSES", (0.1,) * 3)
    with mounted(tmp_path, mib=24) as (_, place):
        monkeypatch.chdir(place)
        states, fillers = [], []

        def report(progress):
            if progress.done >= 2 and not fillers:
                fillers.append(fill(place))
            if progress.trouble and fillers[0].exists():
                states.append(sweep_state("sweeps/toy"))
                fillers[0].unlink()

        outcome = run_sweep(make_plan(job()), serial_pool, report=report)
        assert outcome.exit_code == 0
        assert states[0].message
        assert states[0].driver.samples_per_second == 0
        monkeypatch.chdir(tmp_path)


def test_while_nothing_is_kept_no_time_left_is_shown(capsys):
    with sweep_progress(Messages(stderr=True)) as report:
        report(SweepProgress(100, 10, 0, 0))
        time.sleep(0.05)
        report(SweepProgress(100, 100, 0, 0, "the disk is full"))
    assert " left" not in capsys.readouterr().err


def test_a_record_is_whole_after_it_was_written_over_in_place(tmp_path, monkeypatch):
    store = tmp_path / "toy"
    Driver(store, 7).update(life="running", message="long " * 50)
    whole = read_record(store)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(control, "replace_file", full)
    write_record(store, replace(whole, message="short"))
    assert read_record(store).message == "short"
    assert [path.name for path in tmp_path.iterdir()] == [sidecar_path(store, "driver").name]

"""What is known of a sweep's driver from outside, at every moment of its life, and the requests that it takes."""

import json
import socket
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from pullback.driving import session
from pullback.driving.control import events_path, read_record, request_cancel, write_record
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.record import STALE_SECONDS, DriverRecord
from pullback.driving.run import attach, run_sweep
from pullback.driving.session import driver_session
from pullback.driving.sidecar_files import sidecar_path
from pullback.driving.sweep_state import sweep_state
from pullback.errors import StoreError
from pullback.store.location import locate
from pullback.sweep.plan import make_plan
from sweep_jobs import job

STORE = "sweeps/toy"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "sweeps").mkdir()
    return tmp_path


@pytest.fixture
def gone():
    """A record of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = DriverRecord("running", host=socket.gethostname(), pid=process.pid)
    record = replace(record, began=psutil.Process(process.pid).create_time(), updated=time.time())
    assert record.alive
    process.communicate(b"\n")
    return record


def run(spec=None, report=lambda progress: None):
    return run_sweep(make_plan(spec or job()), serial_pool, report)


def events():
    return [json.loads(line) for line in events_path(STORE).read_text().splitlines()]


def test_of_a_sweep_that_nobody_began_nothing_is_known():
    with pytest.raises(StoreError, match="no sweep at"):
        sweep_state(STORE)


def test_a_sweep_runs_and_is_done_and_its_journal_records_each_shard():
    seen = []
    run(report=lambda progress: seen.append(sweep_state(STORE)))
    assert {state.state for state in seen} == {"running"}
    assert seen[0].exit_code == 3
    done = sweep_state(STORE)
    assert (done.state, done.good, done.pending, done.exit_code) == ("done", 7, 0, 0)
    assert [event["event"] for event in events()] == ["run", *["shard"] * 4, "commit", "done"]
    assert [event["shard"] for event in events() if event["event"] == "shard"] == [0, 1, 2, 3]


def test_every_line_of_the_journal_has_its_time_its_sweep_and_its_shards_attempt():
    run()
    assert all(each["time"].endswith("+00:00") and each["sweep"] == "toy" for each in events())
    assert {each["attempt"] for each in events() if "shard" in each} == {0}


def test_a_store_without_a_driver_is_stopped_and_says_how_to_go_on():
    attach(make_plan(job()))
    found = sweep_state(STORE)
    assert (found.state, found.pending, found.exit_code) == ("stopped", 7, 1)
    assert "submit the same job to resume" in found.message


def test_a_driver_that_was_killed_is_not_believed(gone):
    attach(make_plan(job()))
    write_record(STORE, gone)
    found = sweep_state(STORE)
    assert (found.state, found.exit_code) == ("stopped", 1)
    assert "its driver has ended" in found.message


def test_another_process_of_the_same_number_is_not_the_driver(gone):
    assert not replace(gone, pid=psutil.Process().pid).alive


def test_a_driver_of_another_machine_is_believed_as_long_as_it_writes():
    record = DriverRecord("running", host="elsewhere", pid=1, updated=time.time())
    assert record.alive
    assert not replace(record, updated=time.time() - STALE_SECONDS - 1).alive


def test_a_submitted_job_is_so_before_its_process_is_there_and_failed_if_that_is_gone(gone):
    write_record(STORE, DriverRecord("submitted", planned=7, updated=time.time()))
    assert (sweep_state(STORE).state, sweep_state(STORE).exit_code) == ("submitted", 3)
    assert (sweep_state(STORE).planned, sweep_state(STORE).pending) == (7, 7)
    write_record(STORE, replace(gone, life="submitted"))
    found = sweep_state(STORE)
    assert found.state == "failed"
    assert str(sidecar_path(STORE, "log")) in found.message


def test_a_store_that_cannot_be_read_is_reported_whatever_its_last_driver_said(here):
    run()
    for life in ("done", "failed", "running"):
        write_record(STORE, replace(read_record(STORE), life=life, planned=7))
        for file in (here / STORE / "snapshots").iterdir():
            file.write_bytes(b"")
        with pytest.raises(StoreError):
            sweep_state(STORE)


def test_a_job_that_is_cancelled_before_it_begins_is_being_cancelled():
    me = psutil.Process()
    record = DriverRecord("submitted", host=socket.gethostname(), pid=me.pid, began=me.create_time())
    write_record(STORE, record)
    assert request_cancel(STORE)
    assert sweep_state(STORE).state == "cancelling"


def test_a_wish_to_cancel_ends_with_the_submission_that_it_was_meant_for(gone):
    write_record(STORE, replace(gone, life="submitted"))
    sidecar_path(STORE, "cancel").touch()
    assert not run().cancelled


def test_a_record_of_a_later_version_is_read_and_one_of_nonsense_is_none():
    write_record(STORE, DriverRecord("running", pid=3))
    content = json.loads(sidecar_path(STORE, "driver").read_text())
    sidecar_path(STORE, "driver").write_text(json.dumps({**content, "colour": "blue"}))
    assert read_record(STORE) == DriverRecord("running", pid=3)
    for nonsense in ({**content, "pid": "x"}, {**content, "life": "blue"}, [content], {}):
        sidecar_path(STORE, "driver").write_text(json.dumps(nonsense))
        assert read_record(STORE) is None


def test_the_journal_records_the_end_before_the_record_does(monkeypatch):
    recorded, write = [], session.write_record

    def writing(store, record, shared):
        recorded.append((record.life, events()[-1]["event"] if events_path(STORE).exists() else ""))
        write(store, record, shared)

    monkeypatch.setattr(session, "write_record", writing)
    run()
    assert recorded[-1] == ("done", "done")
    with pytest.raises(ZeroDivisionError), driver_session(STORE):
        raise ZeroDivisionError("by zero")
    assert recorded[-1] == ("failed", "failed")


def test_a_driver_is_known_to_live_while_it_computes_a_long_shard(monkeypatch):
    monkeypatch.setattr(session, "RENEWED_SECONDS", 0.0)
    with driver_session(STORE) as driver:
        before = read_record(STORE).updated
        time.sleep(0.01)
        assert not driver.cancelled()
        assert read_record(STORE).updated > before


def test_an_event_after_a_torn_line_has_a_line_of_its_own():
    with driver_session(STORE) as driver:
        driver.log("one")
        with events_path(STORE).open("a") as journal:
            journal.write('{"event": "to')
        driver.log("two")
        driver.log("three")
    lines = events_path(STORE).read_text().splitlines()
    assert [json.loads(line)["event"] for line in (lines[0], *lines[2:])] == ["one", "two", "three"]


def test_a_driver_that_raised_says_why_and_the_next_run_makes_it_good():
    with pytest.raises(ZeroDivisionError), driver_session(STORE):
        raise ZeroDivisionError("by zero")
    assert (sweep_state(STORE).state, sweep_state(STORE).message) == ("failed", "by zero")
    run()
    assert (sweep_state(STORE).state, sweep_state(STORE).message) == ("done", "")


def test_a_cancelled_sweep_stops_at_once_and_the_next_run_goes_on(monkeypatch):
    asked = []

    def report(progress):
        if progress.done == 4 and not asked:
            asked.append(request_cancel(STORE))
            assert sweep_state(STORE).state == "cancelling"

    outcome = run(report=report)
    assert asked == [True]
    assert (outcome.cancelled, outcome.interrupted, outcome.status.good) == (True, False, 4)
    found = sweep_state(STORE)
    assert (found.state, found.good, found.pending) == ("cancelled", 4, 3)
    assert not request_cancel(STORE), "nobody is there any more"
    again = run()
    assert (again.computed, again.cancelled) == (3, False)
    assert sweep_state(STORE).state == "done"


def test_a_wish_to_cancel_that_comes_before_the_driver_is_fulfilled(here):
    write_record(STORE, DriverRecord("submitted", updated=time.time()))
    sidecar_path(STORE, "cancel").touch()
    outcome = run()
    assert outcome.cancelled
    assert outcome.status.pending == 7


def test_a_sweep_of_mostly_bad_samples_is_ended_as_failed_with_the_last_error():
    spec = job("sweep_jobs:wrong_derivative", count=60)
    outcome = run(spec)
    assert outcome.status.quarantined == 20
    assert outcome.status.pending == 40
    assert "20 of 20 samples are quarantined" in outcome.broken
    assert (sweep_state(STORE).state, sweep_state(STORE).exit_code) == ("failed", 1)
    record = read_record(STORE)
    allowed = spec.model_copy(update={"resources": spec.resources.model_copy(update={"max_quarantined": 1.0})})
    assert run(allowed).status.quarantined == 60
    assert (sweep_state(STORE).state, sweep_state(STORE).exit_code) == ("done", 4)
    write_record(STORE, record)  # as another machine keeps it that saw the first run only
    assert (sweep_state(STORE).state, sweep_state(STORE).exit_code) == ("done", 4)


def test_a_journal_that_cannot_be_written_ends_no_sweep(here):
    events_path(STORE).mkdir()
    assert run().status.good == 7


def test_files_about_a_sweep_in_an_object_store_lie_on_this_machine(here, monkeypatch):
    monkeypatch.setattr("pullback.driving.sidecar_files.state_folder", lambda: here / "pullback")
    one, other = (sidecar_path(f"s3://{bucket}/sweeps/toy", "driver") for bucket in ("mine", "yours"))
    assert one.parent == other.parent == here / "pullback" / "sweeps"
    assert one != other
    assert one == sidecar_path(locate("s3://mine/sweeps/toy"), "driver")

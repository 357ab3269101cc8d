"""The queue of local submissions: order, states, cancelling, and processes that die."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pullback.driving.control import read_record, record_submission, request_cancel, write_record
from pullback.driving.queue import Ticket, queue_folder, start_now, waiting_for
from pullback.driving.record import DriverRecord
from pullback.driving.sweep_state import sweep_state

DRIVER = "import sys, time, pathlib; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def submit(here):
    """Start a stand-in for a driver through the queue; it touches NAME.runs and sleeps."""
    started = []

    def submitted(name, how="wait"):
        command = [sys.executable, "-c", DRIVER, f"{name}.runs"]
        record_submission(name, DriverRecord("submitted", planned=3, updated=time.time()))
        process = subprocess.Popen([sys.executable, "-m", "pullback.driving.queue", name, how, *command])
        started.append(process)
        return process

    yield submitted
    for process in started:
        process.kill()
        process.wait()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def runs(name):
    return Path(f"{name}.runs").exists()


def is_queued(name):
    record = read_record(name)
    return record is not None and record.life == "queued"


def test_the_second_waits_with_its_position_and_starts_when_the_first_is_killed(submit):
    first = submit("first")
    until(lambda: runs("first"))
    submit("second")
    until(lambda: is_queued("second"))
    found = sweep_state("second")
    assert (found.state, found.driver.position, found.exit_code) == ("queued", 1, 3)
    assert "first" in found.message
    assert not runs("second")
    first.kill()
    first.wait()
    until(lambda: runs("second"))
    assert read_record("second").pid > 0


def test_now_starts_at_once_and_later_ones_wait_for_it(submit):
    submit("first")
    until(lambda: runs("first"))
    submit("urgent", "now")
    until(lambda: runs("urgent"))
    submit("last")
    until(lambda: is_queued("last"))
    assert read_record("last").position == 2


def test_a_queued_submission_can_still_be_started_at_once(submit):
    submit("first")
    until(lambda: runs("first"))
    submit("second")
    until(lambda: is_queued("second"))
    assert waiting_for() == ["first", "second"]
    start_now("third")
    assert not runs("second")
    start_now("second")
    until(lambda: runs("second"))
    assert read_record("second").life == "starting"
    submit("last")
    until(lambda: is_queued("last"))
    assert read_record("last").position == 2


def test_an_empty_queue_keeps_nobody_waiting(here):
    assert waiting_for() == []


def test_what_waits_can_be_cancelled(submit):
    submit("first")
    until(lambda: runs("first"))
    waiting = submit("second")
    until(lambda: is_queued("second"))
    assert request_cancel("second")
    assert waiting.wait(timeout=60) == 130
    assert sweep_state("second").state == "cancelled"
    assert not runs("second")


def test_a_waiting_process_that_is_killed_blocks_nobody(here):
    folder = queue_folder()
    folder.mkdir(parents=True)
    (folder / "000000004.ticket").write_text('{"store": "gone", "pid": 1}')
    ticket = Ticket("mine")
    assert ticket.ahead() == []
    assert [path.name for path in folder.glob("*.ticket")] == ["000000005.ticket"]
    ticket.release()
    assert list(folder.glob("*.ticket")) == []


def test_tickets_are_served_in_order(here):
    tickets = [Ticket(name) for name in "abc"]
    assert [ticket.ahead() for ticket in tickets] == [[], ["a"], ["a", "b"]]
    tickets[0].release()
    assert tickets[2].ahead() == ["b"]
    for ticket in tickets[1:]:
        ticket.release()


def test_a_queued_sweep_whose_process_is_gone_is_stopped(here):
    write_record("mine", DriverRecord("queued", host=os.uname().nodename, pid=2**22 - 1, began=1.0))
    assert sweep_state("mine").state == "stopped"

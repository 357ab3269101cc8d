"""`status --watch` and `logs --follow`, with states as a cluster might report them."""

from dataclasses import replace

import pytest

from pullback.cluster import submission as jobs
from pullback.driving.control import events_path, write_record
from pullback.driving.record import DriverRecord
from pullback.driving.sweep_state import SweepState
from pullback.errors import StoreError

RUNNING = SweepState("running", "mine", planned=4, good=1, pending=3, snapshot="S")
UNSURE = SweepState("stopped", "mine", planned=4, pending=4, message="is not known", unsure=True)
DONE = SweepState("done", "mine", planned=4, good=4, snapshot="S")


@pytest.fixture
def states(here, monkeypatch):
    """What `sweep_state_with_cluster` answers, one look after the other; the last one again and again."""
    answers = []
    monkeypatch.setattr(
        jobs, "sweep_state_with_cluster", lambda store, reader: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    monkeypatch.setattr("pullback.cli.jobs._LOOK_SECONDS", 0.01)
    return answers


def test_a_status_before_the_first_result_says_so(pullback, states):
    begun = DriverRecord("running", shards={"pending": 4}, workers={"ready": 1})
    states += [replace(RUNNING, good=0, pending=4, driver=begun)]
    result = pullback("status", "mine")
    assert result.code == 0
    assert "no results yet" in result.out
    states[:] = [replace(RUNNING, driver=replace(begun, samples_per_second=0.5))]
    assert "0.50 samples/s, 6 s left" in pullback("status", "mine").out


def test_logs_of_a_sweep_that_only_begins_say_so_and_are_no_error(pullback, states):
    states += [SweepState("submitted", "mine", planned=4, pending=4)]
    result = pullback("logs", "mine")
    assert (result.code, result.out) == (0, "")
    assert "submitted: its driver" in result.err


def test_logs_of_a_clusters_driver_that_writes_on_its_own_disk_come_from_the_cluster(pullback, monkeypatch):
    record = DriverRecord("running", host="head", submission="pullback-0123456789abcdef-1", address="http://head:8265")
    monkeypatch.setattr("pullback.driving.control.read_record", lambda store: record)
    monkeypatch.setattr(jobs, "log_of", lambda record: f"printed by {record.submission}\n")
    assert pullback("logs", "s3://bucket/mine").out == "printed by pullback-0123456789abcdef-1\n"


def test_a_watch_outlasts_a_cluster_that_does_not_answer_for_a_moment(pullback, states):
    states += [RUNNING, UNSURE, UNSURE, RUNNING, DONE]
    watched = pullback("status", "mine", "--watch", "--exit-code")
    assert watched.code == 0
    assert "4 good" in watched.out


def test_a_watch_ends_when_a_cluster_stays_silent_and_at_once_when_it_never_answered(pullback, states, monkeypatch):
    states += [UNSURE]
    assert pullback("status", "mine", "--watch", "--exit-code").code == 1
    monkeypatch.setattr("pullback.cli.jobs._SILENCE_SECONDS", 0.05)
    states[:] = [RUNNING, UNSURE]
    watched = pullback("status", "mine", "--watch", "--exit-code")
    assert watched.code == 1
    assert "is not known" in watched.out


def test_a_watch_goes_on_when_the_jobs_file_is_edited_or_removed(pullback, job, states, here, monkeypatch):
    states += [RUNNING, RUNNING, DONE]
    job("job.yaml")
    sweep_state_with_cluster = jobs.sweep_state_with_cluster

    def removing(store, reader):
        (here / "job.yaml").unlink(missing_ok=True)
        return sweep_state_with_cluster(store, reader)

    monkeypatch.setattr(jobs, "sweep_state_with_cluster", removing)
    assert pullback("status", "job.yaml", "--watch", "--exit-code").code == 0


def test_a_watch_outlasts_a_store_that_cannot_be_read_for_a_moment(pullback, states, monkeypatch):
    states += [RUNNING, DONE]
    sweep_state_with_cluster, looks = jobs.sweep_state_with_cluster, []

    def failing(store, reader):
        looks.append(store)
        if len(looks) in (2, 3):
            raise StoreError("the bucket does not answer")
        return sweep_state_with_cluster(store, reader)

    monkeypatch.setattr(jobs, "sweep_state_with_cluster", failing)
    assert pullback("status", "mine", "--watch", "--exit-code").code == 0


def test_following_says_that_there_is_nothing_yet_and_prints_each_line_once(pullback, states, here, monkeypatch):
    states += [RUNNING, RUNNING, RUNNING, UNSURE, RUNNING, DONE]
    looks, sweep_state_with_cluster = [], jobs.sweep_state_with_cluster

    def writing(store, reader):
        looks.append(store)
        if len(looks) in (3, 6):
            with events_path("mine").open("a") as journal:
                journal.write(f"line {len(looks)}\n")
        return sweep_state_with_cluster(store, reader)

    monkeypatch.setattr(jobs, "sweep_state_with_cluster", writing)
    write_record("mine", DriverRecord("running"))
    followed = pullback("logs", "mine", "--follow")
    assert followed.out == "line 3\nline 6\n"
    assert followed.err.count("running: its driver has logged nothing yet") == 1

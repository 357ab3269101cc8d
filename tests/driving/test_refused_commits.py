"""A storage that refuses commits for a while, or for long."""

import pickle
import sys
import time
from pathlib import Path

import pytest

from clocks import postdate
from pullback.driving.control import request_cancel
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import attach, run_sweep
from pullback.driving.sweep_state import sweep_state
from pullback.errors import ClockError, RefusedError
from pullback.store.repository import SweepStore
from pullback.sweep.plan import make_plan
from sweep_jobs import job


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def refusing_commits(monkeypatch, times):
    """Have the storage refuse the first commits."""
    commit, refused = SweepStore.commit, []

    def refusing(self, message):
        if len(refused) < times:
            refused.append(message)
            raise RefusedError("its bucket does not answer")
        return commit(self, message)

    monkeypatch.setattr(SweepStore, "commit", refusing)
    monkeypatch.setattr("pullback.driving.run.COMMIT_SECONDS", 0.01)
    return refused


def test_a_storage_that_refuses_some_commits_costs_only_time(monkeypatch):
    refused, troubles = refusing_commits(monkeypatch, 5), []
    outcome = run_sweep(make_plan(job()), serial_pool, report=lambda progress: troubles.append(progress.trouble))
    assert len(refused) == 5, "nothing was tested"
    assert outcome.exit_code == 0
    assert "its bucket does not answer; trying again" in troubles
    assert troubles[-1] == ""


def test_a_storage_that_refuses_commits_for_long_ends_the_run_which_goes_on_later(monkeypatch):
    refused = refusing_commits(monkeypatch, 10**6)
    monkeypatch.setattr("pullback.driving.run.STORAGE_SECONDS", 0.2)
    with pytest.raises(RefusedError, match="does not answer"):
        run_sweep(make_plan(job()), serial_pool)
    assert len(refused) > 2
    refused.extend(range(10**6))
    assert run_sweep(make_plan(job()), serial_pool).exit_code == 0


def test_who_cancels_while_the_storage_refuses_waits_no_longer_for_it(monkeypatch):
    refusing_commits(monkeypatch, 10**6)

    def report(progress):
        if progress.trouble:
            request_cancel("sweeps/toy")

    began = time.monotonic()
    with pytest.raises(RefusedError, match=r"does not answer; .*kept\. Check"):
        run_sweep(make_plan(job()), serial_pool, report=report)
    assert time.monotonic() - began < 60, "and not the two minutes that a storage is given"


def test_a_clock_that_is_somewhat_behind_the_last_commit_is_waited_for(monkeypatch):
    monkeypatch.setattr("pullback.driving.run.COMMIT_SECONDS", 0.01)
    monkeypatch.setattr("pullback.driving.run.STORAGE_SECONDS", 0.5)
    attach(make_plan(job()))
    postdate(Path("sweeps/toy"), 6)
    troubles = []
    outcome = run_sweep(make_plan(job()), serial_pool, report=lambda progress: troubles.append(progress.trouble))
    assert outcome.exit_code == 0
    assert any("clock" in trouble for trouble in troubles)


def test_a_clock_that_is_far_behind_the_last_commit_ends_a_run_before_anything_is_computed():
    attach(make_plan(job()))
    postdate(Path("sweeps/toy"), 2 * 86400)
    with pytest.raises(ClockError, match="clock") as caught:
        run_sweep(make_plan(job()), serial_pool)
    assert "disk" not in str(caught.value)
    assert sweep_state("sweeps/toy").state == "failed"
    assert pickle.loads(pickle.dumps(caught.value)).lag == caught.value.lag
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_clock_that_is_set_back_during_a_run_is_named_by_its_end(monkeypatch):
    monkeypatch.setattr("pullback.driving.run.COMMIT_SECONDS", 0.01)
    monkeypatch.setattr("pullback.driving.run.STORAGE_SECONDS", 0.2)
    monkeypatch.setattr(SweepStore, "lag", 0.0)
    attach(make_plan(job()))
    postdate(Path("sweeps/toy"), 2 * 86400)
    with pytest.raises(ClockError, match="behind the last commit"):
        run_sweep(make_plan(job()), serial_pool)

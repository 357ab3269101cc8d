"""A storage that refuses commits for a while, or for long."""

import sys
import time

import pytest
from sweep_jobs import job

from pullback.errors import RefusedError
from pullback.store.repository import SweepStore
from pullback.sweep.control import request_cancel
from pullback.sweep.plan import make_plan
from pullback.sweep.pools import serial_pool
from pullback.sweep.run import run_sweep


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
    monkeypatch.setattr("pullback.sweep.run.COMMIT_SECONDS", 0.01)
    return refused


def test_a_storage_that_refuses_some_commits_costs_only_time(monkeypatch):
    refused, told = refusing_commits(monkeypatch, 5), []
    outcome = run_sweep(make_plan(job()), serial_pool, report=lambda progress: told.append(progress.trouble))
    assert len(refused) == 5, "nothing was tested"
    assert outcome.exit_code == 0
    assert "its bucket does not answer; it is tried again" in told
    assert told[-1] == ""


def test_a_storage_that_refuses_commits_for_long_ends_the_run_which_goes_on_later(monkeypatch):
    refused = refusing_commits(monkeypatch, 10**6)
    monkeypatch.setattr("pullback.sweep.run.STORAGE_SECONDS", 0.2)
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
    with pytest.raises(RefusedError, match=r"does not answer; what was committed before is kept\. Check"):
        run_sweep(make_plan(job()), serial_pool, report=report)
    assert time.monotonic() - began < 60, "and not the two minutes that a storage is given"

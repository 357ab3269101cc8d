"""A driver calls nothing done that it cannot read back."""

import sys
from pathlib import Path

import pytest

from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.driving.sweep_state import sweep_state
from pullback.errors import UnavailableError
from pullback.store.audit import audit
from pullback.store.maintenance import repair
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.sweep.plan import make_plan
from sweep_jobs import job

CHUNKS = Path("sweeps/toy/chunks")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("pullback.driving.run.COMMIT_SECONDS", 0.0)
    return tmp_path


def large():
    """A job whose eigenvectors are files of their own."""
    return job(resources={"shard_size": 4, "batch": 1, "tangents": 6, "workers": 1})


def files():
    return {*CHUNKS.iterdir()} if CHUNKS.exists() else set()


def while_committing(monkeypatch, when, act):
    """Do something to the chunks before or after the first commit."""
    commit, done = SweepStore.commit, []

    def spoiled(self, message):
        if when == "before" and not done:
            done.append(act(files()))
        snapshot = commit(self, message)
        if when == "after" and not done:
            done.append(act(files()))
        return snapshot

    monkeypatch.setattr(SweepStore, "commit", spoiled)
    return done


def remove(chunks):
    for chunk in chunks:
        chunk.unlink()
    return len(chunks)


def empty(chunks):
    for chunk in chunks:
        chunk.write_bytes(b"")
    return len(chunks)


@pytest.mark.parametrize(("when", "act"), [("before", remove), ("after", remove), ("before", empty), ("after", empty)])
def test_a_run_whose_results_are_removed_behind_its_back_is_not_done(monkeypatch, when, act):
    with monkeypatch.context() as patch:
        done = while_committing(patch, when, act)
        outcome = run_sweep(make_plan(large()), serial_pool)
    assert done[0], "nothing was tested"
    assert outcome.exit_code == 1
    assert sweep_state("sweeps/toy").state == "failed"
    assert sweep_state("sweeps/toy").message
    repair("sweeps/toy")
    assert run_sweep(make_plan(large()), serial_pool).exit_code == 0
    assert audit("sweeps/toy").damages == ()
    assert open_sweep("sweeps/toy").status().pending == 0


def test_results_that_vanish_before_they_are_committed_are_not_committed(monkeypatch):
    with monkeypatch.context() as patch:
        while_committing(patch, "before", remove)
        assert run_sweep(make_plan(large()), serial_pool).exit_code == 1
    assert audit("sweeps/toy").damages == ()
    assert run_sweep(make_plan(large()), serial_pool).exit_code == 0


def test_results_that_cannot_be_read_just_now_are_no_damage_and_not_done(monkeypatch):
    def fail(*_):
        raise UnavailableError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("pullback.driving.run.unreadable_shards", fail)
        with pytest.raises(UnavailableError):
            run_sweep(make_plan(large()), serial_pool)
    assert open_sweep("sweeps/toy").status().pending == 0
    assert audit("sweeps/toy").damages == ()

"""The time that a plan predicts is about what the sweep takes; storing is measured, not guessed."""

import itertools
import tempfile
import time
from types import SimpleNamespace

import pytest

from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.metric import timing
from pullback.store.schema import Layout
from pullback.sweep import shard_timing
from pullback.sweep.plan import make_plan
from pullback.sweep.shard_timing import COMMIT_SECONDS, seconds_per_shard
from sweep_jobs import job


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("count", "shard_size", "metric"),
    [(600, 64, {}), (60, 1, {}), (150, 16, {"method": "block_krylov", "components": 2})],
    ids=["large shards", "a shard a sample", "iterative"],
)
def test_the_predicted_time_is_about_what_the_sweep_takes(monkeypatch, count, shard_size, metric):
    processor = SimpleNamespace(perf_counter=time.process_time)  # whatever else this machine does
    monkeypatch.setattr(timing, "time", processor)
    monkeypatch.setattr(shard_timing, "time", processor)
    resources = {"shard_size": shard_size, "workers": 1, "device": "cpu"}
    plan = make_plan(job(count=count, metric=metric, resources=resources), measure=True)
    began = time.process_time()
    assert run_sweep(plan, serial_pool).exit_code in (0, 4)
    took = time.process_time() - began
    start = 0.5  # making the store, loading the networks again
    assert plan.seconds / 2 - start < took < 2 * plan.seconds + start


def test_larger_shards_take_longer_and_huge_ones_are_estimated_from_smaller():
    small, large = (seconds_per_shard(Layout(1000, 64, 64, size), 1.0) for size in (1, 200))
    assert 0 < small < large
    began = time.perf_counter()
    assert seconds_per_shard(Layout(10_000, 512, 512, 5_000), 1.0) > large
    assert time.perf_counter() - began < 30


def test_many_fast_shards_share_a_commit(monkeypatch):
    ticks = itertools.count()  # writing takes a tick of 0.01 s, and so does a commit
    monkeypatch.setattr(shard_timing, "time", SimpleNamespace(perf_counter=lambda: 0.01 * next(ticks)))
    layout = Layout(100, 4, 4, 2)
    assert seconds_per_shard(layout, 10 * COMMIT_SECONDS) == pytest.approx(0.01 + 0.01)
    assert seconds_per_shard(layout, 0.0) == pytest.approx(0.01 + 0.01 * 0.01 / COMMIT_SECONDS)


def test_a_temporary_folder_that_cannot_be_written_to_is_no_obstacle(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert seconds_per_shard(Layout(10, 4, 4, 2), 1.0) > 0
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())

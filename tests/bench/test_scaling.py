"""The rate of sweeps by one worker and by more, as it is reported."""

import json
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_runs import make_environment

from pullback.bench.scaling import bench_scaling, rate_of
from pullback.errors import SpecError, SweepError


def journal(tmp_path, workers, shards, computing=1.0, verifying=0.25, writing=0.5):
    """Of a sweep whose workers deliver a shard of three samples a second each, the second one half a second later."""
    lines = [{"event": "run", "time": datetime.fromtimestamp(0, UTC).isoformat()}]
    for number in range(shards):
        at = datetime.fromtimestamp(10 + number // workers + number % workers / workers, UTC).isoformat()
        worker, parts = (
            f"worker-{number % workers}",
            {"computing": computing, "verifying": verifying, "writing": writing},
        )
        lines.append({"event": "shard", "time": at, "worker": worker, "good": 2, "quarantined": 1, **parts})
        lines.append({"event": "commit", "time": at, "seconds": 0.03})
    path = tmp_path / f"{workers}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_rate_is_that_of_the_time_in_which_all_workers_had_work(tmp_path):
    one = rate_of(journal(tmp_path, 1, 9), 1, None)
    assert (one.samples, one.seconds, one.samples_per_second, one.efficiency) == (24, 8.0, 3.0, 1.0)
    assert one.computing_share == pytest.approx(1.0)
    assert one.seconds_a_sample == pytest.approx(
        {"compute": 0.25, "verify": 0.25 / 3, "write": 0.5 / 3, "commit": 0.01}
    )
    two = rate_of(journal(tmp_path, 2, 18, computing=0.9), 2, one)
    assert (two.samples_per_second, two.efficiency) == pytest.approx((6.0, 1.0))
    assert two.computing_share == pytest.approx(0.9)


@given(
    periods=st.lists(st.floats(0.5, 2.0), min_size=1, max_size=4),
    phases=st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4),
)
def test_the_rate_of_steady_workers_is_exact_whatever_their_speeds_and_phases(tmp_path_factory, periods, phases):
    shards = sorted(
        (10 + (number + phase) * period, worker)
        for worker, (period, phase) in enumerate(zip(periods, phases, strict=False))
        for number in range(30)
        if (number + phase) * period < 15
    )
    lines = [
        {"event": "shard", "time": datetime.fromtimestamp(at, UTC).isoformat(), "worker": f"worker-{worker}"}
        | {"good": 2, "quarantined": 0, "computing": 0.8 * periods[worker], "verifying": 0.1, "writing": 0.1}
        for at, worker in shards
    ]
    path = tmp_path_factory.mktemp("steady") / "journal"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = rate_of(path, len(periods), None)
    assert found.samples_per_second == pytest.approx(sum(2 / period for period in periods), rel=1e-4)
    assert found.computing_share == pytest.approx(0.8, rel=1e-4)


def test_too_few_shards_give_no_rate(tmp_path):
    with pytest.raises(SweepError, match="ask for more samples"):
        rate_of(journal(tmp_path, 2, 6), 2, None)


@pytest.mark.parametrize("workers", [[], [0, 1], [2, 1], [1, 1]])
def test_numbers_of_workers_that_make_no_sense_are_refused(workers):
    with pytest.raises(SpecError, match="ascending"):
        bench_scaling("toy_generators:smooth", "mse", workers)


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_two_workers_that_wait_most_of_their_time_are_nearly_twice_as_fast_as_one(tmp_path, monkeypatch):
    make_environment(tmp_path / "died")
    monkeypatch.setenv("PULLBACK_TEST_PLANNER", str(os.getpid()))
    messages = []
    found = bench_scaling("toy_generators:sleepy", "mse", [1, 2], device="cpu", samples=8, say=messages.append)
    assert [run["workers"] for run in found["runs"]] == [1, 2]
    assert messages[1].startswith("16 samples")
    one, two = found["runs"]
    # they sleep, so that cores that are busy with other tests matter little
    assert 1.3 < two["samples_per_second"] / one["samples_per_second"] < 2.7
    assert two["efficiency"] == pytest.approx(two["samples_per_second"] / one["samples_per_second"] / 2)
    assert all(part > 0 for part in one["seconds_a_sample"].values())

"""The driver, with workers in the same process: what is computed, committed, and never done twice."""

import json
import os
import signal
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from pullback.distances import load_distance
from pullback.driving.control import events_path
from pullback.driving.pool_protocol import ShardFailed, serial_pool
from pullback.driving.run import run_sweep
from pullback.errors import SpecError, StoreError, SweepError
from pullback.generators.user_files import Window, watching
from pullback.metric import metric_at
from pullback.store.lock import driver_lock
from pullback.store.reader import open_sweep
from pullback.store.repository import SweepStore
from pullback.store.schema import GOOD, QUARANTINED
from pullback.sweep.latents import sample_latents
from pullback.sweep.plan import make_plan
from pullback.sweep.worker import Worker
from sweep_jobs import job
from toy_generators import Linear, Smooth

STORE = "sweeps/toy"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def computed(monkeypatch):
    """The shards that workers compute, in order."""
    shards, compute = [], Worker.compute

    def counting(self, task):
        shards.append(task.shard)
        return compute(self, task)

    monkeypatch.setattr(Worker, "compute", counting)
    return shards


def pool_that(results):
    """A pool whose outcomes are what the generator function makes of the serial pool's."""

    @contextmanager
    def pool(order, plan):
        with serial_pool(order, plan) as inner:

            class Wrapped:
                def results(self, shards, stop):
                    return results(inner.results(shards, stop))

            yield Wrapped()

    return pool


def stopping_after(count, error):
    def results(inner):
        for _ in range(count):
            yield next(inner)
        raise error

    return pool_that(results)


def run(spec=None, pool=serial_pool, **options):
    return run_sweep(make_plan(spec or job()), pool, **options)


def dataset(path=STORE):
    return open_sweep(path).dataset(only_good=False).load()


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_sweep_runs_to_its_end_and_its_numbers_are_right(computed):
    outcome = run(job("toy_generators:linear"))
    assert outcome.status.as_dict() == {"planned": 7, "good": 7, "quarantined": 0, "pending": 0}
    assert (outcome.computed, outcome.failed, outcome.interrupted) == (7, (), False)
    assert computed == [0, 1, 2, 3]
    a = Linear().matrix.detach().numpy().astype(np.float64)
    metric = 2 * a.T @ a / len(a)
    stored = dataset()
    np.testing.assert_allclose(stored.eigenvalue, np.tile(np.linalg.eigvalsh(metric)[::-1], (7, 1)), rtol=1e-5)
    np.testing.assert_array_equal(stored.latent, sample_latents(job().samples, range(7), 6))
    np.testing.assert_allclose(open_sweep(STORE).mean_metric(), metric, rtol=1e-5, atol=1e-9)


def test_the_same_again_does_nothing(here, computed):
    first = run()
    computed.clear()
    before = files(here / STORE)
    again = run()
    assert again.computed == 0
    assert again.snapshot == first.snapshot
    assert again.status == first.status
    assert computed == []
    assert files(here / STORE) == before


def test_progress_counts_samples_up_to_all_of_them():
    seen = []
    run(report=seen.append)
    assert [p.done for p in seen] == [0, 2, 4, 6, 7]
    assert {(p.planned, p.started_with, p.quarantined) for p in seen} == {(7, 0, 0)}


def test_an_interrupt_keeps_what_was_done_and_the_next_run_does_the_rest_only(computed):
    outcome = run(pool=stopping_after(2, KeyboardInterrupt()))
    assert outcome.interrupted
    assert outcome.computed == 4
    assert outcome.status.as_dict() == {"planned": 7, "good": 4, "quarantined": 0, "pending": 3}
    assert computed == [0, 1]
    seen = []
    outcome = run(report=seen.append)
    assert not outcome.interrupted
    assert outcome.computed == 3
    assert computed == [0, 1, 2, 3]
    assert (seen[0].done, seen[0].started_with, seen[-1].done) == (4, 4, 7)


def test_a_second_interrupt_does_not_keep_what_was_done_from_being_committed(monkeypatch):
    commit = SweepStore.commit

    def interrupted(self, message):
        os.kill(os.getpid(), signal.SIGINT)
        return commit(self, message)

    monkeypatch.setattr(SweepStore, "commit", interrupted)
    outcome = run(pool=stopping_after(2, KeyboardInterrupt()))
    assert outcome.interrupted
    assert outcome.status.good == outcome.computed == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "and the next one counts again"


def test_an_interrupted_sweep_ends_with_the_very_numbers_of_one_that_was_not():
    run(pool=stopping_after(1, KeyboardInterrupt()))
    run(pool=stopping_after(1, KeyboardInterrupt()))
    run()
    run(job(store="sweeps/whole"))
    interrupted, whole = dataset(), dataset("sweeps/whole")
    for name in whole.data_vars:
        if name != "seconds":
            np.testing.assert_array_equal(interrupted[name], whole[name], err_msg=name)


def test_an_interrupt_while_workers_start_leaves_a_sweep_to_go_on_with():
    @contextmanager
    def pool(order, plan):
        raise KeyboardInterrupt
        yield

    outcome = run(pool=pool)
    assert outcome.interrupted
    assert outcome.status.pending == 7
    assert run().status.good == 7


def test_a_workers_error_is_raised_and_what_came_before_is_kept(computed):
    with pytest.raises(ZeroDivisionError):
        run(pool=stopping_after(3, ZeroDivisionError("in a worker")))
    assert open_sweep(STORE).status().good == 6
    assert run().computed == 1
    assert computed == [0, 1, 2, 3]


def test_serially_a_failing_sample_is_named_and_what_came_before_is_kept(monkeypatch):
    plain = Smooth.forward

    def failing(self, z, condition=None):
        if open_status() >= 4:
            raise ValueError("boom")
        return plain(self, z)

    def open_status():
        with watching(Window()):  # the store's files are not data of the generator
            try:
                return open_sweep(STORE).status().good
            except StoreError:
                return 0

    monkeypatch.setattr("pullback.driving.run.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Smooth, "forward", failing)
    with pytest.raises(SweepError, match=r"sample 4.*ValueError: boom[\s\S]*What was done before is saved"):
        run()
    assert open_sweep(STORE).status().good == 4
    monkeypatch.setattr(Smooth, "forward", plain)
    assert run().computed == 3


def test_results_are_committed_while_the_sweep_goes_on(monkeypatch):
    monkeypatch.setattr("pullback.driving.run.COMMIT_SECONDS", 0.0)
    good = []

    def results(inner):
        for result in inner:
            yield result
            good.append(open_sweep(STORE).status().good)

    run(pool=pool_that(results))
    assert good == [2, 4, 6, 7]


def test_a_shard_that_was_given_up_is_reported_and_stays_pending():
    def results(inner):
        yield None
        for result in inner:
            yield ShardFailed(1, "RuntimeError: out of luck", 3) if result.shard == 1 else result
            yield None

    outcome = run(pool=pool_that(results))
    assert outcome.failed == (ShardFailed(1, "RuntimeError: out of luck", 3),)
    (event,) = [
        line for line in map(json.loads, events_path(STORE).read_text().splitlines()) if line["event"] == "given up"
    ]
    assert (event["shard"], event["attempt"], event["message"]) == (1, 3, "RuntimeError: out of luck")
    assert not outcome.interrupted
    assert outcome.status.pending == 2
    assert dataset().status.values.tolist() == [GOOD, GOOD, 0, 0, GOOD, GOOD, GOOD]


def test_an_interrupt_does_not_forget_what_was_given_up():
    def results(inner):
        yield ShardFailed(0, "RuntimeError: out of luck")
        raise KeyboardInterrupt

    outcome = run(pool=pool_that(results))
    assert outcome.interrupted
    assert [failure.shard for failure in outcome.failed] == [0]


def test_a_second_result_of_a_shard_changes_nothing(monkeypatch):
    compute = Worker.compute

    def results(inner):
        first = list(inner)
        yield from first
        # the same shards once more, from a worker that would now compute something else
        monkeypatch.setattr(Worker, "compute", lambda self, task: doubled(*compute(self, task)))
        yield from again()

    def doubled(record, notes):
        return type(record)(**{**vars(record), "eigenvalue": 2 * record.eigenvalue}), notes

    def again():
        with serial_pool(*orders) as late:
            yield from late.results(range(4), lambda: False)

    orders = []

    @contextmanager
    def pool(order, plan):
        orders.extend((order, plan))
        with pool_that(results)(order, plan) as wrapped:
            yield wrapped

    seen = []
    outcome = run(pool=pool, report=seen.append)
    assert outcome.computed == 7
    assert max(p.done for p in seen) == 7
    wanted = metric_at(Smooth(), load_distance("mse", device="cpu"), dataset().latent.values).eigenvalues
    np.testing.assert_allclose(dataset().eigenvalue, wanted, rtol=1e-5)


def test_another_sweep_at_the_same_path_is_refused_and_nothing_is_touched(here, computed):
    run()
    before = files(here / STORE)
    computed.clear()
    with pytest.raises(SpecError) as caught:
        run(job(seed=3, metric={"components": 2}))
    message = str(caught.value)
    assert "samples.seed (the default there, 3 here)" in message
    assert "metric.components (the default there, 2 here)" in message
    assert "samples.count" not in message
    assert "It was not touched" in message
    assert files(here / STORE) == before
    assert computed == []


def test_planning_reports_another_sweep_at_the_path_and_the_finished_part_of_this_one():
    run()
    assert make_plan(job()).finished == 7
    assert make_plan(job(), measure=True).seconds == 0
    with pytest.raises(SpecError, match=r"samples\.seed \(the default there, 3 here\)"):
        make_plan(job(seed=3))


def test_an_edited_factory_is_another_generator_and_does_not_go_on_with_the_old_ones_sweep(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    source = "from toy_generators import smooth\n"
    (here / "edited.py").write_text(source)
    before = make_plan(job("edited:smooth"))
    (here / "edited.py").write_text(source + "# another thought\n")
    assert make_plan(job("edited:smooth")).sweep_id != before.sweep_id


def test_a_folder_that_is_no_sweep_is_refused_and_not_touched(here):
    (here / STORE).mkdir(parents=True)
    (here / STORE / "thesis.txt").write_text("precious")
    with pytest.raises(SpecError, match="not a sweep of Pullback"):
        run()
    assert files(here / STORE) == {"thesis.txt": b"precious"}


def test_a_second_driver_is_refused_while_the_first_runs(computed):
    with driver_lock(STORE), pytest.raises(StoreError, match="drives this sweep already"):
        run()
    assert computed == []
    assert run().computed == 7


def test_going_on_with_another_shard_size_keeps_that_of_the_store(computed):
    run(pool=stopping_after(2, KeyboardInterrupt()))
    outcome = run(job(resources={"shard_size": 3, "batch": 1, "tangents": 6}))
    assert outcome.status.good == 7
    assert open_sweep(STORE).layout.shard_size == 2
    assert computed == [0, 1, 2, 3]


def test_the_size_of_the_shards_changes_neither_latents_nor_spectra():
    for size in (1, 3, 7):
        run(job(store=f"sweeps/{size}", resources={"shard_size": size, "batch": size, "tangents": 4}))
    wanted = dataset("sweeps/1")
    for size in (3, 7):
        found = dataset(f"sweeps/{size}")
        np.testing.assert_array_equal(found.latent, wanted.latent)
        np.testing.assert_allclose(found.eigenvalue, wanted.eigenvalue, rtol=1e-5)
        mean = open_sweep(f"sweeps/{size}").mean_metric()
        np.testing.assert_allclose(mean, open_sweep("sweeps/1").mean_metric(), rtol=1e-5, atol=1e-10)


def test_of_truncated_spectra_the_mean_metric_is_still_exact():
    run(job(metric={"components": 2}))
    stored = dataset()
    assert stored.eigenvalue.shape == (7, 2)
    assert stored.eigenvector.shape == (7, 2, 6)
    whole = metric_at(Smooth(), load_distance("mse", device="cpu"), stored.latent.values)
    np.testing.assert_allclose(stored.eigenvalue, whole.eigenvalues[:, :2], rtol=1e-5)
    np.testing.assert_allclose(stored.trace, whole.eigenvalues.sum(dim=1), rtol=1e-5)
    assert (stored.trace_share.values < 0.9).all()
    np.testing.assert_allclose(open_sweep(STORE).mean_metric(), whole.matrix.mean(dim=0), rtol=1e-5, atol=1e-10)


def test_quarantined_samples_are_counted_and_left_out_of_every_mean():
    seen = []
    outcome = run(job("sweep_jobs:nan_images", count=40), report=seen.append)
    latents = sample_latents(job(count=40).samples, range(40), 6)
    bad = latents[:, 1] > 1
    assert outcome.status.quarantined == seen[-1].quarantined == bad.sum() > 0
    assert outcome.status.pending == 0
    np.testing.assert_array_equal(dataset().status, np.where(bad, QUARANTINED, GOOD))
    sweep = open_sweep(STORE)
    assert sweep.reasons() == {"NOT_FINITE": bad.sum()}
    wanted = metric_at(Smooth(), load_distance("mse", device="cpu"), latents[~bad]).matrix.mean(dim=0)
    np.testing.assert_allclose(sweep.mean_metric(), wanted, rtol=1e-5, atol=1e-10)
    assert run(job("sweep_jobs:nan_images", count=40)).computed == 0


def test_a_store_in_the_home_folder_is_gone_on_with(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    spec = job(store="~/sweeps/mine")
    run(spec, pool=stopping_after(2, KeyboardInterrupt()))
    assert (here / "home" / "sweeps" / "mine").is_dir()
    assert not (here / "~").exists()
    assert run(spec).computed == 3
    assert run(spec).computed == 0


def test_a_refused_job_leaves_no_folder(here):
    with pytest.raises(SpecError):
        run(job(metric={"components": 9}))
    assert list(here.iterdir()) == []

"""The pool of Ray actors: what it computes, and what it does when workers fail."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

# Ray comes through the pool: its package sets what Ray reads when it is first imported.
from pullback.cluster.pool import RayPool, _remove_left_folders, _short_temporary_folder, local_ray, ray
from pullback.errors import SweepError
from pullback.spec import JobSpec
from pullback.store.reader import open_sweep
from pullback.store.repository import create
from pullback.sweep.latents import sample_latents
from pullback.sweep.plan import make_plan
from pullback.sweep.run import ShardFailed, run_sweep, serial_pool
from pullback.sweep.worker import ShardDone, WorkOrder

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

HERE = Path(__file__).parent
MARK = "PULLBACK_TEST_MARK"


@pytest.fixture(scope="module")
def mark_path(tmp_path_factory):
    return tmp_path_factory.mktemp("mark") / "died"


@pytest.fixture(scope="module")
def our_ray(mark_path):
    # Ray's workers inherit this process's environment as it is now.
    os.environ[MARK] = str(mark_path)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    with local_ray(cpus=2):
        yield


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)

    def make(generator: str, count: int = 8, **resources: object) -> JobSpec:
        return JobSpec.model_validate(
            {
                "name": "pool",
                "generator": generator,
                "distance": "mse",
                "samples": {"count": count, "seed": 1},
                "store": str(tmp_path / "pool"),
                "resources": {"device": "cpu", "workers": 2, "shard_size": 1, **resources},
            }
        )

    return make


def order_of(job: JobSpec) -> tuple[WorkOrder, object]:
    plan = make_plan(job)
    store = create(job.store_path, plan.layout, plan.provenance)
    order = WorkOrder(job, plan.layout, "cpu", plan.method, 1, plan.fit.tangents, 1, str(HERE), store.fork())
    return order, store


def bad_shards(job: JobSpec) -> set[int]:
    """The shards (of one sample each) whose code the fragile generators fail on."""
    codes = sample_latents(job.samples, range(job.samples.count), 6)
    return {int(index) for index in np.flatnonzero(codes[:, 0] < -1.0)}


def run_all(job: JobSpec, retries: int, workers: int = 2):
    order, _ = order_of(job)
    shards = list(range(order.layout.shards))
    return [result for result in RayPool(order, workers, retries).results(shards) if result is not None]


def test_ray_listens_on_loopback_only(our_ray):
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}


def test_actors_give_what_the_serial_pool_gives(our_ray, make_job, tmp_path):
    job = make_job("toy_generators:smooth", count=7, shard_size=2)
    plan = make_plan(job)

    class InRay:
        """The pool over the Ray that this module holds."""

        def __init__(self, order, plan):
            self.order = order

        def __enter__(self):
            return RayPool(self.order, 2, 2)

        def __exit__(self, *error):
            return None

    outcome = run_sweep(plan, InRay)
    serial = make_plan(job.model_copy(update={"store": str(tmp_path / "serial")}))
    run_sweep(serial, serial_pool)
    by_actors, in_process = open_sweep(tmp_path / "pool").dataset(), open_sweep(tmp_path / "serial").dataset()
    assert outcome.status.good == 7
    assert outcome.failed == ()
    np.testing.assert_array_equal(by_actors["latent"].values, in_process["latent"].values)
    np.testing.assert_allclose(by_actors["eigenvalue"].values, in_process["eigenvalue"].values, rtol=1e-5)


def test_a_shard_that_keeps_failing_is_given_up_and_the_others_are_done(our_ray, make_job):
    job = make_job("fragile_generators:raising", count=12)
    bad = bad_shards(job)
    assert bad, "the seed must give at least one bad code"
    results = run_all(job, retries=1)
    failed = {result.shard: result.error for result in results if isinstance(result, ShardFailed)}
    done = {result.shard for result in results if isinstance(result, ShardDone)}
    assert set(failed) == bad
    assert done == set(range(12)) - bad
    assert all("cannot draw" in error for error in failed.values())
    assert all(f"sample {shard}" in error for shard, error in failed.items())


def test_a_failing_shard_is_tried_once_and_again_as_often_as_it_may_be(our_ray, make_job, mark_path):
    job = make_job("fragile_generators:counting", count=5)
    assert bad_shards(job) == {3, 4}
    results = run_all(job, retries=2)
    assert sum(isinstance(result, ShardFailed) for result in results) == 2
    assert len(mark_path.with_name("tries").read_text().splitlines()) == 2 * 3


def test_ray_neither_restarts_actors_nor_repeats_their_tasks_by_itself(our_ray, make_job):
    order, _ = order_of(make_job("toy_generators:smooth"))
    options = RayPool(order, 1, 1)._actor_class._default_options
    assert options["max_restarts"] == 0
    assert options["max_task_retries"] == 0
    assert options["num_gpus"] == 0


def test_a_ray_of_the_callers_is_left_alone(our_ray):
    with pytest.raises(SweepError, match=r"connected to a Ray already"), local_ray(cpus=1):
        pass
    assert ray.is_initialized()


def test_a_dead_actor_is_replaced_and_its_shard_is_computed_by_another(our_ray, make_job, mark_path):
    job = make_job("fragile_generators:dying_once", count=12)
    assert bad_shards(job)
    results = run_all(job, retries=2)
    assert mark_path.exists(), "no actor died: nothing was tested"
    assert {result.shard for result in results} == set(range(12))
    assert all(isinstance(result, ShardDone) for result in results)


def test_workers_that_always_die_end_the_run_with_advice_instead_of_looping(our_ray, make_job):
    job = make_job("fragile_generators:dying", count=40)
    assert len(bad_shards(job)) >= 2
    # one replacement is borne; the bad shards of this job need more
    with pytest.raises(SweepError, match=r"keep dying[\s\S]*run the same command again"):
        run_all(job, retries=1, workers=1)


def test_a_pool_that_is_closed_after_its_ray_starts_no_other(make_job):
    job = make_job("toy_generators:smooth", count=3, workers=1)
    order, _ = order_of(job)
    if ray.is_initialized():
        ray.shutdown()
    with local_ray(cpus=1):
        results = RayPool(order, 1, 0).results([0, 1, 2])
        next(results)
    results.close()
    assert not ray.is_initialized()


def test_our_handler_of_sigterm_outlives_the_start_of_ray():
    if ray.is_initialized():
        ray.shutdown()
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with local_ray(cpus=1):
            signal.raise_signal(signal.SIGTERM)
        assert calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_folders_of_killed_drivers_are_removed_and_those_of_live_ones_kept():
    parent = _short_temporary_folder()
    dead = parent / "pullback-ray-999999999-test"
    alive = parent / f"pullback-ray-{os.getpid()}-test"
    dead.mkdir(exist_ok=True)
    alive.mkdir(exist_ok=True)
    try:
        _remove_left_folders()
        assert not dead.exists()
        assert alive.exists()
    finally:
        alive.rmdir()

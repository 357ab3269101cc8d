"""The pool of Ray actors: what it computes, and what it does when workers fail."""

import os
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from pool_runs import bad_samples, events, order_of, run_all, run_here

# Ray comes through the pool: its package sets what Ray reads when it is first imported.
from pullback.cluster.pool import RayPool, _remove_left_folders, _short_temporary_folder, kind_of, local_ray, ray
from pullback.driving.control import read_record
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.driving.sweep_state import sweep_state
from pullback.errors import DeviceError, MemoryPlanError, SweepError
from pullback.store.folder_locks import held
from pullback.store.reader import open_sweep
from pullback.store.schema import GOOD, QUARANTINED, Reason
from pullback.sweep.plan import make_plan
from pullback.sweep.tasks import Budgets, Failure
from pullback.sweep.worker import ShardDone

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def test_ray_listens_on_loopback_only(our_ray):
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}


def test_actors_give_what_the_serial_pool_gives(our_ray, make_job, tmp_path):
    job = make_job("toy_generators:smooth", count=7, shard_size=2)
    outcome, _ = run_here(job)
    serial = make_plan(job.model_copy(update={"store": str(tmp_path / "serial")}))
    run_sweep(serial, serial_pool)
    by_actors, in_process = open_sweep(tmp_path / "pool").dataset(), open_sweep(tmp_path / "serial").dataset()
    assert outcome.status.good == 7
    assert outcome.failed == ()
    ended = read_record(job.store_path)
    assert ended is not None
    assert {state: many for state, many in ended.shards.items() if many} == {"committed": 4}
    np.testing.assert_array_equal(by_actors["latent"].values, in_process["latent"].values)
    np.testing.assert_allclose(by_actors["eigenvalue"].values, in_process["eigenvalue"].values, rtol=1e-5)


def test_a_sample_that_raises_is_quarantined_alone_and_its_error_reported(our_ray, make_job):
    job = make_job("fragile_generators:raising", count=12, shard_size=4, workers=1)
    bad = bad_samples(job)
    assert bad, "the seed must give at least one bad code"
    outcome, _ = run_here(job, retries=2)
    dataset = open_sweep(job.store_path).dataset(only_good=False).load()
    assert (outcome.failed, outcome.status.pending) == ((), 0)
    assert set(np.flatnonzero(dataset.status.values == QUARANTINED)) == bad
    tries = [event["attempt"] for event in events(job) if event["event"] == "failed"]
    assert sorted(tries) == sorted([0, 1] * len({sample // 4 for sample in bad})), "and the third time sample by sample"
    assert set(dataset.reason.values[sorted(bad)]) == {Reason.RAISED}
    messages = [event["message"] for event in events(job) if event["event"] == "quarantined"]
    assert len(messages) == len(bad)
    assert all("this code is one that I cannot draw" in message for message in messages)
    assert {f"sample {sample}" for sample in bad} == {message.partition(":")[0] for message in messages}


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


def test_a_dead_actor_is_replaced_and_its_shard_is_computed_by_another(our_ray, make_job, mark_path, capfd):
    job = make_job("fragile_generators:dying_once", count=12)
    assert bad_samples(job)
    results = run_all(job, retries=2)
    assert mark_path.with_name("died-in-compute").exists(), "no actor died: nothing was tested"
    assert {result.shard for result in results} == set(range(12))
    assert all(isinstance(result, ShardDone) for result in results)
    assert "died" not in "".join(capfd.readouterr()), "Ray's own words are kept from the user"


def test_a_sample_that_kills_its_process_is_found_and_its_neighbours_are_computed(our_ray, make_job, tmp_path):
    job = make_job("fragile_generators:dying", count=4, shard_size=4, workers=1)
    bad = bad_samples(job)
    assert bad == {3}
    outcome, _ = run_here(job, retries=1, budgets=Budgets(crash=0))
    dataset = open_sweep(job.store_path).dataset(only_good=False).load()
    assert (outcome.failed, outcome.status.pending) == ((), 0)
    assert set(np.flatnonzero(dataset.reason.values == Reason.KILLED)) == bad
    clean = make_job("toy_generators:smooth", count=4, shard_size=4).model_copy(
        update={"store": str(tmp_path / "clean")}
    )
    run_sweep(make_plan(clean), serial_pool)
    wanted = open_sweep(tmp_path / "clean").dataset(only_good=False).load()
    good = dataset.status.values == GOOD
    np.testing.assert_array_equal(dataset.latent.values, wanted.latent.values)
    np.testing.assert_allclose(dataset.eigenvalue.values[good], wanted.eigenvalue.values[good], rtol=1e-5)


def test_a_constructor_that_raises_is_reported_once_and_at_once(our_ray, make_job):
    order, _ = order_of(make_job("toy_generators:smooth"))
    broken = replace(order, job=make_job("fragile_generators:no_such"))
    with pytest.raises(SweepError, match=r"no function 'no_such'[\s\S]*Every committed shard is kept") as raised:
        list(RayPool(broken, 2, 2).results(range(8), lambda: False))
    assert str(raised.value).count("no_such") == 1


def test_constructors_that_only_die_end_the_run(our_ray, make_job):
    order, _ = order_of(make_job("toy_generators:smooth"))
    broken = replace(order, job=make_job("fragile_generators:dying_at_once"))
    with pytest.raises(SweepError, match="its worker died"):
        list(RayPool(broken, 1, 2, Budgets(deaths_in_a_row=1)).results(range(8), lambda: False))


def test_a_worker_that_does_not_answer_while_it_loads_is_replaced_and_costs_no_shard(our_ray, make_job, monkeypatch):
    get, silent = ray.get, []

    def once_silent(reference, **options):
        if not silent:
            silent.append(reference)
            raise ray.exceptions.ActorUnavailableError("the network", None)
        return get(reference, **options)

    monkeypatch.setattr(ray, "get", once_silent)
    job = make_job("toy_generators:smooth", count=6, workers=1)
    outcome, _ = run_here(job)
    assert (outcome.failed, outcome.status.good) == ((), 6)
    assert [event["worker"] for event in events(job) if event["event"] == "could not start"] == ["worker-0"]


def test_a_worker_that_falls_silent_with_two_shards_ends_no_run(our_ray, make_job, monkeypatch):
    get, wait, silent, together = ray.get, ray.wait, [], []

    def at_once(references, **options):
        """Both shards of the worker come in the same moment, as both calls of a lost one fail."""
        if len(references) == 2 and not together:
            together.append(references)
            options = {"num_returns": 2, "timeout": 60}
        return wait(references, **options)

    def once_silent(reference, **options):
        if together and not silent:
            silent.append(reference)
            raise ray.exceptions.ActorUnavailableError("the network", None)
        return get(reference, **options)

    monkeypatch.setattr(ray, "wait", at_once)
    monkeypatch.setattr(ray, "get", once_silent)
    job = make_job("toy_generators:smooth", count=6, shard_size=1, workers=1)
    outcome, workers = run_here(job)
    assert len(silent) == 1
    assert (outcome.failed, outcome.status.good, workers) == ((), 6, 1)
    assert [event["event"] for event in events(job)].count("unavailable") == 1


def raised(cause):
    return ray.exceptions.RayTaskError("run", "Traceback ...", cause)


def died(message, preempted=False):
    """As Ray tells that an actor is gone."""
    protobuf = ray.core.generated.common_pb2
    context = protobuf.ActorDiedErrorContext(actor_id=b"0" * 16, class_name="Actor", error_message=message)
    if preempted:
        context.node_death_info.reason = protobuf.NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED
    return ray.exceptions.ActorDiedError(context)


OF_A_PROCESS = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file."
)
OF_A_NODE = (
    "The actor is dead because its node has died. Node Id: 0xab12, NodeIp: 10.0.0.7, the actor's node was terminated "
    "unexpectedly: health check failed due to missing too many heartbeats"
)


@pytest.mark.parametrize(
    ("error", "failure", "process_is_gone"),
    [
        (raised(SweepError("sample 3: ValueError")), Failure.ERROR, False),
        (raised(MemoryPlanError("not even one code")), Failure.MEMORY, False),
        (raised(DeviceError("CUDA error: an illegal memory access")), Failure.CRASH, True),
        (ray.exceptions.OutOfMemoryError("killed by the memory monitor"), Failure.MEMORY, True),
        (died(OF_A_PROCESS), Failure.CRASH, True),
        (died(OF_A_NODE, preempted=True), Failure.PREEMPTED, True),
        (died(OF_A_NODE), Failure.LOST, True),
        (ray.exceptions.NodeDiedError("health check"), Failure.LOST, True),
    ],
)
def test_each_of_rays_errors_is_charged_to_its_own_budget(error, failure, process_is_gone):
    assert kind_of(error) == (failure, process_is_gone)


def test_a_worker_computes_a_shard_while_it_writes_the_one_before(our_ray, make_job, mark_path):
    outcome, _ = run_here(make_job("fragile_generators:writing_once_the_next_is_computed", count=4, workers=1))
    assert (outcome.failed, outcome.status.good) == ((), 4)
    assert not mark_path.with_name(f"{mark_path.name}-waited-in-vain").exists()


def test_a_device_that_faults_ends_its_process_and_its_sample_is_left_out(our_ray, make_job):
    job = make_job("fragile_generators:faulting", count=4, workers=1)
    outcome, workers = run_here(job, retries=1, budgets=Budgets(crash=0))
    reasons = open_sweep(job.store_path).dataset(only_good=False).reason.values
    assert set(np.flatnonzero(reasons == Reason.KILLED)) == bad_samples(job)
    assert outcome.status.good == 4 - len(bad_samples(job))
    assert workers >= 1 + 2 * len(bad_samples(job)), "each fault costs its process, and one is left at the end"


def test_a_run_that_is_cancelled_stops_after_the_batch_at_hand_and_can_be_gone_on_with(our_ray, make_job):
    job = make_job("toy_generators:slow", count=40, shard_size=20, batch=1, workers=1)
    stop = threading.Event()

    def report(progress):
        if any(event["event"] == "ready" for event in events(job)):
            stop.set()

    outcome, _ = run_here(job, retries=0, report=report, wish=stop)
    assert outcome.cancelled
    assert not outcome.interrupted
    assert outcome.failed == ()
    assert outcome.status.pending > 0
    assert sweep_state(job.store_path).state == "cancelled"


def test_a_pool_that_is_closed_after_its_ray_starts_no_other(make_job):
    job = make_job("toy_generators:smooth", count=3, workers=1)
    order, _ = order_of(job)
    if ray.is_initialized():
        ray.shutdown()
    with local_ray(cpus=1):
        results = RayPool(order, 1, 0).results([0, 1, 2], lambda: False)
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
    unlocked = parent / f"pullback-ray-{os.getppid()}-test"  # as a driver of an older version, which holds no lock
    for folder in (dead, alive, unlocked):
        folder.mkdir(exist_ok=True)
    try:
        with held(alive):
            _remove_left_folders()
            assert not dead.exists()
            assert alive.exists()
            assert unlocked.exists()
        _remove_left_folders()
        assert not alive.exists(), "an earlier process had this one's number"
    finally:
        for folder in (alive, unlocked):
            shutil.rmtree(folder, ignore_errors=True)

"""Machines that are lost while a sweep runs, with and without another in their place."""

import time

import pytest
from pool_runs import assert_equals_a_clean_run, events, make_environment, run_here

from pullback.cluster.pool import ray

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
"""How soon Ray notices that a machine is gone; by default after some 15 s, in which its workers just do not answer."""


@pytest.fixture
def head(tmp_path_factory, request):
    """One machine, as far as Ray knows, which holds the driver and no worker; the parameter is its configuration."""
    from ray.cluster_utils import Cluster

    make_environment(tmp_path_factory.mktemp("mark") / "died")
    if ray.is_initialized():
        ray.shutdown()
    options = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**options, "num_cpus": 0, "_system_config": request.param})
    made.options = options
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def cluster(head):
    """Two more machines, of one worker each."""
    head.machines = [head.add_node(num_cpus=1, **head.options) for _ in range(2)]
    yield head
    for machine in list(head.worker_nodes):
        head.remove_node(machine, allow_graceful=False)


def run_and(job, *happenings):
    """Run a job; once two shards are done the first thing happens, and each of the others two seconds after the last.

    All in the driver's own thread, since Ray starts machines from no other.
    """
    left, due = list(happenings), [0.0]

    def report(progress):
        if left and progress.done >= 2 and time.monotonic() >= due[0]:
            left.pop(0)()
            due[0] = time.monotonic() + 2

    outcome, workers = run_here(job, report=report)
    assert not left, "it was over too soon: nothing was tested"
    return outcome, workers


@pytest.mark.parametrize("head", [pytest.param({}, id="noticed-late")], indirect=True)
def test_the_work_of_a_lost_machine_is_done_by_those_that_are_left(cluster, make_job):
    job = make_job("toy_generators:slow", count=16, shard_size=1)
    outcome, _ = run_and(job, lambda: cluster.remove_node(cluster.machines[0], allow_graceful=False))
    assert (outcome.status.good, outcome.failed) == (16, ())
    assert_equals_a_clean_run(job)
    computed = [each["shard"] for each in events(job) if each["event"] == "shard"]
    assert sorted(computed) == list(range(16)), "each shard's result counts once"


@pytest.mark.parametrize("head", [pytest.param(QUICK, id="noticed-soon")], indirect=True)
def test_a_machine_that_comes_in_place_of_lost_ones_gets_a_worker(cluster, make_job):
    job = make_job("toy_generators:slow", count=10, shard_size=1)

    def lose():
        for machine in cluster.machines:
            cluster.remove_node(machine, allow_graceful=False)

    outcome, workers = run_and(job, lose, lambda: cluster.add_node(num_cpus=1, **cluster.options))
    assert (outcome.status.good, outcome.failed) == (10, ())
    assert workers > 2, "the first two were lost"
    assert_equals_a_clean_run(job)

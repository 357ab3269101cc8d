"""The entrypoint of a driver on a Ray cluster: `python -m pullback.cluster.driver [JOB.yaml]`.

Without a file the job comes from the environment, as Ray's job submission hands it on. The exit code is that of
`pullback run`. The plan is made where the workers will be: a cluster's head often has no GPU.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from pullback.cluster.jobs import FOLDER_VARIABLE, JOB_VARIABLE
from pullback.cluster.pool import RayPool, own_signals, reason_of
from pullback.errors import PullbackError, SpecError, SweepError
from pullback.generators import zoo
from pullback.spec import JobSpec, load_job
from pullback.store.location import locate
from pullback.sweep.control import read_record
from pullback.sweep.plan import Plan, make_plan, usable_cores
from pullback.sweep.pools import Pool
from pullback.sweep.run import run_sweep
from pullback.sweep.worker import WorkOrder


def main() -> int:
    """Run the job of the environment, or of a file, on this cluster."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # KeyboardInterrupt, as of Ctrl-C
    torch.set_num_threads(usable_cores())  # Ray tells its processes to use one
    folder = Path(os.environ.get(FOLDER_VARIABLE, "."))
    if folder.is_dir():  # relative paths of a job mean the submitter's, where this machine has them
        os.chdir(folder)
    try:
        job = job_given()
        with connected():
            outcome = run_sweep(planned(job), cluster_pool, echo=_echo)
    except PullbackError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was committed is kept", flush=True)
        return 130
    for failure in outcome.failed:
        print(f"error: shard {failure.shard} was given up: {failure.error}", flush=True)
    print(f"error: {outcome.broken}" if outcome.broken else f"{outcome.status.as_dict()}", flush=True)
    return outcome.exit_code


def job_given() -> JobSpec:
    """The job of the file that is named, or of the environment.

    Raises:
        SpecError: there is none, or it is wrong.
        SweepError: its store is a folder that this machine does not share with the one that submitted it.
    """
    if len(sys.argv) > 1:
        return load_job(Path(sys.argv[1]), zoo())
    if JOB_VARIABLE not in os.environ:
        raise SpecError([f"a job's file, or the variable {JOB_VARIABLE}, is needed"], "pullback.cluster.driver")
    try:
        job = JobSpec.model_validate_json(os.environ[JOB_VARIABLE])
    except ValueError as error:
        raise SpecError([f"{JOB_VARIABLE} holds no job: {error}"], "pullback.cluster.driver") from None
    place = locate(job.store_path)
    if place.is_local and read_record(place) is None:  # the submitter put one there
        raise SweepError(
            f"{place} is not on a disk that the cluster's head shares with the machine that submitted the job; nothing "
            "was computed. Give the job a `store` on a disk that all of the cluster shares, or in an object store "
            "(s3://bucket/prefix), and submit it again."
        )
    return job


@contextmanager
def connected() -> Iterator[None]:
    """Be a driver of the cluster that this process belongs to, for the length of the block.

    Raises:
        SweepError: there is none.
    """
    try:
        with own_signals():
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, RayError) as error:
        raise SweepError(
            f"this process belongs to no Ray cluster that answers: {reason_of(error)}\nNothing was computed. Submit "
            "the job with `pullback submit JOB --address http://HEAD:8265`, or compute here with `pullback run JOB`."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def planned(job: JobSpec) -> Plan:
    """The plan of a job for this cluster: as many workers as the job says, else one a GPU, else one a core.

    Raises:
        SpecError: with every problem that would keep the sweep from being finished.
        SweepError: the plan could not be made.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, asked = int(resources.get("GPU", 0)), job.resources
    device = asked.device if asked.device != "auto" else "cuda" if gpus else "cpu"
    room = max(1, gpus if device == "cuda" else int(resources.get("CPU", 0)))
    workers = room if asked.workers == "auto" else asked.workers
    job = job.model_copy(update={"resources": asked.model_copy(update={"device": device})})
    if device == "cpu" or torch.cuda.is_available():
        return make_plan(job, workers_there=workers)
    print(f"planning on a node with a GPU{'' if gpus else '; there is none yet, so this waits for one'}", flush=True)
    remote: Any = ray.remote  # whose annotations know no options of this kind
    try:
        plan: Plan = ray.get(remote(num_gpus=1, num_cpus=0)(_plan_there).remote(job, workers, str(Path.cwd())))
    except RayTaskError as error:
        if isinstance(error.cause, PullbackError):
            raise error.cause from None
        raise SweepError(f"the plan could not be made: {reason_of(error)}\nNothing was computed.") from None
    except RayError as error:
        raise SweepError(
            f"the plan could not be made: {reason_of(error)}\nNothing was computed, and nothing that was committed is "
            "lost. Submit the job again."
        ) from None
    return plan


def _plan_there(job: JobSpec, workers: int, folder: str) -> Plan:
    if Path(folder).is_dir():
        os.chdir(folder)
    return make_plan(job, workers_there=workers)


@contextmanager
def cluster_pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
    """Actors on the cluster that this process is connected to."""
    yield RayPool(order, plan.workers, plan.job.resources.retries)


def _echo(line: str) -> None:
    """The journal on standard output: its file may lie on a disk that nobody sees, and log collectors read this."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

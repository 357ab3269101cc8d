"""The entry point of a driver on a Ray cluster: `python -m pullback.cluster.driver [JOB.yaml]`.

Without a file, the job comes from the environment, where Ray's job submission puts it. The exit codes are the same as
those of `pullback run`. The plan is made on a node of the workers, because a cluster's head often has no GPU.
"""

import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from pullback.cluster.pool import RayPool, reason_of
from pullback.cluster.submission import FOLDER_VARIABLE, INPUTS_VARIABLE, JOB_VARIABLE
from pullback.driving.control import read_record
from pullback.driving.pool_protocol import Pool
from pullback.driving.run import run_sweep
from pullback.errors import PullbackError, SpecError, SweepError
from pullback.generators import zoo
from pullback.signals import around_ray, end_on_signals, leave
from pullback.spec import JobSpec, load_job
from pullback.standard_streams import open_closed_streams
from pullback.store.location import locate
from pullback.sweep.inputs import changes, stored_inputs
from pullback.sweep.plan import Plan, make_plan, usable_cores
from pullback.sweep.worker import WorkOrder


def main() -> int:
    """Run the job of the environment, or of a file, on this cluster."""
    open_closed_streams()
    try:
        end_on_signals()
        torch.set_num_threads(usable_cores())  # Ray sets one thread for its processes
        folder = Path(os.environ.get(FOLDER_VARIABLE, "."))
        if folder.is_dir():  # relative paths start in the submitter's folder, if this machine has it
            os.chdir(folder)
        job = job_given()
        with connected():
            outcome = run_sweep(planned(job), cluster_pool, echo=_echo)
    except PullbackError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; what was committed is kept")
        return 130
    for failure in outcome.failed:
        say(f"error: shard {failure.shard} was given up: {failure.error}")
    say(f"error: {outcome.broken}" if outcome.broken else f"{outcome.status.as_dict()}")
    return outcome.exit_code


def job_given() -> JobSpec:
    """Load the job from the file that the command names, or from the environment.

    Raises:
        SpecError: there is no job, or it is wrong.
        SweepError: its store is a folder that this machine does not share with the submitter's.
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
    if place.is_local and read_record(place) is None:  # the submitter wrote one there
        raise SweepError(
            f"{place} is not on a disk that the cluster's head shares with the machine that submitted the job; nothing "
            "was computed. Give the job a `store` on a disk that all of the cluster shares, or in an object store "
            "(s3://bucket/prefix), and submit it again."
        )
    return job


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster of this process within the block.

    Raises:
        SweepError: no cluster answers.
    """
    try:
        # Ray puts the working directory first on its workers' path; see `pool.local_ray`
        with tempfile.TemporaryDirectory() as empty, around_ray(), chdir(empty):
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
    """Plan a job for this cluster: with the workers that the job names, else one for each GPU, else one for each core.

    Raises:
        SpecError: with every problem that would keep the sweep from being finished.
        SweepError: the plan could not be made.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, asked = int(resources.get("GPU", 0)), job.resources
    device = asked.device if asked.device != "auto" else "cuda" if gpus else "cpu"
    if ":" in device:
        raise SpecError([f"resources.device: {device} names a GPU of one machine; on a cluster use 'cuda'"], job.name)
    room = max(1, gpus if device == "cuda" else int(resources.get("CPU", 0)))
    workers = room if asked.workers == "auto" else asked.workers
    job = job.model_copy(update={"resources": asked.model_copy(update={"device": device})})
    if device == "cpu" or torch.cuda.is_available():
        return _as_submitted(make_plan(job, workers_there=workers))
    say(f"planning on a node with a GPU{'' if gpus else '; there is none yet, so this waits for one'}")
    remote: Any = ray.remote  # its annotations lack these options
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
    return _as_submitted(plan)


def _as_submitted(plan: Plan) -> Plan:
    """Return the plan if its inputs are those of the submitter.

    Raises:
        SweepError: names the files, tensors or attributes that differ between the two machines.
    """
    if not (recorded := os.environ.get(INPUTS_VARIABLE)):
        return plan
    if changed := changes(stored_inputs(json.loads(recorded)), plan.inputs, of_globals=False):
        raise SweepError(
            f"{'; '.join(changed)} on {socket.gethostname()} is not what the job was submitted with; nothing was "
            "computed. Make the files on the cluster equal to those of the machine that submits, and submit again"
        )
    return plan


def _plan_there(job: JobSpec, workers: int, folder: str) -> Plan:
    if Path(folder).is_dir():
        os.chdir(folder)
    return make_plan(job, workers_there=workers)


@contextmanager
def cluster_pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
    """Actors on the cluster that this process is connected to."""
    yield RayPool(order, plan.workers, plan.job.resources.retries)


def say(text: str) -> None:
    """Print a line. After an error (a full disk, a closed pipe) lines are discarded, and the sweep continues."""
    try:
        print(text, flush=True)
    except ValueError:  # closed
        return
    except OSError:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())  # otherwise Python flushes again at exit, and exits with 120
            os.close(nowhere)


def _echo(line: str) -> None:
    """Print the journal to standard output as well: log collectors read that, and the file may be on another disk."""
    say(line)


if __name__ == "__main__":
    leave(main())

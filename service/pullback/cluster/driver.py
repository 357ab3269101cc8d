"""The entrypoint of a driver on a Ray cluster: `python -m pullback.cluster.driver [JOB.yaml]`.

Without a file the job comes from the environment, as Ray's job submission hands it on. The exit code is that of
`pullback run`.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import ray

from pullback.cluster.jobs import FOLDER_VARIABLE, JOB_VARIABLE
from pullback.cluster.pool import RayPool
from pullback.errors import PullbackError, SpecError
from pullback.generators import zoo
from pullback.spec import JobSpec, load_job
from pullback.sweep.plan import Plan, make_plan
from pullback.sweep.run import Outcome, Pool, Progress, run_sweep
from pullback.sweep.worker import WorkOrder


@contextmanager
def cluster_pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
    """Actors on the cluster that this process belongs to: as many as the job says, else one a GPU, else one a core."""
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        here = int(resources.get("GPU", 0) if plan.device == "cuda" else resources.get("CPU", 1))
        asked = plan.job.resources.workers
        workers = max(1, here if asked == "auto" else asked)
        yield RayPool(order, min(workers, plan.layout.shards), plan.job.resources.retries)
    finally:
        ray.shutdown()


def exit_code(outcome: Outcome) -> int:
    """0 done, 4 done with quarantined samples, 1 failed, 130 interrupted or cancelled."""
    if outcome.broken or outcome.failed:
        return 1
    if outcome.interrupted or outcome.cancelled:
        return 130
    return 1 if outcome.status.pending else 4 if outcome.status.quarantined else 0


def main() -> int:
    """Run the job of the environment on this cluster."""
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(os.environ.get(FOLDER_VARIABLE, "."))
    if folder.is_dir():  # relative paths of a job mean the submitter's, where this machine has them
        os.chdir(folder)
    try:
        outcome = run_sweep(make_plan(_job()), cluster_pool, _report)
    except PullbackError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was committed is kept", flush=True)
        return 130
    print(outcome.broken or f"{outcome.status.as_dict()}", flush=True)
    return exit_code(outcome)


def _job() -> JobSpec:
    if len(sys.argv) > 1:
        return load_job(Path(sys.argv[1]), zoo())
    if JOB_VARIABLE not in os.environ:
        raise SpecError([f"a job's file, or the variable {JOB_VARIABLE}, is needed"], "pullback.cluster.driver")
    return JobSpec.model_validate_json(os.environ[JOB_VARIABLE])


_reported = -1


def _report(progress: Progress) -> None:
    global _reported
    tenth = 10 * progress.done // max(1, progress.planned)
    if tenth != _reported:
        _reported = tenth
        print(f"{progress.done} of {progress.planned} samples, {progress.quarantined} quarantined", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

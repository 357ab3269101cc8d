"""Sweeps as jobs of a Ray cluster: submitting, asking and stopping, through Ray's own job submission.

The entrypoint is fixed (`python -m pullback.cluster.driver`), so a cluster runs nothing that a job could name but its
generator and distance; the job travels as a variable of its environment. The submission's id is made of the sweep's:
the same job submitted twice is one driver.

What Ray says of a job is a hint only: it calls a driver that was killed SUCCEEDED. The store is the truth.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pullback.errors import SweepError
from pullback.spec import JobSpec

ENTRYPOINT = "python -m pullback.cluster.driver"
JOB_VARIABLE = "PULLBACK_JOB"
FOLDER_VARIABLE = "PULLBACK_FOLDER"
_OVER = {"STOPPED", "SUCCEEDED", "FAILED"}


def submission_of(sweep_id: str) -> str:
    """The id under which a sweep's driver is submitted."""
    return f"pullback-{sweep_id}"


def submit_to(address: str, job: JobSpec, sweep_id: str) -> bool:
    """Have a cluster drive a sweep, unless it does already.

    Args:
        address: of the cluster's dashboard, such as http://head:8265.
        job: with a store that the cluster reaches: in an object store, or on a disk that it shares.
        sweep_id: the sweep's identity.

    Returns:
        Whether a driver was started; False where one is at work.

    Raises:
        SweepError: the cluster does not answer, or refuses.
    """
    with _cluster(address) as client:
        submission = submission_of(sweep_id)
        status = _status(client, submission)
        if status is not None and status not in _OVER:
            return False
        if status is not None:
            client.delete_job(submission)
        client.submit_job(
            entrypoint=ENTRYPOINT,
            submission_id=submission,
            runtime_env={
                "env_vars": {
                    JOB_VARIABLE: job.model_dump_json(exclude_none=True),
                    FOLDER_VARIABLE: str(Path.cwd()),
                    "PYTHONUNBUFFERED": "1",
                }
            },
            metadata={"sweep": job.name},
        )
        return True


def status_at(address: str, sweep_id: str) -> str | None:
    """What Ray says of a sweep's driver (PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED); None where it knows none.

    Raises:
        SweepError: the cluster does not answer.
    """
    with _cluster(address) as client:
        return _status(client, submission_of(sweep_id))


def stop_at(address: str, sweep_id: str) -> bool:
    """Ask a cluster to stop a sweep's driver, by SIGTERM: what is done stays. Returns whether there was one.

    Raises:
        SweepError: the cluster does not answer.
    """
    with _cluster(address) as client:
        status = _status(client, submission_of(sweep_id))
        return status is not None and status not in _OVER and bool(client.stop_job(submission_of(sweep_id)))


def log_at(address: str, sweep_id: str) -> str:
    """What a sweep's driver has printed so far.

    Raises:
        SweepError: the cluster does not answer, or knows no such driver.
    """
    with _cluster(address) as client:
        return str(client.get_job_logs(submission_of(sweep_id)))


def _status(client: Any, submission: str) -> str | None:
    known = {job.submission_id: job for job in client.list_jobs()}
    return None if submission not in known else str(known[submission].status.value)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    try:
        from ray.job_submission import JobSubmissionClient

        yield JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SweepError(
            f"the cluster at {address} does not answer, or refuses: {(lines or [type(error).__name__])[-1]}\n"
            "Nothing was started or stopped; what is in a store is readable without a cluster. Check the address of "
            "the cluster's dashboard (http://HEAD:8265), and that it runs."
        ) from error

"""Jobs on a Ray cluster: submit, follow and stop them through Ray's own job submission.

The entrypoint is always a module of this package, so the only user code that a job can run on a cluster is its
generator and distance. The job is passed in the driver's environment. The id of a submission consists of the job's
identity and the number of earlier submissions, so Ray accepts one of several equal jobs that are submitted at once.

Ray's report about a job is only a hint: it says SUCCEEDED for a driver that was killed. The store decides first, then
the driver's own record if it is on a disk of this machine. Ray is asked only if neither decides.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pullback.driving.control import forget_record, read_record, record_submission, request_cancel, write_record
from pullback.driving.last_words import last_words
from pullback.driving.record import DriverRecord
from pullback.driving.session import SUBMISSION_VARIABLE
from pullback.driving.sweep_state import HOW_TO_RESUME, SnapshotReader, SweepState, read_snapshot, sweep_state
from pullback.errors import SweepError
from pullback.store.location import Location

if TYPE_CHECKING:
    from pullback.sweep.plan import SweepIdentity

# Ray starts the entrypoint through a shell, and lists the shell's children before it stops them. A child that starts
# after that would be left running, so the shell becomes the driver (`exec`).
_ENTRYPOINT = "exec python -P -m "
ENTRYPOINT = f"{_ENTRYPOINT}pullback.cluster.driver"
"""Runs the driver of a sweep."""
RESULTS_ENTRYPOINT = f"{_ENTRYPOINT}pullback.jobs.driver"
"""Runs the driver of an analysis or an application."""
JOB_VARIABLE = "PULLBACK_JOB"
FOLDER_VARIABLE = "PULLBACK_FOLDER"
INPUTS_VARIABLE = "PULLBACK_INPUTS"
"""The inputs of the submitter's generator and distance; the inputs on the cluster must equal them."""
_VARIABLE_BYTES = 100_000
"""Linux allows 128 KiB for a variable of the environment."""
_STOP_SECONDS = 60
"""Seconds in which a driver must commit and end before Ray kills it; Ray's own default is 3."""
_ANSWER_SECONDS = 30.0
"""Seconds to wait for an answer of a dashboard."""
_SOON = 10.0
"""Seconds until a cluster lists a new submission, and until a living driver has written its record."""
_EXIT_CODES = (1, 2)
"""The exit codes of a driver that failed."""
_OVER = {"STOPPED", "SUCCEEDED", "FAILED"}
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_STATE_SECONDS = 5.0
"""Seconds to wait for an answer to a question that is asked again and again."""
_SILENCE_SECONDS = 15.0
"""Seconds to wait before asking an unresponsive cluster again."""
_connecting, _asking = threading.Lock(), threading.Lock()
_silent: dict[str, tuple[float, SweepError]] = {}
"""For each unresponsive cluster, the time until which it is not asked, and the error of the last question."""


@dataclass(frozen=True)
class ClusterJob:
    """All that a cluster needs in order to run a job.

    Attributes:
        name: the job's name, for Ray's dashboard.
        job_id: the job's identity, hexadecimal; equal jobs have the same.
        place: the job's address, which the cluster must reach: in an object store, or on a disk that it shares.
        planned: samples or results of the whole job.
        folder: the submitter's working directory, where relative paths of the job start.
        content: the job as JSON.
        entrypoint: runs the driver.
        variables: further variables of the driver's environment.
        gpus: GPUs that the driver itself computes with.
    """

    name: str
    job_id: str
    place: Location
    planned: int
    folder: str
    content: str
    entrypoint: str = ENTRYPOINT
    variables: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0

    @classmethod
    def of_sweep(cls, sweep: "SweepIdentity") -> "ClusterJob":
        """Make the job of a sweep."""
        place = sweep.place
        # On the cluster, a relative path could mean another folder, because the submitter's may be missing there.
        job = sweep.job.model_copy(update={"store": str(place.path.absolute() if place.is_local else place)})
        content, inputs = job.model_dump_json(exclude_none=True), {INPUTS_VARIABLE: _inputs(sweep)}
        return cls(job.name, sweep.sweep_id, place, job.samples.count, sweep.folder, content, variables=inputs)


def submit_to(address: str, job: "ClusterJob | SweepIdentity") -> bool:
    """Submit a job to a cluster, unless the cluster already runs it.

    Args:
        address: the cluster's dashboard, such as http://head:8265.
        job: the job.

    Returns:
        Whether a driver was started; False if one runs already.

    Raises:
        SweepError: the cluster does not answer, or refuses.
    """
    job = job if isinstance(job, ClusterJob) else ClusterJob.of_sweep(job)
    place = job.place
    earlier = read_record(place)
    with _cluster(address) as client:
        numbers = _attempts(client, job.job_id)
        last = max(numbers, default=0)
        over = earlier is not None and earlier.submission == _submission(job.job_id, last) and _is_over(earlier)
        begins = last == 0 or over or str(numbers[last].status.value) in _OVER
        submission = _submission(job.job_id, last + begins)
        submitted = DriverRecord(
            "submitted",
            planned=job.planned,
            updated=time.time(),
            submission=submission,
            address=address,
        )
        # The record may be this process's own, from `driving.background`, and may have been cancelled since.
        background = earlier is not None and earlier.pid == os.getpid()
        if not begins:
            if earlier is None or background or not (earlier.submission or earlier.alive):
                write_record(place, submitted)  # another machine submitted it
            return False
        # The record is written first, because the driver replaces it by its own.
        (write_record if background else record_submission)(place, submitted)
        try:
            client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=submission,
                runtime_env={
                    "env_vars": {
                        JOB_VARIABLE: job.content,
                        FOLDER_VARIABLE: job.folder,
                        SUBMISSION_VARIABLE: f"{submission}@{address}",
                        "PYTHONUNBUFFERED": "1",
                        "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
                        **job.variables,
                    }
                },
                metadata={"sweep": job.name},
                **({"entrypoint_num_gpus": job.gpus} if job.gpus else {}),
            )
        except Exception:
            if last + 1 in _attempts(client, job.job_id):
                return False  # another submitter was faster
            if earlier is None:
                forget_record(place)
            else:
                write_record(place, earlier)
            raise
        return True


def _inputs(sweep: "SweepIdentity") -> str:
    """The sweep's inputs as JSON; without the fingerprint if the network has too many tensors for a variable."""
    recorded = {"weights": dict(sweep.inputs.weights), "inputs": sweep.inputs.recorded()}
    text = json.dumps(recorded)
    if len(text) > _VARIABLE_BYTES:
        recorded["inputs"]["built"] = {}
        text = json.dumps(recorded)
    return text


def sweep_state_with_cluster(store: Location | Path | str, reader: SnapshotReader = read_snapshot) -> SweepState:
    """Return the state of a job like `sweep_state`, and ask its cluster if nothing else decides.

    Raises:
        StoreError: nothing is known of a sweep there, or it cannot be read.
    """
    found = sweep_state(store, reader)
    driver = found.driver
    if driver is None or not _is_open(found, driver):
        return found
    try:
        status, message = _asked(driver)
    except SweepError as error:
        if driver.life != "submitted":
            return found
        why = f"whether a driver is running is not known: {str(error).splitlines()[0]}"
        message = f"{why}\nIf that cluster is gone: {HOW_TO_RESUME[0].lower()}{HOW_TO_RESUME[1:]}"
        return replace(found, state="stopped", message=message, unsure=True)
    if status == "PENDING" or (status == "" and time.time() - driver.updated < _SOON):
        return replace(found, state="submitted", message="") if driver.life == "submitted" else found
    if status == "RUNNING":
        return found if driver.alive else replace(found, state="running" if found.snapshot else "starting", message="")
    found = sweep_state(store, reader)  # its driver may have finished in the meantime
    driver = found.driver or driver
    if not _is_open(found, driver):
        return found
    where = f"its driver on {driver.address} is over"
    if status == "STOPPED":
        return replace(found, state="cancelled", message=f"it was cancelled. {HOW_TO_RESUME}")
    if driver.life != "submitted":
        return replace(found, state="stopped", message=f"{where}: killed, or its machine is gone. {HOW_TO_RESUME}")
    if status == "FAILED":
        return replace(found, state="failed", message=message or f"{where}; see pullback logs. {HOW_TO_RESUME}")
    known = "that cluster knows nothing of it" if status == "" else "the sweep is not done"
    return replace(found, state="stopped", message=f"{where}, or was killed; {known}. {HOW_TO_RESUME}")


def cancel(store: Location | Path | str) -> bool:
    """Ask a job's driver to stop, wherever it runs. Finished results are kept.

    A driver that sees this machine's disk stops after its current batch. Any other driver, or one that has not begun,
    gets a SIGTERM through its cluster.

    Returns:
        Whether there was a driver to ask.

    Raises:
        SweepError: its cluster does not answer.
    """
    record = read_record(store)
    if request_cancel(store):
        return True
    if record is None or not record.submission or _is_over(record):
        return False
    with _cluster(record.address) as client:
        attempts = _attempts(client, _job_of(record.submission))
        last = max(attempts, default=0)
        if last == 0 or str(attempts[last].status.value) in _OVER:
            return False
        return bool(client.stop_job(attempts[last].submission_id))


def log_of(record: DriverRecord) -> str:
    """Return what a job's driver on a cluster has printed so far; empty if the cluster does not know it.

    Raises:
        SweepError: the cluster does not answer.
    """
    with _cluster(record.address) as client:
        attempts = _attempts(client, _job_of(record.submission))
        return str(client.get_job_logs(attempts[max(attempts)].submission_id)) if attempts else ""


def _is_over(record: DriverRecord) -> bool:
    """Whether a driver is known to have ended. Ray reports it a second or two later."""
    if record.life in ("starting", "running"):
        return record.is_here and not record.alive
    return record.life != "submitted"


def _is_open(found: SweepState, driver: DriverRecord) -> bool:
    """Whether the cluster may know more about a job than its store and its driver's record."""
    if not driver.submission or found.state not in ("submitted", "starting", "running", "cancelling", "stopped"):
        return False
    return not (driver.alive and (driver.is_here or time.time() - driver.updated < _SOON))


def _asked(driver: DriverRecord) -> tuple[str, str]:
    """Ask the cluster of a record; see `_last_said`. A cluster that was silent a moment ago is not asked again.

    Raises:
        SweepError: the cluster does not answer, or did not lately.
    """
    with _asking:  # if several threads ask a silent cluster, one of them waits for it
        until, error = _silent.get(driver.address, (0.0, SweepError()))
        if time.monotonic() < until:
            raise error
        try:
            with _cluster(driver.address, _STATE_SECONDS) as client:
                return _last_said(client, driver.submission)
        except SweepError as error:
            _silent[driver.address] = time.monotonic() + _SILENCE_SECONDS, error
            raise


def _last_said(client: Any, submission: str) -> tuple[str, str]:
    """Ray's status and the last words of a job's latest driver; empty if it is older than the submission."""
    attempts = _attempts(client, _job_of(submission))
    last = max(attempts, default=0)
    if last < _number(submission):
        return "", ""
    job = attempts[last]
    status = str(job.status.value)
    if status != "FAILED":
        return status, ""
    if job.driver_exit_code not in (None, *_EXIT_CODES):  # a signal killed it
        return "SUCCEEDED", ""
    _, _, printed = str(client.get_job_logs(job.submission_id)).partition(_ENTRYPOINT)
    _, _, printed = printed.partition(".driver")  # Ray's own lines end with the entrypoint
    return status, last_words(printed) or str(job.message or "")


def _attempts(client: Any, job_id: str) -> dict[int, Any]:
    """The submissions of a job that a cluster knows, by their number."""
    known = [job for job in client.list_jobs() if job.submission_id]
    return {_number(job.submission_id): job for job in known if _job_of(job.submission_id) == job_id}


def _submission(job_id: str, number: int) -> str:
    return f"pullback-{job_id}-{number}"


def _job_of(submission: str) -> str:
    found = re.fullmatch(r"pullback-([0-9a-f]+)-\d+", submission)
    return found[1] if found else ""


def _number(submission: str) -> int:
    last = submission.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


@contextmanager
def _cluster(address: str, seconds: float = _ANSWER_SECONDS) -> Iterator[Any]:
    """Yield a client of the cluster. Every error of the client is raised as a SweepError."""
    from ray.exceptions import RayError

    try:
        yield _client(address, seconds)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if type(error).__name__ == "AuthenticationError":
            reason = (lines or ["no token"])[0].partition(". ")[0]
            raise SweepError(
                f"the cluster at {address} lets in only those who have its token: {reason}\n"
                "Nothing was started or stopped. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the token of the "
                "cluster (or RAY_AUTH_TOKEN_PATH to a file of it), then run the same command again."
            ) from None
        raise SweepError(
            f"the cluster at {address} does not answer, or refuses: {(lines or [type(error).__name__])[-1][:500]}\n"
            "Nothing was started or stopped; what is in a store is readable without a cluster. Check the address of "
            "the cluster's dashboard (http://HEAD:8265), and that it runs."
        ) from None


def _client(address: str, seconds: float) -> Any:
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own client with a time limit, which sends the cluster's token to the cluster alone.

        Ray's client waits forever, sends the token to a proxy that the environment names (even for loopback), and
        replaces the token by a password of ~/.netrc.
        """

        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            direct = {"proxies": dict.fromkeys(("http", "https", "all")), "auth": _unchanged, "allow_redirects": False}
            answer = super()._do_request(*arguments, **{"timeout": seconds, **direct, **options})
            if answer.is_redirect:  # following it would take the environment's proxy after all
                raise RuntimeError(f"it redirects to {answer.headers['Location']}; give that address")
            return answer

    with _connecting:  # Ray prefers these variables to its arguments
        hidden = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
        try:
            return Client(address)
        finally:
            os.environ.update(hidden)


def _unchanged(request: Any) -> Any:
    """Leave a request's token as it is. Without an authentication, `requests` reads ~/.netrc."""
    return request

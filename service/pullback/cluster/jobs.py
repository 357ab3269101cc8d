"""Sweeps as jobs of a Ray cluster: submitting, asking and stopping, through Ray's own job submission.

The entrypoint is fixed (the module `driver`), so a cluster runs nothing that a job could name but its
generator and distance; the job travels as a variable of its environment. A submission's id is made of the sweep's and
of how many there were before: of equal jobs submitted at the same moment, Ray takes one.

What Ray says of a job is a hint only: it calls a driver that was killed SUCCEEDED. The store is the truth, then the
driver's own record where that is on a disk which this machine sees; Ray is asked for the rest.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pullback.errors import SweepError
from pullback.store.location import Location
from pullback.sweep import control
from pullback.sweep.control import (
    GO_ON,
    SUBMISSION_VARIABLE,
    DriverRecord,
    SweepState,
    announce,
    forget_record,
    read_record,
    write_record,
)

if TYPE_CHECKING:
    from pullback.sweep.plan import Identified

# Ray runs it through a shell, and lists the shell's children before it stops them: one that is about to start its
# child would leave it behind, so it becomes the driver.
ENTRYPOINT = "exec python -m pullback.cluster.driver"
JOB_VARIABLE = "PULLBACK_JOB"
FOLDER_VARIABLE = "PULLBACK_FOLDER"
_STOP_SECONDS = 60
"""What a driver has to commit and to end, before Ray kills it; Ray's own default is 3."""
_ANSWER_SECONDS = 30.0
"""A dashboard that takes longer does not answer."""
_SOON = 10.0
"""Seconds in which a cluster knows what was submitted to it, and in which a driver that lives has told so."""
_LAST_WORDS = 2000
_EXIT_CODES = (1, 2)
"""Those of a driver that failed."""
_OVER = {"STOPPED", "SUCCEEDED", "FAILED"}
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_STATE_SECONDS = 5.0
"""As `_ANSWER_SECONDS`, of a question that is asked again and again."""
_SILENCE_SECONDS = 15.0
"""For so long a cluster that did not answer is not asked again how a sweep is."""
_connecting, _asking = threading.Lock(), threading.Lock()
_silent: dict[str, tuple[float, SweepError]] = {}
"""Until when a cluster is taken to be silent, and what came of asking it."""


def submit_to(address: str, sweep: "Identified") -> bool:
    """Have a cluster drive a sweep, unless it does already.

    Args:
        address: of the cluster's dashboard, such as http://head:8265.
        sweep: its job's store must be one that the cluster reaches: in an object store, or on a disk that it shares.

    Returns:
        Whether a driver was started; False where one is at work.

    Raises:
        SweepError: the cluster does not answer, or refuses.
    """
    place = sweep.place
    # a relative path would mean another folder there, should the submitter's be missing
    job = sweep.job.model_copy(update={"store": str(place.path.absolute() if place.is_local else place)})
    earlier = read_record(place)
    with _cluster(address) as client:
        numbers = _attempts(client, sweep.sweep_id)
        last = max(numbers, default=0)
        over = earlier is not None and earlier.submission == _submission(sweep.sweep_id, last) and _is_over(earlier)
        begins = last == 0 or over or str(numbers[last].status.value) in _OVER
        submission = _submission(sweep.sweep_id, last + begins)
        submitted = DriverRecord(
            "submitted",
            planned=job.samples.count,
            updated=time.time(),
            submission=submission,
            address=address,
        )
        # Whether this process was announced itself (`sweep.background`), and may have been cancelled since.
        background = earlier is not None and earlier.pid == os.getpid()
        if not begins:
            if earlier is None or background or not (earlier.submission or earlier.alive):
                write_record(place, submitted)  # it was begun from another machine
            return False
        # before there is a driver, whose own record takes its place
        (write_record if background else announce)(place, submitted)
        try:
            client.submit_job(
                entrypoint=ENTRYPOINT,
                submission_id=submission,
                runtime_env={
                    "env_vars": {
                        JOB_VARIABLE: job.model_dump_json(exclude_none=True),
                        FOLDER_VARIABLE: str(Path.cwd()),
                        SUBMISSION_VARIABLE: f"{submission}@{address}",
                        "PYTHONUNBUFFERED": "1",
                        "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
                    }
                },
                metadata={"sweep": job.name},
            )
        except Exception:
            if last + 1 in _attempts(client, sweep.sweep_id):
                return False  # somebody else was faster
            if earlier is None:
                forget_record(place)
            else:
                write_record(place, earlier)
            raise
        return True


def state_of(store: Location | Path | str, look: control.Look = control.see) -> SweepState:
    """As `control.state_of`, asking the cluster of a sweep that was submitted to one where nothing else can tell.

    Raises:
        StoreError: nothing is known of a sweep there, or it cannot be read.
    """
    found = control.state_of(store, look)
    driver = found.driver
    if driver is None or not _is_open(found, driver):
        return found
    try:
        said, message = _asked(driver)
    except SweepError as error:
        if driver.life != "submitted":
            return found
        why = f"whether anybody is at work on it cannot be told: {str(error).splitlines()[0]}"
        message = f"{why}\nIf that cluster is gone: {GO_ON[0].lower()}{GO_ON[1:]}"
        return replace(found, state="stopped", message=message, unsure=True)
    if said == "PENDING" or (said == "" and time.time() - driver.updated < _SOON):
        return replace(found, state="submitted", message="") if driver.life == "submitted" else found
    if said == "RUNNING":
        return found if driver.alive else replace(found, state="running" if found.snapshot else "starting", message="")
    found = control.state_of(store, look)  # its driver may have ended well since
    driver = found.driver or driver
    if not _is_open(found, driver):
        return found
    where = f"its driver on {driver.address} is over"
    if said == "STOPPED":
        return replace(found, state="cancelled", message=f"it was cancelled. {GO_ON}")
    if driver.life != "submitted":
        return replace(found, state="stopped", message=f"{where}: killed, or its machine is gone. {GO_ON}")
    if said == "FAILED":
        return replace(found, state="failed", message=message or f"{where}; see pullback logs. {GO_ON}")
    known = "that cluster knows nothing of it" if said == "" else "the sweep is not done"
    return replace(found, state="stopped", message=f"{where}, or was killed; {known}. {GO_ON}")


def cancel(store: Location | Path | str) -> bool:
    """Ask a sweep's driver to stop, wherever it is: after the batch at hand where it sees this machine's disk.

    Elsewhere, or before it began, through its cluster, by SIGTERM; what is done stays all the same.

    Returns:
        Whether there is a driver to ask.

    Raises:
        SweepError: its cluster does not answer.
    """
    record = read_record(store)
    if control.request_cancel(store):
        return True
    if record is None or not record.submission or _is_over(record):
        return False
    with _cluster(record.address) as client:
        attempts = _attempts(client, _sweep_of(record.submission))
        last = max(attempts, default=0)
        if last == 0 or str(attempts[last].status.value) in _OVER:
            return False
        return bool(client.stop_job(attempts[last].submission_id))


def log_of(record: DriverRecord) -> str:
    """What a sweep's driver on a cluster has printed so far; empty where that cluster knows none.

    Raises:
        SweepError: the cluster does not answer.
    """
    with _cluster(record.address) as client:
        attempts = _attempts(client, _sweep_of(record.submission))
        return str(client.get_job_logs(attempts[max(attempts)].submission_id)) if attempts else ""


def _is_over(record: DriverRecord) -> bool:
    """Whether a driver is known to be at its end; Ray says so a second or two later."""
    if record.life in ("starting", "running"):
        return record.is_here and not record.alive
    return record.life != "submitted"


def _is_open(found: SweepState, driver: DriverRecord) -> bool:
    """Whether the cluster may know more of a sweep than its store and its driver's record."""
    if not driver.submission or found.state not in ("submitted", "starting", "running", "cancelling", "stopped"):
        return False
    return not (driver.alive and (driver.is_here or time.time() - driver.updated < _SOON))


def _asked(driver: DriverRecord) -> tuple[str, str]:
    """As `_last_said`, of a record's cluster. One that was silent a moment ago is not asked: whoever asks has to wait.

    Raises:
        SweepError: the cluster does not answer, or did not lately.
    """
    with _asking:  # of those who ask a silent one at once, one waits for it
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
    """What Ray says of the latest driver of a sweep, no earlier one than the submission: its status and last words."""
    attempts = _attempts(client, _sweep_of(submission))
    last = max(attempts, default=0)
    if last < _number(submission):
        return "", ""
    job = attempts[last]
    said = str(job.status.value)
    if said != "FAILED":
        return said, ""
    if job.driver_exit_code not in (None, *_EXIT_CODES):  # a signal's: it was killed
        return "SUCCEEDED", ""
    printed = str(client.get_job_logs(job.submission_id)).partition(ENTRYPOINT)[2]
    return said, printed.rpartition("\nerror: ")[2].strip()[-_LAST_WORDS:] or str(job.message or "")


def _attempts(client: Any, sweep_id: str) -> dict[int, Any]:
    """The drivers of a sweep that a cluster knows, by their number."""
    known = [job for job in client.list_jobs() if job.submission_id]
    return {_number(job.submission_id): job for job in known if _sweep_of(job.submission_id) == sweep_id}


def _submission(sweep_id: str, number: int) -> str:
    return f"pullback-{sweep_id}-{number}"


def _sweep_of(submission: str) -> str:
    found = re.fullmatch(r"pullback-([0-9a-f]+)-\d+", submission)
    return found[1] if found else ""


def _number(submission: str) -> int:
    last = submission.rpartition("-")[2]
    return int(last) if last.isdigit() else 0


@contextmanager
def _cluster(address: str, seconds: float = _ANSWER_SECONDS) -> Iterator[Any]:
    """A client of the cluster's; whatever goes wrong with it is one SweepError."""
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
        """Ray's own waits for an answer for ever."""

        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": seconds, **options})

    with _connecting:  # Ray prefers these variables to what it is told
        hidden = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
        try:
            return Client(address)
        finally:
            os.environ.update(hidden)

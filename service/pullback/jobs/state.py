"""The state of a job of any kind: its progress, and which driver is running."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pullback.cluster import submission
from pullback.driving.control import read_record
from pullback.driving.sidecar_files import sidecar_path
from pullback.driving.sweep_state import SnapshotReader, SnapshotSummary, SweepState, read_snapshot
from pullback.errors import PullbackError, StoreError
from pullback.jobs.address import base_of
from pullback.spec import AnalysisJob, ApplicationJob, JobSpec, load_any_job
from pullback.store.location import Location, locate
from pullback.store.opening import is_free
from pullback.store.reader import SweepStatus

if TYPE_CHECKING:
    from pullback.jobs.plan import ResultPlan


@dataclass(frozen=True)
class JobTarget:
    """A job that a user names.

    Attributes:
        place: the job's address; for a sweep, its store.
        job: the analysis or application, if the user named its YAML file.
    """

    place: Location
    job: AnalysisJob | ApplicationJob | None = None


def target_of(target: Path | str) -> JobTarget:
    """Return the job that a user names by its YAML file or its address.

    Raises:
        SpecError: the job is invalid.
        StoreError: the store holds the sweep of a different job, or the sweep does not exist.
    """
    if not Path(target).is_file():
        return JobTarget(locate(target))
    from pullback.generators import zoo
    from pullback.jobs.plan import plan_results
    from pullback.sweep.identity import refuse_another

    job = load_any_job(Path(target), zoo())
    if not isinstance(job, JobSpec):
        return JobTarget(plan_results(job, source=str(target)).place, job)
    refuse_another(job)
    return JobTarget(locate(job.store or job.store_path))


def state_of(place: JobTarget | Location | Path | str, reader: SnapshotReader = read_snapshot) -> SweepState:
    """Return a job's state; `planned`, `good` and `pending` count a sweep's samples, or the results of other jobs.

    Args:
        place: the job, or its address.
        reader: reads the last commit of a sweep.

    Raises:
        StoreError: there is no trace of a job at this address, or its store cannot be read.
    """
    target = place if isinstance(place, JobTarget) else JobTarget(locate(place))

    def read(store: Location | Path | str) -> SnapshotSummary:
        planned = planned_at(target)
        return reader(store) if planned is None else _summary(planned)

    found = submission.sweep_state_with_cluster(target.place, read)
    # The driver may save its results and end after its record was read. Then read again: its last record is newer.
    while found.state == "stopped" and base_of(target.place) and read_record(target.place) != found.driver:
        found = submission.sweep_state_with_cluster(target.place, read)
    return found


def planned_at(target: JobTarget | Location | Path | str) -> "ResultPlan | None":
    """Return the plan of an analysis or application, at the snapshot that its last driver read.

    Returns:
        The plan; None if the target is a sweep, or its job is unknown at this address.

    Raises:
        StoreError: the sweep cannot be read, or this version cannot plan the job.
    """
    target = target if isinstance(target, JobTarget) else JobTarget(locate(target))
    base = base_of(target.place)
    if base is None or not is_free(target.place):
        return None
    from pullback.jobs.plan import plan_results

    try:
        job = target.job or _stored_job(target.place)
        if job is None:
            return None
        record = read_record(target.place)
        if record is not None and record.snapshot:
            with suppress(StoreError):  # the snapshot may have expired
                return plan_results(job, base=base, snapshot=record.snapshot)
        return plan_results(job, base=base)
    except StoreError:
        raise
    except PullbackError as error:  # a plug-in is missing, or a newer version wrote the file
        raise StoreError(f"the job of {target.place} cannot be read: {error}") from error


def _stored_job(place: Location) -> AnalysisJob | ApplicationJob | None:
    """Return the job from the file that its driver wrote beside the address; None if there is no file."""
    file = sidecar_path(place, "job")
    job = load_any_job(file) if file.is_file() else None
    return None if isinstance(job, JobSpec) else job


def _summary(plan: "ResultPlan") -> SnapshotSummary:
    total, done = len(plan.parts), plan.finished
    if done == 0:
        raise StoreError(f"{plan.place} has no results yet. Run or submit its job.")
    return SnapshotSummary(plan.job.name, plan.snapshots, SweepStatus(total, done, 0, total - done))

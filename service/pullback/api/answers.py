"""What the HTTP service answers: models that serialise themselves, and from which OpenAPI is made.

Tables of numbers are encoded by `tables`, which is faster; `Spectra` and `Eigenvectors` describe their JSON form.
"""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ConfigDict, Field

from pullback.api.documents import Document, SweepDetails, SweepSummary, ZeroMetrics, stored_object
from pullback.driving.record import DriverRecord
from pullback.driving.states import ACTIVE, State
from pullback.driving.sweep_state import SweepState

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

Number = float | None
"""Null if it is not finite."""


class Health(Document):
    """The service is alive."""

    status: Literal["ok"]


class ListedSweep(SweepSummary):
    """A sweep in a list."""

    id: str
    state: State


class ListedSubmission(Document):
    """A submitted job without results."""

    id: str
    state: State
    planned: int
    message: str


class UnreadableSweep(Document):
    """A sweep that cannot be read."""

    id: str
    error: str


class Page(Document):
    """Some of the sweeps, sorted by id."""

    sweeps: list[ListedSweep | ListedSubmission | UnreadableSweep]
    next: str | None = Field(description="`after` of the next page; null on the last page")


class ServedSweep(SweepDetails):
    """A sweep at a snapshot, with everything that is stored about its origin."""

    id: str
    provenance: dict[str, Any]

    @classmethod
    def read(cls, sweep: "Sweep") -> dict[str, Any]:
        """Return the fields that come from the store."""
        return {**super().read(sweep), "provenance": stored_object(sweep.provenance)}


class Submitted(Document):
    """A job was accepted."""

    id: str
    created: bool = Field(description="whether the sweep is new")


class JobSubmitted(Document):
    """A job was accepted."""

    id: str = Field(description="of the job; the job of a sweep has the id of the sweep")
    kind: str = Field(description="sweep, analysis or application")
    created: bool = Field(description="whether the job is new")


class JobResult(Document):
    """One result that a job computes."""

    name: str = Field(description="the statistic or the application")
    options: dict[str, Any]
    finished: bool


class JobDetails(Document):
    """An analysis or an application."""

    id: str
    kind: str = Field(description="analysis or application")
    name: str
    sweep: str | None = Field(description="the id of its sweep; null if it has none")
    snapshot: str = Field(description="the sweep's snapshot; empty if it has none")
    further: list[str] = Field([], description="the ids of the further sweeps that an analysis compares")
    results: list[JobResult]


class ListedJob(Document):
    """An analysis or an application in a list."""

    id: str
    state: State
    planned: int = Field(description="number of its results")
    good: int = Field(description="number of its finished results")
    message: str


class UnreadableJob(Document):
    """A job in a list that cannot be read."""

    id: str
    error: str


class JobList(Document):
    """The analyses and applications that were ever submitted or run."""

    jobs: list[ListedJob | UnreadableJob]


class JobResults(Document):
    """The finished results of a job."""

    id: str
    snapshot: str = Field(description="of the sweep; empty if the job has none")
    results: dict[str, dict[str, Any]] = Field(description="by the name of the statistic or application")


class Snapshot(Document):
    """One snapshot: a value for the parameter `snapshot`."""

    id: str
    written: str = Field(description="time of the commit, ISO 8601")
    message: str


class Snapshots(Document):
    """The last snapshots of a sweep, the newest first."""

    id: str
    snapshots: list[Snapshot]


class Status(Document):
    """The present state of a sweep."""

    id: str
    state: State
    planned: int
    good: int
    quarantined: int
    pending: int
    message: str = Field(description="further information; mostly empty")
    snapshot: str = Field(description="the last snapshot; empty if there is none yet")
    updated: float = Field(description="time of the driver's last report, seconds since 1970")
    shards: dict[str, int] = Field(description="number of shards by state, while a driver is running")
    workers: dict[str, int] = Field(description="number of workers by state, while a driver is running")
    samples_per_second: float

    @classmethod
    def of(cls, id: str, found: SweepState, message: str) -> Self:
        """Describe a sweep's state; `message` takes the place of its own."""
        known = found.driver or DriverRecord("submitted")
        driver = known if found.state in ACTIVE else DriverRecord("submitted")  # an ended driver has no rate
        return cls(
            id=id,
            state=found.state,
            **{name: getattr(found, name) for name in ("planned", "good", "quarantined", "pending", "snapshot")},
            message=message,
            updated=known.updated,
            shards=dict(driver.shards),
            workers=dict(driver.workers),
            samples_per_second=driver.samples_per_second,
        )


class Cancelled(Document):
    """The answer to a cancel request."""

    id: str
    cancelling: bool = Field(description="whether a driver was running, which is asked to stop")


class Spectra(Document):
    """Eigenvalues; an entry of each column is a sample."""

    id: str
    snapshot: str
    units: str
    components: list[int] = Field(description="first component, and the one after the last")
    sample: list[int]
    status: list[int] = Field([], description="with `quarantined`: 1 good, 2 quarantined")
    eigenvalue: list[list[Number]] = Field(description="[samples, components], each row descending")


class Eigenvectors(Document):
    """Eigenpairs of one sample; an entry of each column is a component."""

    id: str
    snapshot: str
    units: str
    sample: int
    status: int
    latent: list[Number] = Field(description="the sample's latent code")
    component: list[int]
    eigenvalue: list[Number]
    eigenvector: list[list[Number]] = Field(description="[components, latent size]")


class Analysis(Document):
    """The analysis of a snapshot, as `pullback analyze --json` prints it: an entry for each statistic by its name."""

    model_config = ConfigDict(extra="allow")

    name: str
    snapshot: str
    samples: int
    anisotropy: dict[str, Any] | None = Field(
        None,
        description="of the `ranks` that are kept; where these do not decide a count, `needed` is null, and the count "
        "lies between `at_least` and `at_most` (null: unknown)",
    )
    homogeneity: dict[str, Any] | None = Field(None, description="of the `ranks` that are kept")
    mean_metric: dict[str, Any] | None = Field(
        None, description="`of` the whole metrics, or of the kept part, which has `trace_share` of the whole trace"
    )
    certificate: dict[str, Any] | None = Field(None, description="largest value and median of each relative error")
    bootstrap: dict[str, int] = Field(description="draws and seed of the first statistic that has both")
    zero_metrics: ZeroMetrics
    options: dict[str, dict[str, Any]] = Field(description="the options of each statistic")


class Statistic(Document):
    """A statistic that can be asked for."""

    name: str
    summary: str
    options: dict[str, Any] = Field(description="the JSON schema of its options")


class Statistics(Document):
    """The statistics that can be asked for."""

    statistics: list[Statistic]


class StatisticTable(Document):
    """Rows for tables."""

    title: str
    columns: list[str]
    rows: list[list[str]]


class StatisticResult(Document):
    """The result of one statistic at a snapshot."""

    statistic: str
    name: str = Field(description="the sweep's name")
    snapshot: str
    samples: int
    further: list[dict[str, Any]] = Field([], description="name, snapshot and samples of the further sweeps")
    options: dict[str, Any]
    result: dict[str, Any]
    tables: list[StatisticTable]
    sentences: list[str]
    cautions: list[str]


class AnalysisRequested(Document):
    """The answer to a request for an analysis."""

    id: str
    snapshot: str
    further: list[str] = Field([], description="the further sweeps that are compared, each as `ID@SNAPSHOT`")
    state: Literal["done", "running"]

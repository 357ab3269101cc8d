"""The plan of an analysis or an application: its identity, its address, and which of its results exist already.

Invariants: planning writes nothing; two jobs have the same identity exactly if they compute the same results of the
same sweep; the name, the store's path and the device are not part of the identity.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pullback.analysis.cache import load_result as load_statistic
from pullback.analysis.request import choose, refuse_unfit, usual_statistics
from pullback.applications.protocol import needs_of
from pullback.applications.results import Key, file_identity, generator_identity
from pullback.applications.results import load_result as load_application
from pullback.errors import PullbackError, SpecError
from pullback.generators import zoo
from pullback.jobs.address import address_of
from pullback.plugins import APPLICATIONS
from pullback.spec import AnalysisJob, ApplicationJob, JobSpec, Options, load_any_job
from pullback.store.location import Location, locate, split_snapshot
from pullback.store.reader import Sweep, open_sweep
from pullback.sweep.identity import refuse_another

FORMAT = 1
"""Version of the identity of analyses and applications."""


@dataclass(frozen=True)
class Part:
    """One result of a job.

    Attributes:
        name: the statistic or the application.
        load: returns the cached result, or None.
    """

    name: str
    load: Callable[[], Any] = field(repr=False)

    @property
    def finished(self) -> bool:
        """Whether the result is cached."""
        return self.load() is not None


@dataclass(frozen=True)
class ResultPlan:
    """The results that a job computes, their input, and the location of the cache.

    Attributes:
        job: the validated job.
        base: the sweep's store, or its substitute if there is no sweep; results lie beside it.
        sweep: the sweep, open at the job's snapshot; None for an application that needs only a generator.
        options: the options of each statistic or of the application, by name.
        job_id: the identity: equal for equal results.
        folder: the working directory in which the plan was made; relative paths of the job start there.
        others: the further sweeps of an analysis, open.
    """

    job: AnalysisJob | ApplicationJob
    base: Location
    sweep: Sweep | None
    options: dict[str, Options]
    job_id: str
    folder: str
    others: tuple[Sweep, ...] = ()

    @property
    def place(self) -> Location:
        """The job's address. There is no store at it; record, journal and log are files beside it."""
        return address_of(self.base, self.job.kind, self.job_id)

    @property
    def snapshot(self) -> str:
        """The sweep's snapshot; empty if there is no sweep."""
        return "" if self.sweep is None else self.sweep.snapshot

    @property
    def snapshots(self) -> str:
        """The snapshots of all sweeps, with spaces between them."""
        return " ".join([self.snapshot, *(other.snapshot for other in self.others)])

    @property
    def parts(self) -> list[Part]:
        """The results, in the order in which they are computed."""
        return [Part(name, self._loader(name, options)) for name, options in self.options.items()]

    @property
    def finished(self) -> int:
        """The number of results that are cached already."""
        return sum(part.finished for part in self.parts)

    def key(self, application: str) -> Key:
        """Return the key of an application's result."""
        generator = self.job.generator if isinstance(self.job, ApplicationJob) else None
        return Key(application, self.options[application], self.snapshot, generator)

    def _loader(self, name: str, options: Options) -> Callable[[], Any]:
        if isinstance(self.job, ApplicationJob):
            return lambda: load_application(self.base, self.key(name))
        assert self.sweep is not None
        sweep, others = self.sweep, self.others
        return lambda: load_statistic(sweep, name, options, others)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        return {
            "kind": self.job.kind,
            "name": self.job.name,
            "job_id": self.job_id,
            "place": str(self.place),
            "sweep": None if self.sweep is None else str(self.base),
            "snapshot": self.snapshot,
            **({"further": [f"{each.location}@{each.snapshot}" for each in self.others]} if self.others else {}),
            "results": [
                {
                    "name": part.name,
                    "options": self.options[part.name].model_dump(mode="json"),
                    "finished": part.finished,
                }
                for part in self.parts
            ],
        }


def plan_results(
    job: AnalysisJob | ApplicationJob,
    *,
    source: str = "the job",
    base: Location | None = None,
    snapshot: str | None = None,
) -> ResultPlan:
    """Plan the results of a job.

    Args:
        job: the validated job.
        source: the job's name in errors.
        base: the sweep's store; overrides the one that the job names.
        snapshot: the snapshot of the sweep to read if the job names none; by default the last one. `snapshots` of an
            earlier plan also gives those of the other sweeps.

    Raises:
        SpecError: the job lacks what its application needs, or names too few or too many sweeps; lists every problem.
        StoreError: the sweep does not exist or cannot be read, or has no such snapshot.
        PluginError: a statistic or an application cannot be loaded.
    """
    snapshots = (snapshot or "").split()
    others: tuple[Sweep, ...] = ()
    if isinstance(job, AnalysisJob):
        if job.statistics is None:
            options = choose(usual_statistics(len(job.others)), {}, source)
        else:
            options = dict(job.statistics)
        refuse_unfit(options, len(job.others), source)
        chosen = {name: each.model_dump(mode="json", exclude_defaults=True) for name, each in options.items()}
        decisive = {**job.canonical(), "statistics": chosen}
    else:
        _refuse_unfit(job, source)
        options = {job.application.name: job.application.options}
        decisive = job.canonical()
        if files := file_identity(job.application.options):
            decisive["files"] = files
        if job.generator is not None:
            decisive["generator"] = generator_identity(job.generator)
    sweep: Sweep | None = None
    subject: dict[str, Any] = {}
    if job.sweep is not None:
        base = locate(store_of(job.sweep) if base is None else base)
        sweep = open_sweep(base, job.snapshot or (snapshots[0] if snapshots else None))
        subject = {"sweep": sweep.provenance.get("sweep_id", ""), "snapshot": job.snapshot}
        if isinstance(job, AnalysisJob) and job.others:
            others = _others_of(job, snapshots[1:])
            named = [split_snapshot(other)[1] for other in job.others]
            subject["with"] = [
                [other.provenance.get("sweep_id", ""), pinned] for other, pinned in zip(others, named, strict=True)
            ]
    elif isinstance(job, ApplicationJob) and base is None:
        base = locate(job.results_path)
    assert base is not None
    text = json.dumps({"format": FORMAT, **decisive, **subject}, sort_keys=True, separators=(",", ":"))
    job_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    return ResultPlan(job, base, sweep, options, job_id, str(Path.cwd()), others)


def _others_of(job: AnalysisJob, snapshots: Sequence[str]) -> tuple[Sweep, ...]:
    """Open the further sweeps of an analysis, at the snapshots given where the job names none."""
    opened = []
    for index, named in enumerate(job.others):
        place, pinned = split_snapshot(named)
        known = snapshots[index] if len(snapshots) == len(job.others) else None
        opened.append(open_sweep(locate(store_of(place)), pinned or known))
    return tuple(opened)


def store_of(sweep: str) -> str:
    """Return the store for a job's `sweep`, which is a store or the YAML file of a sweep's job.

    Raises:
        SpecError: the file is not the job of a sweep.
        StoreError: the store holds the sweep of a different job.
    """
    if not Path(sweep).is_file():
        return sweep
    job = load_any_job(Path(sweep), zoo())
    if not isinstance(job, JobSpec):
        raise SpecError([f"sweep: {sweep} is a job of kind {job.kind!r}; name a sweep or its job"])
    refuse_another(job)
    return str(job.store or job.store_path)


def _refuse_unfit(job: ApplicationJob, source: str) -> None:
    given = {"sweep": job.sweep, "generator": job.generator or job.sweep}
    needed = needs_of(APPLICATIONS.module(job.application.name))
    missing = [key for key in needed if given.get(key) is None]
    if missing:
        raise SpecError([f"{key}: the application {job.application.name!r} needs one" for key in missing], source)


def whole_job(plan: ResultPlan) -> dict[str, Any]:
    """Return the content of a job file that gives the same plan from any working directory."""
    content = plan.job.model_dump(mode="json", exclude_none=True)
    generator = content.get("generator", {})
    for key in ("name", "weights"):
        if key in generator and Path(generator[key]).is_file():
            generator[key] = str(Path(generator[key]).absolute())
    absolute = _absolute(plan.base)
    if isinstance(plan.job, AnalysisJob):
        pins = [split_snapshot(named)[1] for named in plan.job.others]
        places = [_absolute(other.location) for other in plan.others]
        content["with"] = [f"{place}@{pin}" if pin else place for place, pin in zip(places, pins, strict=True)]
        if not content["with"]:
            del content["with"]  # a file that earlier versions read
    return {**content, "store" if plan.sweep is None else "sweep": absolute}


def _absolute(location: Location) -> str:
    return str(location.canonical.path.absolute() if location.is_local else location)


def checked(plan: ResultPlan) -> ResultPlan:
    """Return the plan if its results can be computed; raises PullbackError for a sweep without good samples."""
    for sweep in (*(() if plan.sweep is None else (plan.sweep,)), *plan.others):
        status = sweep.status()
        if status.good:
            continue
        raise PullbackError(
            f"{sweep.location} has no good samples yet ({status.pending} of {status.planned} pending, "
            f"{status.quarantined} quarantined); nothing was computed. Run the sweep's job first: `pullback run` with "
            "its YAML file"
        )
    return plan

"""Loads a job of any kind from its file or content. One `SpecError` lists everything that is wrong in it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pullback.errors import SpecError
from pullback.spec.analysis import AnalysisJob
from pullback.spec.application import ApplicationJob
from pullback.spec.messages import describe, nearest, shown
from pullback.spec.problems import explain
from pullback.spec.sweep import JobSpec
from pullback.spec.yaml_reader import read_yaml

Job = JobSpec | AnalysisJob | ApplicationJob
KINDS: dict[str, type[JobSpec] | type[AnalysisJob] | type[ApplicationJob]] = {
    "sweep": JobSpec,
    "analysis": AnalysisJob,
    "application": ApplicationJob,
}
"""The model of each kind of job."""


def load_job(path: str | Path, generators: Collection[str] = ()) -> JobSpec:
    """Read and validate the YAML file of a sweep's job.

    Args:
        path: the file.
        generators: names of the registered generators. An unknown name is an error; if empty, names are not checked.

    Raises:
        SpecError: the file cannot be read, is not plain YAML, is a job of another kind, or any value in it is wrong;
            lists every problem.
    """
    job = load_any_job(path, generators)
    if not isinstance(job, JobSpec):
        raise SpecError([f"kind: a job of kind 'sweep' is needed here, not {job.kind!r}"], str(path))
    return job


def load_any_job(path: str | Path, generators: Collection[str] = ()) -> Job:
    """Read and validate a job's YAML file, whatever its kind; raises like `load_job`."""
    data, problems = read_yaml(Path(path))
    if data is None and problems:
        raise SpecError(problems, str(path))
    return job_of(data, str(path), generators, problems)


def job_of(data: Any, source: str = "the job", generators: Collection[str] = (), problems: Collection[str] = ()) -> Job:
    """Validate the content of a job.

    Args:
        data: plain Python values, as YAML or JSON give them.
        source: the name of the job in an error.
        generators: as in `load_job`.
        problems: problems that were found before; they are raised together with those found here.

    Raises:
        SpecError: any value is wrong; lists every problem.
    """
    kind = data.get("kind", "sweep") if isinstance(data, Mapping) else "sweep"
    found = list(problems)
    if not isinstance(kind, str) or kind not in KINDS:
        given = shown(kind) if isinstance(kind, str) else describe(kind)
        raise SpecError([*found, f"kind: {given} is not one of {', '.join(KINDS)}{nearest(str(kind), KINDS)}"], source)
    model = KINDS[kind]
    try:
        job: Job = model.model_validate(data, context={"generators": generators})
    except ValidationError as error:
        raise SpecError([*found, *explain(error, model=model)], source) from None
    if found:
        raise SpecError(found, source)
    return job

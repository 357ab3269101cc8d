"""A job's file -> a `JobSpec`, or one `SpecError` with everything that is wrong in it."""

from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from pullback.errors import SpecError
from pullback.spec.models import JobSpec
from pullback.spec.problems import explain
from pullback.yaml_reader import read_yaml


def load_job(path: str | Path, generators: Collection[str] = ()) -> JobSpec:
    """Read and validate a job's YAML file.

    Args:
        path: the file.
        generators: the registered generators' names, to tell an unknown one; none are checked when empty.

    Raises:
        SpecError: the file cannot be read, is not plain YAML, or any value in it is wrong; lists every problem.
    """
    data, problems = read_yaml(Path(path))
    if data is None and problems:
        raise SpecError(problems, str(path))
    try:
        job = JobSpec.model_validate(data, context={"generators": generators})
    except ValidationError as error:
        problems += explain(error)
    if problems:
        raise SpecError(problems, str(path))
    return job

"""A job that comes over HTTP -> a `JobSpec`, or one error with all that is wrong in it.

Whoever submits is not who runs the service: a job may name registered things only, for anything else would run code
or read files of the server.
"""

import json
from collections.abc import Collection
from typing import Any

import yaml
from pydantic import ValidationError

from pullback.api.catalog import is_id
from pullback.api.problems import RequestError
from pullback.errors import SpecError
from pullback.generators import zoo
from pullback.spec import FeaturesSpec, JobSpec, explain
from pullback.yaml_reader import parse_yaml

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
_SOURCE = "the job"
_TAKEN_ENDINGS = (".zarr", ".html", ".jsonl")
"""How the names of the files end that are kept beside sweeps."""


def read_job(body: bytes, content_type: str, allow_code: bool = False) -> JobSpec:
    """Read a submitted job.

    Args:
        body: as it was sent.
        content_type: JSON, or one of `YAML_TYPES`. Others are refused: a page of another site could send those.
        allow_code: let the job name code and files of the server.

    Raises:
        SpecError: the job is wrong, or names what it may not; lists every problem.
        RequestError: the type is another one.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and kind not in YAML_TYPES:
        raise RequestError(415, "a job is sent as application/yaml or application/json: say so in Content-Type")
    try:
        text = body.decode("utf-8")
        # JSON is read as YAML after it was read as JSON: the checks of form are then the same
        text = _json_as_yaml(text) if kind == "application/json" else text
    except UnicodeDecodeError as error:
        raise SpecError([f"it is not UTF-8 text: {error.reason} at byte {error.start}"], _SOURCE) from None
    generators = zoo()
    data, problems = parse_yaml(text)
    if data is None and problems:
        raise SpecError(problems, _SOURCE)
    try:
        job = JobSpec.model_validate(data, context={"generators": generators})
    except ValidationError as error:
        raise SpecError(problems + explain(error), _SOURCE) from None
    problems += _unfit(job) + ([] if allow_code else _of_the_server(job, generators))
    if problems:
        raise SpecError(problems, _SOURCE)
    return job


def _json_as_yaml(text: str) -> str:
    try:
        data = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_number)
        return str(yaml.safe_dump(data, sort_keys=False))
    except RecursionError:
        raise SpecError(["it is nested too deep"], _SOURCE) from None
    except ValueError as error:  # also of json, and a whole number of thousands of digits
        raise SpecError([f"not valid JSON: {error}"], _SOURCE) from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double[:40]!r} stands twice")
    return content


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _unfit(job: JobSpec) -> list[str]:
    """What no job over HTTP may say: where it is kept is the service's to decide."""
    problems = []
    if job.store is not None:
        problems.append("store: a job over HTTP is kept under its name; remove this key")
    if not is_id(job.name):
        problems.append("name: over HTTP, a name has no two points in a row")
    if job.name.lower().endswith(_TAKEN_ENDINGS):
        problems.append(f"name: over HTTP, a name does not end in {', '.join(_TAKEN_ENDINGS)}")
    return problems


def _of_the_server(job: JobSpec, generators: Collection[str]) -> list[str]:
    """What would run code or read files where the service runs."""
    problems = []
    if job.generator.name not in generators:
        problems.append(
            f"generator.name: over HTTP, only registered generators are run: {', '.join(sorted(generators))} "
            "(whoever runs the service can allow others with --allow-code)"
        )
    if job.generator.weights is not None:
        problems.append("generator.weights: over HTTP, the registered weights are used; remove this key")
    if ":" in job.distance.name:
        problems.append("distance.name: over HTTP, no code is named")
    if isinstance(job.distance, FeaturesSpec) and job.distance.module != "generator":
        problems.append("distance.module: over HTTP, no code is named; only 'generator' is left")
    if isinstance(job.distance.mask, str):
        problems.append("distance.mask: over HTTP, a mask is a box [top, left, bottom, right]")
    return problems

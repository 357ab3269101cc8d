"""Reads a job of any kind from an HTTP request: a validated job, or one error with every mistake.

The client is not the operator of the service, so a job may name registered generators and distances only. Anything
else would run code or read files on the server.
"""

import json
from collections.abc import Collection
from typing import Any

import yaml

from pullback.api.catalog import is_id
from pullback.api.problem_details import RequestError
from pullback.errors import SpecError
from pullback.generators import zoo
from pullback.spec import AnalysisJob, ApplicationJob, GeneratorSpec, Job, JobSpec, job_of
from pullback.spec.yaml_reader import parse_yaml
from pullback.store.location import split_snapshot

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
_SOURCE = "the job"
_NO_LOCAL = "over HTTP, a job must not name code or files of the service's machine"
_TAKEN_ENDINGS = (".zarr", ".html", ".jsonl")
"""Endings of files beside sweeps; a sweep with such a name could be taken for one of them."""


def read_job(body: bytes, content_type: str, allow_code: bool = False) -> JobSpec:
    """Read the submitted job of a sweep; arguments and errors as for `read_any_job`."""
    job = read_any_job(body, content_type, allow_code)
    if not isinstance(job, JobSpec):
        raise SpecError([f"kind: this is a job of kind {job.kind!r}; send it to /v1/jobs"], _SOURCE)
    return job


def read_any_job(body: bytes, content_type: str, allow_code: bool = False) -> Job:
    """Read a submitted job.

    Args:
        body: as sent.
        content_type: JSON or one of `YAML_TYPES`. Other types are refused: pages of other sites
            can make a browser send them.
        allow_code: let the job name code and files of the server.

    Raises:
        SpecError: the job has mistakes, or names something that it may not; lists every problem.
        RequestError: (415) another content type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and kind not in YAML_TYPES:
        raise RequestError(415, "send a job as application/yaml or application/json, and state it in Content-Type")
    try:
        text = body.decode("utf-8")
        # JSON is converted to YAML, so that the same checks apply
        text = _json_as_yaml(text) if kind == "application/json" else text
    except UnicodeDecodeError as error:
        raise SpecError([f"it is not UTF-8 text: {error.reason} at byte {error.start}"], _SOURCE) from None
    generators = zoo()
    data, problems = parse_yaml(text)
    if data is None and problems:
        raise SpecError(problems, _SOURCE)
    job = job_of(data, _SOURCE, generators, problems)
    problems = _service_problems(job) + ([] if allow_code else _server_side_problems(job, generators))
    if problems:
        raise SpecError(problems, _SOURCE)
    return job


def _json_as_yaml(text: str) -> str:
    try:
        data = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        return str(yaml.safe_dump(data, sort_keys=False))
    except RecursionError:
        raise SpecError(["it is nested too deep"], _SOURCE) from None
    except ValueError as error:  # also of json, and a whole number of thousands of digits
        raise SpecError([f"not valid JSON: {error}"], _SOURCE) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {duplicate[:40]!r} occurs twice")
    return content


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _service_problems(job: Job) -> list[str]:
    """List the keys that no job may have over HTTP, because the service decides where results are stored."""
    problems = []
    if isinstance(job, JobSpec | ApplicationJob) and job.store is not None:
        problems.append("store: over HTTP, a sweep is stored under its job's name; remove this key")
    if not isinstance(job, JobSpec) and job.sweep is not None and not is_id(job.sweep):
        problems.append("sweep: over HTTP, a sweep is named by its id; see GET /v1/sweeps")
    if isinstance(job, AnalysisJob) and not all(is_id(split_snapshot(other)[0]) for other in job.others):
        problems.append("with: over HTTP, a sweep is named by its id; see GET /v1/sweeps")
    if not is_id(job.name):
        problems.append("name: over HTTP, a name must not contain two dots in a row")
    if job.name.lower().endswith(_TAKEN_ENDINGS):
        problems.append(f"name: over HTTP, a name must not end in {', '.join(_TAKEN_ENDINGS)}")
    return problems


def _server_side_problems(job: Job, generators: Collection[str]) -> list[str]:
    """List the keys that would run code or read files on the server."""
    problems = []
    if isinstance(job, JobSpec):
        problems += _generator_problems(job.generator, generators)
        sections = {"distance": job.distance, "samples": job.samples}
    elif isinstance(job, ApplicationJob):
        problems += [] if job.generator is None else _generator_problems(job.generator, generators)
        sections = {"application": job.application.options}
    else:
        sections = {f"statistics.{name}": options for name, options in (job.statistics or {}).items()}
    return problems + [
        f"{name}.{key}: {_NO_LOCAL}" for name, options in sections.items() for key in options.local_keys()
    ]


def _generator_problems(generator: GeneratorSpec, generators: Collection[str]) -> list[str]:
    problems = []
    if generator.name not in generators:
        problems.append(
            f"generator.name: over HTTP, only registered generators are allowed: {', '.join(sorted(generators))} "
            "(the operator can allow others with --allow-code)"
        )
    if generator.weights is not None:
        problems.append("generator.weights: over HTTP, registered weights are used; remove this key")
    return problems

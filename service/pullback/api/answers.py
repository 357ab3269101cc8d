"""What answers hold, for OpenAPI: the schema of each, its formats, its headers. They describe; the routes answer."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pullback.api.tables import MEDIA

State = Literal["submitted", "starting", "running", "cancelling", "cancelled", "done", "failed", "stopped"]
Number = float | None
"""Null for what is not finite."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Health(_Answer):
    """The service answers."""

    status: Literal["ok"]


class Samples(_Answer):
    """How many are in which state."""

    planned: int
    good: int
    quarantined: int
    pending: int


class Sweep(_Answer):
    """A sweep at a snapshot."""

    id: str
    name: str
    snapshot: str
    samples: Samples
    latent_dim: int = Field(description="n, the size of a latent code")
    components: int = Field(description="eigenpairs that are kept of each sample")
    shard_size: int
    sweep_id: str | None = Field(description="what is computed, hashed")
    generator: str | None
    distance: str | None
    method: str | None
    spec: dict[str, Any] | None = Field(description="what is computed, as in its job")
    created: str | None = Field(description="when, ISO 8601")


class ListedSweep(Sweep):
    """A sweep in a list."""

    state: State


class Submission(_Answer):
    """What was submitted and has no results yet."""

    id: str
    state: State
    planned: int
    message: str


class Unread(_Answer):
    """What cannot be read."""

    id: str
    error: str


class Page(_Answer):
    """Some of the sweeps, by id."""

    sweeps: list[ListedSweep | Submission | Unread]
    next: str | None = Field(description="`after` of the next page; null on the last")


class SweepDetails(Sweep):
    """All that is known of a sweep at a snapshot."""

    quarantine_reasons: dict[str, int]
    provenance: dict[str, Any]


class Submitted(_Answer):
    """A job was taken."""

    id: str
    created: bool = Field(description="whether the sweep is new")


class Snapshot(_Answer):
    """One that `snapshot` takes."""

    id: str
    written: str = Field(description="when, ISO 8601")
    message: str


class Snapshots(_Answer):
    """The last ones of a sweep, the newest first."""

    id: str
    snapshots: list[Snapshot]


class Status(_Answer):
    """Where a sweep is now."""

    id: str
    state: State
    planned: int
    good: int
    quarantined: int
    pending: int
    message: str = Field(description="what to know besides; mostly empty")
    snapshot: str = Field(description="empty before there is one")
    updated: float = Field(description="when its driver told last, seconds since 1970")
    shards: dict[str, int] = Field(description="how many are in each state, while somebody is at work")
    workers: dict[str, int] = Field(description="likewise")
    samples_per_second: float


class Cancelled(_Answer):
    """What became of the wish to cancel."""

    id: str
    cancelling: bool = Field(description="whether anybody worked on it")


class Spectra(_Answer):
    """Eigenvalues; an entry of each column is a sample."""

    id: str
    snapshot: str
    units: str
    components: list[int] = Field(description="from, and up to but not with")
    sample: list[int]
    status: list[int] = Field([], description="with `quarantined`: 1 good, 2 quarantined")
    eigenvalue: list[list[Number]] = Field(description="[samples, components], each row descending")


class Eigenvectors(_Answer):
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


class Analysis(_Answer):
    """As `pullback analyze --json`."""

    name: str
    snapshot: str
    samples: int
    anisotropy: dict[str, Any]
    homogeneity: dict[str, Any]
    mean_metric: dict[str, Any]
    certificate: dict[str, Any]
    bootstrap: dict[str, int]


class AnalysisAsked(_Answer):
    """What became of the wish for an analysis."""

    id: str
    snapshot: str
    state: Literal["done", "running"]


Described = dict[int | str, dict[str, Any]]
"""What FastAPI takes for `responses`."""

_HEADERS = {
    "ETag": "Send it as `If-None-Match` to be told (304) that nothing changed.",
    "Pullback-Snapshot": "The snapshot that the answer is of; pass it as `snapshot` for the same answer again.",
    "Pullback-Next-Offset": "The `offset` of the next page of events.",
    "Location": "Where to ask how it is, or for what was made.",
}


def _with(*headers: str) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}, "description": _HEADERS[name]} for name in headers}}


def reading(*headers: str, **content: dict[str, Any]) -> Described:
    """The answer to a GET that has an ETag; `content` describes other formats than JSON by their keys in `MEDIA`."""
    kinds = {"content": {_MEDIA[form]: described for form, described in content.items()}} if content else {}
    known = {"description": "Nothing changed since the answer whose ETag was sent."}
    return {200: {**_with("ETag", *headers), **kinds}, 304: known}


def making(status: int, model: type[BaseModel], description: str, *headers: str) -> Described:
    """The answers to a POST: 200 where there is nothing to do, and another."""
    return {200: _with(*headers), status: {"model": model, "description": description, **_with(*headers)}}


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MEDIA: Mapping[str, str] = {
    **{str(form): media for form, media in MEDIA.items()},
    "ndjson": "application/x-ndjson",
    "events": "text/event-stream",
    "html": "text/html; charset=utf-8",
}
NUMBERS = reading("Pullback-Snapshot", npy=_BINARY, arrow=_BINARY, zarr=_BINARY)
TEXT = {"schema": {"type": "string"}}

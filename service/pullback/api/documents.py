"""A sweep as JSON: one schema for `pullback show` and `ls`, the HTTP service and its client.

Each document is a pydantic model that serialises itself. Needs no HTTP library, so the command line can use it.
"""

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from pullback.api.paths import in_strings
from pullback.driving.states import State

if TYPE_CHECKING:
    from pullback.driving.sweep_state import SweepState
    from pullback.store.reader import Sweep


class Document(BaseModel):
    """A JSON document. Unknown fields are errors, and nothing is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for strict JSON: a number that is not finite becomes None."""
        content: dict[str, Any] = finite(self.model_dump())
        return content

    def to_json(self, change: Callable[[str], str] | None = None) -> bytes:
        """Return the document as strict JSON, with `change` applied to every text but keys."""
        content = self.as_dict()
        return json.dumps(content if change is None else in_strings(content, change), allow_nan=False).encode()


class Samples(Document):
    """Number of samples by status."""

    planned: int
    good: int
    quarantined: int
    pending: int


class ZeroMetrics(Document):
    """Samples whose metric is exactly zero."""

    count: int
    good: int = Field(description="those that are good; they are part of every mean")
    quarantined: int = Field(description="those that are quarantined; they are part of no mean")
    samples: list[int] = Field(description="sample numbers, ascending")


class SweepSummary(Document):
    """A sweep at a snapshot. A text is null, and an object empty, where the store does not state it."""

    name: str
    sweep_id: str | None = Field(description="hash of what is computed")
    snapshot: str
    samples: Samples
    latent_dim: int = Field(description="n, the size of a latent code")
    components: int = Field(description="eigenpairs kept of each sample")
    shards: int
    shard_size: int
    generator: str | None
    distance: str | None
    method: str | None
    spec: dict[str, Any] = Field(description="what is computed, in the words of a job")
    created: str | None = Field(description="time of creation, ISO 8601")

    @classmethod
    def of(cls, sweep: "Sweep", **where: Any) -> Self:
        """Describe an open sweep; `where` gives the fields of the subclass.

        Raises:
            StoreError: the store cannot be read.
        """
        return cls(**cls.read(sweep), **where)

    @classmethod
    def read(cls, sweep: "Sweep") -> dict[str, Any]:
        """Return the fields that come from the store."""
        provenance, layout = sweep.provenance, sweep.layout
        return {
            "name": _readable(sweep.name),
            "snapshot": sweep.snapshot,
            "samples": Samples(**sweep.status().as_dict()),
            "latent_dim": layout.latent_dim,
            "components": layout.components,
            "shards": layout.shards,
            "shard_size": layout.shard_size,
            "spec": stored_object(provenance.get("spec")),
            **{
                name: _text(provenance.get(name)) for name in ("sweep_id", "generator", "distance", "method", "created")
            },
        }


class SweepDetails(SweepSummary):
    """A sweep at a snapshot, with what it was computed from."""

    quarantine_reasons: dict[str, int] = Field(description="number of quarantined samples by reason")
    zero_metrics: ZeroMetrics
    whole_metrics: bool = Field(
        description="false if an iterative method computed only the leading eigenpairs; traces are then estimates"
    )
    trace_share: float | None = Field(description="share of the trace of the good samples that the kept pairs carry")
    weights: dict[str, Any] = Field(description="SHA-256 of each weight file")
    inputs: dict[str, Any] = Field(description="the user's own source files and what they read, with hashes")
    conventions: dict[str, Any]
    versions: dict[str, Any] = Field(description="versions of the libraries that computed the sweep")
    notes: list[str] = Field(description="how the generator was loaded and adapted")

    @classmethod
    def read(cls, sweep: "Sweep") -> dict[str, Any]:
        """Return the fields that come from the store."""
        provenance = sweep.provenance
        notes = provenance.get("notes")
        return {
            **super().read(sweep),
            "quarantine_reasons": sweep.reasons(),
            "zero_metrics": ZeroMetrics(**sweep.zero_metrics().as_dict()),
            "whole_metrics": sweep.whole_metrics,
            "trace_share": sweep.trace_share(),
            **{name: stored_object(provenance.get(name)) for name in ("weights", "inputs", "conventions", "versions")},
            "notes": [_readable(note) for note in (notes if isinstance(notes, list) else []) if isinstance(note, str)],
        }


class LocalSweep(SweepDetails):
    """`pullback show --json`, and a row of `pullback ls --json`."""

    path: str
    state: State


class LocalSubmission(Document):
    """A row of `pullback ls --json` for a submitted job without results; what only a store knows is null."""

    name: str
    path: str
    state: State
    samples: Samples
    sweep_id: None = None
    snapshot: None = None
    generator: None = None
    distance: None = None
    method: None = None
    latent_dim: None = None
    components: None = None

    @classmethod
    def of(cls, state: "SweepState", path: str) -> Self:
        """Describe a submission by the state of its driver."""
        counts = {name: getattr(state, name) for name in Samples.model_fields}
        return cls(name=state.name, path=path, state=state.state, samples=Samples(**counts))


def finite(content: Any) -> Any:
    """Return a JSON value in which every number that is not finite is None."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _text(value: Any) -> str | None:
    return _readable(value) if isinstance(value, str) else None


def stored_object(value: Any) -> dict[str, Any]:
    """Return a JSON object as it was stored; an empty one for any other value."""
    if not isinstance(value, dict):
        return {}
    return {_readable(str(key)): in_strings(entry, _readable) for key, entry in value.items()}


def _readable(text: str) -> str:
    """Return a text without lone surrogates, which JSON may hold and no encoding of Unicode can."""
    return text.encode("utf-8", "replace").decode("utf-8")

"""Query parameters that select numbers of a sweep: checked against the sweep and the size limits, then read."""

import re
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pullback.api.catalog import Opened
from pullback.api.problem_details import RequestError
from pullback.api.tables import MOST_NUMBERS, Format, Table
from pullback.store.schema import BY_NAME, GOOD, PENDING, QUARANTINED

_RANGE = re.compile(r"([0-9]{0,12}):([0-9]{0,12})")

Snapshot = Annotated[str, Field(pattern=r"^[0-9A-Z]{20}$")]
Range = Annotated[
    str, Field(max_length=25, description="`start:stop` from 0, without `stop` itself; either may be empty.")
]


class AtSnapshot(BaseModel):
    """Query parameter: the snapshot to read."""

    model_config = ConfigDict(extra="forbid")

    snapshot: Snapshot | None = Field(
        None, description="A snapshot of an earlier answer, to get the same answer again; by default the last."
    )


class Pieces(AtSnapshot):
    """Query parameters: which components, and in which format."""

    components: Range = ":"
    format: Format = "json"
    quarantined: bool = Field(False, description="Include quarantined samples; their `status` is 2.")


class SpectraQuery(Pieces):
    """Query parameters: which spectra."""

    samples: Range = ":"


class EigenvectorsQuery(Pieces):
    """Query parameters: which eigenvectors."""

    sample: int = Field(ge=0, description="Sample number.")


def spectra(opened: Opened, query: SpectraQuery) -> Table:
    """Read the eigenvalues of the good samples of a range; a row is a sample.

    Raises:
        RequestError: (413) too many numbers for one answer; (422) an invalid range.
        StoreError: stored data are damaged.
    """
    layout = opened.sweep.layout
    samples = _slice("samples", query.samples, layout.samples)
    components = _some("components", query.components, layout.components)
    width = components.stop - components.start
    _require_room((samples.stop - samples.start) * width, query.format, samples.start, width)
    status = opened.status[samples]
    kept = (status == GOOD) | ((status == QUARANTINED) & query.quarantined)
    columns = {"sample": np.arange(samples.start, samples.stop)[kept]}
    if query.quarantined:
        columns["status"] = status[kept]
    # Zarr refuses empty selections
    values = opened.sweep.values("eigenvalue", samples, components) if kept.any() else np.empty((kept.size, width))
    columns["eigenvalue"] = values if kept.all() else values[kept]
    facts = {**_facts(opened), "components": [components.start, components.stop]}
    return Table("sample", columns, {"eigenvalue": "component"}, facts)


def eigenvectors(opened: Opened, query: EigenvectorsQuery) -> Table:
    """Read the eigenvectors of one sample with their eigenvalues; a row is a component.

    Raises:
        RequestError: (404) there is no such sample, or it is not good; (413), (422) as in `spectra`.
        StoreError: stored data are damaged.
    """
    layout = opened.sweep.layout
    if query.sample >= layout.samples:
        raise RequestError(404, f"there is no sample {query.sample}; the sweep has {layout.samples}, counted from 0")
    status = int(opened.status[query.sample])
    if status == PENDING:
        raise RequestError(404, f"sample {query.sample} is pending at this snapshot")
    if status == QUARANTINED and not query.quarantined:
        raise RequestError(404, f"sample {query.sample} is quarantined; add quarantined=true to read it")
    components = _some("components", query.components, layout.components)
    row = slice(query.sample, query.sample + 1)
    if (components.stop - components.start) * layout.latent_dim > MOST_NUMBERS[query.format]:
        raise RequestError(413, f"an answer has at most {MOST_NUMBERS[query.format]} numbers; ask for fewer components")
    columns = {
        "component": np.arange(components.start, components.stop),
        "eigenvalue": opened.sweep.values("eigenvalue", row, components)[0],
        "eigenvector": opened.sweep.values("eigenvector", row, components)[0],
    }
    latent = opened.sweep.values("latent", row)[0]
    finite = [float(value) if np.isfinite(value) else None for value in latent]
    facts = {**_facts(opened), "sample": query.sample, "status": status, "latent": finite}
    return Table("component", columns, {"eigenvector": "latent_dim"}, facts)


def _facts(opened: Opened) -> dict[str, object]:
    return {"id": opened.id, "snapshot": opened.sweep.snapshot, "units": BY_NAME["eigenvalue"].units}


def _slice(name: str, text: str, length: int) -> slice:
    """Return a range clipped to the length, as in Python."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise RequestError(422, f"{name}: a range is start:stop, counted from 0, such as 0:100; not {text!r}")
    start = min(int(found[1] or 0), length)
    stop = min(int(found[2]) if found[2] else length, length)
    if start > stop:
        raise RequestError(422, f"{name}: a range must not end before it starts, as {text!r} does")
    return slice(start, stop)


def _some(name: str, text: str, length: int) -> slice:
    """As `_slice`, but never empty: Arrow has no lists without entries."""
    asked = _slice(name, text, length)
    if asked.start == asked.stop:
        raise RequestError(422, f"{name}: {text!r} selects none of the {length}")
    return asked


def _require_room(numbers: int, form: Format, start: int, width: int) -> None:
    most = MOST_NUMBERS[form]
    if numbers > most:
        page = max(1, most // width)
        other = "" if form != "json" else f" (format=npy has up to {MOST_NUMBERS['npy']})"
        raise RequestError(
            413,
            f"{numbers} numbers exceed the {most} of an answer in {form}{other}. Ask in pages, such as "
            f"samples={start}:{start + page} and then samples={start + page}:{start + 2 * page}, with the snapshot "
            "of the first answer in each",
        )

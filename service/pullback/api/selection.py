"""What a request asks of a sweep's arrays, checked against the sweep and the size of an answer, and read."""

import re
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pullback.api.catalog import Opened
from pullback.api.problems import RequestError
from pullback.api.tables import MOST_NUMBERS, Format, Table
from pullback.store.schema import BY_NAME, GOOD, PENDING, QUARANTINED

_RANGE = re.compile(r"([0-9]{0,12}):([0-9]{0,12})")

Snapshot = Annotated[str, Field(pattern=r"^[0-9A-Z]{20}$")]
Range = Annotated[
    str, Field(max_length=25, description="`start:stop`, counted from 0, `stop` left out; either may be empty.")
]


class At(BaseModel):
    """Of when a sweep is asked."""

    model_config = ConfigDict(extra="forbid")

    snapshot: Snapshot | None = Field(
        None, description="The snapshot that an earlier answer gave, for the same answer for ever; by default the last."
    )


class Pieces(At):
    """Which components, and in which form."""

    components: Range = ":"
    format: Format = "json"
    quarantined: bool = Field(False, description="Give quarantined samples too; their `status` is 2.")


class SpectraQuery(Pieces):
    """Which spectra."""

    samples: Range = ":"


class EigenvectorsQuery(Pieces):
    """Which eigenvectors."""

    sample: int = Field(ge=0, description="The sample's number.")


def spectra(opened: Opened, query: SpectraQuery) -> Table:
    """The eigenvalues of the good samples of a range; a row is a sample.

    Raises:
        RequestError: (413) it is too much for one answer; (422) a range is none.
        StoreError: data on disk are damaged.
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
    # nothing to read where nothing is kept; also, Zarr takes no empty selections
    values = opened.sweep.values("eigenvalue", samples, components) if kept.any() else np.empty((kept.size, width))
    columns["eigenvalue"] = values if kept.all() else values[kept]
    facts = {**_facts(opened), "components": [components.start, components.stop]}
    return Table("sample", columns, {"eigenvalue": "component"}, facts)


def eigenvectors(opened: Opened, query: EigenvectorsQuery) -> Table:
    """The eigenvectors of one sample with their eigenvalues; a row is a component.

    Raises:
        RequestError: (404) there is no such sample, or it is not good; (413), (422) as `spectra`.
        StoreError: data on disk are damaged.
    """
    layout = opened.sweep.layout
    if query.sample >= layout.samples:
        raise RequestError(404, f"there is no sample {query.sample}; the sweep has {layout.samples}, counted from 0")
    status = int(opened.status[query.sample])
    if status == PENDING:
        raise RequestError(404, f"sample {query.sample} is not computed yet, at this snapshot")
    if status == QUARANTINED and not query.quarantined:
        raise RequestError(404, f"sample {query.sample} is quarantined; with quarantined=true it is given all the same")
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
    """A range within what there is; one that reaches beyond ends there, as in Python."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise RequestError(422, f"{name}: a range is start:stop, counted from 0, such as 0:100; not {text!r}")
    start = min(int(found[1] or 0), length)
    stop = min(int(found[2]) if found[2] else length, length)
    if start > stop:
        raise RequestError(422, f"{name}: a range ends after it starts; {text!r} does not")
    return slice(start, stop)


def _some(name: str, text: str, length: int) -> slice:
    """As `_slice`, for what must not be empty: Arrow has no lists of no entries."""
    asked = _slice(name, text, length)
    if asked.start == asked.stop:
        raise RequestError(422, f"{name}: {text!r} is none of the {length} that there are")
    return asked


def _require_room(numbers: int, form: Format, start: int, width: int) -> None:
    most = MOST_NUMBERS[form]
    if numbers > most:
        page = max(1, most // width)
        other = "" if form != "json" else f" (format=npy has up to {MOST_NUMBERS['npy']})"
        raise RequestError(
            413,
            f"this has {numbers} numbers, and an answer as {form} has at most {most}{other}. Ask in pages, such as "
            f"samples={start}:{start + page} and then samples={start + page}:{start + 2 * page}, with the snapshot "
            "of the first answer in each",
        )

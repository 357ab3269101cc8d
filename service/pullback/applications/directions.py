"""The axes of the mean metric beside the latent directions of other methods, with controls and intervals.

The sources are GANSpace, SeFa and the Local Basis, computed here from the generator; random directions; and files.
`alignment` defines the measures. Directions are unit rows; signs are arbitrary and no number depends on them. A source
orders its directions, strongest first, and the axes are those of the mean metric by descending eigenvalue.

Intervals come from the bootstrap over samples of the mean metric, whose axes are computed again for each draw; the
directions stay. The control of a set is the same directions against a shuffled H̄, whose eigenvalues are those of H̄ and
whose basis is random. The set `random` is a control of its own.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.eigenbasis import eigenbasis
from pullback.analysis.protocol import Table, strict
from pullback.analysis.samples import Samples
from pullback.analysis.side_by_side import holm
from pullback.applications.activation_components import activation_components
from pullback.applications.alignment import (
    Alignment,
    RandomRates,
    Span,
    against_shuffled,
    alignment,
    drawn_metrics,
    draws_for,
    stacked,
)
from pullback.applications.alignment_dataset import alignment_dataset
from pullback.applications.direction_sets import DirectionSet, named_once, random_directions
from pullback.applications.first_weights import weight_directions
from pullback.applications.mapping_jacobian import mapping_directions
from pullback.applications.protocol import Progress, Subject
from pullback.applications.results import ApplicationResult
from pullback.errors import PullbackError
from pullback.interchange.direction_files import read_directions
from pullback.spec import options as base

if TYPE_CHECKING:
    import xarray as xr

SUMMARY = "the axes of the mean metric beside GANSpace, SeFa, Local Basis, random directions and files of directions"

Method = Literal["ganspace", "sefa", "local_basis", "random"]
METHODS: tuple[Method, ...] = ("ganspace", "sefa", "local_basis", "random")
_SHOWN = (1, 2, 5, 10, 20, 50, 100)
"""Sizes k of subspaces in the table."""


class Options(base.Options):
    """Options of the comparison of directions."""

    method: tuple[Method, ...] | None = None
    """The sources: `ganspace`, `sefa`, `local_basis`, `random`, or several as `[sefa, random]`. By default all that the
    generator has, and random."""
    files: Annotated[tuple[str, ...], base.Local()] = ()
    """Files of directions in the space of the sweep's codes: `.npy`, `.npz` of GANSpace, `.pt` of encoder4editing."""
    block: str | None = None
    """The block of the code to which the directions of the files belong; by default the whole code."""
    components: int = Field(default=50, ge=1, le=10_000)
    """Number of directions of each source that are compared."""
    layer: str | None = None
    """The layer whose activations GANSpace decomposes, or `codes`; by default W of a StyleGAN, else the first layer."""
    samples: int = Field(default=10_000, ge=2, le=10_000_000)
    """Number of codes for GANSpace."""
    codes: int = Field(default=100, ge=1, le=1_000_000)
    """Number of codes over which the Local Basis is averaged; 1 gives the basis of a single code."""
    unit_rows: bool = True
    """Whether SeFa scales the weights of each output to unit length, as its published code does."""
    null: int = Field(default=10_000, ge=100, le=1_000_000)
    """Number of random directions behind each percentile."""
    controls: int = Field(default=999, ge=10, le=100_000)
    """Number of random bases of the shuffled mean metric."""
    draws: int = Field(default=200, ge=1, le=100_000)
    """Bootstrap draws over samples behind each interval; the mean metric of each draw is decomposed."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of every random choice."""

    @field_validator("method", "files", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def run(subject: Subject, given: Options, progress: Progress) -> "xr.Dataset":
    """Return the measures of every set of directions; see `alignment` and the long names of the variables."""
    sweep = subject.sweep
    assert sweep is not None
    n = sweep.layout.latent_dim
    draws = draws_for(n, given.draws)
    steps = len(METHODS) + 1 + draws
    sets, left_out = _sets(subject, given, n, lambda done: progress(done, steps), progress)
    samples = Samples.of_sweep(sweep)
    mean = samples.mean_metric()
    values, axes = eigenbasis(mean)
    found = n if samples.whole else int(np.sum(values > NULL_FLOOR * max(float(values[0]), 0.0)))
    rates = RandomRates(n, given.null, given.seed)
    null = rates.sorted(values)
    spans = [Span(each.vectors) for each in sets]
    measured = [alignment(span, span.basis @ axes.T, values, null) for span in spans]
    controls = [against_shuffled(span, values, null, given.controls, given.seed) for span in spans]
    progress(len(METHODS) + 1, steps)
    drawn: list[list[Alignment]] = [[] for _ in sets]
    for draw, metric in enumerate(drawn_metrics(samples, mean, draws, given.seed) if draws else ()):
        own_values, own_axes = eigenbasis(metric)
        own_null = rates.sorted(own_values)
        for place, span in enumerate(spans):
            drawn[place].append(alignment(span, span.basis @ own_axes.T, own_values, own_null))
        progress(len(METHODS) + 2 + draw, steps)
    scalars = {
        "samples": len(samples),
        "latent_dim": n,
        "space": sweep.provenance.get("space"),
        "notes": {each.name: list(each.notes) for each in sets},
        "left_out": left_out,
        "whole": samples.whole,
        "axes": found,
        "draws": draws,
        "draws_asked": given.draws,
        "controls": given.controls,
        "null_directions": len(rates),
    }
    dataset = alignment_dataset(
        sets, measured, controls, [stacked(each) for each in drawn] if draws else None, values, null
    )
    return dataset.assign_attrs(scalars=json.dumps(strict(scalars), allow_nan=False))


def _sets(
    subject: Subject, given: Options, n: int, done: Callable[[int], None], progress: Progress
) -> tuple[list[DirectionSet], dict[str, str]]:
    """Return the sets of directions, and why methods were left out that were not asked for by name."""
    sweep = subject.sweep
    assert sweep is not None
    blocks = {str(name): (int(ends[0]), int(ends[1])) for name, ends in sweep.provenance.get("blocks", {}).items()}
    sets: list[DirectionSet] = []
    left_out: dict[str, str] = {}
    for file in given.files:  # first, because a mistake in a file must not cost the work of the others
        read = read_directions(file, n, blocks, given.block)
        notes = (f"{read.layout}, {len(read.vectors)} directions", *read.notes)
        sets.append(DirectionSet.of(Path(file).name, read.vectors, read.strengths, notes).first(given.components))
    count = min(given.components, n)
    makers: dict[Method, Callable[[], DirectionSet]] = {
        "ganspace": lambda: activation_components(subject.generator, count, given.samples, given.seed, given.layer),
        "sefa": lambda: weight_directions(subject.generator, count, given.unit_rows),
        "local_basis": lambda: mapping_directions(subject.generator, count, given.codes, given.seed),
        "random": lambda: random_directions(n, count, given.seed),
    }
    made: dict[str, Any] = progress.checkpoint.load() or {}
    for step, name in enumerate(METHODS if given.method is None else given.method):
        try:
            if name not in made:
                each = makers[name]()
                if each.vectors.shape[1] != n:
                    raise PullbackError(
                        f"{name} gives directions of {each.vectors.shape[1]} coordinates, and the sweep's codes have "
                        f"{n}: the generator is used in another space. Nothing was computed."
                    )
                made |= {name: each.vectors, f"{name}_strength": each.strengths, f"{name}_notes": list(each.notes)}
                progress.checkpoint.save(**made)
            notes = tuple(str(note) for note in made[f"{name}_notes"])
            sets.append(DirectionSet(name, made[name], made[f"{name}_strength"], notes))
        except PullbackError as error:
            if given.method is not None:
                raise
            left_out[name] = str(error)
        done(step + 1)
    if given.method is None and not given.files and len(sets) == 1:
        raise PullbackError(
            f"there are no directions to compare with: {left_out.get('sefa', '')} With `files`, directions of other "
            "tools are compared without the generator."
        )
    return named_once(sets), left_out


def summary(result: ApplicationResult) -> list[Table]:
    """Return a table of overlaps by k, and one of image change and single axes, each beside its control."""
    data, scalars = result.dataset, _scalars(result)
    n = scalars["latent_dim"]
    overlaps: list[list[Any]] = []
    for place, name in enumerate(names_of(data)):
        most = min(int(data["directions"][place]), data.sizes["subspace_size"], scalars["axes"])
        for k in _sizes(most):
            at = {"set": place, "subspace_size": k - 1}
            overlaps.append(
                [
                    name,
                    k,
                    float(data["overlap"].isel(at)),
                    _interval(data, "overlap", at),
                    float(data["overlap_shuffled"].isel(at)),
                    _band(data, "overlap", at),
                    k / n,
                    float(data["overlap_p"].isel(at)),
                ]
            )
    corrected = holm([row[-1] for row in overlaps])
    overlaps = [[*row[:-1], float(p)] for row, p in zip(overlaps, corrected, strict=True)]
    singles = []
    for place, name in enumerate(names_of(data)):
        at = {"set": place}
        row: list[str | float | int | None] = [name, int(data["directions"][place])]
        for measure in ("median_percentile", "mean_same", "mean_best"):
            row += [
                float(data[measure].isel(at)),
                _interval(data, measure, at),
                float(data[f"{measure}_shuffled"].isel(at)),
            ]
        singles.append(row)
    return [
        Table(
            ["directions", ">k", ">overlap", ">95 %", ">shuffled H̄", ">5–95 %", ">random k/n", ">p (Holm)"],
            overlaps,
            "Overlap of the first k directions with the first k axes (mean cos² of the principal angles)",
        ),
        Table(
            [
                "directions",
                ">count",
                *(">median percentile", ">95 %", ">shuffled H̄"),
                *(">|cos|, same rank", ">95 %", ">shuffled H̄"),
                *(">|cos|, nearest axis", ">95 %", ">shuffled H̄"),
            ],
            singles,
            "Image change along the directions among random ones, and angles to single axes",
        ),
    ]


def sentences(result: ApplicationResult) -> list[str]:
    """Return how far the leading directions of each set lie in the span of the leading axes."""
    data, scalars = result.dataset, _scalars(result)
    found = []
    for place, name in enumerate(names_of(data)):
        if name == "random":
            continue
        k = max(_sizes(min(int(data["directions"][place]), data.sizes["subspace_size"], scalars["axes"], 10)))
        at = {"set": place, "subspace_size": k - 1}
        what = "direction has" if k == 1 else f"{k} directions have"
        axes = "axis" if k == 1 else f"{k} axes"
        share, control = float(data["overlap"].isel(at)), float(data["overlap_shuffled"].isel(at))
        found.append(
            f"The first {what} {share:.2g} of their squared length in the span of the first {axes} ({name}; "
            f"{control:.2g} if the axes are shuffled)."
            if k > 1
            else f"The first {what} cos² = {share:.2g} with the first {axes} ({name}; {control:.2g} if shuffled)."
        )
    return found


def notes(result: ApplicationResult) -> list[str]:
    """Return how each set was made, and how to read signs and controls."""
    scalars = _scalars(result)
    made = [f"{name}: {'; '.join(words)}." for name, words in scalars["notes"].items()]
    return [
        *made,
        "Directions are unit vectors; their signs are arbitrary, and no number depends on them. Shuffled H̄ has the "
        f"eigenvalues of H̄ and a random basis ({scalars['controls']} of them). Intervals are those of the basic "
        "bootstrap over samples, extended to the value itself. p is the share of these bases whose value is at least "
        "that of H̄, counting H̄ itself, corrected for the number of rows (Holm, 1979); the dataset has it uncorrected.",
    ]


def cautions(result: ApplicationResult) -> list[str]:
    """Return which sources were left out, and what limits the intervals."""
    scalars = _scalars(result)
    words = [f"{name} was left out: {why}" for name, why in scalars["left_out"].items()]
    if not scalars["whole"]:
        words.append(
            f"The mean metric is that of the kept eigenpairs, with {scalars['axes']} axes: rates are lower bounds, and "
            "overlaps beyond these axes are not shown."
        )
    if scalars["draws"] < scalars["draws_asked"]:
        words.append(
            f"Intervals come from {scalars['draws']} of {scalars['draws_asked']} bootstrap draws, because each "
            f"decomposes a metric of {scalars['latent_dim']} dimensions."
            if scalars["draws"]
            else f"There are no intervals: each draw would decompose a metric of {scalars['latent_dim']} dimensions."
        )
    return words


def names_of(data: "xr.Dataset") -> list[str]:
    """Return the names of the sets."""
    return [str(name) for name in data["set"].values]


def to_json(result: ApplicationResult) -> dict[str, Any]:
    """Return the measures of each set by name, and the null; no vectors."""
    data, scalars = result.dataset, _scalars(result)
    content: dict[str, Any] = {"sets": {}, **scalars}
    for place, name in enumerate(names_of(data)):
        count = int(data["directions"][place])
        own: dict[str, Any] = {"directions": count}
        for key, variable in data.data_vars.items():
            if "set" not in variable.dims or key in ("vector", "directions", "strength"):
                continue
            array = variable.isel(set=place).values
            own[str(key)] = array[..., :count] if "direction" in variable.dims else array
        content["sets"][name] = own
    for key in ("null_mean", "null_sd", "null_mean_drawn", "null_sd_drawn"):
        content[key] = float(data[key])
    return content


def figure(result: ApplicationResult) -> dict[str, Any]:
    """Draw overlap by k, and the percentile of the image change and the cosines of each set, beside their controls."""
    from pullback.applications.direction_figures import RANDOM, cosine_figure, overlap_figure, percentile_figure

    data = result.dataset.isel(subspace_size=slice(_scalars(result)["axes"]))
    drawn: dict[str, Any] = {
        "Overlap of the first k directions of each source with the first k axes of the mean metric: the mean cos² of "
        "their principal angles. Bands are 95 % bootstrap intervals. The same directions against shuffled axes, and "
        "random directions, lie at chance, k/n.": overlap_figure(data)
    }
    for place, name in enumerate(names_of(data)):
        if name == RANDOM and len(names_of(data)) > 1:
            continue
        drawn |= {
            f"Image change along each direction of {name}, as its percentile among random directions, with 95 % "
            "bootstrap intervals. Along directions that have nothing to do with the metric the percentiles fill the "
            "band evenly.": percentile_figure(data, place),
            f"Cosine of each direction of {name} with the nearest axis of the mean metric, and with the axis of the "
            "same rank. In many dimensions even a random direction has an axis near it: the band (5 to 95 % with "
            "shuffled axes) and the crosses (random directions) say how near.": cosine_figure(data, place),
        }
    return drawn


def _scalars(result: ApplicationResult) -> dict[str, Any]:
    scalars: dict[str, Any] = json.loads(result.dataset.attrs["scalars"])
    return scalars


def _sizes(most: int) -> list[int]:
    return sorted({k for k in (*_SHOWN, most) if 1 <= k <= most}) or [1]


def _interval(data: "xr.Dataset", name: str, at: dict[str, int]) -> str | None:
    return _ends(data, f"{name}_ci95", at)


def _band(data: "xr.Dataset", name: str, at: dict[str, int]) -> str | None:
    return _ends(data, f"{name}_shuffled_band", at)


def _ends(data: "xr.Dataset", name: str, at: dict[str, int]) -> str | None:
    if name not in data:
        return None
    low, high = data[name].isel(at).values
    return f"{low:.3g} – {high:.3g}"

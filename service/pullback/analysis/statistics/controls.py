"""A sweep beside its controls: do trained weights give what shuffled or random weights do not?

The first sweep is that of the trained generator; the others are controls, such as the same job with
`control: shuffled` and with `control: random`. Anisotropy and homogeneity of each stand side by side, with the
homogeneity along random axes, which needs no other sweep. Wang & Ponce (ICLR 2021) use both controls. Sweeps with the
same codes are compared code by code (paired bootstrap draws), others as independent sets.

A number separates the trained generator from a control if their 95 % intervals do not overlap.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, Floats
from pullback.analysis.cross_metrics import CrossMetrics, Eigenpairs
from pullback.analysis.grassmann import random_frames
from pullback.analysis.matching import match
from pullback.analysis.own_numbers import LABELS, add_own, cells, digits_of, own_cautions, own_json, sentence_case
from pullback.analysis.paired_numbers import means_of
from pullback.analysis.protocol import Progress, Result, Table, strict
from pullback.analysis.samples import Samples
from pullback.analysis.side_by_side import MEAN_DIMS, QUANTITIES, apart, side_by_side
from pullback.analysis.statements import interval as shown_interval

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "a sweep beside its controls: anisotropy and homogeneity, with random axes, and whether they separate"
SWEEPS = "several"

SENTENCES = ("dim_0.99", "c_log", "c_lin")
"""The numbers that the sentences state."""


class Options(BootstrapOptions):
    """Options of the controls."""

    homogeneity_samples: int = Field(default=100, ge=2, le=100_000)
    """Largest number of samples of each sweep whose pairs are compared for its homogeneity."""


def compute(samples: Samples, others: Sequence[Samples], options: Options, progress: Progress) -> "xr.Dataset":
    """Return the numbers of each sweep, and C_log and C_lin of the first along random axes."""
    import xarray as xr

    sweeps = (samples, *others)
    matched = match(sweeps)
    positions = matched.positions if len(matched) else tuple(np.arange(len(each)) for each in sweeps)
    total = len(sweeps) + 1
    own = side_by_side(
        sweeps,
        positions,
        paired=len(matched) > 0,
        draws=options.draws,
        seed=options.seed,
        compared=options.homogeneity_samples,
        progress=lambda done, _: progress(done, total),
    )
    variables, coordinates = add_own(own)
    variables |= _random_axes(samples, positions[0], options)
    progress(total, total)
    coordinates["axes_number"] = ["c_log", "c_lin"]
    scalars = {
        "samples": [len(each) for each in positions],
        "different_codes": matched.reason,
        "controls": [_control(each) for each in sweeps],
        "latent_dim": [each.latent_dim for each in sweeps],
    }
    attrs = {"scalars": json.dumps(strict(scalars), allow_nan=False)}
    return xr.Dataset(variables, coords=coordinates, attrs=attrs)


def _control(samples: Samples) -> str:
    generator = samples.provenance.get("spec", {}).get("generator", {})
    control = generator.get("control") if isinstance(generator, dict) else None
    return str(control or "none")


def _random_axes(samples: Samples, positions: Any, options: Options) -> dict[str, Any]:
    """Return the mean C_log and C_lin of random axes under the metrics of samples, with intervals over samples."""
    generator = np.random.default_rng(options.seed)
    chosen = positions[: options.homogeneity_samples]
    vectors = samples.load_eigenvectors(chosen)
    found: Floats = np.full((2, len(chosen)), np.nan)
    for index, position in enumerate(chosen):
        rows = np.asarray(vectors[index : index + 1], dtype=np.float64)[0]
        metric = Eigenpairs(samples.eigenvalues[position], rows)
        frame = random_frames(1, len(rows), samples.latent_dim, generator)[0]
        along = CrossMetrics(metric.with_axes(frame), metric).cross_rates()[0]
        found[:, index] = along.log, along.linear
    mean, ends, _ = means_of(found, Bootstrap(len(chosen), options.draws, options.seed))
    return {
        "random_axes": (("axes_number",), mean, {"long_name": "mean along random axes"}),
        "random_axes_ci95": (("end", "axes_number"), ends, {"long_name": "95 % bootstrap interval over samples"}),
    }


def to_json(result: Result) -> dict[str, Any]:
    """Return the numbers of each sweep with intervals, those of random axes, and which intervals are apart."""
    dataset = result.dataset
    content: dict[str, Any] = json.loads(dataset.attrs["scalars"])
    content["own"] = own_json(result)
    content["random_axes"] = {
        name: {"value": float(dataset["random_axes"].values[row]), "ci95": dataset["random_axes_ci95"].values[:, row]}
        for row, name in enumerate(("c_log", "c_lin"))
    }
    ends = dataset["own_ci95"].values
    content["apart"] = [
        {name: apart(ends[:, 0, column], ends[:, index, column]) for column, name in enumerate(QUANTITIES)}
        for index in range(1, len(result.sweeps))
    ]
    content["apart_from_random_axes"] = {
        name: apart(ends[:, 0, QUANTITIES.index(name)], dataset["random_axes_ci95"].values[:, row])
        for row, name in enumerate(("c_log", "c_lin"))
    }
    return content


def summary(result: Result) -> Table:
    """Return a row for each number, with a column for each sweep and one for random axes."""
    content = result.json
    columns = [""]
    for about in result.sweeps:
        columns += [f">{about.name}", ">95 % interval"]
    columns += [">random axes", ">95 % interval", "apart from all controls"]
    rows = []
    for name, label in LABELS.items():
        row: list[Any] = [label]
        for sweep in content["own"]["sweeps"]:
            row += cells(sweep[name], digits_of(name))
        random = content["random_axes"].get(name)
        row += ["–", "–"] if random is None else cells(random, 3)
        known = [each[name] for each in content["apart"]]
        if random is not None:
            known.append(content["apart_from_random_axes"][name])
        row.append("–" if None in known else "yes" if all(known) else "no")
        rows.append(row)
    return Table(columns, rows, "The sweep and its controls")


def sentences(result: Result) -> list[str]:
    """Return for the dimension and the homogeneity whether the sweep and each control are apart."""
    content, lines = result.json, []
    own = content["own"]["sweeps"]
    for name in SENTENCES:
        for index, about in enumerate(result.further):
            one, other, is_apart = own[0][name], own[index + 1][name], content["apart"][index][name]
            if is_apart is None or one["value"] is None or other["value"] is None:
                continue
            digits = digits_of(name)
            verdict = "are apart" if is_apart else "overlap: this number does not distinguish it from the control"
            lines.append(
                f"{sentence_case(LABELS[name])}: "
                f"{one['value']:.{digits}f} ({shown_interval(one['ci95'], digits)}) in {result.about.name}, "
                f"{other['value']:.{digits}f} ({shown_interval(other['ci95'], digits)}) in {about.name}. The intervals "
                f"{verdict}."
            )
    random = content["random_axes"]["c_log"]
    if random["value"] is not None:
        lines.append(f"Random axes give C_log = {random['value']:.3f} ({shown_interval(random['ci95'], 3)}).")
    return lines


def cautions(result: Result) -> list[str]:
    """Return whether the sweeps have the same codes, and which numbers are missing."""
    content = result.json
    lines = []
    if content["different_codes"]:
        lines.append(
            f"The sweeps do not have the same codes ({content['different_codes']}): they are compared as independent "
            "sets of samples."
        )
    if all(control == "none" for control in content["controls"][1:]):
        lines.append("None of the other sweeps is a control: their generators have trained weights.")
    return [*lines, *own_cautions(result)]


def notes(result: Result) -> list[str]:
    """Return what each sweep is, and where the intervals come from."""
    options, content = result.options.model_dump(), result.json
    kinds = {"none": "trained weights", "shuffled": "shuffled weights", "random": "random weights"}
    each = [
        f"{about.name}: {kinds.get(control, control)}, {count} samples"
        for about, control, count in zip(result.sweeps, content["controls"], content["samples"], strict=True)
    ]
    return [
        f"{'; '.join(each)}.",
        "Random axes: random directions in place of one sample's eigenvectors, under the metric of another.",
        f"Intervals come from {options['draws']} bootstrap draws of the samples; homogeneity is that of at most "
        f"{options['homogeneity_samples']} samples. Intervals are apart if they do not overlap.",
    ]


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw dim(q) of each sweep, and the homogeneity of each beside that of random axes."""
    return {
        "Dimensions of the mean spectrum, with 95 % intervals.": _dims_figure(result),
        "Homogeneity of each sweep, and along random axes, with 95 % intervals.": _homogeneity_figure(result),
    }


def _dims_figure(result: Result) -> "Figure":
    from pullback.analysis.drawing import SMALL, draw_errors, legend_above, new_figure, plain_axes

    figure = new_figure("dimensions-of-controls")
    axes = plain_axes(figure, x="share q of the trace", y="dim(q)")
    own = result.dataset
    for index, about in enumerate(result.sweeps):
        values = own["own"].isel(sweep=index).sel(quantity=list(MEAN_DIMS)).values
        low, high = own["own_ci95"].isel(sweep=index).sel(quantity=list(MEAN_DIMS)).values
        at = np.arange(len(values)) + 0.12 * (index - (len(result.sweeps) - 1) / 2)
        draw_errors(axes, at, values, low, high, _style(index), label=about.name)
    axes.set_xticks(range(len(MEAN_DIMS)), [name.removeprefix("dim_") for name in MEAN_DIMS], fontsize=SMALL)
    axes.set_ylim(bottom=0)
    legend_above(axes, columns=2)
    return figure


def _homogeneity_figure(result: Result) -> "Figure":
    from pullback.analysis.drawing import NULL, SMALL, draw_errors, guide, legend_above, new_figure, plain_axes

    figure = new_figure("homogeneity-of-controls")
    axes = plain_axes(figure, y="correlation")
    own, numbers = result.dataset, ["c_log", "c_lin"]
    groups = len(result.sweeps) + 1
    for index, about in enumerate(result.sweeps):
        values = own["own"].isel(sweep=index).sel(quantity=numbers).values
        low, high = own["own_ci95"].isel(sweep=index).sel(quantity=numbers).values
        at = np.arange(2) + 0.15 * (index - (groups - 1) / 2)
        draw_errors(axes, at, values, low, high, _style(index), label=about.name)
    low, high = own["random_axes_ci95"].values
    at = np.arange(2) + 0.15 * (groups - 1) / 2
    draw_errors(axes, at, own["random_axes"].values, low, high, NULL, label="random axes")
    guide(axes, y=0.0)
    axes.set_xticks(range(2), ["C_log", "C_lin"], fontsize=SMALL)
    axes.set_xlim(-0.6, 1.6)
    legend_above(axes, columns=2)
    return figure


def _style(index: int) -> Any:
    from pullback.analysis.drawing import CONTROL, series

    return series(0) if index == 0 else CONTROL if index == 1 else series(index - 1)

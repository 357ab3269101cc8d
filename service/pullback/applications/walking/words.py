"""Words and tables of the application `axes`: its summary, sentences, notes, cautions and JSON."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.bootstrap import Floats
from pullback.analysis.protocol import Table
from pullback.applications.results import ApplicationResult
from pullback.applications.walking.hints import EFFECTS
from pullback.applications.walking.labels import (
    code_labels,
    labels,
    named_ranges,
    scalars_of,
    step_labels,
    tags_of,
)
from pullback.applications.walking.scores import SCORES, WORDS

if TYPE_CHECKING:
    import xarray as xr


def summary(result: ApplicationResult) -> list[Table]:
    """Return a table of steps and hints, and one of scores beside random directions and the control."""
    data, scalars = result.dataset, scalars_of(result.dataset)
    own = labels(data)
    walks = [
        [
            own[place],
            f"{float(data['rate'][place]):.3g}",
            _mean_range(data["range"].values[:, place]),
            _mean_range(data["range_distance"].values[:, place]),
            _mean_range(data["quadratic_range"].values[:, place]),
            "; ".join(scalars["hints"][place]) or "–",
            scalars["regions"][place] or "–",
        ]
        for place in range(len(own))
    ]
    columns = ["axis", ">rate", ">range of t", ">D there", ">t with D² ≈ ½λt²", "hints, from − to +", "where"]
    ends, tags = named_ranges(data), tags_of(data)
    if np.isfinite(ends).any():
        columns.append(">name holds for D")
        for row, (low, high) in zip(walks, ends.T, strict=True):
            row.append(_range(low, high) if np.isfinite(low) else "–")
    if any(tags):
        columns.append("tags")
        for row, words in zip(walks, tags, strict=True):
            row.append(words or "–")
    tables = [Table(columns, walks, f"Walks along {scalars['basis']}")]
    if scalars["scored"]:
        rows = [[own[place], *(_with_interval(data, name, place) for name in SCORES)] for place in range(len(own))]
        rows.append(["random, 5–95 %", *(_null(data, name) for name in SCORES)])
        if scalars["control"]:
            rows.append(["shuffled weights, mean", *(_control(data, name) for name in SCORES)])
        title = "Scores of the axes, with 95 % intervals"
        tables.append(Table(("axis", *(f">{WORDS[name]}" for name in SCORES)), rows, title))
    return tables


def sentences(result: ApplicationResult) -> list[str]:
    """Return how consistent the axes are beside random directions, and how well they are told apart."""
    data, scalars = result.dataset, scalars_of(result.dataset)
    if not scalars["scored"]:
        return []
    said = []
    consistency, null = float(data["consistency_pooled"].mean()), float(data["consistency_pooled_random"][1])
    if np.isfinite(consistency):
        beside = f"; {null:.2g} along random directions" if np.isfinite(null) else ""
        said.append(
            "A step along an axis changes the images of two codes with a mean cosine of "
            f"{consistency:.2g}, pooled over places in the image{beside}."
        )
    guess, chance = float(data["guessing"].mean()), 0.5 / data.sizes["axis"]
    random = float(data["guessing_random"][1])
    beside = f"random directions {100 * random:.0f} %, " if np.isfinite(random) else ""
    said.append(
        f"From the image change alone, axis and sign are guessed right in {100 * guess:.0f} % of the cases "
        f"({beside}chance {100 * chance:.0f} %)."
    )
    if scalars["control"]:
        pooled, right = (data[f"{name}_control"].values for name in ("consistency_pooled", "guessing"))
        said.append(
            f"With shuffled weights, the mean cosine along its own axes of these ranks is {np.nanmean(pooled):.2g}, "
            f"and {100 * np.nanmean(right):.0f} % are guessed right."
        )
    return said


def notes(result: ApplicationResult) -> list[str]:
    """Return what steps, ranges, scores and hints are."""
    scalars = scalars_of(result.dataset)
    reach = f"up to {scalars['reach']:.3g}"
    steps = (
        f"Steps are equal in D, {reach}; a frame beyond the range of an axis shows the end of the range."
        if scalars["steps"] == "equal"
        else f"Steps are equal in latent length, {reach}."
    )
    said = [
        f"D is the root of D² ({scalars['distance']}). {steps} The range of t is where D grows, as far as it was "
        "measured, in the mean over codes. The sign of an axis is arbitrary."
    ]
    if scalars["scored"]:
        said.append(
            f"Scores and hints come from {scalars['scored']} codes and {scalars['random']} random directions. Their "
            "intervals are those of the bootstrap over codes; those of stability, over splits. A hint is an effect "
            "between both "
            "ends of the scored step whose interval excludes zero and which 95 % of random directions do not reach. "
            "Brightness, contrast and colours are in units of the image's range."
        )
        said.append(
            "Scored steps are those at which ½λt² gives the same D on every axis, and at most 0.6 times the mean norm "
            "of the codes."
        )
    return said


def cautions(result: ApplicationResult) -> list[str]:
    """Return which axes cannot reach the steps that were asked for."""
    data, scalars = result.dataset, scalars_of(result.dataset)
    if scalars["steps"] != "equal":
        return []
    short = np.abs(data["distance"].values[:, :, [0, -1]] / scalars["reach"] - 1).max(axis=(1, 2)) > 0.05
    if not short.any():
        return []
    names = [name for name, each in zip(labels(data), short, strict=True) if each]
    listed = ", ".join(names[:8]) + (" and others" if len(names) > 8 else "")
    return [
        f"D = {scalars['reach']:.3g} is out of reach along {listed} for at least one code: the last frames show the "
        "end of the range."
    ]


def to_json(result: ApplicationResult) -> dict[str, Any]:
    """Return steps, distances, scores and hints by axis; no images, maps or vectors."""
    data, scalars = result.dataset, scalars_of(result.dataset)
    content: dict[str, Any] = {**scalars, "asked": data["asked"].values, "axes": []}
    ends, tags = named_ranges(data), tags_of(data)
    for place, label in enumerate(labels(data)):
        own = data.isel(axis=place)
        entry: dict[str, Any] = {"label": label, "text": str(own["text"].values), "name": str(own["name"].values)}
        entry["tags"] = [each for each in tags[place].split(", ") if each]
        if np.isfinite(ends[:, place]).all():
            entry["named_range"] = ends[:, place]
        for name in ("rate", "t", "distance", "code_rate", "range", "range_distance", "quadratic_range"):
            entry[name] = own[name].values
        for name in SCORES if scalars["scored"] else ():
            entry[name] = {"value": own[name].values, "ci95": own[f"{name}_ci95"].values}
        if "effect" in own:
            entry["effects"] = {
                each.name: {"value": own["effect"].values[i], "ci95": own["effect_ci95"].values[:, i]}
                for i, each in enumerate(EFFECTS)
            }
        entry["hints"], entry["region"] = scalars["hints"][place], scalars["regions"][place]
        content["axes"].append(entry)
    del content["hints"], content["regions"]
    if scalars["scored"]:
        content["random_directions"] = {name: data[f"{name}_random"].values for name in SCORES}
        if scalars["control"]:
            content["control_scores"] = {name: data[f"{name}_control"].values for name in SCORES}
    return content


def figure(result: ApplicationResult) -> dict[str, Any]:
    """Draw the walks of the first code, where the images change, D against its prediction, and the scores."""
    from pullback.applications.walking.figures import change_figure, curve_figure, score_figure, walk_figure

    data, scalars = result.dataset, scalars_of(result.dataset)
    own = labels(data)
    distance = scalars["distance"]
    brackets = ", in brackets where the name does not hold" if np.isfinite(named_ranges(data)).any() else ""
    drawn: dict[str, Any] = {
        f"Images along {scalars['basis']} ({code_labels(data)[0]}), in steps of equal "
        f"{'image distance D' if scalars['steps'] == 'equal' else 'latent length'} up to {scalars['reach']:.2g}. "
        f"Under each end stands D from the unmoved image{brackets}.": walk_figure(data, own, step_labels(data)),
        f"Where the image changes along each axis ({code_labels(data)[0]}): |Jv| of each pixel, each axis in its own "
        "scale.": change_figure(data, own),
        f"D² ({distance}) against the step t of the first axes and codes, relative to ½λt² with each code's own "
        "rate λ. At 1 the quadratic law holds.": curve_figure(data, own),
    }
    if scalars["scored"]:
        drawn["Scores of each axis with 95 % intervals; bands are 5 to 95 % of random directions."] = score_figure(data)
    return drawn


def _mean_range(ends: Floats) -> str:
    low, high = (float(np.mean(each)) for each in ends)
    return _range(low, high)


def _range(low: float, high: float) -> str:
    return f"{low:.3g} – {high:.3g}".replace("-", "−")


def _with_interval(data: "xr.Dataset", name: str, place: int) -> str:
    value, ends = float(data[name][place]), data[f"{name}_ci95"].values[:, place]
    if not np.isfinite(value):
        return "–"
    text = _number(name, value)
    return f"{text} ({_number(name, ends[0])} – {_number(name, ends[1])})" if np.isfinite(ends).all() else text


def _number(name: str, value: float) -> str:
    text = f"{value:.{1 if name == 'percentile' else 2}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def _null(data: "xr.Dataset", name: str) -> str:
    low, mean, high = data[f"{name}_random"].values
    if np.isfinite(low):
        return f"{_number(name, low)} – {_number(name, high)}"
    return _number(name, mean) if np.isfinite(mean) else "–"


def _control(data: "xr.Dataset", name: str) -> str:
    values = data[f"{name}_control"].values
    known = values[np.isfinite(values)]
    if not known.size:
        return "–"
    return _number(name, float(known.mean()))

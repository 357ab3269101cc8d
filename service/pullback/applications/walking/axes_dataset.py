"""The dataset of the application `axes`: images, steps, scores and hints as named arrays with units."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers, bootstrap_weights, interval, weighted_means
from pullback.analysis.protocol import strict
from pullback.analysis.scalars import variable
from pullback.applications.walking.basis import Basis
from pullback.applications.walking.expressions import Expression
from pullback.applications.walking.hints import EFFECTS, regions_of
from pullback.applications.walking.labels import name_variables
from pullback.applications.walking.scores import WORDS, Score
from pullback.applications.walking.walks import Walks, resized
from pullback.interchange.axis_names import entries_of, names_path, read_names

if TYPE_CHECKING:
    import xarray as xr

    from pullback.analysis.samples import Samples
    from pullback.applications.axes import Options
    from pullback.store.reader import Sweep

_HINTS = 3
"""Hints of an axis, at most."""
_RATE = "squared image distance per squared latent length"


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores and effects at S codes; empty if scores were not asked for.

    Attributes:
        scores: by name.
        effects: of the axes `[axes, S, effects]`.
        random_effects: of random directions `[directions, S, effects]`.
        control: scores of the control's axes, by name `[axes]`.
        maps: root mean square over codes of |Jv| `[axes, height, width]`.
        step: t of each axis `[axes]`, latent units.
    """

    scores: dict[str, Score] = field(default_factory=dict)
    effects: Floats | None = None
    random_effects: Floats | None = None
    control: dict[str, Floats] = field(default_factory=dict)
    maps: Floats | None = None
    step: Floats | None = None


def axes_dataset(
    sweep: "Sweep",
    given: "Options",
    basis: Basis,
    expressions: list[Expression],
    vectors: Floats,
    samples: "Samples",
    walks: Walks,
    numbers: Integers,
    classes: Integers,
    found: Measured,
    reach: float,
) -> "xr.Dataset":
    """Return the dataset of the application.

    Args:
        sweep: the sweep.
        given: the options.
        basis: the basis of the axes.
        expressions: the axes as they were asked for.
        vectors: their unit vectors `[axes, n]`.
        samples: the good samples of the sweep.
        walks: images and steps.
        numbers: sample numbers of the walked codes, −1 for new ones.
        classes: their classes, or −1.
        found: scores and effects; empty if there are none.
        reach: the last step.
    """
    import xarray as xr

    one = "1"
    mean = samples.mean_metric()
    known = read_names(names_path(sweep.location)) if basis.mean else ()
    named = entries_of(known, [each.text for each in expressions])
    names = [
        each.name or ("" if entry is None else entry.name) or basis.name_of(each.rank)
        for each, entry in zip(expressions, named, strict=True)
    ]
    rates = np.einsum("ij,jk,ik->i", vectors, mean, vectors)
    units = "image distance" if given.steps == "equal" else "latent units"
    content: dict[str, Any] = {
        "text": (("axis",), [each.text for each in expressions], {"long_name": "axis as it was asked for"}),
        "rank": variable(("axis",), [each.rank or 0 for each in expressions], "rank, 0 for a combination", one),
        **name_variables(names, named),
        "vector": variable(("axis", "latent"), vectors, "unit vector", one),
        "rate": variable(("axis",), rates, "rate of the mean metric along the axis", _RATE),
        "image": (
            ("axis", "code", "frame", "height", "width", "colour"),
            walks.images,
            {"long_name": "images of the walks", "units": "1/255"},
        ),
        "t": variable(("axis", "code", "frame"), walks.t, "step", "latent units"),
        "distance": variable(("axis", "code", "frame"), walks.distances, "D from the unmoved image", "image distance"),
        "asked": variable(("frame",), walks.asked, "step that was asked for", units),
        "code_rate": variable(("axis", "code"), walks.rates, "rate of the code's own metric", _RATE),
        "range": variable(("end", "axis", "code"), walks.range_t, "steps up to which D grows", "latent units"),
        "range_distance": variable(("end", "axis", "code"), walks.range_distance, "D there", "image distance"),
        "quadratic_range": variable(
            ("end", "axis", "code"), walks.quadratic, "steps up to which D² is within 20 % of ½λt²", "latent units"
        ),
        "curve_t": variable(("axis", "code", "node"), walks.curve_t, "measured steps", "latent units"),
        "curve_distance": variable(("axis", "code", "node"), walks.curve_d, "D there", "image distance"),
        "change": variable(
            ("axis", "code", "height", "width"), walks.maps, "|Jv| of each pixel", "colour per latent unit"
        ),
        "latent": variable(("code", "latent"), walks.codes, "codes", "latent units"),
        "number": variable(("code",), numbers, "sample, −1 for a new code", one),
        "condition": variable(("code",), classes, "class, −1 without classes", one),
    }
    for name, score in found.scores.items():
        words = WORDS[name]
        content[name] = variable(("axis",), score.values, words, one)
        content[f"{name}_ci95"] = variable(("end", "axis"), score.ci95, f"95 % interval: {words}", one)
        content[f"{name}_random"] = variable(("band",), score.null, f"random directions, 5 %, mean, 95 %: {words}", one)
        if name in found.control:
            content[f"{name}_control"] = variable(("axis_of_control",), found.control[name], f"control: {words}", one)
    hints: list[list[str]] = [[] for _ in expressions]
    regions = [""] * len(expressions)
    if found.effects is not None and found.maps is not None and found.step is not None:
        ends, thresholds = _effect_intervals(found.effects, found.random_effects, given)
        means = found.effects.mean(axis=1)
        content["effect"] = variable(("axis", "effect_name"), means, "mean effect between both ends", one)
        content["effect_ci95"] = variable(("end", "axis", "effect_name"), ends, "95 % interval of the effect", one)
        content["effect_random"] = variable(
            ("effect_name",), thresholds, "|effect| that 5 % of random directions exceed", one
        )
        content["scored_step"] = variable(("axis",), found.step, "step of the scores", "latent units")
        content["mean_change"] = variable(
            ("axis", "height", "width"),
            resized(found.maps, walks.maps.shape[-2:]),
            "mean |Jv|",
            "colour per latent unit",
        )
        hints = [_hints(*each, thresholds) for each in zip(means, ends.transpose(1, 0, 2), strict=True)]
        regions = regions_of(found.maps)
    scalars = {
        "latent_dim": samples.latent_dim,
        "samples": len(samples),
        "basis": basis.what,
        "of_mean": basis.mean,
        "of_file": given.code_file is not None,
        "path": given.path,
        "steps": given.steps,
        "reach": reach,
        "scored": min(given.scored, len(samples)),
        "random": given.random if given.scored else 0,
        "control": bool(found.control),
        "distance": str(sweep.provenance.get("distance")),
        "classes": list(sweep.provenance.get("classes") or ()),
        "hints": hints,
        "regions": regions,
    }
    return xr.Dataset(
        content,
        coords={"effect_name": [each.name for each in EFFECTS]},
        attrs={"scalars": json.dumps(strict(scalars), allow_nan=False)},
    )


def _effect_intervals(effects: Floats, random: Floats | None, given: "Options") -> tuple[Floats, Floats]:
    """Return intervals of the mean effects `[2, axes, effects]`, and the size that random directions seldom have."""
    weights = bootstrap_weights(effects.shape[1], given.draws, given.seed)
    ends = np.stack(interval(weighted_means(weights, effects.transpose(1, 0, 2))))
    if random is None or not len(random):
        return ends, np.zeros(effects.shape[2])
    return ends, np.percentile(np.abs(random.mean(axis=1)), 95, axis=0)


def _hints(means: Floats, ends: Floats, thresholds: Floats) -> list[str]:
    """Effects whose interval excludes zero and whose size random directions seldom have, the clearest first."""
    clear = []
    for place, effect in enumerate(EFFECTS):
        value, threshold = float(means[place]), float(thresholds[place])
        if ends[0, place] * ends[1, place] > 0 and abs(value) > threshold:
            ratio = abs(value) / threshold if threshold > 0 else np.inf
            words = effect.more if value > 0 else effect.less
            clear.append((ratio, f"{words} ({value:+.2g}{effect.unit})".replace("-", "−")))
    return [words for _, words in sorted(clear, key=lambda each: -each[0])[:_HINTS]]

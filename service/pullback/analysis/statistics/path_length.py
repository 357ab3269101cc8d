"""The perceptual path length of StyleGAN in the limit of small steps, ½ E[żᵀ H ż], without sampling noise along paths.

StyleGAN's PPL (Karras, Laine & Aila, CVPR 2019) is E[D²(G(z(t)), G(z(t + ε))) / ε²] on paths between two independent
codes, with ε = 1e-4. D² = ½ ε² żᵀ H ż + O(ε³), so its limit is ½ E[żᵀ H ż]. Given a code and its metric, the
expectation over the directions and the speeds of paths has a closed form. Only the choice of the codes is random.

`spherical`, for the input of the generator (StyleGAN's Z): great circles between codes of a rotation-invariant
distribution, with the norm r of the sample's own code. Two independent directions z0 and z1 are a uniform z0, a uniform
unit tangent c at z0, and an independent angle θ with density ∝ sinⁿ⁻²θ. The path z(t) = r (cos(tθ) z0 + sin(tθ) c) has
ż = r θ u. The frame (z(t) / r, u) is (z0, c) turned in its own plane, so it is a uniform frame for every t, independent
of θ. Hence the code is a sample of the sweep, E[u uᵀ] = (I − ẑẑᵀ) / (n − 1), E[θ²] = π²/4 + ψ′(n/2) / 2 with the
trigamma function ψ′, and sampling t in [0, 1] (`full`) or at 0 (`end`) gives the same length:

    ½ E[θ²] E[(‖z‖² tr H − zᵀ H z) / (n − 1)].

StyleGAN interpolates on the unit sphere. Its mapping network normalises its input, so D² does not depend on r.

`linear`, for mapped codes (W): w(t) = w0 + t (w1 − w0) at t = 0, StyleGAN's `end` (`ppl2_wend` of StyleGAN2), so
ż = w1 − w0 and the code is a sample of the sweep. The second end is any other sample. The mean over all ordered pairs
of samples is a U-statistic without bias, N / (N − 1) · ½ mean(tr(H S) + (w − m)ᵀ H (w − m)) with the mean m and the
covariance S of the codes. StyleGAN's `full` needs metrics at interpolated codes, which a sweep of drawn codes does not
have. Where the metric is constant both are tr(H S) for large N.

`sweep`, for a sweep of the distribution `between`: its own segments or great circles, at its own steps, by the
trapezoid rule over each path. A sweep between independent mapped codes gives StyleGAN's `full` in W.

Each axis u of the mean metric has the part (ż · u)(uᵀ H ż). Over all axes the parts sum to żᵀ H ż.

Invariants: multiplying every code by c and every metric by 1/c² changes nothing.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, Floats, interval, weighted_means
from pullback.analysis.eigenbasis import eigenbasis
from pullback.analysis.path_lengths import OwnPaths, along, linear, own_paths, spherical
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import (
    code_norms,
    histogram_figure,
    number,
    shown,
    shown_interval,
    shown_range,
    variable,
    within,
)
from pullback.analysis.statements import percent
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "perceptual path length (StyleGAN) as the exact limit ½ E[żᵀHż], with the part of each mean axis"
VERSION = 2
"""2: the length along the sweep's own paths between codes."""

_UNITS = "squared image distance per unit of t squared"
_KINDS = {
    "spherical": "great circles between codes",
    "linear": "segments between codes, at their start",
    "sweep": "the paths of the sweep",
}
_FAR = 6.0
"""Standard errors by which the mean squared norm of codes may differ from that of their distribution."""


class Options(BootstrapOptions):
    """Options of the path length."""

    path: Literal["auto", "spherical", "linear", "sweep"] = "auto"
    """`spherical`: great circles, as for StyleGAN's Z. `linear`: segments from one sample's code to another's, as for
    its W at t = 0. `sweep`: the paths of a sweep `between` codes. `auto`: sweep for such a sweep; spherical for codes
    that are drawn from a normal distribution or from spheres, and not mapped; linear otherwise."""
    axes: int = Field(default=20, ge=1, le=10_000)
    """Leading axes of the mean metric whose parts are given."""


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return the path length with its interval, its value at each sample, and the parts of the mean metric's axes.

    Raises:
        PullbackError: codes are not stored, have one dimension only, or are too few for a path between them.
    """
    import xarray as xr

    if "latent" not in samples or samples.latent_dim < 2:
        raise PullbackError(
            "a path length needs the stored latent codes of a space with at least 2 dimensions. Nothing is lost: run "
            "a sweep with this version."
        )
    codes = np.asarray(samples.column("latent"), dtype=np.float64)
    path = options.path if options.path != "auto" else natural_path(samples)
    axes = eigenbasis(samples.mean_metric())[1][: options.axes]
    if path == "sweep":
        found = along(samples, _own_paths(samples, codes), axes, progress)
    else:
        if path == "linear":
            samples.require(2, "a path between codes")
        found = (spherical if path == "spherical" else linear)(samples, codes, axes, progress)
    counted = found.weight > 0
    share = found.weight[counted]
    low_mean, high_mean = (float(share @ each[counted]) for each in (found.least, found.greatest))
    units = len(found.influence)
    weights = samples.bootstrap(options.draws, options.seed)
    if path == "sweep":
        weights = Bootstrap(units, options.draws, options.seed)
    drawn = weighted_means(weights, np.column_stack([found.influence, found.part_influence]))
    if units < 2:
        drawn = np.full_like(drawn, np.nan)
    half = (high_mean - low_mean) / 2
    low, high = (float(end) for end in interval(drawn[:, 0]))
    ends, part_ends = (low - half, high + half), np.stack(interval(drawn[:, 1:]))
    parts, mean = share @ found.parts[counted], np.float64((low_mean + high_mean) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):  # all metrics may be zero along the paths
        shares, share_ends = parts / mean, np.stack(interval(drawn[:, 1:] / drawn[:, :1]))
    trace = np.maximum(samples.trace, samples.eigenvalues.sum(axis=1)).sum()
    kept = float(samples.eigenvalues.sum() / trace) if samples.truncated and trace > 0 else 1.0
    return xr.Dataset(
        {
            "path_length": variable(("bound",), [low_mean, high_mean], "path length, least and greatest", _UNITS),
            "path_length_ci95": variable(("end",), ends, "95 % bootstrap interval", _UNITS),
            "local_length": variable(("sample",), found.least, "path length at each code, or its least value", _UNITS),
            "local_length_greatest": variable(("sample",), found.greatest, "greatest possible path length", _UNITS),
            "axis_part": variable(("axis",), parts, "part of each axis of the mean metric", _UNITS),
            "axis_part_ci95": variable(("end", "axis"), part_ends, "95 % bootstrap interval", _UNITS),
            "axis_share": variable(("axis",), shares, "share of the path length", "1"),
            "axis_share_ci95": variable(("end", "axis"), share_ends, "95 % bootstrap interval", "1"),
            "path": variable((), path, "kind of path", "1"),
            "paths": variable((), units, "independent parts of the mean: samples, or paths of the sweep", "1"),
            "left_out": variable((), int(np.sum(~counted)), "samples that are not part of a path", "1"),
            "norm_mean": variable((), float(code_norms(samples).mean()), "mean norm of the codes", "latent unit"),
            "latent_dim": variable((), samples.latent_dim, "size of a latent code", "1"),
            "kept_ranks": variable((), samples.eigenvalues.shape[1], "eigenpairs kept of each metric", "1"),
            "trace_share": variable((), kept, "share of the trace in the kept eigenpairs", "1"),
            "independent": variable((), int(_independent(samples)), "whether codes are independent draws", "1"),
            "invariant": variable(
                (), int(_invariant(samples)), "whether their distribution is rotation-invariant", "1"
            ),
        },
        coords={"sample": samples.numbers},
    )


def natural_path(samples: Samples) -> Literal["spherical", "linear", "sweep"]:
    """Return the kind of path that fits a sweep's codes; see the option `path`."""
    if _has_paths(samples):
        return "sweep"
    return "spherical" if _invariant(samples) else "linear"


def summary(result: Result) -> list[Table]:
    """Return the path length with its interval, and the parts of the leading axes of the mean metric."""
    found, path = result.dataset, str(result["path"].values)
    whole = Table(
        ["", ">value", ">95 % interval"],
        [
            [
                "½ E[żᵀHż]",
                shown_range(found["path_length"].values),
                shown_interval(found["path_length_ci95"].values),
            ]
        ],
        f"Path length, {_KINDS[path]}",
    )
    shares, ends = found["axis_share"].values, found["axis_share_ci95"].values
    rows = [
        [str(axis + 1), shown(part), f"{100 * shares[axis]:.2f} %", _percents(ends[:, axis])]
        for axis, part in enumerate(found["axis_part"].values)
        if np.isfinite(shares[axis])
    ]
    return [
        whole,
        Table([">axis", ">part", ">share", ">95 % interval"], rows, "Path length by axis of the mean metric"),
    ]


def sentences(result: Result) -> list[str]:
    """Return the path length, and how much of it the leading axes have."""
    found = result.dataset
    length = f"{shown_range(found['path_length'].values)}{within(found['path_length_ci95'].values)}"
    lines = [
        f"The perceptual path length is {length} on {_KINDS[str(found['path'].values)]}: the limit ½ E[żᵀHż] of "
        "StyleGAN's PPL, in units of this sweep's D²."
    ]
    shares, n = found["axis_share"].values, int(found["latent_dim"])
    if np.isfinite(shares).all() and len(shares) < n:
        lines.append(
            f"The {len(shares)} leading axes of the mean metric have {percent(float(shares.sum()))} of it; if all "
            f"directions were alike they would have {percent(len(shares) / n)}."
        )
    return lines


def notes(result: Result) -> list[str]:
    """Return how the length is computed, and what differs from the published measure."""
    path, draws = str(result["path"].values), result.options.model_dump()["draws"]
    first = {
        "spherical": "Paths are great circles of each code's own norm. Sampling along the whole path or at its end "
        "gives the same length.",
        "linear": "Paths are segments from each code to every other one, at t = 0 (StyleGAN's `end`). Paths sampled "
        "in [0, 1] need metrics at interpolated codes: a sweep with the distribution `between`.",
        "sweep": f"Paths are the {int(result['paths'])} paths of the sweep, with the trapezoid rule over the samples "
        "of each.",
    }[path]
    made = {
        "spherical": f"Intervals are percentiles of {draws} bootstrap draws of the samples.",
        "linear": f"Intervals are percentiles of {draws} bootstrap draws of the samples, of the first-order part of "
        "the mean over pairs.",
        "sweep": f"Intervals are percentiles of {draws} bootstrap draws of the paths. Neighbouring paths share an end, "
        "which the intervals do not allow for.",
    }[path]
    return [
        first,
        "StyleGAN's published number also crops images of faces, uses LPIPS with VGG, draws new noise for each pair of "
        "images, and leaves out the 1 % smallest and largest distances. These are not part of this number: distance "
        "and noise are those of the sweep.",
        "The part of an axis u is that of (ż · u)(uᵀHż); the parts of all axes sum to the whole.",
        made,
    ]


def cautions(result: Result) -> list[str]:
    """Return where the codes or truncated spectra limit the number."""
    found, lines = result.dataset, []
    path = str(found["path"].values)
    if path == "sweep":
        left_out = int(found["left_out"])
        if left_out:
            lines.append(f"Samples left out, because too few samples of their paths are good: {left_out}.")
    elif not int(found["independent"]):
        lines.append(
            "The codes are not independent draws, so this is not the path length of the generator's own codes."
        )
    elif path == "spherical" and not int(found["invariant"]):
        lines.append(
            "Great circles assume codes whose distribution has no preferred direction; that of this sweep is not known "
            "to be so."
        )
    kept, n = int(found["kept_ranks"]), int(found["latent_dim"])
    if kept < n:
        lines.append(
            f"{kept} of {n} eigenpairs are kept, with {percent(number(found, 'trace_share'))} of the trace. The path "
            "length is given as the range that these and the trace allow. The parts of axes are those of the kept part."
        )
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw the length at each code, and the share of each axis of the mean metric."""
    from pullback.analysis.drawing import NULL, draw_errors, guide, new_figure, plain_axes, rank_axis

    found, n = result.dataset, int(result["latent_dim"])
    least = ", least possible value," if int(found["kept_ranks"]) < n else ""
    mean, ends = float(found["path_length"].values[0]), found["path_length_ci95"].values
    local = histogram_figure(
        "path-length", found["local_length"].values, mean, ends, "½ E[żᵀHż] at each code (squared distance / t²)"
    )
    drawn = new_figure("path-length-by-axis")
    axes = plain_axes(drawn, x="axis of the mean metric", y="share of the path length (%)")
    shares, bars = 100 * found["axis_share"].values, 100 * found["axis_share_ci95"].values
    ranks, known = np.arange(1, len(shares) + 1), np.isfinite(shares)
    draw_errors(axes, ranks[known], shares[known], bars[0, known], bars[1, known], label="share with 95 % interval")
    guide(axes, y=100 / n, text="all alike", style=NULL)
    axes.set_ylim(bottom=min(0.0, float(np.min(bars[0, known], initial=0.0))))
    rank_axis(axes, len(shares))
    return {
        f"Path length at each sample's code{least} with the mean (line) and its 95 % interval (band).": local,
        "Share of the path length that each leading axis of the mean metric has, with 95 % intervals. Dotted: if all "
        "directions were alike.": drawn,
    }


def _has_paths(samples: Samples) -> bool:
    """Whether the codes lie between given ones, and are not mapped afterwards."""
    drawn = _drawn(samples)
    return drawn.get("distribution") == "between" and not drawn.get("map")


def _own_paths(samples: Samples, codes: Floats) -> OwnPaths:
    if not _has_paths(samples):
        raise PullbackError(
            f"sweep {samples.about.name!r} has no paths of its own: its samples are not between given codes, or are "
            "mapped afterwards. Nothing is lost. Choose the path `spherical` or `linear`, or leave it out"
        )
    drawn = _drawn(samples)
    paths = own_paths(codes, samples.numbers, int(str(drawn["steps"])), drawn.get("interpolation") == "spherical")
    if paths.path.max() < 0:
        raise PullbackError(
            f"no path of sweep {samples.about.name!r} has the good samples that give its velocity. Nothing is lost: "
            "continue the sweep, or see why its samples are quarantined with `pullback show`"
        )
    return paths


def _drawn(samples: Samples) -> dict[str, object]:
    spec = samples.provenance.get("spec") or {}
    found = spec.get("samples") if isinstance(spec, dict) else None
    return found if isinstance(found, dict) else {}


def _independent(samples: Samples) -> bool:
    """Whether codes are independent draws; taken to be so where nothing is recorded."""
    drawn = _drawn(samples)
    related = drawn.get("distribution") == "sphere" and drawn.get("each", 1) != 1
    return drawn.get("distribution") not in ("around", "between", "line") and not related


def _invariant(samples: Samples) -> bool:
    """Whether codes are drawn from a normal distribution or from spheres, and have the norms of it: are not mapped."""
    drawn, space = _drawn(samples), str(samples.provenance.get("space") or "")
    if drawn.get("distribution") not in ("normal", "sphere") or space.startswith("w") or "latent" not in samples:
        return False
    scale, n = float(str(drawn.get("scale", 1.0))), samples.latent_dim
    norms = code_norms(samples) / scale
    if drawn["distribution"] == "sphere":
        given = drawn.get("norms")
        known = np.asarray(given if isinstance(given, list | tuple) and given else [n**0.5], dtype=np.float64)
        return bool((np.abs(norms[:, None] / known - 1).min(axis=1) < 1e-3).all())
    error = (2 / (n * len(norms))) ** 0.5
    return bool(abs(float(np.mean(norms**2)) / n - 1) < _FAR * error)


def _percents(ends: Floats) -> str:
    low, high = 100 * ends
    return f"{low:.2f} – {high:.2f} %" if np.isfinite(low) and np.isfinite(high) else "–"

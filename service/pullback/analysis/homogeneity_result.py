"""The result of the homogeneity: correlations over pairs of samples, with their summaries, as a dataset and back."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers
from pullback.analysis.pair_kernel import PairValues
from pullback.analysis.pair_summary import PairSummary
from pullback.analysis.protocol import strict

if TYPE_CHECKING:
    import xarray as xr

CORRELATIONS = {"log": "C_log", "linear": "C_lin", "vec": "C_vec"}
"""The correlations by their names in results."""


@dataclass(frozen=True, eq=False)
class Homogeneity:
    """C_log, C_lin and C_vec over ordered pairs of samples."""

    compared: Integers
    """The numbers of the samples whose metrics were compared, `[compared]`, ascending."""
    log: Floats
    """C_log `[compared, compared]`; NaN where it does not exist. `[0, 0]` if pairs were sampled."""
    linear: Floats
    """C_lin, likewise."""
    log_summary: PairSummary
    linear_summary: PairSummary
    ranks: int = 0
    """k, the eigenpairs that are kept of each metric."""
    latent_dim: int = 0
    """n, the size of a latent code."""
    vec: Floats | None = None
    """C_vec, likewise; None in a result of an earlier version."""
    vec_summary: PairSummary | None = None
    sampled: Integers | None = None
    """Positions in `compared` of the samples i and j of each pair, `[pairs, 2]`, if pairs were sampled."""
    sampled_values: PairValues | None = None
    """The correlations of the sampled pairs."""
    precision_error: float = math.nan
    """Largest error of C_log and C_lin that float32 products made, over some pairs."""
    random: Floats | None = None
    """Correlations with random axes, `[3, draws]`: C_log, C_lin, C_vec."""
    random_mean: Floats | None = None
    """Their means `[3]`."""
    random_ci95: Floats | None = None
    """95 % intervals of the means, `[2, 3]`."""

    def values(self, name: str) -> Floats:
        """Return the defined correlations of ordered pairs of different samples: `log`, `linear` or `vec`."""
        if self.sampled_values is not None:
            found = getattr(self.sampled_values, name)
            values: Floats = np.broadcast_to(found, (2, found.shape[-1])).ravel()
        else:
            matrix = getattr(self, name)
            if matrix is None:
                return np.empty(0)
            values = matrix[~np.eye(len(matrix), dtype=bool)]
        return values[np.isfinite(values)]


def to_dataset(found: Homogeneity) -> "xr.Dataset":
    """Return a homogeneity as a dataset; `from_dataset` is the inverse."""
    import xarray as xr

    scalars: dict[str, Any] = {
        "log": _without_pairs(found.log_summary),
        "linear": _without_pairs(found.linear_summary),
        "pairs": found.log_summary.pairs,
        "points": len(found.compared),
        "ranks": found.ranks,
        "latent_dim": found.latent_dim,
    }
    if found.vec_summary is not None:
        scalars["vec"] = _without_pairs(found.vec_summary)
    scalars["sampled"] = found.sampled is not None
    scalars["precision_error"] = found.precision_error
    scalars["random_axes"] = _control_scalars(found)
    one = {"units": "1"}
    variables: dict[str, Any] = {
        "compared_sample": (("point",), found.compared, {"long_name": "sample whose metric was compared"})
    }
    if found.sampled is None or found.sampled_values is None:
        for name, label in CORRELATIONS.items():
            if (matrix := getattr(found, name)) is not None:
                variables[f"homogeneity_{name}"] = (("point", "other"), matrix, {"long_name": label, **one})
    else:
        described = {"long_name": "samples i and j of each pair"}
        variables["pair_sample"] = (("pair", "end"), found.compared[found.sampled], described)
        for name, label in CORRELATIONS.items():
            values = np.broadcast_to(getattr(found.sampled_values, name), (2, len(found.sampled)))
            described = {"long_name": f"{label}: H_j along the axes of i, and H_i along those of j", **one}
            variables[f"pair_{name}"] = (("order", "pair"), values, described)
    if found.random is not None:
        dims, label = ("correlation",), "with random axes"
        variables["random_axes"] = ((*dims, "draw"), found.random, {"long_name": f"correlation {label}", **one})
        variables["random_axes_mean"] = (dims, found.random_mean, {"long_name": f"mean correlation {label}", **one})
        described = {"long_name": f"95 % interval of the mean correlation {label}", **one}
        variables["random_axes_mean_ci95"] = (("end", *dims), found.random_ci95, described)
        variables["correlation"] = (dims, list(CORRELATIONS.values()))
    return xr.Dataset(variables, attrs={"scalars": json.dumps(strict(scalars), allow_nan=False)})


def from_dataset(dataset: "xr.Dataset") -> Homogeneity:
    """Rebuild the homogeneity that `to_dataset` stored, or an earlier version did; KeyError if it is incomplete."""
    scalars = json.loads(dataset.attrs["scalars"])
    compared = np.asarray(dataset["compared_sample"].values, dtype=np.int64)

    def array(name: str) -> Floats | None:
        return np.asarray(dataset[name].values, dtype=np.float64) if name in dataset else None

    pairs = sampled = None
    log, linear, vec = (array(f"homogeneity_{name}") for name in CORRELATIONS)
    if scalars.get("sampled"):
        pairs = np.searchsorted(compared, np.asarray(dataset["pair_sample"].values, dtype=np.int64))
        values = [np.asarray(dataset[f"pair_{name}"].values, dtype=np.float64) for name in CORRELATIONS]
        sampled, log = PairValues(values[0], values[1], values[2][0]), np.empty((0, 0))
        linear, vec = log, log
    if log is None or linear is None:
        raise KeyError("homogeneity_log")
    return Homogeneity(
        compared,
        log,
        linear,
        _summary(scalars, "log"),
        _summary(scalars, "linear"),
        scalars["ranks"],
        scalars["latent_dim"],
        vec,
        _summary(scalars, "vec") if "vec" in scalars else None,
        pairs,
        sampled,
        _number(scalars.get("precision_error")),
        array("random_axes"),
        array("random_axes_mean"),
        array("random_axes_mean_ci95"),
    )


def _control_scalars(found: Homogeneity) -> dict[str, Any] | None:
    if found.random is None or found.random_mean is None or found.random_ci95 is None:
        return None
    scalars: dict[str, Any] = {}
    for row, name in enumerate(CORRELATIONS):
        values = found.random[row][np.isfinite(found.random[row])]
        band = np.percentile(values, [5, 95]) if values.size else np.full(2, np.nan)
        scalars[name] = {
            "mean": float(found.random_mean[row]),
            "ci95": found.random_ci95[:, row],
            "band": band,
            "pairs": int(values.size),
        }
    return scalars


def _without_pairs(pairs: PairSummary) -> dict[str, Any]:
    return {key: value for key, value in asdict(pairs).items() if key != "pairs"}


def _summary(scalars: Mapping[str, Any], scale: str) -> PairSummary:
    found = scalars[scale]
    numbers = {key: _number(found.get(key)) for key in ("mean", "std", "median", "standard_error", "total_error")}
    return PairSummary(
        **numbers,
        ci95=_ends(found["ci95"]),
        pairs=scalars["pairs"],
        defined=int(found["defined"]),
        std_ci95=_ends(found.get("std_ci95", (None, None))),
        median_ci95=_ends(found.get("median_ci95", (None, None))),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _ends(ends: Sequence[float | None]) -> tuple[float, float]:
    low, high = ends
    return _number(low), _number(high)

"""Analyses as version 0.1 of this package stored them: anisotropy, homogeneity, mean metric and certificate in one.

They are read and never written. Their names are `analysis-<snapshot>`, with `-<draws>-<seed>-<points>` for options
other than the default ones.
"""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pullback.spec.options import Options

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 2
"""The format that is read. Format 1 stated numbers of truncated metrics as those of whole ones."""

_DRAWS, _POINTS = 1000, 1000
_VARIABLES = {
    "anisotropy": ("mean_spectrum", "spectrum_p5", "spectrum_p95", "mean_spectrum_ci95"),
    "homogeneity": ("compared_sample", "homogeneity_log", "homogeneity_linear"),
    "mean_metric": ("mean_eigenvalue", "mean_eigenvector", "mean_eigenvalue_ci95"),
}


def artifact(names: Iterable[str], snapshot: str, statistic: str, options: Options, samples: int) -> str | None:
    """Return the name of a stored analysis that holds a result; None if no analysis holds it.

    Args:
        names: of all that is stored beside the sweep.
        snapshot: of the sweep.
        statistic: its name.
        options: with which it is asked for. An analysis with other options holds the result too, if the statistic does
            not have the options that differ.
        samples: number of good samples.
    """
    if statistic not in _VARIABLES and statistic != "certificate":
        return None
    wanted, usual = options.model_dump(), type(options)().model_dump()
    pattern = re.compile(rf"analysis-{re.escape(snapshot)}(?:-(\d+)-(\d+)-(\d+))?")
    for name in sorted(names):
        found = pattern.fullmatch(name)
        if found is None:
            continue
        draws, seed, points = (_DRAWS, 0, _POINTS) if found[1] is None else map(int, found.groups())
        used = {"draws": draws, "seed": seed, "points": min(points, samples)}
        if all(value == {**usual, **used}[key] for key, value in wanted.items()):
            return name
    return None


def part_of(dataset: "xr.Dataset", statistic: str) -> "xr.Dataset | None":
    """Return one statistic's part of a stored analysis, in today's form; None if it is of another format."""
    scalars = _scalars(dataset)
    names = _VARIABLES.get(statistic)
    if names is None:  # the certificate: everything else
        taken = {name for each in _VARIABLES.values() for name in each}
        names = tuple(str(name) for name in dataset.data_vars if name not in taken)
    if scalars.get("format") != FORMAT or not {*names} <= {*map(str, dataset.data_vars)}:
        return None
    try:
        own = _own_scalars(scalars, statistic, dataset)
    except (KeyError, TypeError):
        return None
    attrs = {} if own is None else {"scalars": json.dumps(own, allow_nan=False)}
    return dataset[list(names)].drop_attrs(deep=False).assign_attrs(attrs)


def zero_metrics(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return the zero metrics that a stored analysis recorded."""
    return dict(_scalars(dataset)["zero_metrics"])


def _own_scalars(scalars: dict[str, Any], statistic: str, dataset: "xr.Dataset") -> dict[str, Any] | None:
    sizes = {"ranks": int(dataset.sizes["rank"]), "latent_dim": int(dataset.sizes["latent_dim"])}
    if statistic == "anisotropy":
        return {
            **{key: scalars[key] for key in ("total", "rest", "dim", "samples")},
            "latent_dim": sizes["latent_dim"],
            "exact": scalars["mean_metric"]["whole"],
        }
    if statistic == "homogeneity":
        return {**scalars["homogeneity"], **sizes}
    return dict(scalars["mean_metric"]) if statistic == "mean_metric" else None


def _scalars(dataset: "xr.Dataset") -> dict[str, Any]:
    try:
        return dict(json.loads(dataset.attrs["scalars"]))
    except (KeyError, ValueError, TypeError):
        return {}

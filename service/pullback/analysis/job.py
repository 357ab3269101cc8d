"""The analysis of one sweep: read its good samples, compute every statistic over points.

The only module of the package that knows a store; it reads a sweep through the few attributes of
`StoredSweep`.

Invariants: one set of bootstrap multiplicities serves every interval of an analysis; an analysis names the snapshot
that it was computed from; its JSON form is strict (null for a number that does not exist).
Leaves to others: the statistics (`anisotropy`, `homogeneity`, `mean_metric`), keeping the result (`kept`), the store's
layout, and drawing.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import psutil

from pullback.analysis.anisotropy import (
    SHARES,
    Anisotropy,
    Dimension,
    MeanSpectrum,
    anisotropy,
    dim_below,
    dim_needed,
)
from pullback.analysis.bootstrap import Floats, Integers, bootstrap_weights
from pullback.analysis.homogeneity import PairSummary, Progress, Stack, correlations, summarize
from pullback.analysis.mean_metric import MeanMetric, mean_metric
from pullback.errors import PullbackError
from pullback.store.schema import CERTIFICATE

if TYPE_CHECKING:
    import xarray as xr

DRAWS = 1000
"""Bootstrap samples unless told."""

POINTS = 1000
"""Metrics that are compared in pairs unless told: as many as in the paper. Twice as many take four times as long."""


class StoredSweep(Protocol):
    """What an analysis needs of a sweep; `pullback.store.reader.Sweep` is one."""

    @property
    def path(self) -> str | Path:
        """Where the sweep's store is."""
        ...

    @property
    def name(self) -> str:
        """The sweep's name."""
        ...

    @property
    def snapshot(self) -> str:
        """The version of the store that this reader sees."""
        ...

    def status(self) -> Any:
        """Counts of samples: `planned`, `good`, `quarantined`, `pending`."""
        ...

    def dataset(self) -> "xr.Dataset":
        """Good samples."""
        ...

    def mean_metric(self) -> Floats:
        """Mean `[n, n]` of the good samples' whole metrics."""
        ...


@dataclass(frozen=True, eq=False)
class Analysis:
    """Statistics over the good samples of one sweep at one snapshot."""

    name: str
    snapshot: str
    samples: int
    anisotropy: Anisotropy
    compared: Integers
    """The numbers of the samples whose metrics were compared in pairs, `[points]`, ascending."""
    log: Floats
    """C_log `[points, points]`; NaN where it does not exist."""
    linear: Floats
    """C_lin `[points, points]`; NaN where it does not exist."""
    log_summary: PairSummary
    linear_summary: PairSummary
    mean_metric: MeanMetric
    certificate: Mapping[str, Floats]
    """Each stored quantity of `CERTIFICATE` over the good samples, `[samples]`."""
    draws: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the result without matrices and eigenvectors, ready for `json.dumps(..., allow_nan=False)`."""
        scalars, spectrum = self._scalars(), self.anisotropy.spectrum
        document = {
            "name": self.name,
            "snapshot": self.snapshot,
            "samples": self.samples,
            "anisotropy": {
                "dim": scalars["dim"],
                "mean_spectrum": spectrum.mean,
                "mean_spectrum_ci95": self.anisotropy.spectrum_ci95,
                "band": {"p5": spectrum.p5, "p95": spectrum.p95},
            },
            "homogeneity": scalars["homogeneity"],
            "mean_metric": {
                "eigenvalues": self.mean_metric.eigenvalues,
                "ci95": self.mean_metric.ci95,
                "dim": {
                    f"{share:g}": {
                        "below": dim_below(self.mean_metric.eigenvalues, share),
                        "needed": dim_needed(self.mean_metric.eigenvalues, share),
                    }
                    for share in SHARES
                },
            },
            "certificate": {name: _extent(values) for name, values in self.certificate.items()},
            "bootstrap": scalars["bootstrap"],
        }
        strict: dict[str, Any] = _strict(document)
        return strict

    def to_dataset(self) -> "xr.Dataset":
        """Return the whole result: arrays as variables with named dimensions, scalars as JSON in `attrs`."""
        import xarray as xr

        spectrum = self.anisotropy.spectrum
        rate = "squared image distance per squared latent length"
        variables: dict[str, tuple[tuple[str, ...], Floats | Integers, dict[str, str]]] = {
            "mean_spectrum": (("rank",), spectrum.mean, {"long_name": "mean |eigenvalue|", "units": rate}),
            "spectrum_p5": (
                ("rank",),
                spectrum.p5,
                {"long_name": "5th percentile over points", "units": rate},
            ),
            "spectrum_p95": (
                ("rank",),
                spectrum.p95,
                {"long_name": "95th percentile over points", "units": rate},
            ),
            "mean_spectrum_ci95": (
                ("end", "rank"),
                self.anisotropy.spectrum_ci95,
                {"long_name": "95 % bootstrap interval of the mean spectrum", "units": rate},
            ),
            "compared_sample": (("point",), self.compared, {"long_name": "sample whose metric was compared"}),
            "homogeneity_log": (("point", "other"), self.log, {"long_name": "C_log", "units": "1"}),
            "homogeneity_linear": (("point", "other"), self.linear, {"long_name": "C_lin", "units": "1"}),
            "mean_eigenvalue": (
                ("axis",),
                self.mean_metric.eigenvalues,
                {"long_name": "eigenvalue of the mean metric", "units": rate},
            ),
            "mean_eigenvector": (
                ("axis", "latent_dim"),
                self.mean_metric.eigenvectors,
                {"long_name": "eigenvectors of the mean metric, rows", "units": "1"},
            ),
            "mean_eigenvalue_ci95": (
                ("end", "axis"),
                self.mean_metric.ci95,
                {"long_name": "95 % bootstrap interval along the fixed axis", "units": rate},
            ),
        }
        for name, values in self.certificate.items():
            variables[name] = (("sample",), values, {"long_name": f"certificate: {name.replace('_', ' ')}"})
        scalars = json.dumps(_strict(self._scalars()), allow_nan=False)
        return xr.Dataset(variables, attrs={"scalars": scalars})

    @classmethod
    def from_dataset(cls, dataset: "xr.Dataset") -> "Analysis":
        """Rebuild the result from `to_dataset`'s form.

        Raises:
            KeyError: a variable or the scalars are missing: the dataset is not an analysis.
        """
        scalars = json.loads(dataset.attrs["scalars"])
        arrays = {str(name): np.asarray(variable.values, dtype=np.float64) for name, variable in dataset.items()}
        return cls(
            name=scalars["name"],
            snapshot=scalars["snapshot"],
            samples=scalars["samples"],
            anisotropy=Anisotropy(
                MeanSpectrum(arrays["mean_spectrum"], arrays["spectrum_p5"], arrays["spectrum_p95"]),
                arrays["mean_spectrum_ci95"],
                scalars["total"],
                tuple(_dimension(share, counts) for share, counts in scalars["dim"].items()),
            ),
            compared=arrays["compared_sample"].astype(np.int64),
            log=arrays["homogeneity_log"],
            linear=arrays["homogeneity_linear"],
            log_summary=_summary(scalars["homogeneity"], "log"),
            linear_summary=_summary(scalars["homogeneity"], "linear"),
            mean_metric=MeanMetric(
                arrays["mean_eigenvalue"], arrays["mean_eigenvector"], arrays["mean_eigenvalue_ci95"]
            ),
            certificate={name: arrays[name] for name in CERTIFICATE if name in arrays},
            **scalars["bootstrap"],
        )

    def _scalars(self) -> dict[str, Any]:
        """Return every number that is not an array, in the shapes of the JSON form."""
        return {
            "name": self.name,
            "snapshot": self.snapshot,
            "samples": self.samples,
            "total": self.anisotropy.total,
            "dim": {
                f"{dimension.share:g}": {
                    "below": dimension.below,
                    "needed": dimension.needed,
                    "below_ci95": list(dimension.below_ci95),
                    "needed_ci95": list(dimension.needed_ci95),
                }
                for dimension in self.anisotropy.dimensions
            },
            "homogeneity": {
                "log": _without_pairs(self.log_summary),
                "linear": _without_pairs(self.linear_summary),
                "pairs": self.log_summary.pairs,
                "points": len(self.compared),
            },
            "bootstrap": {"draws": self.draws, "seed": self.seed},
        }


def analyze(
    sweep: StoredSweep, *, draws: int = DRAWS, seed: int = 0, points: int = POINTS, progress: Progress | None = None
) -> Analysis:
    """Compute anisotropy, homogeneity, mean metric and certificate summary of a sweep's good samples.

    Everything is of all good samples, except the homogeneity where there are more than `points` of them: it is of the
    ordered pairs of so many, drawn with the seed without replacement.

    Args:
        sweep: an open sweep.
        draws: bootstrap samples, at least 1.
        seed: seed of the bootstrap, and of the choice of points.
        points: how many metrics are compared in pairs at most, at least 2; its square is what that costs.
        progress: called with pairs done and their total during the long part, the homogeneity.

    Raises:
        PullbackError: fewer than 2 good samples, metrics that are all zero, or a store whose good samples
            hold numbers that are not finite.
        ValueError: no draws are asked for, or fewer than 2 points.
    """
    if points < 2:
        raise ValueError(f"pairs need at least 2 points, got {points}")
    dataset = sweep.dataset()
    samples = int(dataset.sizes["sample"])
    if samples < 2:
        raise PullbackError(_too_few(sweep, samples))
    eigenvalues = np.asarray(dataset["eigenvalue"].values, dtype=np.float64)
    trace = np.asarray(dataset["trace"].values, dtype=np.float64)
    _check_metrics(sweep, eigenvalues, trace)
    eigenvectors = _eigenvectors(dataset)
    truncated = eigenvectors.shape[1] < eigenvectors.shape[2]
    weights = bootstrap_weights(samples, draws, seed)
    chosen, weights_of_chosen = np.arange(samples), weights
    compared, vectors = eigenvalues, eigenvectors
    if samples > points:
        chosen = np.sort(np.random.default_rng(seed).choice(samples, points, replace=False))
        weights_of_chosen = bootstrap_weights(points, draws, seed)
        compared, vectors = eigenvalues[chosen], _eigenvectors(dataset.isel(sample=chosen))
    log, linear = correlations(compared, vectors, progress=progress)
    return Analysis(
        name=sweep.name,
        snapshot=sweep.snapshot,
        samples=samples,
        anisotropy=anisotropy(eigenvalues, weights, trace if truncated else None),
        compared=np.asarray(dataset["sample"].values, dtype=np.int64)[chosen],
        log=log,
        linear=linear,
        log_summary=summarize(log, weights_of_chosen),
        linear_summary=summarize(linear, weights_of_chosen),
        mean_metric=mean_metric(sweep.mean_metric(), eigenvalues, eigenvectors, weights),
        certificate={
            name: np.asarray(dataset[name].values, dtype=np.float64) for name in CERTIFICATE if name in dataset
        },
        draws=draws,
        seed=seed,
    )


def _too_few(sweep: StoredSweep, samples: int) -> str:
    status = sweep.status()
    message = (
        f"sweep {sweep.name!r} has {samples} good sample{'' if samples == 1 else 's'} of {status.planned} "
        f"planned ({status.pending} pending, {status.quarantined} quarantined); "
        f"statistics over points need at least 2."
    )
    if status.pending:
        return (
            f"{message} `pullback run` with its job computes more; where this is an earlier snapshot, take a later one."
        )
    return (
        f"{message} Nothing is pending: see why samples were quarantined with `pullback show`, or raise "
        f"samples.count in the job and use `pullback run` with a new sweep."
    )


def _check_metrics(sweep: StoredSweep, eigenvalues: Floats, trace: Floats) -> None:
    broken = int(np.sum(~(np.isfinite(eigenvalues).all(axis=1) & np.isfinite(trace))))
    if broken:
        raise PullbackError(
            f"sweep {sweep.name!r} marks {broken} of {len(trace)} samples good whose eigenvalues or trace are "
            f"not finite: its store at {sweep.path} is damaged. Run the job again with a new sweep."
        )
    if not eigenvalues.any():
        raise PullbackError(
            f"every eigenvalue of the {len(trace)} good samples of sweep {sweep.name!r} is zero: "
            f"the distance does not see the latent code. Check that the images of two different codes differ."
        )


def _eigenvectors(dataset: "xr.Dataset") -> Stack:
    """Return eigenvectors in memory where they take at most half of what is free, and lazily otherwise."""
    variable = dataset["eigenvector"]
    if variable.nbytes <= psutil.virtual_memory().available // 2:
        vectors: Stack = np.asarray(variable.values)
        return vectors
    return variable


def _without_pairs(summary: PairSummary) -> dict[str, Any]:
    return {key: value for key, value in asdict(summary).items() if key != "pairs"}


def _summary(homogeneity: Mapping[str, Any], scale: str) -> PairSummary:
    values = {key: _number(value) for key, value in homogeneity[scale].items() if key != "ci95"}
    low, high = (_number(end) for end in homogeneity[scale]["ci95"])
    return PairSummary(**values, ci95=(low, high), pairs=homogeneity["pairs"])


def _dimension(share: str, counts: Mapping[str, Any]) -> Dimension:
    below_low, below_high = counts["below_ci95"]
    needed_low, needed_high = counts["needed_ci95"]
    return Dimension(
        float(share), counts["below"], counts["needed"], (below_low, below_high), (needed_low, needed_high)
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _extent(values: Floats) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return {"max": math.nan, "median": math.nan}
    return {"max": float(finite.max()), "median": float(np.median(finite))}


def _strict(value: Any) -> Any:
    """Return plain Python values with None for each number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _strict(value.tolist())
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

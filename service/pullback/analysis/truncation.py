"""Bounds on the number of ranks or axes that carry a share of the trace, for truncated spectra.

A method that computes k < n eigenpairs of each metric H knows the part K = Σ λ_m v_m v_mᵀ of it. About the rest
R = H − K it knows two things: its trace, and that no eigenvalue of R exceeds the smallest kept one, λ_k.
By Ky Fan's inequalities (PNAS 35, 1949) for positive semi-definite K and R, the sum of the m largest eigenvalues of H̄
lies between that of K̄ and that of K̄ plus min(tr R̄, m λ̄_k). This bounds the number of axes that carry a share of the
trace.

A sketch H̄Ω of the mean metric is no alternative. Its Nyström approximation has the rank of the sketch, which must
exceed the number of axes asked for (269 of 512 for 99 % in a StyleGAN). That takes as many products as the whole
metrics.

Invariants: a count is stated only if both bounds agree. If the trace is an estimate, the bounds hold for every trace
within two standard deviations of it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats
from pullback.metric.checks import TRACE_PROBES

ROUND_OFF = 1e-12
"""A share within this of q has reached q. A sum of thousands of terms is off by about 1e-12 of its total, while the
finest q leaves a remainder of 1e-5, so the tolerance decides exact ties and nothing else."""


@dataclass(frozen=True)
class Rest:
    """What is known about the metrics outside their kept eigenpairs, averaged over samples."""

    trace: float
    """Mean trace of the rest, at least 0; squared image distance per squared latent length."""
    low: float
    """Two standard deviations of the estimate below `trace`, at least 0; equal to it where the trace is exact."""
    high: float
    """Two standard deviations above `trace`; no more than (n − k) `ceiling`."""
    ceiling: float
    """Mean of the smallest kept eigenvalue: no eigenvalue of the mean rest is larger."""


NOTHING = Rest(0.0, 0.0, 0.0, 0.0)
"""The rest where every eigenpair is kept."""


def rest_of(eigenvalues: npt.ArrayLike, trace: npt.ArrayLike, latent_dim: int, estimated: bool) -> Rest:
    """Return what is known about the metrics outside their kept eigenpairs.

    The variance of vᵀRv over random unit vectors v of the m = n − k remaining dimensions is
    2 (m Σμ² − (Σμ)²) / (m² (m + 2)) for eigenvalues μ of R (Wang & Ponce, ICLR 2021), and Σμ² ≤ λ_k tr R.

    Args:
        eigenvalues: kept eigenvalues `[samples, k]`, any order.
        trace: trace of each whole metric, `[samples]`.
        latent_dim: n.
        estimated: whether the traces are estimates from `TRACE_PROBES` random directions. Samples may share their
            directions, so the errors are taken as fully correlated.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    remaining = latent_dim - values.shape[1]
    if remaining == 0:
        return NOTHING
    largest = np.maximum(values.min(axis=1), 0.0)
    rest = np.maximum(np.asarray(trace, dtype=np.float64) - np.abs(values).sum(axis=1), 0.0)
    mean, ceiling = float(rest.mean()), float(largest.mean())
    if not estimated:
        return Rest(mean, mean, mean, max(ceiling, mean / remaining))
    inside = np.minimum(rest, remaining * largest)
    variance = 2 * (remaining * largest * inside - inside**2) / ((remaining + 2) * TRACE_PROBES)
    margin = 2 * float(np.sqrt(np.maximum(variance, 0.0)).mean())
    high = max(min(mean + margin, remaining * ceiling), mean)
    return Rest(mean, max(mean - margin, 0.0), high, max(ceiling, mean / remaining))


def rests_of(eigenvalues: npt.ArrayLike, trace: npt.ArrayLike, latent_dim: int, estimated: bool) -> list[Rest]:
    """Return what is known about each metric outside its kept eigenpairs; arguments are those of `rest_of`.

    A trace below the sum of the kept eigenvalues is round-off and counts as that sum.
    """
    values = np.abs(np.asarray(eigenvalues, dtype=np.float64))
    totals = np.maximum(np.asarray(trace, dtype=np.float64), values.sum(axis=1))
    return [rest_of(values[at, None], totals[at, None], latent_dim, estimated) for at in range(len(values))]


def share_range(kept: float, rest: Rest) -> tuple[float, float]:
    """Return the least and the greatest share of the trace that a part of trace `kept` can be; 1 where all is zero."""

    def share(trace: float) -> float:
        return kept / (kept + trace) if kept + trace > 0 else 1.0

    return share(rest.high), share(rest.low)


def count_range(leading: Floats, share: float, rest: Rest, untouched: int) -> tuple[int, int | None]:
    """Bound the number of eigenvalues that carry a share of the trace, given those of the kept part.

    Args:
        leading: eigenvalues of the kept part, descending, `[m]`.
        share: q in (0, 1).
        rest: what is known of the rest.
        untouched: how many leading eigenvalues the rest cannot raise: k for the mean spectrum by rank, whose first k
            ranks are known; 0 for the mean metric.

    Returns:
        Lower and upper bound; None where the kept part alone does not reach the share.
    """
    sums = np.cumsum(leading)
    kept = float(sums[-1]) if len(sums) else 0.0
    tolerance = ROUND_OFF * (kept + rest.high)
    reached = np.flatnonzero(sums >= share * (kept + rest.high) - tolerance)
    at_most = int(reached[0]) + 1 if len(reached) else None
    counts = np.arange(1, len(leading) + 1)
    added = np.maximum(counts - untouched, 0) * rest.ceiling
    # The trace of the rest, within its range, at which this number of eigenvalues carries the largest share.
    trace = np.clip(added, rest.low, rest.high)
    possible = np.flatnonzero(sums + np.minimum(added, trace) >= share * (kept + trace) - tolerance)
    if len(possible):
        return int(possible[0]) + 1, at_most
    # Beyond the eigenvalues of the kept part the rest alone adds, at most `ceiling` for each.
    missing = share * (kept + rest.low) - kept - max(len(leading) - untouched, 0) * rest.ceiling
    more = int(np.ceil(missing / rest.ceiling - 1e-9)) if missing > 0 and rest.ceiling > 0 else 1
    return len(leading) + max(more, 1), at_most

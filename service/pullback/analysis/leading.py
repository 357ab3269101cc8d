"""Leading subspaces of metrics: the spans of the eigenvectors of their k largest eigenvalues.

A metric has such a subspace only if its rank is at least k and its k-th and (k + 1)-th eigenvalues differ. Zero,
isotropic and rank-deficient metrics are therefore left out of the sizes that they do not have.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pullback.analysis.bootstrap import BootstrapOptions, Floats, Integers, PointOptions
from pullback.analysis.correlations import LEAST_SPREAD, NULL_FLOOR, WORKSPACE
from pullback.analysis.protocol import Result
from pullback.analysis.samples import Samples, Stack
from pullback.analysis.statements import percent
from pullback.errors import PullbackError
from pullback.spec.options import Options

Size = Annotated[int, Field(ge=1)]

_DENSE = 64
"""Up to this size a whole decomposition is as fast as that of the leading pairs."""


class SizeOptions(Options):
    """The sizes of leading subspaces; a base for the `Options` of statistics that compare them."""

    sizes: tuple[Size, ...] = Field(default=(1, 2, 5, 10, 20), min_length=1)
    """Sizes k of the leading subspaces. Sizes of n or more, or beyond the kept eigenpairs, are left out."""


class SubspaceOptions(BootstrapOptions, SizeOptions):
    """Options of the statistics of leading subspaces that have bootstrap intervals; a base for their `Options`."""


class SubspacePairOptions(SubspaceOptions, PointOptions):
    """Options of the statistics that compare leading subspaces of pairs of samples; a base for their `Options`."""

    pairs: int = Field(default=2000, ge=1, le=10_000_000)
    """Largest number of pairs of samples that are compared, drawn at random."""


def usable_sizes(sizes: Sequence[int], samples: Samples) -> list[int]:
    """Return the sizes that these samples have, ascending: less than n, and no more than are kept.

    Raises:
        PullbackError: no size is usable.
    """
    n, kept = samples.latent_dim, samples.eigenvalues.shape[1]
    usable = sorted({size for size in sizes if size < n and size <= kept})
    if not usable:
        raise PullbackError(
            f"none of the sizes {', '.join(map(str, sorted(set(sizes))))} is below n = {n} and at most the {kept} kept "
            "eigenpairs. Nothing was computed. Give smaller sizes"
        )
    return usable


def has_leading(eigenvalues: npt.ArrayLike, k: int) -> npt.NDArray[np.bool_]:
    """Return whether metrics have a leading subspace of size k, `[...]`.

    Args:
        eigenvalues: `[..., kept]`, descending. If only k are kept, the (k + 1)-th is taken to differ.
        k: at most the number of kept eigenvalues.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    last = values[..., k - 1]
    found: npt.NDArray[np.bool_] = (last > 0) & (last > NULL_FLOOR * values[..., 0])
    if values.shape[-1] > k:
        found &= last - values[..., k] > LEAST_SPREAD * last
    return found


def leading_frames(eigenvectors: Stack, k: int, chosen: Integers | None = None) -> Floats:
    """Return the first k eigenvectors `[samples, k, n]` in float64, read a few samples at a time.

    Args:
        eigenvectors: `[samples, kept, n]`.
        k: how many of each sample.
        chosen: positions of samples; all by default.
    """
    samples, kept, n = eigenvectors.shape
    positions = np.arange(samples) if chosen is None else chosen
    frames = np.empty((len(positions), k, n))
    size = max(1, WORKSPACE // (8 * kept * n))
    for start in range(0, len(positions), size):
        part = positions[start : start + size]
        frames[start : start + size] = np.asarray(eigenvectors[part])[:, :k]
    return frames


def leading_pairs(matrix: Floats, k: int) -> tuple[Floats, Floats]:
    """Return the largest eigenvalues of a symmetric matrix `[min(k + 1, n)]`, descending, and k eigenvectors `[k, n]`.

    The value after the k-th shows whether the subspace exists (`has_leading`).
    """
    n = len(matrix)
    wanted = min(k + 1, n)
    if n <= _DENSE or wanted > n // 2:
        values, columns = np.linalg.eigh(matrix)
    else:
        from scipy.linalg import eigh

        values, columns = eigh(matrix, subset_by_index=(n - wanted, n - 1), check_finite=False)
    return values[::-1][:wanted].copy(), columns.T[::-1][:k].copy()


def weighted_sums(coefficients: Floats, eigenvectors: Stack, weights: npt.ArrayLike) -> Iterator[tuple[slice, Floats]]:
    """Yield Σ_i w_i Σ_m c_im v_im v_imᵀ for many weightings of the samples, a few at a time.

    Args:
        coefficients: c, `[samples, k]`: eigenvalues, or a function of them.
        eigenvectors: `[samples, k, n]`, read a few samples at a time, once for each block of weightings.
        weights: w, `[weightings, samples]`.

    Yields:
        Which weightings, and their matrices `[block, n, n]`. The working memory is about twice `WORKSPACE`.
    """
    shares = np.asarray(weights)
    samples, kept, n = eigenvectors.shape
    many, few = max(1, WORKSPACE // (8 * n * n)), max(1, WORKSPACE // (8 * n * (2 * kept + n)))
    for begin in range(0, len(shares), many):
        block = slice(begin, min(begin + many, len(shares)))
        sums = np.zeros((block.stop - begin, n * n))
        for start in range(0, samples, few):
            part = slice(start, min(start + few, samples))
            rows = np.asarray(eigenvectors[part], dtype=np.float64)
            matrices = np.matmul(np.swapaxes(rows, 1, 2) * coefficients[part, None, :], rows)
            sums += shares[block, part].astype(np.float64) @ matrices.reshape(len(rows), -1)
        yield block, sums.reshape(-1, n, n)


def kept_variables(samples: Samples) -> dict[str, Any]:
    """Return scalars for a dataset: n, the kept eigenpairs of each metric, and the share of the trace that they hold.

    The trace is that of all samples together; it is an estimate if the sweep's traces are.
    """
    sums = np.abs(samples.eigenvalues).sum(axis=1)
    total = float(np.maximum(samples.trace, sums).sum()) if samples.truncated else float(sums.sum())
    share = float(sums.sum()) / total if total > 0 else 1.0
    return {
        "latent_size": ((), samples.latent_dim, {"long_name": "size of a latent code, n", "units": "1"}),
        "kept_pairs": ((), samples.eigenvalues.shape[1], {"long_name": "kept eigenpairs of a metric", "units": "1"}),
        "trace_share": ((), share, {"long_name": "share of the trace that the kept eigenpairs hold", "units": "1"}),
    }


def kept_part(result: Result) -> list[str]:
    """Return how much of the trace the kept eigenpairs hold, as a caution; nothing if all n are kept."""
    kept, n = int(result["kept_pairs"]), int(result["latent_size"])
    if kept >= n:
        return []
    pairs = "eigenpair is" if kept == 1 else "eigenpairs are"
    return [
        f"{result.title}: {kept} of {n} {pairs} kept of each metric, with {percent(float(result['trace_share']))} of "
        "the trace. The rest of each metric is not part of the numbers."
    ]

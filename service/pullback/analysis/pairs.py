"""Homogeneity on a device: the correlations of all pairs in float32 products and float64 correlations.

The float64 version in `correlations` is the reference. Products of eigenvectors take nearly all of the time; they are
made in float32 for blocks of samples against blocks of samples, on a GPU where there is one.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pullback.analysis.bootstrap import Floats
from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.pair_kernel import PairValues, Spectra, entry_sums, matrix_correlation, singles
from pullback.analysis.pair_matrix import Results, Tile
from pullback.analysis.samples import Stack

_EQUAL = 1e-6
"""Relative spread below which values that come from float32 products count as equal."""


def on_device(device: torch.device | str) -> Callable[[Spectra, Stack, Sequence[Tile]], Results]:
    """Return a function that computes tiles on a device, for `pair_matrix.matrices`."""
    place = torch.device(device)

    def run(spectra: Spectra, eigenvectors: Stack, wanted: Sequence[Tile]) -> Results:
        shares = torch.from_numpy(spectra.shares).to(place)
        for tile in wanted:
            yield tile, _tile(spectra, shares, eigenvectors, tile, place)

    return run


def _tile(spectra: Spectra, shares: Tensor, eigenvectors: Stack, tile: Tile, place: torch.device) -> PairValues:
    rows, columns = (slice(each.start, each.stop) for each in (tile.rows, tile.columns))
    first = singles(eigenvectors[rows])
    second = first if tile.rows == tile.columns else singles(eigenvectors[columns])
    left = torch.from_numpy(first).to(place)
    right = left if second is first else torch.from_numpy(second).to(place)
    forward, backward = _cross_spectra(left, right, shares[rows], shares[columns])
    inner = torch.einsum("ijk,ik->ij", forward.double(), shares[rows]).cpu().numpy()
    log, linear = _both(forward, shares[columns], NULL_FLOOR)
    back_log, back_linear = _both(backward.transpose(0, 1), shares[rows], NULL_FLOOR)
    pairs = tile.pairs
    i, j = pairs[:, 0] - rows.start, pairs[:, 1] - columns.start
    unknown = ~(spectra.axes[pairs[:, 0]] & spectra.axes[pairs[:, 1]])
    logs, linears = np.stack([log[i, j], back_log[j, i]]), np.stack([linear[i, j], back_linear[j, i]])
    logs[:, unknown] = linears[:, unknown] = np.nan
    entries = [
        entry_sums(spectra, vectors, np.asarray(samples))[where]
        for vectors, samples, where in ((first, tile.rows, i), (second, tile.columns, j))
    ]
    return PairValues(logs, linears, matrix_correlation(spectra, pairs, inner[i, j], entries, first.shape[2]))


def _cross_spectra(left: Tensor, right: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return Λ_ij and Λ_ji, both [rows, columns, k] in float32, of blocks of eigenvectors [samples, k, n]."""
    rows, kept, _ = left.shape
    cosines = (left.flatten(0, 1) @ right.flatten(0, 1).T).square_().view(rows, kept, len(right), kept)
    forward = torch.einsum("ikjm,jm->ijk", cosines, other.float())
    return forward, torch.einsum("ikjm,ik->ijm", cosines, own.float())


def _both(cross: Tensor, own: Tensor, floor: float) -> tuple[Floats, Floats]:
    """Return C_log and C_lin of Λ [i, j, k] with λ [j, k], each [i, j]."""
    wide, target = cross.double(), own.expand(len(cross), -1, -1)
    linear = _correlation(wide, target, torch.ones_like(wide, dtype=torch.bool))
    return _log_correlation(wide, target, floor).cpu().numpy(), linear.cpu().numpy()


def _log_correlation(cross: Tensor, own: Tensor, floor: float) -> Tensor:
    limit = floor * own.abs().amax(-1, keepdim=True)
    mask = (cross > 0) & (own > 0) & (cross >= limit) & (own >= limit)
    ones = torch.ones_like(cross)
    return _correlation(torch.where(mask, cross, ones).log10(), torch.where(mask, own, ones).log10(), mask)


def _correlation(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Return Pearson's r over the unmasked entries of the last axis; NaN where it does not exist."""
    count = mask.sum(-1, keepdim=True)
    centred, scales = [], []
    for values in (x, y):
        kept = torch.where(mask, values, 0.0)
        residual = torch.where(mask, values - kept.sum(-1, keepdim=True) / count.clamp_min(1), 0.0)
        scale = residual.square().sum(-1).sqrt()
        scales.append(torch.where(scale <= _EQUAL * kept.square().sum(-1).sqrt(), 0.0, scale))
        centred.append(residual)
    product = scales[0] * scales[1]
    r = (centred[0] * centred[1]).sum(-1) / product
    return torch.where((product > 0) & (count[..., 0] >= 2), r, torch.nan).clamp(-1, 1)

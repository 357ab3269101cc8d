"""C_log, C_lin and C_vec for all pairs of samples, tile by tile.

A tile is the set of pairs of one block of samples with another. It is the unit of work: of progress, of resuming, and
of what several processes share (`tile_workers`). The working memory is that of one tile, however many samples there
are; the result itself takes 24 bytes for each ordered pair.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers
from pullback.analysis.correlations import correlations
from pullback.analysis.pair_kernel import PairValues, Spectra, compare, singles
from pullback.analysis.samples import Stack

TILE_BYTES = 64 * 2**20
"""Bytes of the eigenvectors of one tile."""

TILE_PRODUCTS = 2e11
"""Floating-point operations of one tile: some seconds of one core."""

LARGEST_EDGE = 256
"""Largest number of samples along the edge of a tile."""

CHECKED_PAIRS = 32
"""Ordered pairs that are computed in float64 too, to measure the error of float32 products."""


@dataclass(frozen=True)
class Tile:
    """The pairs i < j of two blocks of samples; i ≤ j where the blocks are the same."""

    rows: range
    columns: range

    @property
    def pairs(self) -> Integers:
        """Samples i and j of each pair, `[pairs, 2]`, in the order of i."""
        i, j = np.meshgrid(np.asarray(self.rows), np.asarray(self.columns), indexing="ij")
        kept = j >= i
        return np.column_stack([i[kept], j[kept]])

    @property
    def ordered(self) -> int:
        """The number of entries of the matrix that the tile gives."""
        return len(self.rows) * len(self.columns) * (1 if self.rows == self.columns else 2)


@dataclass(frozen=True, eq=False)
class Matrices:
    """Correlations of all ordered pairs, each `[samples, samples]` in float64; NaN where one does not exist."""

    log: Floats
    linear: Floats
    vec: Floats

    @classmethod
    def empty(cls, samples: int) -> "Matrices":
        """Return matrices without any value."""
        return cls(*(np.full((samples, samples), np.nan) for _ in range(3)))

    def put(self, pairs: Integers, values: PairValues) -> None:
        """Enter the values of unordered pairs `[pairs, 2]`, both ways."""
        i, j = pairs.T
        self.log[j, i], self.linear[j, i] = values.log[1], values.linear[1]
        self.log[i, j], self.linear[i, j] = values.log[0], values.linear[0]
        self.vec[i, j] = self.vec[j, i] = values.vec


def products(kept: int, latent_dim: int) -> float:
    """Return the floating-point operations of one pair's product of eigenvectors."""
    return 2.0 * kept * kept * latent_dim


def tiles(samples: int, kept: int, latent_dim: int) -> list[Tile]:
    """Return the tiles of all pairs of samples, for k eigenvectors of n entries."""
    by_memory = TILE_BYTES // (8 * kept * latent_dim)
    by_work = math.isqrt(int(TILE_PRODUCTS / products(kept, latent_dim)))
    edge = max(1, min(by_memory, by_work, LARGEST_EDGE, samples))
    blocks = [range(start, min(start + edge, samples)) for start in range(0, samples, edge)]
    return [Tile(rows, columns) for number, rows in enumerate(blocks) for columns in blocks[number:]]


def tile_values(spectra: Spectra, eigenvectors: Stack, tile: Tile) -> PairValues:
    """Compute the correlations of a tile's pairs, in the order of `tile.pairs`."""
    left = singles(eigenvectors[tile.rows.start : tile.rows.stop])
    same = tile.rows == tile.columns
    right = left if same else singles(eigenvectors[tile.columns.start : tile.columns.stop])
    pairs = tile.pairs
    places = pairs[:, 0] - tile.rows.start, pairs[:, 1] - tile.columns.start
    return compare(spectra, pairs, left, right, places)


Results = Iterator[tuple[Tile, PairValues]]


def in_turn(spectra: Spectra, eigenvectors: Stack, wanted: Sequence[Tile]) -> Results:
    """Compute tiles one after the other in this process."""
    for tile in wanted:
        yield tile, tile_values(spectra, eigenvectors, tile)


def matrices(
    spectra: Spectra,
    eigenvectors: Stack,
    progress: Callable[[int, int], None] | None = None,
    run: Callable[[Spectra, Stack, Sequence[Tile]], Results] = in_turn,
) -> Matrices:
    """Compute the correlations of all pairs of samples.

    Args:
        spectra: eigenvalues of the samples.
        eigenvectors: `[samples, k, n]`, unit rows; read a block at a time.
        progress: called with ordered pairs done and their total, after each tile.
        run: computes tiles, in any order; by default one after the other.

    Raises:
        ValueError: shapes do not agree.
    """
    samples, kept = spectra.shares.shape
    if len(eigenvectors.shape) != 3 or eigenvectors.shape[:2] != (samples, kept):
        raise ValueError(
            f"eigenvalues [samples, k] and eigenvectors [samples, k, n] are needed, "
            f"got {[samples, kept]} and {list(eigenvectors.shape)}"
        )
    found, done = Matrices.empty(samples), 0
    for tile, values in run(spectra, eigenvectors, tiles(samples, kept, eigenvectors.shape[2])):
        found.put(tile.pairs, values)
        done += tile.ordered
        if progress is not None:
            progress(done, samples * samples)
    return found


def measured_error(
    eigenvalues: Floats, eigenvectors: Stack, pairs: Integers, values: PairValues, seed: int = 0
) -> float:
    """Return the largest error of C_log and C_lin over some of the pairs, against products in float64.

    Args:
        eigenvalues: `[samples, k]`.
        eigenvectors: `[samples, k, n]`.
        pairs: the compared pairs, `[pairs, 2]`.
        values: their correlations.
        seed: chooses `CHECKED_PAIRS` of them, both ways of each half.

    Returns:
        The error, 0 where none of the chosen correlations exists.
    """
    different = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
    many = min(CHECKED_PAIRS // 2, len(different))
    errors = [0.0]
    for pair in np.random.default_rng(seed).choice(different, many, replace=False) if many else ():
        both = pairs[pair]
        vectors = np.concatenate([np.asarray(eigenvectors[s : s + 1], dtype=np.float64) for s in both])
        log, linear = correlations(eigenvalues[both], vectors)
        exact = np.array([log[0, 1], log[1, 0], linear[0, 1], linear[1, 0]])
        ours = np.concatenate([values.log[:, pair], values.linear[:, pair]])
        difference = np.abs(exact - ours)
        errors.append(float(np.max(difference[np.isfinite(difference)], initial=0.0)))
    return max(errors)

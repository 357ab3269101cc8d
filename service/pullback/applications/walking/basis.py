"""The basis in which axes are counted: the mean metric's, a block's, one sample's, or the directions of a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pullback.analysis.bootstrap import Floats
from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.eigenbasis import eigenbasis
from pullback.applications.walking.expressions import Expression
from pullback.errors import PullbackError
from pullback.interchange.direction_files import read_directions

if TYPE_CHECKING:
    from pullback.store.reader import Sweep


@dataclass(frozen=True, eq=False)
class Basis:
    """Unit directions that expressions combine.

    Attributes:
        vectors: unit rows `[m, n]`, the first rank first.
        what: the directions in words, such as "axes of the mean metric".
        mean: whether they are the axes of the whole mean metric, to which the file of names refers.
        names: the names that a file of directions gives, by rank; empty without.
    """

    vectors: Floats
    what: str
    mean: bool = False
    names: tuple[str, ...] = ()

    def name_of(self, rank: int | None) -> str:
        """Return the name that the file of directions gives to a rank; empty without."""
        return self.names[rank - 1] if self.names and rank is not None else ""

    def combine(self, expressions: Sequence[Expression]) -> Floats:
        """Return the unit vectors `[axes, n]` of expressions.

        Raises:
            PullbackError: the terms of a combination cancel each other.
        """
        rows = []
        for expression in expressions:
            row = sum((factor * self.vectors[rank - 1] for factor, rank in expression.terms), np.zeros(()))
            length = float(np.linalg.norm(row))
            if length <= 1e-9 * max(abs(factor) for factor, _ in expression.terms):
                raise PullbackError(f"the directions of {expression.text!r} cancel each other. Nothing was computed.")
            rows.append(row / length)
        return np.array(rows, dtype=np.float64)


def basis_of(sweep: "Sweep", sample: int | None = None, block: str | None = None, file: str | None = None) -> Basis:
    """Return the basis that options choose; by default the axes of the mean metric.

    Args:
        sweep: an open sweep.
        sample: the number of a sample, for the eigenvectors of its own metric.
        block: a named block of the code: the axes of the mean metric within it, or the block of the file's directions.
        file: a file of directions.

    Raises:
        PullbackError: two sources are named at once; there is no such block, sample or file; the file does not fit.
    """
    n = sweep.layout.latent_dim
    blocks = {str(name): (int(ends[0]), int(ends[1])) for name, ends in sweep.provenance.get("blocks", {}).items()}
    if sample is not None and (block is not None or file is not None):
        raise PullbackError(
            "a sample's own axes go with neither a block nor a file; leave one of them out. Nothing was computed."
        )
    if file is not None:
        read = read_directions(file, n, blocks, block)
        return Basis(
            read.vectors / np.linalg.norm(read.vectors, axis=1, keepdims=True),
            f"directions of {Path(file).name}",
            names=read.names,
        )
    if sample is not None:
        data = sweep.dataset()
        numbers = data["sample"].values.tolist()
        if sample not in numbers:
            raise PullbackError(
                f"sweep {sweep.name!r} has no good sample {sample}; it has {len(numbers)} of them, "
                f"{_shown(numbers)}. Nothing was computed."
            )
        at = data.isel(sample=numbers.index(sample))
        return _leading(at["eigenvalue"].values, at["eigenvector"].values, f"eigenvectors of sample {sample}", False)
    metric = sweep.mean_metric(kept=True)
    if block is not None:
        if block not in blocks:
            known = f"its blocks are {', '.join(blocks)}" if blocks else "it has none"
            raise PullbackError(f"the latent space has no block {block!r}: {known}. Nothing was computed.")
        start, stop = blocks[block]
        values, inner = eigenbasis(metric[start:stop, start:stop])
        vectors = np.zeros((len(inner), n))
        vectors[:, start:stop] = inner
        return _leading(values, vectors, f"axes of the block {block}", False, sweep.whole_metrics)
    return _leading(*eigenbasis(metric), "axes of the mean metric", True, sweep.whole_metrics)


def _leading(values: Floats, vectors: Floats, what: str, mean: bool, whole: bool = True) -> Basis:
    """Drop the directions of which a truncated metric knows nothing."""
    if not whole:
        vectors = vectors[: int(np.sum(values > NULL_FLOOR * max(float(values[0]), 0.0)))]
    if not len(vectors):
        raise PullbackError(f"there are no {what}: the metric is zero. Nothing was computed.")
    return Basis(np.asarray(vectors, dtype=np.float64), what, mean)


def _shown(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 6 else f"such as {', '.join(map(str, numbers[:5]))}"

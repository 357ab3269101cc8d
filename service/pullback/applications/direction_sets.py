"""Sets of latent directions to compare with the axes of a metric: their common form, and random ones.

Convention: directions are unit rows. Their signs are arbitrary, and every comparison is invariant to them. The order of
the rows is that of their source, the strongest first.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Directions of one source.

    Attributes:
        name: the name in tables and figures.
        vectors: unit rows `[m, n]`.
        strengths: the source's own measure of each direction `[m]`, such as a standard deviation; NaN without.
        notes: how they were made.
    """

    name: str
    vectors: Floats
    strengths: Floats
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, name: str, vectors: npt.ArrayLike, strengths: npt.ArrayLike | None = None, notes: tuple[str, ...] = ()
    ) -> "DirectionSet":
        """Make a set of rows `[m, n]` of any positive length, which are scaled to unit length.

        Raises:
            ValueError: a row is zero or not finite.
        """
        rows = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise ValueError(f"directions of {name} are zero or not finite")
        own = np.full(len(rows), np.nan) if strengths is None else np.asarray(strengths, dtype=np.float64)
        return cls(name, rows / lengths, own, notes)

    def first(self, count: int) -> "DirectionSet":
        """Return the set's first directions."""
        return DirectionSet(self.name, self.vectors[:count], self.strengths[:count], self.notes)


def random_directions(latent_dim: int, count: int, seed: int) -> DirectionSet:
    """Return directions that are uniform on the sphere: normalised standard normal vectors."""
    rows = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,))).standard_normal((count, latent_dim))
    return DirectionSet.of("random", rows, notes=(f"uniform on the sphere, seed {seed}",))


def named_once(sets: "list[DirectionSet]") -> "list[DirectionSet]":
    """Return the sets with a number after each name that occurs again."""
    seen: dict[str, int] = {}
    named = []
    for each in sets:
        seen[each.name] = seen.get(each.name, 0) + 1
        name = each.name if seen[each.name] == 1 else f"{each.name} ({seen[each.name]})"
        named.append(DirectionSet(name, each.vectors, each.strengths, each.notes))
    return named

"""The feasible set of a search: a ball or a sphere that holds the latent codes of a space.

For codes z ~ N(0, I) of n dimensions the ball is ‖z‖ ≤ 1.25 √n and the sphere ‖z‖ = √n. Without such a limit many
scores grow with the norm of the code, far outside the codes that the generator was trained on. A space whose codes come
from a mapping network (W of a StyleGAN, a class embedding) has no such law. There the centre is the mean of 512 mapped
codes, and √n is replaced by their root mean square distance from it.

Searchers work in centred and scaled codes x [population, n], with z = centre + scale · x, so that √n is the usual norm
of x in every space.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from pullback.generators.attributes import latent_size
from pullback.generators.codes import has_mapping, trial_codes

Floats = npt.NDArray[np.float64]

_TRIALS = 512
_TINY = 1e-300


@dataclass(frozen=True)
class Feasible:
    """A ball or a sphere of codes.

    Attributes:
        centre: the centre [n], in latent units.
        scale: latent units of one unit of x.
        radius: the largest norm of x (of the ball), or its only norm (of the sphere).
        sphere: whether the set is the sphere.
        measured: whether centre and scale were measured, because codes are mapped.
    """

    centre: Floats
    scale: float
    radius: float
    sphere: bool = False
    measured: bool = False

    @property
    def n(self) -> int:
        """The size of a code."""
        return len(self.centre)

    def inside(self, x: Floats) -> Floats:
        """Return the nearest feasible x [population, n]: a ball shortens what is too long, a sphere keeps directions.

        The sphere has no nearest code to x = 0, which stays where it is.
        """
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        if self.sphere:
            return np.where(norms > 0, x * (self.radius / np.maximum(norms, _TINY)), x)
        return np.where(norms > self.radius, x * (self.radius / np.maximum(norms, _TINY)), x)

    def codes(self, x: Floats) -> Floats:
        """Return latent codes z [population, n] of x."""
        return self.centre + self.scale * x

    @property
    def words(self) -> str:
        """The set in words, for tables and sentences."""
        length = self.radius * self.scale
        where = "from the mean of mapped codes" if self.measured else "from the origin"
        return f"codes at a distance of {length:.3g} {where}" if self.sphere else f"codes within {length:.3g} {where}"


def feasible_set(generator: nn.Module, sphere: bool = False, radius: float | None = None) -> Feasible:
    """Return the feasible set of a generator's codes.

    Args:
        generator: its space decides centre and scale; see the module.
        sphere: the sphere in place of the ball.
        radius: in units of the usual norm, √n in z; by default 1 for the sphere and 1.25 for the ball.
    """
    n = latent_size(generator)
    factor = (1.0 if sphere else 1.25) if radius is None else radius
    centre, scale, measured = np.zeros(n), 1.0, has_mapping(generator)
    if measured:
        drawn = trial_codes(generator, _TRIALS, seed=0).double().cpu().numpy()
        centre = drawn.mean(axis=0)
        scale = float(np.sqrt(((drawn - centre) ** 2).sum(axis=1).mean() / n)) or 1.0
    return Feasible(centre, scale, factor * float(np.sqrt(n)), sphere, measured)

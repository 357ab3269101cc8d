"""Motion of codes along directions: straight, or on the sphere of constant norm.

Straight: z + tv. On the sphere: cos(t/‖z‖) z + sin(t/‖z‖) ‖z‖ w, with w the unit part of v orthogonal to z. In both, t
is the length of the way in latent units; the angle on the sphere is t/‖z‖.
"""

from typing import Literal

import numpy as np

from pullback.analysis.bootstrap import Floats
from pullback.errors import PullbackError

Path = Literal["linear", "sphere"]

_PARALLEL = 1e-6
"""Length of the orthogonal part of a unit direction below which it has none."""


def tangents(codes: Floats, directions: Floats, path: Path) -> Floats:
    """Return the unit velocity at t = 0 of each code along each direction `[directions, codes, n]`.

    Args:
        codes: `[codes, n]`.
        directions: unit rows `[directions, n]`.
        path: `linear` or `sphere`.

    Raises:
        PullbackError: on the sphere, a direction is parallel to a code, or a code is zero.
    """
    wide = np.broadcast_to(directions[:, None, :], (len(directions), *codes.shape)).astype(np.float64)
    if path == "linear":
        return wide
    norms = np.linalg.norm(codes, axis=1, keepdims=True)
    if not norms.all():
        raise PullbackError("a code is zero and lies on no sphere; walk with `path: linear`. Nothing was computed.")
    units = codes / norms
    across = wide - np.sum(wide * units, axis=2, keepdims=True) * units
    lengths = np.linalg.norm(across, axis=2, keepdims=True)
    if (lengths < _PARALLEL).any():
        raise PullbackError(
            "an axis is parallel to a code, so the code cannot move along it on the sphere; walk with `path: linear`. "
            "Nothing was computed."
        )
    result: Floats = across / lengths
    return result


def moved(codes: Floats, velocities: Floats, t: Floats, path: Path) -> Floats:
    """Return codes after the way t; all arguments have one row for each result.

    Args:
        codes: `[m, n]`.
        velocities: unit rows `[m, n]`, from `tangents`.
        t: `[m]`, latent units.
        path: `linear` or `sphere`.
    """
    if path == "linear":
        return codes + t[:, None] * velocities
    norms = np.linalg.norm(codes, axis=1, keepdims=True)
    angle = t[:, None] / norms
    result: Floats = np.cos(angle) * codes + np.sin(angle) * norms * velocities
    return result

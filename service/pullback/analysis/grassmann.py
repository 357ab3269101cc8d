"""Subspaces of latent space: principal angles, overlaps, distances and means.

A subspace is given by a frame: k orthonormal rows `[k, n]`. Every function takes stacks of frames `[..., k, n]` and is
free of the choice of the frame, up to round-off.

Sources: Björck & Golub, Math. Comp. 27 (1973), for principal angles from cosines and sines; Edelman, Arias & Smith,
SIAM J. Matrix Anal. Appl. 20 (1998), for the geometry of the Grassmann manifold; Karcher, Comm. Pure Appl. Math. 30
(1977), for the mean.
"""

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats

_TOLERANCE = 1e-9
"""Length of the mean tangent, in radians, at which a Karcher mean has converged."""
_MOST_STEPS = 500
"""Steps after which the search for a Karcher mean ends."""


def orthonormal(rows: npt.ArrayLike) -> Floats:
    """Return frames `[..., k, n]` of the spans of rows `[..., k, n]`, k ≤ n, that are linearly independent."""
    frames: Floats = np.linalg.qr(np.swapaxes(np.asarray(rows, dtype=np.float64), -1, -2))[0]
    return np.swapaxes(frames, -1, -2)


def principal_cosines(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """Return the cosines of the principal angles between two subspaces, descending, 0 to 1.

    They are the canonical correlations of the coordinates that isotropic random vectors have in the two frames.

    Args:
        one: frames `[..., k, n]`.
        other: frames `[..., m, n]`.

    Returns:
        `[..., min(k, m)]`.
    """
    cross = np.asarray(one, dtype=np.float64) @ np.swapaxes(np.asarray(other, dtype=np.float64), -1, -2)
    cosines: Floats = np.linalg.svd(cross, compute_uv=False).clip(0, 1)
    return cosines


def principal_angles(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """Return the principal angles between two subspaces in radians, ascending, 0 to π/2 (Björck & Golub, 1973).

    Angles below 45° come from their sines, because the cosine of an angle below 1e-8 is 1 in floating point.

    Args:
        one: frames `[..., k, n]`.
        other: frames `[..., k, n]` of the same size.

    Returns:
        `[..., k]`.

    Raises:
        ValueError: the two differ in size.
    """
    left, right = (np.asarray(frames, dtype=np.float64) for frames in (one, other))
    if left.shape[-2:] != right.shape[-2:]:
        raise ValueError(f"two stacks of frames [k, n] are needed, got {left.shape[-2:]} and {right.shape[-2:]}")
    cross = left @ np.swapaxes(right, -1, -2)
    cosines = np.linalg.svd(cross, compute_uv=False).clip(0, 1)
    outside = right - np.swapaxes(cross, -1, -2) @ left
    sines = np.linalg.svd(outside, compute_uv=False)[..., ::-1].clip(0, 1)
    angles: Floats = np.where(cosines**2 >= 0.5, np.arcsin(sines), np.arccos(cosines))
    return angles


def overlap(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """Return the overlap of two subspaces of the same size `[...]`: the mean squared cosine of their principal angles.

    It is 1 for equal and 0 for orthogonal subspaces. For random ones its expectation is k/n.
    """
    cross = np.asarray(one, dtype=np.float64) @ np.swapaxes(np.asarray(other, dtype=np.float64), -1, -2)
    shared: Floats = np.sum(np.square(cross), axis=(-2, -1)) / cross.shape[-2]
    return shared


def geodesic_distance(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """Return the distance on the Grassmann manifold `[...]` in radians: the root of the sum of squared angles."""
    lengths: Floats = np.sqrt(np.sum(np.square(principal_angles(one, other)), axis=-1))
    return lengths


def random_frames(
    count: int, k: int, n: int, generator: np.random.Generator, dtype: npt.DTypeLike = np.float64
) -> Floats:
    """Return random frames, uniform over all frames; their spans are uniform on the Grassmann manifold.

    A frame is the QR factor of a Gaussian matrix, with the signs that make the diagonal of R positive (Mezzadri,
    Notices of the AMS 54, 2007).

    Args:
        count: number of frames.
        k: rows of each, at most n.
        n: size of a latent code.
        generator: source of random numbers.
        dtype: float64, or float32 where that is precise enough: it takes half the time.

    Returns:
        `[count, k, n]` of that type.
    """
    columns, triangle = np.linalg.qr(generator.standard_normal((count, n, k), dtype=dtype))  # type: ignore[arg-type]
    signs = np.where(np.diagonal(triangle, axis1=-2, axis2=-1) < 0, -1, 1).astype(dtype)
    frames: Floats = np.swapaxes(columns * signs[:, None, :], -1, -2)
    return frames


def karcher_mean(
    frames: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    start: npt.ArrayLike | None = None,
    tolerance: float = _TOLERANCE,
    most_steps: int = _MOST_STEPS,
) -> Floats:
    """Return the mean of subspaces: the one with the least weighted sum of squared geodesic distances (Karcher, 1977).

    Each step follows the geodesic along the mean of the tangents that point to the subspaces. The search starts at the
    chordal mean by default. Widely spread subspaces have several local minima; that nearest to the start is returned.

    Args:
        frames: `[samples, k, n]`.
        weights: `[samples]`, not negative, not all zero; equal by default.
        start: a frame `[k, n]` at which the search starts.
        tolerance: length of the mean tangent, in radians, at which the search ends.
        most_steps: number of steps after which the search ends.

    Returns:
        A frame `[k, n]`.

    Raises:
        ValueError: there is no subspace, or shapes do not agree.
    """
    stack = np.asarray(frames, dtype=np.float64)
    if stack.ndim != 3 or len(stack) == 0:
        raise ValueError(f"a mean needs frames [samples, k, n] of at least one sample, got {list(stack.shape)}")
    shares = np.ones(len(stack)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(stack),) or not (shares >= 0).all() or not shares.sum() > 0:
        raise ValueError(f"weights are {len(stack)} numbers that are not negative and not all zero")
    used = shares > 0
    stack, shares = stack[used], shares[used] / shares.sum()
    mean = chordal_mean(stack, shares) if start is None else np.asarray(start, dtype=np.float64)
    for _ in range(most_steps):
        tangent = _mean_tangent(mean, stack, shares)
        mean = _geodesic(mean, tangent)
        if float(np.linalg.norm(tangent)) <= tolerance:
            break
    return mean


def chordal_mean(frames: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """Return the leading eigenvectors `[k, n]` of the mean projector of frames `[samples, k, n]`.

    This subspace has the largest mean overlap with the given ones.
    """
    stack = np.asarray(frames, dtype=np.float64)
    shares = np.full(len(stack), 1 / len(stack)) if weights is None else np.asarray(weights, dtype=np.float64)
    samples, k, n = stack.shape
    rows = stack.reshape(samples * k, n)
    projector = (rows.T * np.repeat(shares, k)) @ rows
    return np.linalg.eigh(projector)[1].T[::-1][:k].copy()


def _mean_tangent(base: Floats, frames: Floats, shares: Floats) -> Floats:
    """Return the weighted mean `[k, n]` of the tangents at `base` that point to the frames.

    With the principal vectors x_j of the base and y_j of a frame, the tangent is Σ θ_j / sin θ_j (y_j − cos θ_j x_j),
    written in the base's own frame.
    """
    samples, k, n = frames.shape
    rows = frames.reshape(samples * k, n)
    left, cosines, right = np.linalg.svd((rows @ base.T).reshape(samples, k, k))
    angles = np.arccos(cosines.clip(0, 1))
    sines = np.sin(angles)
    stretch = np.divide(angles, sines, out=np.ones_like(angles), where=sines > 0) * shares[:, None]
    back = np.swapaxes(right, 1, 2) * stretch[:, None, :]  # [samples, k, k]
    outward = (back @ np.swapaxes(left, 1, 2)).transpose(1, 0, 2).reshape(k, samples * k) @ rows
    inward = np.einsum("sij,sj,sjl->il", back, cosines, right) @ base
    tangent: Floats = outward - inward
    return tangent


def _geodesic(base: Floats, tangent: Floats) -> Floats:
    """Return the frame at the end of the geodesic from `base` along a tangent `[k, n]` (Edelman et al., 1998)."""
    left, lengths, directions = np.linalg.svd(tangent, full_matrices=False)
    moved = np.cos(lengths)[:, None] * (left.T @ base) + np.sin(lengths)[:, None] * directions
    return orthonormal(moved)

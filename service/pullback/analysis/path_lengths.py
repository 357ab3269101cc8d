"""½ żᵀ H ż on paths through the codes of samples, averaged over the paths where that has a closed form.

The statistic `path_length` derives the formulas.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import polygamma

from pullback.analysis.bootstrap import Floats, Integers
from pullback.analysis.correlations import WORKSPACE
from pullback.analysis.protocol import Progress
from pullback.analysis.samples import Samples
from pullback.analysis.truncation import NOTHING, Rest, rests_of


@dataclass(frozen=True, eq=False)
class PathLength:
    """½ żᵀ H ż averaged over the paths through each sample's code."""

    least: Floats
    """`[N]`, the length, or its least possible value if spectra are truncated."""
    greatest: Floats
    """`[N]`, its greatest possible value."""
    parts: Floats
    """`[N, axes]`, the parts of the axes."""
    influence: Floats
    """`[units]`, the numbers whose mean is the length and whose bootstrap mean has its variance: for `spherical` the
    lengths themselves, for `linear` the first-order part of the U-statistic (Hoeffding, 1948), for paths of the sweep
    the length of each path."""
    part_influence: Floats
    """`[units, axes]`, as `influence`, for the parts."""
    weight: Floats
    """`[N]`, how much each sample counts in a mean; they sum to 1."""


def squared_angle(n: int) -> float:
    """Return E[θ²] of the angle between two independent uniform directions in n ≥ 2 dimensions.

    The density of φ = θ − π/2 is ∝ cosⁿ⁻²φ. Its characteristic function is ∝ 1 / (Γ((n + κ)/2) Γ((n − κ)/2)), which
    gives the variance ψ′(n/2) / 2.
    """
    if n < 2:
        raise ValueError(f"directions span an angle in 2 dimensions or more, not in {n}")
    return float(np.pi**2 / 4 + polygamma(1, n / 2) / 2)


def spherical(samples: Samples, codes: Floats, axes: Floats, progress: Progress | None = None) -> PathLength:
    """Return the length of great circles through each code.

    Args:
        samples: N samples with metrics.
        codes: `[N, n]`.
        axes: unit rows `[axes, n]`.
        progress: called with the samples done and their total.
    """
    count, n = codes.shape
    factor = 0.5 * squared_angle(n) / (n - 1)
    least, greatest, parts = np.empty(count), np.empty(count), np.empty((count, len(axes)))
    for at, values, vectors in _metrics(samples, progress):
        z = codes[at]
        square, along = float(z @ z), vectors @ z
        inside = square * float(values.sum()) - float(values @ along**2)
        rest = _rest(samples, values, at)
        outside = max(square - float(along @ along), 0.0)
        least[at] = inside + square * rest.low - min(rest.low, rest.ceiling) * outside
        greatest[at] = inside + square * rest.high
        cosines = vectors @ axes.T
        parts[at] = square * (values @ cosines**2) - ((values * along) @ cosines) * (axes @ z)
    least, greatest, parts = factor * least, factor * greatest, factor * parts
    equal = np.full(count, 1 / count)
    return PathLength(least, greatest, parts, (least + greatest) / 2, parts, equal)


def linear(samples: Samples, codes: Floats, axes: Floats, progress: Progress | None = None) -> PathLength:
    """Return the length of segments from each code to all others, at the code; arguments are those of `spherical`."""
    count, n = codes.shape
    centred = codes - codes.mean(axis=0)
    factor = 0.5 * count / (count - 1)
    covariance = centred.T @ centred / count
    largest = float(np.linalg.eigvalsh(covariance)[-1])
    stretched = axes @ covariance
    least, greatest, parts = np.empty(count), np.empty(count), np.empty((count, len(axes)))
    # What the other end of a segment adds: sums over samples of H, H d, (u · d) H u and the numbers dᵀHd, (u·d)(uᵀHd).
    total, pulled, turned = np.zeros((n, n)), np.zeros(n), np.zeros((len(axes), n))
    constant, constants = 0.0, np.zeros(len(axes))
    for at, values, vectors in _metrics(samples, progress):
        d = centred[at]
        along, spread = vectors @ d, vectors @ covariance
        spreads = np.einsum("kn,kn->k", spread, vectors)
        inside = float(values @ (spreads + along**2))
        rest = _rest(samples, values, at)
        outside = max(float(d @ d) - float(along @ along), 0.0)
        room = max(float(np.trace(covariance) - spreads.sum()), 0.0) + outside
        least[at], greatest[at] = inside, inside + min(rest.ceiling * room, rest.high * (largest + outside))
        products = (values[:, None] * (vectors @ axes.T)).T @ vectors  # H u for each axis
        onto = axes @ d
        parts[at] = np.einsum("an,an->a", products, stretched) + (products @ d) * onto
        total += vectors.T @ (values[:, None] * vectors)
        pulled += vectors.T @ (values * along)
        turned += onto[:, None] * products
        constant += float(values @ along**2)
        constants += (products @ d) * onto
    least, greatest, parts = factor * least, factor * greatest, factor * parts
    ends = np.einsum("sn,nm,sm->s", centred, total, centred, optimize=True) - 2 * centred @ pulled + constant
    onto = centred @ axes.T
    part_ends = (centred @ total @ axes.T) * onto - (axes @ pulled) * onto - centred @ turned.T + constants
    other, part_other = factor * ends / count, factor * part_ends / count
    influence = (least + greatest) / 2 + other - other.mean()
    part_influence = parts + part_other - part_other.mean(axis=0)
    return PathLength(least, greatest, parts, influence, part_influence, np.full(count, 1 / count))


@dataclass(frozen=True, eq=False)
class OwnPaths:
    """The paths of a sweep whose samples lie between given codes.

    Attributes:
        velocity: ż at each sample, `[N, n]`; zero where a sample is not part of a path.
        path: the number of each sample's path, `[N]`; -1 where it is not part of one.
        weight: the part of its path that each sample stands for, `[N]`: the trapezoid rule over the samples that the
            path has. The weights of a path sum to 1.
    """

    velocity: Floats
    path: Integers
    weight: Floats


def own_paths(codes: Floats, numbers: Integers, steps: int, spherical: bool) -> OwnPaths:
    """Return the velocities of paths with t from 0 to 1, of which `steps` samples each are in a row.

    The velocity of a segment follows from two of its codes. That of a great circle, whose norm changes linearly,
    follows from both ends, as the codes do (`sweep.latents`). Paths whose good samples do not give it are left out.

    Args:
        codes: `[N, n]`.
        numbers: sample numbers in the sweep, `[N]`, ascending; others were not good.
        steps: samples of each path, at least 2.
        spherical: great circles, not segments.
    """
    lines, t = numbers // steps, (numbers % steps) / (steps - 1)
    velocity, path, weight = np.zeros(codes.shape), np.full(len(codes), -1), np.zeros(len(codes))
    found = 0
    for line in np.unique(lines):
        members = np.flatnonzero(lines == line)
        times, start, end = t[members], codes[members[0]], codes[members[-1]]
        if len(members) < 2 or (spherical and (times[0], times[-1]) != (0, 1)):
            continue
        velocity[members] = (end - start) / (times[-1] - times[0])
        if spherical:
            velocity[members] = _circle_velocity(start, end, times)
        path[members] = found
        weight[members] = np.diff(np.concatenate([[0], (times[1:] + times[:-1]) / 2, [1]]))
        found += 1
    return OwnPaths(velocity, path, weight)


def along(samples: Samples, paths: OwnPaths, axes: Floats, progress: Progress | None = None) -> PathLength:
    """Return the length of the sweep's own paths at each of its samples; NaN where one is not part of a path.

    Args:
        samples: N samples with metrics.
        paths: at least one path.
        axes: unit rows `[axes, n]`.
        progress: called with the samples done and their total.
    """
    count, total = len(paths.path), int(paths.path.max()) + 1
    least, greatest = np.full((2, count), np.nan)
    parts = np.full((count, len(axes)), np.nan)
    for at, values, vectors in _metrics(samples, progress):
        if paths.path[at] < 0:
            continue
        velocity = paths.velocity[at]
        inside = vectors @ velocity
        rest = _rest(samples, values, at)
        outside = max(float(velocity @ velocity) - float(inside @ inside), 0.0)
        least[at] = 0.5 * float(values @ inside**2)
        greatest[at] = least[at] + 0.5 * min(rest.ceiling, rest.high) * outside
        parts[at] = 0.5 * ((values * inside) @ (vectors @ axes.T)) * (axes @ velocity)
    known = paths.path >= 0
    of_paths, of_parts = np.zeros(total), np.zeros((total, len(axes)))
    share = paths.weight[known]
    np.add.at(of_paths, paths.path[known], share * (least + greatest)[known] / 2)
    np.add.at(of_parts, paths.path[known], share[:, None] * parts[known])
    return PathLength(least, greatest, parts, of_paths, of_parts, paths.weight / total)


def _circle_velocity(start: Floats, end: Floats, times: Floats) -> Floats:
    """Return the velocities `[times, n]` of the great circle between two codes with a norm between theirs."""
    norms = float(np.linalg.norm(start)), float(np.linalg.norm(end))
    straight = np.broadcast_to(end - start, (len(times), len(start)))
    if min(norms) == 0:
        return straight
    one, two, t = start / norms[0], end / norms[1], times[:, None]
    angle = float(np.arccos(np.clip(one @ two, -1, 1)))
    if np.sin(angle) < 1e-9:
        return straight
    direction = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)
    turning = angle * (np.cos(t * angle) * two - np.cos((1 - t) * angle) * one) / np.sin(angle)
    velocity: Floats = turning * ((1 - t) * norms[0] + t * norms[1]) + direction * (norms[1] - norms[0])
    return velocity


def _metrics(samples: Samples, progress: Progress | None) -> Iterator[tuple[int, Floats, Floats]]:
    """Yield each position with its kept eigenvalues `[k]` and eigenvectors `[k, n]`, read a few samples at a time."""
    stack, count = samples.eigenvectors, len(samples)
    size = max(1, WORKSPACE // (8 * stack.shape[1] * stack.shape[2]))
    for start in range(0, count, size):
        block = np.asarray(stack[start : start + size], dtype=np.float64)
        for offset, vectors in enumerate(block):
            yield start + offset, samples.eigenvalues[start + offset], vectors
        if progress is not None:
            progress(min(start + size, count), count)


def _rest(samples: Samples, values: Floats, at: int) -> Rest:
    if not samples.truncated:
        return NOTHING
    return rests_of(values[None], samples.trace[at, None], samples.latent_dim, samples.estimated)[0]

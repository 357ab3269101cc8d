"""Walks: the images of codes along directions, at steps of equal change or of equal length."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from pullback.analysis.bootstrap import Floats, Integers
from pullback.applications.protocol import Subject
from pullback.applications.walking.code_files import read_codes
from pullback.applications.walking.equal_steps import Curve, equal_steps
from pullback.applications.walking.motion import Path, moved, tangents
from pullback.applications.walking.renderer import Renderer
from pullback.errors import PullbackError
from pullback.generators.base import any_condition, class_indices, reference_tensor
from pullback.generators.codes import trial_codes

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

_FARTHEST = {"linear": 1.0, "sphere": np.pi / 2}
"""The largest step, relative to the code's norm."""
_PAIRS = 24
"""Codes whose images give the typical distance of two images."""


@dataclass(frozen=True, eq=False)
class Walks:
    """Walks of codes along directions: A directions, C codes, F frames.

    Attributes:
        images: `[A, C, F, height, width, 3]`, uint8.
        t: steps `[A, C, F]`, latent units.
        distances: D from the unmoved image `[A, C, F]`.
        asked: the steps asked for `[F]`: D with the sign of the side, or t.
        rates: vᵀHv of each code `[A, C]`.
        range_t: lowest and highest step between which D grows away from 0 `[2, A, C]`.
        range_distance: D there `[2, A, C]`, negative on the lower side.
        quadratic: steps between which D² is within 20 % of ½λt² `[2, A, C]`.
        curve_t: measured steps `[A, C, nodes]`, ascending, padded with NaN.
        curve_d: D there.
        maps: |Jv| of each pixel `[A, C, height, width]`.
        codes: `[C, n]`.
    """

    images: npt.NDArray[np.uint8]
    t: Floats
    distances: Floats
    asked: Floats
    rates: Floats
    range_t: Floats
    range_distance: Floats
    quadratic: Floats
    curve_t: Floats
    curve_d: Floats
    maps: Floats
    codes: Floats

    @classmethod
    def joined(cls, parts: "Sequence[Walks]") -> "Walks":
        """Join walks of the same codes along further directions."""
        nodes = max(part.curve_t.shape[2] for part in parts)
        joined: dict[str, Any] = {}
        for field in fields(cls):
            arrays = [getattr(part, field.name) for part in parts]
            if field.name in ("asked", "codes"):
                joined[field.name] = arrays[0]
            elif field.name in ("range_t", "range_distance", "quadratic"):
                joined[field.name] = np.concatenate(arrays, axis=1)
            else:
                if field.name in ("curve_t", "curve_d"):
                    wide = [((0, 0), (0, 0), (0, nodes - each.shape[2])) for each in arrays]
                    arrays = [np.pad(each, pad, constant_values=np.nan) for each, pad in zip(arrays, wide, strict=True)]
                joined[field.name] = np.concatenate(arrays)
        return cls(**joined)


def codes_of(
    sweep: "Sweep",
    subject: Subject,
    numbers: Sequence[int] | None,
    count: int,
    seed: int | None,
    file: str | None = None,
    condition: str | int | None = None,
) -> tuple[Floats, Integers, Integers]:
    """Return codes `[C, n]`, their classes `[C]` (−1 without) and sample numbers `[C]` (−1 for new codes).

    Args:
        sweep: an open sweep.
        subject: the networks, for new codes.
        numbers: sample numbers, or rows of the file from 0; None takes the first `count` of them.
        count: number of codes if `numbers` is None.
        seed: draws `count` new codes, standard normal (mapped where the generator has a mapping).
        file: codes of this file.
        condition: class of codes that are no samples; by default the first one.

    Raises:
        PullbackError: both numbers and a seed or a seed and a file are given; a sample or row does not exist or is not
            good; the file does not fit; or a class is given for samples.
        SpecError: there is no such class.
    """
    if seed is not None:
        if numbers is not None or file is not None:
            other = "code_file" if numbers is None else "codes"
            raise PullbackError(
                f"`{other}` and `code_seed` are both given; leave one of them out. Nothing was computed."
            )
        drawn = trial_codes(subject.generator, count, seed)
        return drawn.double().cpu().numpy(), _classes(subject, count, condition), np.full(count, -1)
    if file is not None:
        read = read_codes(file, sweep.layout.latent_dim)
        good = np.flatnonzero(np.isfinite(read).all(axis=1))
        rows = good[:count].tolist() if numbers is None else list(numbers)
        if not rows or any(row not in good for row in rows):
            raise PullbackError(
                f"{file} has {len(read)} codes, {len(good)} of them finite; rows count from 0. Nothing was computed."
            )
        return read[rows], _classes(subject, len(rows), condition), np.full(len(rows), -1)
    if condition is not None:
        raise PullbackError("samples have classes of their own; leave `condition` out. Nothing was computed.")
    data = sweep.dataset()
    there = data["sample"].values.astype(np.int64)
    if numbers is None:
        places = list(range(min(count, len(there))))
    else:
        missing = [number for number in numbers if number not in there]
        if missing or not numbers:
            what = f"no good sample {missing[0]}" if missing else "no code to walk: `codes` is empty"
            raise PullbackError(
                f"sweep {sweep.name!r} has {what}; its {len(there)} good samples have numbers from "
                f"{there[0]} to {there[-1]}. Nothing was computed."
            )
        places = [int(np.flatnonzero(there == number)[0]) for number in numbers]
    chosen = data.isel(sample=places)
    return (
        chosen["latent"].values.astype(np.float64),
        chosen["condition"].values.astype(np.int64),
        chosen["sample"].values.astype(np.int64),
    )


def _classes(subject: Subject, count: int, condition: str | int | None) -> Integers:
    """Classes `[count]` of codes that are no samples; −1 without classes."""
    generator = subject.generator
    if condition is not None:
        classes = class_indices(generator, condition, range(count))
    else:
        classes = any_condition(generator, count, reference_tensor(generator).device)
    return np.full(count, -1) if classes is None else classes.cpu().numpy().astype(np.int64)


def typical_distance(renderer: Renderer, sweep: "Sweep", seed: int) -> float:
    """Return the median image distance D of two different codes of a sweep."""
    data = sweep.dataset()
    total = int(data.sizes["sample"])
    chosen = np.sort(np.random.default_rng([seed, 9]).choice(total, min(_PAIRS, total), replace=False))
    part = data.isel(sample=chosen)
    codes, classes = part["latent"].values.astype(np.float64), part["condition"].values.astype(np.int64)
    return float(np.median(renderer.distances(codes, np.roll(codes, 1, axis=0), classes)))


def walk(
    renderer: Renderer,
    codes: Floats,
    classes: Integers,
    directions: Floats,
    path: Path,
    equal: bool,
    reach: float,
    frames: int,
    width: int,
) -> Walks:
    """Walk codes along directions.

    Args:
        renderer: generator and distance.
        codes: `[C, n]`.
        classes: `[C]`, −1 without.
        directions: unit rows `[A, n]`.
        path: linear or on the sphere.
        equal: steps of equal image distance D; else of equal latent length.
        reach: the last step, D or latent units.
        frames: F, both sides together.
        width: largest side of the stored images, in pixels.
    """
    velocities = tangents(codes, directions, path)
    many, count = len(directions), len(codes)
    rates = renderer.rates(codes, velocities, classes)
    asked = np.linspace(-reach, reach, frames)
    values = asked[asked > 1e-12 * reach]
    # One track for each direction, code and side; side 0 is the lower one.
    sides = np.array([-1.0, 1.0])
    wide = np.tile(np.repeat(codes, 2, axis=0), (many, 1))
    own = np.tile(np.repeat(classes, 2), many)
    along = np.repeat(velocities.reshape(many * count, -1), 2, axis=0)
    signs = np.tile(sides, many * count)
    features = renderer.features(codes, classes) if renderer.residual else None
    base = np.tile(np.repeat(np.arange(count), 2), many)

    def measure(tracks: Integers, t: Floats) -> Floats:
        there = moved(wide[tracks], along[tracks], signs[tracks] * t, path)
        if features is None:
            return renderer.distances(wide[tracks], there, own[tracks])
        return renderer.from_features(features[torch.as_tensor(base[tracks])], there, own[tracks])

    limits = _FARTHEST[path] * np.linalg.norm(wide, axis=1)
    if equal:
        found = equal_steps(measure, np.repeat(rates.ravel(), 2), np.maximum(limits, 1e-6), values)
        steps, distances, curves = found.t, found.distance, found.curves
    else:
        tracks = np.arange(len(wide))
        steps = np.tile(values, (len(wide), 1))
        distances = measure(np.repeat(tracks, len(values)), steps.ravel()).reshape(steps.shape)
        curves = [
            Curve(np.concatenate([[0.0], t]), np.concatenate([[0.0], d])) for t, d in zip(steps, distances, strict=True)
        ]
    shape = (many, count, 2, len(values))
    by_side, d_by_side = steps.reshape(shape), distances.reshape(shape)
    middle = [np.zeros((many, count, 1))] if frames % 2 else []
    t = np.concatenate([-by_side[:, :, 0, ::-1], *middle, by_side[:, :, 1]], axis=2)
    d = np.concatenate([d_by_side[:, :, 0, ::-1], *middle, d_by_side[:, :, 1]], axis=2)
    shown = moved(
        np.tile(np.repeat(codes, frames, axis=0), (many, 1)),
        np.repeat(velocities.reshape(many * count, -1), frames, axis=0),
        t.ravel(),
        path,
    )
    images = renderer.images(shown, np.tile(np.repeat(classes, frames), many))
    stored = np.rint(255 * limited(images, width)).astype(np.uint8)
    maps = renderer.change_maps(codes, velocities, classes)
    ends = np.array([curve.reach for curve in curves]).reshape(many, count, 2, 2)
    law = np.array(
        [curve.quadratic_reach(rate) for curve, rate in zip(curves, np.repeat(rates.ravel(), 2), strict=True)]
    ).reshape(many, count, 2)
    curve_t, curve_d = _padded(curves, many, count)
    return Walks(
        images=stored.reshape(many, count, frames, *stored.shape[1:]),
        t=t,
        distances=d,
        asked=asked,
        rates=rates,
        range_t=np.stack([-ends[:, :, 0, 0], ends[:, :, 1, 0]]),
        range_distance=np.stack([-ends[:, :, 0, 1], ends[:, :, 1, 1]]),
        quadratic=np.stack([-law[:, :, 0], law[:, :, 1]]),
        curve_t=curve_t,
        curve_d=curve_d,
        maps=resized(maps, stored.shape[1:3]),
        codes=codes,
    )


def limited(images: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    """Return images `[m, height, width, 3]` made smaller, by averaging, until no side exceeds `width`."""
    largest = max(images.shape[1:3])
    if largest <= width:
        return images
    size = tuple(max(1, round(side * width / largest)) for side in images.shape[1:3])
    small = interpolate(torch.as_tensor(images).permute(0, 3, 1, 2), size=size, mode="area")
    return small.permute(0, 2, 3, 1).numpy()


def resized(maps: Floats, shape: Sequence[int]) -> Floats:
    """Return maps `[..., height, width]` in another size, by averaging."""
    if tuple(maps.shape[-2:]) == tuple(shape):
        return maps
    flat = torch.as_tensor(maps.reshape(-1, 1, *maps.shape[-2:]))
    small: Floats = interpolate(flat, size=tuple(shape), mode="area").numpy()
    return small.reshape(*maps.shape[:-2], *shape)


def _padded(curves: list[Curve], many: int, count: int) -> tuple[Floats, Floats]:
    """Join the two sides of each curve, from the lowest step to the highest, padded with NaN."""
    joined = []
    for down, up in zip(curves[::2], curves[1::2], strict=True):
        joined.append((np.concatenate([-down.t[:0:-1], up.t]), np.concatenate([down.distance[:0:-1], up.distance])))
    nodes = max(len(t) for t, _ in joined)
    padded = np.full((2, many * count, nodes), np.nan)
    for place, (t, distance) in enumerate(joined):
        padded[0, place, : len(t)], padded[1, place, : len(t)] = t, distance
    return padded[0].reshape(many, count, nodes), padded[1].reshape(many, count, nodes)

"""What images do along a direction: the measurements, code by code, from which the scores of axes come.

Every direction v is walked from the same codes by the same step t, half of it and all of it, both ways. Changes are
those of the distance's features, r(G(z + tv)) − r(G(z)); pooled changes are averaged over places in the image.
"""

from dataclasses import dataclass, fields

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers
from pullback.applications.walking.hints import effects_of
from pullback.applications.walking.motion import Path, moved, tangents
from pullback.applications.walking.renderer import Renderer


@dataclass(frozen=True, eq=False)
class Response:
    """The response of images to one direction; S is the number of codes.

    Attributes:
        cosines: cosines of the changes of two codes `[2, S, S]`, upwards and downwards.
        pooled_cosines: the same of pooled changes.
        pooled: pooled changes of unit length `[S, 2, pooled]`, upwards and downwards.
        straightness: D(ends) over the length of the path between them, two segments each way `[S]`.
        ends: D² at the two ends `[S, 2]`.
        effects: effects between the two ends `[S, effects]`; see `hints`.
    """

    cosines: Floats
    pooled_cosines: Floats
    pooled: Floats
    straightness: Floats
    ends: Floats
    effects: Floats

    def __getitem__(self, directions: slice) -> "Response":
        """Return some of the directions of stacked responses."""
        return Response(*(getattr(self, field.name)[directions] for field in fields(self)))


class Responses:
    """Measures the response to directions at fixed codes.

    Args:
        renderer: generator and distance.
        codes: `[S, n]`.
        classes: their classes `[S]`, or -1.
        path: how codes move.
    """

    def __init__(self, renderer: Renderer, codes: Floats, classes: Integers, path: Path) -> None:
        self._renderer, self._codes, self._classes, self._path = renderer, codes, classes, path
        self._features = renderer.features(codes, classes)
        self._images = renderer.images(codes, classes)
        self._pooled = self._pool(self._features, self._images)

    def of(self, direction: Floats, step: float) -> Response:
        """Return the response to a unit direction `[n]` for a step in latent units."""
        velocities = tangents(self._codes, direction[None], self._path)[0]
        offsets = (-1.0, -0.5, 0.5, 1.0)
        features, images, pooled = [], {}, {}
        for offset in offsets:
            codes = moved(self._codes, velocities, np.full(len(self._codes), offset * step), self._path)
            features.append(self._renderer.features(codes, self._classes))
            if abs(offset) == 1:
                images[offset] = self._renderer.images(codes, self._classes)
                pooled[offset] = self._pool(features[-1], images[offset])
        far_down, down, up, far_up = features
        ends = [np.square(_length(end - self._features)) for end in (far_up, far_down)]
        if not self._renderer.residual:  # features are images, and D² is no sum of squares
            far = [moved(self._codes, velocities, np.full(len(self._codes), t), self._path) for t in (step, -step)]
            ends = [np.square(self._renderer.distances(self._codes, each, self._classes)) for each in far]
        pairs = ((far_down, down), (down, self._features), (self._features, up), (up, far_up))
        length = np.sum([_length(one - other) for one, other in pairs], axis=0)
        chord = _length(far_up - far_down)
        changes = [_unit((end - self._features).double().cpu().numpy()) for end in (far_up, far_down)]
        pools = [_unit(pooled[sign] - self._pooled) for sign in (1.0, -1.0)]
        return Response(
            np.stack([each @ each.T for each in changes]),
            np.stack([each @ each.T for each in pools]),
            np.stack(pools, axis=1),
            np.divide(chord, length, out=np.full(len(length), np.nan), where=length > 0),
            np.stack(ends, axis=1),
            effects_of(images[-1.0], self._images, images[1.0]),
        )

    def _pool(self, features: object, images: object) -> Floats:
        if self._renderer.pools_features:
            return self._renderer.pooled(features)  # type: ignore[arg-type]
        return self._renderer.pooled_images(images)  # type: ignore[arg-type]


def stacked(responses: list[Response]) -> Response:
    """Return responses with the directions along a new first axis of every array."""
    return Response(*(np.stack([getattr(each, field.name) for each in responses]) for field in fields(Response)))


def _length(difference: object) -> Floats:
    lengths: Floats = difference.double().square().sum(dim=1).sqrt().cpu().numpy()  # type: ignore[attr-defined]
    return lengths


def _unit(rows: Floats) -> Floats:
    """Scale rows to unit length; a zero row, no change at all, stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled

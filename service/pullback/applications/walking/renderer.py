"""Images of codes, their features, distances and derivatives: all that a walk asks of a generator and a distance."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from pullback.analysis.bootstrap import Floats, Integers
from pullback.applications.protocol import Subject
from pullback.distances import ResidualDistance
from pullback.distances.lpips import Lpips
from pullback.generators import generate, reference_tensor
from pullback.generators.user_code import unmoved
from pullback.metric.jacobian import Features, derivative_at, feature_map
from pullback.metric.precision import arithmetic

BATCH = 32
"""Images generated at once."""
_POOLED = 8
"""Side of the pooled image that stands for the features of a distance without layers."""
_PUSHED = 2**26
"""Numbers of one push of tangents, at most."""
_SMALL_STEP = 1e-3
"""Step of differences, relative to the code's norm, for distances that are no sums of squares."""


class Renderer:
    """Generator and distance of a subject, called with numpy arrays in batches.

    Args:
        subject: the sweep with its networks.
        batch: codes that are passed through the networks at once.

    Raises:
        PullbackError: the networks cannot be loaded, or differ from those of the sweep.
    """

    def __init__(self, subject: Subject, batch: int = BATCH) -> None:
        self.generator, self.distance, self.batch = subject.generator, subject.distance, batch
        self._like = reference_tensor(self.generator)

    @property
    def residual(self) -> bool:
        """Whether the distance is a sum of squares of features."""
        return isinstance(self.distance, ResidualDistance)

    def images(self, codes: Floats, classes: Integers) -> npt.NDArray[np.float32]:
        """Return images `[m, height, width, 3]` in [0, 1] of codes `[m, n]`.

        Args:
            codes: latent codes.
            classes: class indices `[m]`; -1 for a generator without classes.

        A generator may leave [0, 1] or return NaN far out; such pixels are clipped, or black.
        """
        shown = [
            made.nan_to_num(0, 0, 0).clamp(0, 1).float().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
            for made in self._each(lambda z, c: generate(self.generator, z, c), codes, classes)
        ]
        return np.concatenate(shown)

    def features(self, codes: Floats, classes: Integers) -> Tensor:
        """Return features `[m, size]`, whose squared differences sum up to D²; images for another distance."""
        return torch.cat(list(self._each(self._features, codes, classes)))

    def distances(self, references: Floats, codes: Floats, classes: Integers) -> Floats:
        """Return the image distance D (the root of D²) of codes `[m, n]` to references `[m, n]`, `[m]`."""
        found = []
        for start in range(0, len(codes), self.batch):
            part = slice(start, start + self.batch)
            pair = self._tensors(np.concatenate([references[part], codes[part]]), np.tile(classes[part], 2))
            half = len(codes[part])
            with torch.no_grad(), arithmetic(), unmoved():
                squared = self.distance.squared_at(
                    self.generator, pair[0][:half], pair[0][half:], None if pair[1] is None else pair[1][:half]
                )
            found.append(squared.double().clamp(min=0).sqrt().cpu().numpy())
        return _known(found)

    def from_features(self, reference: Tensor, codes: Floats, classes: Integers) -> Floats:
        """Return D of codes `[m, n]` to features `[m, size]` of their references; for a sum of squares only."""
        found, start = [], 0
        for features in self._each(self._features, codes, classes):
            there = reference[start : start + len(features)]
            found.append((features - there).double().square().sum(dim=1).sqrt().cpu().numpy())
            start += len(features)
        return _known(found)

    def rates(self, codes: Floats, velocities: Floats, classes: Integers) -> Floats:
        """Return vᵀHv of each code along its velocities `[directions, codes, n]`, `[directions, codes]`.

        Exact as 2‖Jv‖² for a sum of squares; from central differences of D² otherwise.
        """
        count, many, n = velocities.shape
        if not self.residual:
            steps = _SMALL_STEP * np.maximum(np.linalg.norm(codes, axis=1), 1.0)
            wide, own = np.tile(codes, (count, 1)), np.tile(classes, count)
            reach = np.tile(steps, count)[:, None] * velocities.reshape(-1, n)
            ends = [self.distances(wide, wide + sign * reach, own) ** 2 for sign in (1, -1)]
            rates: Floats = (sum(ends) / np.tile(steps, count) ** 2).reshape(count, many)
            return rates
        return self._pushed(
            lambda condition: feature_map(self.generator, self.distance, condition),  # type: ignore[arg-type]
            codes,
            velocities,
            classes,
            lambda pushed: 2 * pushed.double().square().sum(dim=-1).cpu().numpy(),
        )

    def change_maps(self, codes: Floats, velocities: Floats, classes: Integers) -> Floats:
        """Return where images change: |Jv| of each pixel `[directions, codes, height, width]`, per latent unit.

        J is the derivative of the image, in forward mode; the norm is over colours.
        """
        shape = self.images(codes[:1], classes[:1]).shape[1:3]

        def of(condition: Tensor | None) -> Features:
            def flat(z: Tensor) -> Tensor:
                repeated = condition
                if repeated is not None and len(repeated) != len(z):
                    repeated = repeated.repeat(len(z) // len(repeated))
                return generate(self.generator, z, repeated).flatten(1)

            return flat

        def lengths(pushed: Tensor) -> Floats:
            colours = pushed.reshape(*pushed.shape[:2], -1, *shape).double()
            found: Floats = colours.square().sum(dim=2).sqrt().cpu().numpy()
            return found

        return self._pushed(of, codes, velocities, classes, lengths)

    def pooled(self, features: Tensor) -> Floats:
        """Return features `[m, size]` averaged over places in the image, `[m, pooled]`.

        LPIPS: one number for each channel of each layer. Another distance: see `pooled_images`.
        """
        if not isinstance(self.distance, Lpips):
            return features.double().cpu().numpy()
        parts, start = [], 0
        for channels, height, width in self._layers:
            stop = start + channels * height * width
            parts.append(
                features[:, start:stop].reshape(len(features), channels, -1).mean(dim=2) * (height * width) ** 0.5
            )
            start = stop
        pooled: Floats = torch.cat(parts, dim=1).double().cpu().numpy()
        return pooled

    @property
    def pools_features(self) -> bool:
        """Whether `pooled` averages layers of the distance; else pooled images stand for them."""
        return isinstance(self.distance, Lpips)

    def pooled_images(self, images: npt.NDArray[np.float32]) -> Floats:
        """Return images `[m, height, width, 3]` averaged over an 8 × 8 grid, `[m, 192]`."""
        tensor = torch.as_tensor(images).permute(0, 3, 1, 2)
        small = adaptive_avg_pool2d(tensor, (min(_POOLED, tensor.shape[2]), min(_POOLED, tensor.shape[3])))
        flat: Floats = small.flatten(1).double().numpy()
        return flat

    @cached_property
    def _layers(self) -> list[tuple[int, int, int]]:
        """Channels, height and width of each layer of LPIPS, for images of the generator."""
        assert isinstance(self.distance, Lpips)
        code = torch.zeros(1, int(self.generator.latent_dim)).to(self._like)  # type: ignore[arg-type]
        classes = self._classes(np.zeros(1, dtype=np.int64)) if self._conditioned else None
        with torch.no_grad(), unmoved():
            images = self.distance.prepared(generate(self.generator, code, classes)).float()
            return [tuple(layer.shape[1:]) for layer in self.distance.trunk(images)]

    _conditioned = False

    def _features(self, z: Tensor, classes: Tensor | None) -> Tensor:
        if isinstance(self.distance, ResidualDistance):
            return self.distance.residual_at(self.generator, z, classes)
        return generate(self.generator, z, classes).flatten(1)

    def _pushed(
        self,
        of: Callable[[Tensor | None], Features],
        codes: Floats,
        velocities: Floats,
        classes: Integers,
        reduce: Callable[[Tensor], Floats],
    ) -> Floats:
        """Push velocities `[directions, codes, n]` through a map at each code, a few codes and directions at once."""
        columns = []
        for start in range(0, len(codes), self.batch):
            part = slice(start, start + self.batch)
            z, condition = self._tensors(codes[part], classes[part])
            with arithmetic(), unmoved():
                features = of(condition)
                push = derivative_at(features, z)
                along = torch.as_tensor(velocities[:, part]).to(z)
                size = max(1, _PUSHED // max(1, z.shape[0] * 2**16))
                pieces = [reduce(push(along[first : first + size])) for first in range(0, len(along), size)]
            columns.append(np.concatenate(pieces))
        return np.concatenate(columns, axis=1)

    def _each(
        self, function: Callable[[Tensor, Tensor | None], Tensor], codes: Floats, classes: Integers
    ) -> "list[Tensor]":
        results = []
        for start in range(0, len(codes), self.batch):
            z, condition = self._tensors(codes[start : start + self.batch], classes[start : start + self.batch])
            with torch.no_grad(), arithmetic(), unmoved():
                results.append(function(z, condition))
        return results

    def _tensors(self, codes: Floats, classes: Integers) -> tuple[Tensor, Tensor | None]:
        return torch.as_tensor(codes).to(self._like), self._classes(classes)

    def _classes(self, classes: Integers) -> Tensor | None:
        if (np.asarray(classes) < 0).all():
            return None
        self._conditioned = True
        return torch.as_tensor(np.asarray(classes), dtype=torch.int64, device=self._like.device)


def _known(parts: list[Floats]) -> Floats:
    """Join distances; one that is no number counts as 0, so that a walk ends before it."""
    joined: Floats = np.nan_to_num(np.concatenate(parts), nan=0.0)
    return joined

"""The objective of an inversion: one sum of squares that every solver minimises, and what its evaluations cost.

    f(z) = ‖r(G(z)) − r(x)‖² + w ‖G(z) − x‖² / m + (ρ / n) ‖(z − c) / s‖²

r is the residual of a distance, x the target image with m values, w the pixel weight and ρ the weight of the prior,
which has the centre c and the scale s of the codes. Each part is an exact square, so that Gauss-Newton methods apply.
A problem has several rows. Each row is one code and the target that it is compared with; rows are independent.

Cost is counted in forward equivalents: 1 for an image, 3 for a gradient, 1 for a column of a Jacobian.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pullback.distances import ResidualDistance
from pullback.distances.mse import Mse
from pullback.errors import ArgumentError
from pullback.generators import generate, reference_tensor
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import derivative_at, feature_map, jacobian

GRADIENT_COST = 3
"""Forward equivalents of one gradient: a forward pass and a backward pass of about twice its cost."""
_JACOBIAN_BYTES = 2**30
"""Largest size of the Jacobians that are held at once."""


class WithPixels(ResidualDistance):
    """D² = D²_a + w D²_b: the residual of a distance, and the pixels' with a weight, one after the other.

    Args:
        distance: D_a, a residual distance.
        weight: w, at least 0.
    """

    def __init__(self, distance: ResidualDistance, weight: float) -> None:
        super().__init__()
        self.distance, self.weight = distance, weight
        self.pixels = Mse(distance.clamp, None, distance.mask)
        self.name = f"{distance.name}+{weight:g}mse"

    def residual(self, images: Tensor) -> Tensor:
        """Return both residuals [batch, features + pixels] of images in [0, 1]."""
        features = self.distance.residual(images)
        if self.weight == 0:
            return features
        return torch.cat([features, self.pixels.residual(images) * math.sqrt(self.weight)], dim=1)


@dataclass
class Cost:
    """Count of what an inversion has computed.

    Attributes:
        forwards: images of single codes.
        gradients: gradients at single codes, each with its image.
        columns: columns of Jacobians; a product Jᵀ(Jv) counts as 3.
    """

    forwards: int = 0
    gradients: int = 0
    columns: int = 0

    @property
    def forward_equivalents(self) -> float:
        """All work in units of one image."""
        return self.forwards + GRADIENT_COST * self.gradients + self.columns


@dataclass(frozen=True)
class Local:
    """The objective's quadratic model at some rows, with A = JᵀJ + (ρ / n) S⁻² and g = ∇f / 2.

    Attributes:
        value: f [rows], float64.
        gradient: g [rows, n], float64: half the gradient of f.
        curvature: A [rows, n, n], float64: half the Gauss-Newton Hessian of f.
    """

    value: Tensor
    gradient: Tensor
    curvature: Tensor


@dataclass
class Objective:
    """The sum of squares of an inversion.

    Args:
        generator: G.
        distance: a residual distance.
        targets: images [targets, 3, height, width] in [0, 1], of the generator's size.
        pixel_weight: w, the weight of the mean squared difference of pixels.
        prior: ρ, the weight of the prior on codes.
        centre: c [n], the mean of codes; zero by default.
        scale: s [n], the standard deviations of codes; one by default.
        tangents: columns of a Jacobian computed at once.

    Raises:
        ArgumentError: the distance is no sum of squares, or a weight is negative.
    """

    generator: nn.Module
    distance: ResidualDistance
    targets: Tensor
    pixel_weight: float = 10.0
    prior: float = 0.0
    centre: Tensor | None = None
    scale: Tensor | None = None
    tangents: int = 50
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if not isinstance(self.distance, ResidualDistance):
            raise ArgumentError("distance", "an inversion needs a distance that is a sum of squares, such as lpips")
        if self.pixel_weight < 0 or self.prior < 0:
            raise ArgumentError("prior", "the weights of the pixels and of the prior cannot be negative")
        self.combined = WithPixels(self.distance, self.pixel_weight)
        self.like = reference_tensor(self.generator)
        with torch.no_grad():
            self.wanted = self.combined.residual(self.targets.to(self.like))

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.like.device

    def values(self, codes: Tensor, target: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return f [rows] float64 of codes [rows, n] against the targets with the indices [rows]."""
        with torch.no_grad():
            residual = self._residual(codes.to(self.like), target, condition)
        self.cost.forwards += len(codes)
        return _squares(residual) + self._prior(codes)[0]

    def gradients(self, codes: Tensor, target: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return f [rows] and half its gradient [rows, n], float64."""
        with torch.enable_grad():
            given = codes.detach().to(self.like).requires_grad_()
            residual = self._residual(given, target, condition)
            (pulled,) = torch.autograd.grad(residual, given, residual.detach())
        self.cost.gradients += len(codes)
        value, slope = self._prior(codes)
        return _squares(residual.detach()) + value, pulled.to(torch.float64) + slope

    def local(self, codes: Tensor, target: Tensor, condition: Tensor | None = None) -> Local:
        """Return the quadratic model of f at codes [rows, n], from the exact Jacobian of each."""
        parts = []
        size = max(1, _JACOBIAN_BYTES // (codes.shape[1] * self.wanted.shape[1] * self.wanted.element_size()))
        for start in range(0, len(codes), size):
            rows = slice(start, start + size)
            parts.append(self._local(codes[rows], target[rows], None if condition is None else condition[rows]))
        return Local(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("value", "gradient", "curvature"))
        )

    def _local(self, codes: Tensor, target: Tensor, condition: Tensor | None) -> Local:
        given = codes.detach().to(self.like)
        features = feature_map(self.generator, self.combined, condition)
        rows = jacobian(derivative_at(features, given), given, self.tangents)
        with torch.no_grad():
            residual = self._residual(given, target, condition)
        self.cost.columns += len(codes) * codes.shape[1]
        self.cost.forwards += len(codes)
        value, slope = self._prior(codes)
        gradient = torch.bmm(rows.to(torch.float64), residual.to(torch.float64)[:, :, None])[:, :, 0] + slope
        curvature = metric_from_jacobian(rows) / 2
        curvature.diagonal(dim1=1, dim2=2).add_(self._prior_weight(codes))
        return Local(_squares(residual) + value, gradient, curvature)

    def products(
        self, codes: Tensor, target: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Return f [rows], half its gradient [rows, n], and the map of vectors [rows, n] to Av, without a matrix."""
        given = codes.detach().to(self.like)
        features = feature_map(self.generator, self.combined, condition)
        push = derivative_at(features, given)
        with torch.enable_grad():
            leaf = given.clone().requires_grad_()
            residual = self._residual(leaf, target, condition)
            (pulled,) = torch.autograd.grad(residual, leaf, residual.detach(), retain_graph=True)
        self.cost.gradients += len(codes)
        value, slope = self._prior(codes)
        weight = self._prior_weight(codes)

        def multiply(vectors: Tensor) -> Tensor:
            moved = push(vectors.to(self.like)[None])[0]
            (back,) = torch.autograd.grad(residual, leaf, moved, retain_graph=True)
            self.cost.columns += 3 * len(vectors)
            product: Tensor = back.to(torch.float64) + weight * vectors
            return product

        return _squares(residual.detach()) + value, pulled.to(torch.float64) + slope, multiply

    def mean_metric(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the mean of the metric 2JᵀJ [n, n] over codes [samples, n], float64, without the prior."""
        total = torch.zeros(codes.shape[1], codes.shape[1], dtype=torch.float64, device=self.device)
        bare = self.without_prior()
        for row in range(len(codes)):
            own = None if condition is None else condition[row : row + 1]
            target = torch.zeros(1, dtype=torch.int64, device=self.device)
            total += 2 * bare.local(codes[row : row + 1], target, own).curvature[0]
        return total / len(codes)

    def without_prior(self) -> "Objective":
        """Return the same objective with ρ = 0, which adds to the same cost."""
        bare = copy.copy(self)
        bare.prior = 0.0
        return bare

    def images(self, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the images of codes [rows, n]."""
        with torch.no_grad():
            return generate(self.generator, codes.to(self.like), condition)

    def _residual(self, codes: Tensor, target: Tensor, condition: Tensor | None) -> Tensor:
        return self.combined.residual_at(self.generator, codes, condition) - self.wanted[target]

    def _prior_weight(self, codes: Tensor) -> Tensor:
        scale = torch.ones(codes.shape[1]) if self.scale is None else self.scale
        return (self.prior / codes.shape[1]) / scale.to(codes.device, torch.float64).square()

    def _prior(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's value [rows] and half its gradient [rows, n]."""
        codes = codes.detach().to(torch.float64)
        away = codes if self.centre is None else codes - self.centre.to(codes)
        slope = self._prior_weight(codes) * away
        return (slope * away).sum(dim=1), slope


def _squares(residual: Tensor) -> Tensor:
    return residual.to(torch.float64).square().sum(dim=1)

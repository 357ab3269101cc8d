"""Jobs of small generators, and generators that fail in one known way (jobs name them `sweep_jobs:factory`)."""

import torch
from torch import nn

from pullback.spec import JobSpec
from toy_generators import Classes, Linear, Smooth


def job(generator="toy_generators:smooth", count=7, seed=0, **changes):
    """A job of a 6-dimensional toy under MSE, in shards of 2; `changes` replace or add top-level keys."""
    content = {
        "name": "toy",
        "generator": generator,
        "distance": "mse",
        "samples": {"count": count, "seed": seed},
        "resources": {"shard_size": 2, "batch": 1, "tangents": 6, "workers": 1},
    }
    return JobSpec.model_validate({**content, **changes})


class _NanImage(Smooth):
    """NaN, and NaN derivatives, where the second coordinate is above 1."""

    def forward(self, z, condition=None):
        factor = torch.where(z[:, 1] > 1, torch.nan, 1.0)
        return factor[:, None, None, None] * super().forward(z)


class _NanWithoutDerivative(Smooth):
    """As `_NanImage`, but the derivative there is zero rather than NaN: the metric itself is finite."""

    def forward(self, z, condition=None):
        image = super().forward(z)
        return torch.where(z[:, 1, None, None, None] > 1, torch.full_like(image, torch.nan), image)


class _Scaled(torch.autograd.Function):
    """The identity, whose derivative in every mode is scaled by a factor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, factor):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        return ctx.factor * gradient, None

    @staticmethod
    def jvp(ctx, tangent, _):
        return ctx.factor * tangent


class _WrongDerivative(Smooth):
    def forward(self, z, condition=None):
        return _Scaled.apply(super().forward(z), 0.5)


class _Grey(Linear):
    """The same grey image for every code shorter than 100."""

    def forward(self, z, condition=None):
        far = torch.relu(z.square().sum(dim=1) - 10_000).view(-1, 1, 1, 1)
        return 0.5 + 1e-4 * torch.tanh(far) * (0.5 + 0 * super().forward(z))


class _Huge(nn.Module):
    """A latent space whose metric fits into no machine's memory."""

    latent_dim = 200_000

    def forward(self, z, condition=None):
        return torch.sigmoid(z[:, :192]).view(-1, 3, 8, 8)


def nan_images():
    return _NanImage()


def nan_without_derivative():
    return _NanWithoutDerivative()


def wrong_derivative():
    return _WrongDerivative()


def grey():
    return _Grey()


def huge():
    return _Huge()


def classes():
    return Classes()

"""Generators whose derivatives torch has only in part, each right in the image and in the gradient."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from toy_generators import Smooth


class _OldTanh(torch.autograd.Function):
    """Without a forward mode, a batching rule, or `setup_context`."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


class _OnceTanh(_OldTanh):
    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


class _NumpyTanh(_OldTanh):
    """Whose backward pass leaves torch, as a C++ extension without a second derivative does."""

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return torch.from_numpy(gradient.numpy() * (1 - y.numpy() ** 2))


class OldFunction(Smooth):
    function = _OldTanh

    def forward(self, z, condition=None):
        return super().forward(self.function.apply(z))


class OnceDifferentiable(OldFunction):
    function = _OnceTanh


class Numpy(OldFunction):
    function = _NumpyTanh


class Recurrent(Smooth):
    """An LSTM over the coordinates of the code."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(1, 6, batch_first=True)

    def forward(self, z, condition=None):
        return super().forward(self.lstm(z[:, :, None])[0][:, -1])


class Sampled(Smooth):
    """`grid_sample` with a grid that the code moves: without forward mode, and without a second derivative."""

    def forward(self, z, condition=None):
        image = super().forward(z)
        theta = torch.eye(2, 3).to(z).expand(len(z), 2, 3) + 0.05 * z.reshape(-1, 2, 3)
        grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
        smooth = torch.linspace(0, 1, image.shape[-1]).to(z).square()[None, None, None] * torch.ones_like(image)
        return functional.grid_sample(smooth, grid, padding_mode="border", align_corners=False) / 2 + image / 2


class Distances(Smooth):
    """Distances of the code to fixed points, by `cdist`."""

    def forward(self, z, condition=None):
        points = torch.linspace(-3, 3, 36).reshape(6, 6).to(z)
        return super().forward(torch.cdist(z[:, None], points.expand(len(z), 6, 6))[:, 0] / 5)


ODD = {
    "old": OldFunction,
    "once": OnceDifferentiable,
    "numpy": Numpy,
    "lstm": Recurrent,
    "grid_sample": Sampled,
    "cdist": Distances,
}


def old():
    return OldFunction()


def once():
    return OnceDifferentiable()


def lstm():
    return Recurrent().eval()


def grid_sample():
    return Sampled()

"""Generators in other precisions and with one channel: their metrics are those of the same map in float64."""

import copy

import pytest
import torch
from torch import nn

from pullback.distances import FeatureDistance, load_distance
from pullback.errors import PullbackError
from pullback.metric import layer_metrics, metric_at


class Net(nn.Module):
    latent_dim = 5

    def __init__(self, channels=3):
        super().__init__()
        stream = torch.Generator().manual_seed(1)
        self.channels = channels
        self.first = nn.Linear(5, 16)
        self.last = nn.ConvTranspose2d(16, channels, 32, 1)
        for parameter in self.parameters():
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=stream)
        self.eval()

    def forward(self, z):
        return torch.sigmoid(self.last(torch.tanh(self.first(z))[:, :, None, None]))


class Repeated(Net):
    """As `Net` of one channel, with the three equal channels written out."""

    def __init__(self):
        super().__init__(1)

    def forward(self, z):
        return super().forward(z).expand(-1, 3, -1, -1)


class Own(nn.Module):
    """Somebody's features of images with three channels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        for index, parameter in enumerate(self.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))

    def forward(self, images):
        return self.layer(images).tanh()


DISTANCES = {
    "mse": lambda: load_distance("mse", device="cpu"),
    "ssim": lambda: load_distance("ssim", device="cpu"),
    "features": lambda: FeatureDistance(Own(), "layer").requires_grad_(False),
    "lpips": lambda: load_distance("lpips", device="cpu"),
}
CODE = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def exact(generator, distance, z):
    """The metric by double backpropagation, everything in float64."""
    generator, distance = copy.deepcopy(generator).double(), copy.deepcopy(distance).double()
    there = generator(z[None]).detach()
    return torch.autograd.functional.hessian(lambda code: distance(there, generator(code[None]))[0], z)


def deviation(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.weights
@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_metric_of_any_precision_is_that_of_float64(name, dtype, channels):
    generator, distance = Net(channels).to(dtype), DISTANCES[name]()
    metric = metric_at(generator, distance, CODE)
    z = CODE if dtype == torch.float64 else CODE.float().double()
    assert metric.certificate.failures() == [""]
    assert deviation(metric.matrix, exact(generator, distance, z)) < (1e-11 if dtype == torch.float64 else 1e-4)
    assert {parameter.dtype for parameter in generator.parameters()} == {dtype}


@pytest.mark.weights
@pytest.mark.parametrize("name", DISTANCES)
def test_one_channel_counts_as_three_equal_ones(name):
    distance = DISTANCES[name]()
    grey, repeated = metric_at(Net(1), distance, CODE), metric_at(Repeated(), distance, CODE)
    torch.testing.assert_close(grey.matrix, repeated.matrix, rtol=1e-5, atol=1e-6 * float(grey.eigenvalues[0]))


def test_the_layers_of_a_generator_in_half_precision_are_those_of_float32():
    half = layer_metrics(Net().half(), CODE, ["first"])["first"]
    weight = Net().half().first.weight.double()
    assert deviation(half.matrix, 2 * weight.T @ weight) < 1e-6


class Constant(nn.Module):
    """As StyleGAN's: a learned input [1, channels, height, width] for every code."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3)))

    def forward(self):
        return self.value


class Expanded(Constant):
    def forward(self, batch):
        return self.value.expand(batch, -1, -1, -1)


class Style(nn.Module):
    """A learned input, modulated by the code."""

    latent_dim = 5

    def __init__(self, expanded=False):
        super().__init__()
        stream = torch.Generator().manual_seed(4)
        self.input = Expanded() if expanded else Constant()
        self.style = nn.Linear(5, 4)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1)])
        self.rgb = nn.Conv2d(4, 3, 1)
        for module in (self.style, *self.blocks, self.rgb):
            for parameter in module.parameters():
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=stream)
        self.eval()

    def forward(self, z):
        x = self.input(len(z)) if isinstance(self.input, Expanded) else self.input()
        return torch.sigmoid(self.rgb(torch.tanh(self.blocks[0](x * self.style(z)[:, :, None, None]))))


@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("codes", [CODE, torch.stack([CODE, -CODE])])
def test_the_layers_of_a_generator_with_a_learned_input_have_metrics(expanded, codes):
    generator = Style(expanded)
    found = layer_metrics(generator, codes)
    assert [*found][-3:] == ["style", "blocks.0", "rgb"]
    assert "input" not in found
    weight = generator.style.weight.double()
    wanted = (2 * weight.T @ weight).expand(*codes.shape[:-1], 5, 5)
    torch.testing.assert_close(found["style"].matrix, wanted, rtol=1e-5, atol=1e-8)
    assert set(found["rgb"].certificate.failures()) == {""}


@pytest.mark.parametrize("expanded", [False, True])
def test_a_learned_input_has_no_metric_of_its_own(expanded):
    with pytest.raises(PullbackError, match=r"'input'.*every code"):
        layer_metrics(Style(expanded), CODE, ["input"])

"""Kinks of ReLUs within the steps of the checks are no faults, and hide none."""

import itertools

import pytest
import torch
from planted_faults import MSE, DetachedCoordinate, Planted, code, failures, smooth
from torch import nn

from pullback.metric import metric_at
from pullback.metric.memory import Fit
from pullback.metric.strategy import Strategy


class Kinked(nn.Module):
    """A perceptron with ReLUs of great slopes, of which one may lie within the least step."""

    latent_dim = 8

    def __init__(self, seed):
        super().__init__()
        widths = (8, 256, 256, 256, 768)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            linear = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
            for layer in linear:
                nn.init.kaiming_normal_(layer.weight)
                nn.init.normal_(layer.bias, std=0.1)
        self.layers = nn.Sequential(*[part for layer in linear for part in (layer, nn.ReLU())][:-1])
        self.eval().requires_grad_(False)

    def forward(self, z):
        return torch.sigmoid(self.layers(z)).view(-1, 3, 16, 16)


@pytest.mark.parametrize("seed", range(4))
def test_kinks_near_a_code_are_no_fault(seed):
    assert failures(Kinked(seed), z=code(8, seed, batch=100)) == [""] * 100


class Perceptron(nn.Module):
    """A perceptron with ReLUs, whose kinks limit differences of gradients."""

    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        widths = (latent_dim, 128, 128, 192)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            linear = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*[part for layer in linear for part in (layer, nn.ReLU())][:-1])
        self.eval().requires_grad_(False)

    def forward(self, z):
        return torch.sigmoid(self.layers(z)).view(-1, 3, 8, 8)


def test_differences_of_gradients_show_a_lost_coordinate_of_many_despite_kinks():
    z = code(200, seed=1)
    strategy = Strategy("finite_difference", "differences", Fit(batch=1, tangents=8, bytes=0, available=0))
    right, lost = (
        metric_at(generator, MSE, z, method="finite_difference", components=2, strategy=strategy).certificate
        for generator in (Perceptron(200), DetachedCoordinate(Perceptron(200)))
    )
    assert right.failures() == [""]
    assert float(lost.coordinate_error) > 100 * right.limits["coordinate_error"]


class KinkAtTheCode(Planted):
    """A ReLU that switches at the code, after operations whose round-off is a hundred machine epsilons."""

    def __init__(self, generator, z):
        super().__init__(generator)
        self.register_buffer("kink", z @ torch.ones(len(z)) / len(z))

    def forward(self, z):
        image = (self.generator(z) + 8) - 8
        bend = torch.relu(z.mean(dim=1) - self.kink - 1e-7).view(-1, 1, 1, 1)
        pattern = torch.linspace(-1, 1, image[0].numel()).view_as(image[0])
        return image + 0.4 * bend * pattern


def test_a_kink_at_the_code_is_no_fault_of_an_ill_conditioned_network():
    z = code(12)
    generator = KinkAtTheCode(smooth(12), z)
    assert failures(generator, z=z) == [""]
    assert failures(DetachedCoordinate(generator), z=z) != [""]

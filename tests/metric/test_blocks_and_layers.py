"""Parts of the one metric: latent blocks, layers of the generator, regions of the image."""

import pytest
import torch
from torch import nn

from pullback.distances import load_distance
from pullback.errors import PullbackError
from pullback.generators import Generator, load_generator
from pullback.metric import layer_metrics, metric_at
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu")


class Blocks(Smooth):
    """As `Smooth`, with named parts of its code."""

    def __init__(self):
        super().__init__()
        self.blocks = {"noise": (0, 4), "class": (4, 6)}


def test_a_block_is_a_slice_of_the_one_metric_with_its_own_eigenpairs():
    metric = metric_at(Blocks(), MSE, torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
    noise, classes = metric.block("noise"), metric.block("class")
    assert torch.equal(noise.matrix, metric.matrix[:, :4, :4])
    assert torch.equal(classes.matrix, metric.matrix[:, 4:, 4:])
    torch.testing.assert_close(noise.eigenvalues, torch.linalg.eigvalsh(metric.matrix[:, :4, :4]).flip(1))
    torch.testing.assert_close(noise.trace + classes.trace, metric.trace)
    assert noise.certificate.failures() == ["", "", ""]
    assert torch.equal(noise.certificate.column_error, metric.certificate.column_error)


def test_a_block_of_a_single_code_has_no_batch_axis():
    part = metric_at(Blocks(), MSE, torch.zeros(6)).block(slice(1, 4))
    assert part.matrix.shape == (3, 3)
    assert part.eigenvectors.shape == (3, 3)
    assert part.certificate.failures() == [""]


def test_the_eigenvalues_of_a_block_lie_within_those_of_the_whole():
    """Cauchy's interlacing theorem."""
    metric = metric_at(Blocks(), MSE, torch.randn(6, generator=torch.Generator().manual_seed(1)))
    part = metric.block("noise").eigenvalues
    for rank in range(4):
        assert metric.eigenvalues[rank] * (1 + 1e-12) >= part[rank] >= metric.eigenvalues[rank + 2] * (1 - 1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nose", "it has noise, class"), (slice(6, 9), "no row"), (slice(0, 6, 2), "no row"), (slice(3, 3), "no row")],
)
def test_a_block_that_is_none_is_refused(name, message):
    with pytest.raises(PullbackError, match=message):
        metric_at(Blocks(), MSE, torch.zeros(6)).block(name)


def test_a_block_needs_the_whole_matrix():
    metric = metric_at(Blocks(), MSE, torch.zeros(6), method="lanczos", components=2)
    with pytest.raises(PullbackError, match=r"lanczos does not make.*gauss_newton"):
        metric.block("noise")


class Layered(Generator):
    """Three layers, the second of which works in place on what the first gives."""

    name = "layered"
    latent_dim = 5

    def __init__(self, seed=0):
        super().__init__()
        stream = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(5, 12)
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.last = nn.Linear(12, 3 * 8 * 8)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=stream)

    def forward(self, z, condition=None):
        return torch.sigmoid(self.last(self.act(self.first(z)))).view(-1, 3, 8, 8)


@pytest.fixture
def layered():
    return Layered().eval().requires_grad_(False)


def test_the_metric_of_every_layer_is_that_of_its_activation(layered):
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    found = layer_metrics(layered, z)
    assert list(found) == ["first", "act", "last"]
    a, b = layered.first.weight.double(), layered.last.weight.double()
    for index, code in enumerate(z):
        slope = torch.where(layered.first(code) > 0, 1.0, 0.2).double()
        jacobians = {"first": a, "act": slope[:, None] * a, "last": b @ (slope[:, None] * a)}
        for name, jacobian in jacobians.items():
            wanted = 2 * jacobian.T @ jacobian
            torch.testing.assert_close(found[name].matrix[index], wanted, rtol=1e-5, atol=1e-6)
    assert all(metric.certificate.failures() == ["", ""] for metric in found.values())


def test_one_pass_over_the_tangents_serves_all_layers(layered, monkeypatch):
    from pullback.metric import layers

    passes = []
    original = layers.jacobian
    monkeypatch.setattr(layers, "jacobian", lambda *arguments: passes.append(1) or original(*arguments))
    layer_metrics(layered, torch.zeros(5), ["first", "act", "last"])
    assert passes == [1]


def test_a_layers_metric_is_that_of_the_features_distance(layered):
    z = torch.randn(5, generator=torch.Generator().manual_seed(3))
    distance = load_distance("features", module="generator", layer="act", device="cpu")
    wanted = metric_at(layered, distance, z)
    found = layer_metrics(layered, z, ["act"], components=3)["act"]
    torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-5, atol=1e-8)
    assert found.eigenvalues.shape == (3,)


def test_layers_of_a_class_conditional_generator_know_its_class():
    class Deep(Classes):
        def __init__(self):
            super().__init__()
            self.out = nn.Identity()

        def forward(self, z, condition=None):
            return self.out(super().forward(z, condition))

    z = torch.zeros(6)
    one, three = (layer_metrics(Deep(), z, condition=name)["out"].matrix for name in ("one", "three"))
    torch.testing.assert_close(three, 9 * one, rtol=1e-5, atol=1e-9)


@pytest.mark.weights
def test_the_layers_of_a_trained_generator_all_pass(faces):
    found = layer_metrics(faces, torch.randn(100, generator=torch.Generator().manual_seed(4)))
    assert next(iter(found)) == "main.0"
    assert len(found) == 14
    assert {name: metric.certificate.failures() for name, metric in found.items()} == {key: [""] for key in found}


@pytest.mark.parametrize(("layers", "message"), [(["frist"], "did you mean 'first'"), (["unused"], "did not run once")])
def test_a_layer_that_is_none_is_refused(layered, layers, message):
    layered.unused = nn.Linear(2, 2)
    with pytest.raises(PullbackError, match=message):
        layer_metrics(layered, torch.zeros(5), layers)


def test_a_generator_without_layers_says_so():
    with pytest.raises(PullbackError, match="no layer"):
        layer_metrics(Linear(), torch.zeros(6))


def test_hooks_are_gone_afterwards(layered):
    layer_metrics(layered, torch.zeros(5))
    assert all(not module._forward_hooks for module in layered.modules())


def test_the_metrics_of_complementary_regions_add_up_to_the_whole():
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(5))
    top, bottom = (load_distance("mse", mask=box, device="cpu") for box in ([0, 0, 0.5, 1], [0.5, 0, 1, 1]))
    parts = metric_at(Smooth(), top, z).matrix + metric_at(Smooth(), bottom, z).matrix
    torch.testing.assert_close(parts, metric_at(Smooth(), MSE, z).matrix, rtol=1e-5, atol=1e-8)


def test_the_random_shapes_of_the_paper_have_their_blocks():
    generator = load_generator("pullback.generators.random_weights:biggan_deep_tiny", device="cpu")
    z = torch.randn(generator.latent_dim, generator=torch.Generator().manual_seed(6))
    metric = metric_at(generator, MSE, z)
    assert set(metric.blocks) == {"noise", "class"}
    assert metric.block("noise").eigenvalues.shape == metric.block("class").eigenvalues.shape
    assert metric.certificate.failures() == [""]

"""Activations of a layer as a distance: of a module that takes images, and of the generator itself."""

import hashlib
import sys
from pathlib import Path

import pytest
import small_distances
import torch
from small_distances import Net, net, some_images
from torch import nn
from torch.func import jvp, vjp, vmap

from pullback.distances import FeatureDistance, GeneratorLayer, load_distance
from pullback.errors import PullbackError, SpecError


class Painter(nn.Module):
    """Codes to images, with a layer of every kind that a distance may be asked for."""

    latent_dim = 4
    classes = ("plain", "bright")

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 12)
        self.relu = nn.ReLU(inplace=True)
        self.shared = nn.Tanh()
        self.unused = nn.Linear(2, 2)
        self.pair = Pair()
        self.constant = Constant()
        self.index = Largest()
        self.last = nn.Linear(12, 27)

    def forward(self, z, condition=None):
        hidden = self.relu(self.first(z))
        hidden = self.shared(self.shared(hidden))
        hidden = self.pair(hidden)[0] + self.constant(hidden) + 0 * self.index(hidden).sum()
        images = torch.sigmoid(self.last(hidden)).view(-1, 3, 3, 3)
        return images if condition is None else images * (1 + condition.view(-1, 1, 1, 1)) / 2


class Pair(nn.Module):
    def forward(self, hidden):
        return hidden, hidden


class Constant(nn.Module):
    def forward(self, hidden):
        return torch.ones(1, 12)


class Largest(nn.Module):
    def forward(self, hidden):
        return hidden.argmax(dim=1)


def painter():
    return small_distances.randomized(Painter(), 2)


def codes(batch=3, seed=1):
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(seed))


def plain_activations(module, images):
    """The activations of `Net`, layer by layer, with nothing in place."""
    with torch.no_grad():
        a0 = module.blocks[0](images)
        a1 = torch.relu(a0)
        a2 = module.blocks[2](a1)
        a3 = torch.tanh(a2)
        return {"blocks.0": a0, "blocks.1": a1, "blocks.2": a2, "blocks": a3, "head": module.head(a3.mean(dim=(2, 3)))}


LAYERS = ["blocks.0", "blocks.1", "blocks.2", "blocks", "head"]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_distance_is_the_sum_of_squared_differences_of_the_activation(layer):
    module = net()
    x, y = some_images(1), some_images(2)
    ours, theirs = (plain_activations(module, images)[layer] for images in (x, y))
    distance = FeatureDistance(module, layer)
    assert distance.name == f"features-{layer}"
    assert torch.equal(distance.residual(x), ours.flatten(1))
    assert torch.allclose(distance(x, y), ((ours - theirs) ** 2).flatten(1).sum(dim=1))


def test_what_the_next_layer_does_in_place_is_not_seen():
    # blocks.1 is a ReLU that overwrites what blocks.0 gave
    assert float(FeatureDistance(net(), "blocks.0").residual(some_images(1)).min()) < 0
    assert float(FeatureDistance(net(), "blocks.1").residual(some_images(1)).min()) == 0


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mode", ["plain", "vmap of jvp", "vjp", "autograd"])
def test_nothing_is_left_behind_in_any_mode(layer, mode):
    module = net()
    distance = FeatureDistance(module, layer)
    before = {name: set(vars(part)) for name, part in distance.named_modules()}
    x = some_images(1)
    if mode == "plain":
        distance.residual(x)
    elif mode == "vmap of jvp":
        vmap(lambda tangent: jvp(distance.residual, (x,), (tangent,))[1])(torch.ones(2, *x.shape))
    elif mode == "vjp":
        value, pull = vjp(distance.residual, x)
        pull(torch.ones_like(value))
    else:
        x.requires_grad_()
        torch.autograd.grad(distance.residual(x).sum(), x)
    assert not any(part._forward_hooks for part in distance.modules())
    assert {name: set(vars(part)) for name, part in distance.named_modules()} == before


def test_nothing_is_left_behind_by_a_pass_that_fails():
    module = net()
    distance = FeatureDistance(module, "blocks.0")
    with pytest.raises(RuntimeError):
        distance.residual(torch.zeros(1, 3, 2, 2))  # too small for the convolutions behind the layer
    assert not any(part._forward_hooks for part in module.modules())


def test_two_distances_can_share_a_module():
    module = net()
    distances = [FeatureDistance(module, layer) for layer in ("blocks.0", "head")]
    x = some_images(1)
    expected = plain_activations(module, x)
    assert torch.equal(distances[0].residual(x), expected["blocks.0"].flatten(1))
    assert torch.equal(distances[1].residual(x), expected["head"])
    assert torch.equal(distances[0].residual(x), expected["blocks.0"].flatten(1))


def test_a_hook_of_the_users_own_stays_and_is_heeded():
    module = net()
    module.blocks[0].register_forward_hook(lambda layer, inputs, output: 2 * output)
    x = some_images(1)
    assert torch.allclose(
        FeatureDistance(module, "blocks.0").residual(x), 2 * plain_activations(net(), x)["blocks.0"].flatten(1)
    )
    assert len(module.blocks[0]._forward_hooks) == 1


def test_a_module_in_training_mode_is_put_into_evaluation_mode():
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3)).train()
    distance = FeatureDistance(module, "1")
    x = some_images(1)
    assert torch.equal(distance.residual(x), distance.residual(x))
    assert int(module[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("block.2", r"Net has no layer 'block\.2'; did you mean 'blocks\.\d'\? it has blocks, blocks\.0, .*, head"),
        ("zzz", r"Net has no layer 'zzz'; it has blocks, blocks\.0, blocks\.1, blocks\.2, blocks\.3, head"),
        ("", r"Net has no layer ''"),
    ],
)
def test_an_unknown_layer_is_reported_with_the_nearest_and_all_there_are(layer, message):
    with pytest.raises(ValueError, match=message):
        FeatureDistance(net(), layer)


def test_the_layers_of_a_large_module_are_not_all_listed():
    with pytest.raises(ValueError, match=r"it has 0, 1, .* 59 and 40 more$"):
        FeatureDistance(nn.Sequential(*[nn.Identity() for _ in range(100)]), "none")
    with pytest.raises(ValueError, match=r"Identity has no layer 'none'; it has none$"):
        FeatureDistance(nn.Identity(), "none")


@pytest.mark.parametrize("layer", ["first", "last"])
@pytest.mark.parametrize("condition", [None, torch.tensor([0, 1, 1])])
def test_a_layer_of_the_generator_is_measured_at_codes(layer, condition):
    generator, z = painter(), codes()
    distance = GeneratorLayer(layer)
    if layer == "first":
        expected = generator.first(z)
    else:
        hidden = torch.tanh(torch.tanh(torch.relu(generator.first(z)))) + 1
        expected = generator.last(hidden)
    assert torch.allclose(distance.residual_at(generator, z, condition), expected)
    there = distance.squared_at(generator, z[:1].expand(3, -1), z, condition)
    assert torch.allclose(there, ((expected - expected[:1]) ** 2).sum(dim=1), atol=1e-5)
    assert not any(part._forward_hooks for part in generator.modules())


@pytest.mark.parametrize("layer", ["first", "relu", "last"])
def test_the_derivative_of_a_generators_layer_agrees_in_every_mode(layer):
    generator, z = painter().double(), codes().double()
    distance = GeneratorLayer(layer)
    axes = torch.eye(4, dtype=torch.float64)
    columns = vmap(lambda axis: jvp(lambda c: distance.residual_at(generator, c), (z,), (axis.expand(3, 4),))[1])(axes)
    step = 1e-6
    for axis, column in zip(axes, columns, strict=True):
        both = [distance.residual_at(generator, z + side * step * axis) for side in (1, -1)]
        assert torch.allclose(column, (both[0] - both[1]) / (2 * step), atol=1e-7)
    value, pull = vjp(lambda c: distance.residual_at(generator, c), z)
    (pulled,) = pull(torch.ones_like(value))
    assert torch.allclose(pulled, columns.sum(dim=2).T)
    leaf = z.clone().requires_grad_()
    (plain,) = torch.autograd.grad(distance.residual_at(generator, leaf).sum(), leaf)
    assert torch.allclose(plain, pulled)


def test_layers_behind_the_measured_one_carry_no_tangents():
    tangents = []

    class Watched(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(hidden):
            return hidden.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def jvp(ctx, tangent):
            tangents.append(tangent)
            return tangent

    class Last(nn.Module):
        def forward(self, hidden):
            return Watched.apply(hidden)

    generator = nn.Sequential(nn.Linear(4, 5), Last())
    z = codes()

    def push(layer):
        distance = GeneratorLayer(layer)
        return vmap(lambda t: jvp(lambda c: distance.residual_at(generator, c), (z,), (t,))[1])(torch.ones(2, 3, 4))

    assert torch.allclose(push("0")[0], generator[0].weight.sum(dim=1).expand(3, -1))
    assert tangents == []
    push("1")
    assert len(tangents) == 1


def test_a_layer_of_the_generator_is_no_function_of_images():
    distance = load_distance("features", module="generator", layer="first", device="cpu")
    for ask in (lambda: distance(some_images(1), some_images(2)), lambda: distance.residual(some_images(1))):
        with pytest.raises(
            ValueError, match=r"features-first compares an activation inside the generator.*residual_at"
        ):
            ask()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("shared", "the layer 'shared' ran 2 times in one pass, so it has no single activation"),
        ("unused", "the layer 'unused' did not run in the pass"),
        ("pair", "the layer 'pair' gives tuple, not a tensor of real numbers"),
        ("index", r"the layer 'index' gives torch\.int64, not a tensor of real numbers"),
        ("constant", r"the layer 'constant' gives \[1, 12\] for 3 inputs; an activation \[3, \.\.\.\] is needed"),
        ("frist", r"Painter has no layer 'frist'; did you mean 'first'\?"),
    ],
)
def test_a_layer_without_one_activation_a_code_is_refused(layer, message):
    generator = painter()
    with pytest.raises(ValueError, match=message):
        GeneratorLayer(layer).residual_at(generator, codes())
    assert not any(part._forward_hooks for part in generator.modules())


def source_hash():
    return hashlib.sha256(Path(small_distances.__file__).read_bytes()).hexdigest()


def test_a_factory_is_called_and_its_source_recorded():
    distance = load_distance("features", module="small_distances:net", layer="head", size=16, clamp=True, device="cpu")
    assert isinstance(distance.module, Net)
    assert distance.weights == {"small_distances (source)": source_hash()}
    assert (distance.size, distance.clamp) == (16, True)
    x, y = some_images(1, size=16), some_images(2, size=16)
    assert torch.equal(distance(x, y), FeatureDistance(net(), "head")(x, y))


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes `their_features.py` into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source):
        sys.modules.pop("their_features", None)
        (tmp_path / "their_features.py").write_text(source)

    yield write
    sys.modules.pop("their_features", None)


WEIGHTED = """
import torch
def make():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))
    module.weights = {"net.pth": "abc"}
    return module
"""


def test_the_weights_that_a_factory_states_are_recorded_with_its_source(user_module):
    user_module(WEIGHTED)
    distance = load_distance("features", module="their_features:make", layer="0", device="cpu")
    assert distance.weights == {
        "net.pth": "abc",
        "their_features (source)": hashlib.sha256(WEIGHTED.encode()).hexdigest(),
    }


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("", SpecError, r"module: the module their_features has no function 'make'"),
        (
            "import no_such",
            SpecError,
            r"module: their_features cannot be imported: No module named 'no_such'",
        ),
        ("def make(): 1 / 0", PullbackError, "the factory their_features:make failed: ZeroDivisionError"),
        ("def make(): return 3", PullbackError, r"gave int; it must give a torch\.nn\.Module"),
        (
            "import torch\ndef make(): return torch.nn.Sequential()",
            SpecError,
            r"layer: Sequential has no layer",
        ),
    ],
)
def test_a_factory_that_gives_no_layer_is_refused(user_module, source, kind, message):
    user_module(source)
    with pytest.raises(kind, match=message):
        load_distance("features", module="their_features:make", layer="0", device="cpu")


def test_a_modules_parameter_may_be_called_weights(user_module):
    user_module(WEIGHTED.replace('{"net.pth": "abc"}', "torch.nn.Parameter(torch.ones(1))"))
    distance = load_distance("features", module="their_features:make", layer="0", device="cpu")
    assert list(distance.weights) == ["their_features (source)"]

"""GANSpace, SeFa and the Local Basis on small networks whose answer is known."""

import numpy as np
import pytest
import torch
from torch import nn

from pullback.applications import activation_components as ganspace
from pullback.applications.activation_components import activation_components, principal_components
from pullback.applications.direction_sets import DirectionSet, named_once, random_directions
from pullback.applications.first_weights import first_weights, weight_directions
from pullback.applications.mapping_jacobian import has_mapping_network, mapping_directions
from pullback.errors import PullbackError
from pullback.generators import Generator
from pullback.generators.codes import has_mapping, trial_codes
from pullback.generators.families import dcgan, stylegan2
from pullback.generators.family import FamilyGenerator
from toy_generators import Linear, Smooth

N = 6


class Dense(Generator):
    """A linear layer with well-separated singular values, then a tanh."""

    latent_dim = N

    def __init__(self, normalised=False, outputs=48):
        super().__init__()
        stream = np.random.default_rng(0)
        left = np.linalg.qr(stream.standard_normal((outputs, N)))[0]
        self.right = np.linalg.qr(stream.standard_normal((N, N)))[0]
        self.normalised = normalised
        self.act = nn.Tanh()
        self.layer = nn.Linear(N, outputs)
        self.layer.weight.data = torch.tensor(left * 2.0 ** -np.arange(N) @ self.right).float()

    def forward(self, z, condition=None):
        z = z / z.norm(dim=1, keepdim=True) if self.normalised else z
        return self.act(self.layer(z)).view(len(z), 3, 4, -1) / 2 + 0.5


@pytest.fixture(scope="module")
def style():
    """A StyleGAN2 of 8 × 8 pixels with random weights."""
    options = stylegan2.Options(
        resolution=8, channels=(5, 4), z_dim=N, w_dim=N, mapping=(N, N), conv_clamp=None, mapping_lr=1.0
    )
    generator = stylegan2.StyleGan2(options)
    stream = torch.Generator().manual_seed(0)
    for parameter in generator.parameters():
        parameter.data = torch.randn(parameter.shape, generator=stream)
    return generator.eval()


def cosines(rows, others):
    return np.abs(np.sum(rows * others, axis=1))


@pytest.mark.parametrize(("shape", "exact"), [((60, 8), 3000), ((8, 60), 3000), ((60, 30), 8)])
def test_principal_components_are_those_of_the_singular_value_decomposition(monkeypatch, shape, exact):
    monkeypatch.setattr(ganspace, "_EXACT", exact)
    monkeypatch.setattr(ganspace, "_OVERSAMPLING", 6)
    values = np.random.default_rng(0).standard_normal(shape) * 0.7 ** np.arange(shape[1])
    values -= values.mean(axis=0)
    rows, deviations = principal_components(values, 4)
    _, singular, expected = np.linalg.svd(values, full_matrices=False)
    np.testing.assert_allclose(deviations, singular[:4] / np.sqrt(shape[0] - 1), rtol=1e-6)
    np.testing.assert_allclose(cosines(rows, expected[:4]), 1, atol=1e-6)


def test_components_without_spread_are_left_out():
    flat = np.outer(np.arange(9.0) - 4, np.ones(5))
    rows, deviations = principal_components(flat, 5)
    assert (rows.shape, deviations.shape) == ((1, 5), (1,))


def test_ganspace_is_pca_of_activations_and_a_regression_on_the_codes():
    generator = Dense()
    found = activation_components(generator, 3, 400, seed=1, layer="act")
    codes = trial_codes(generator, 400, 1)
    with torch.no_grad():
        activations = generator.act(generator.layer(codes)).double().numpy()
    centred = activations - activations.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    coordinates = centred @ rows[:3].T / (singular[:3] / np.sqrt(399))
    latent = np.linalg.lstsq(coordinates, codes.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.strengths, singular[:3] / np.sqrt(399), rtol=1e-4)
    expected = latent / np.linalg.norm(latent, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines(found.vectors, expected), 1, atol=1e-5)


def test_the_first_layer_is_the_default_and_gives_its_right_singular_vectors():
    generator = Dense()
    found = activation_components(generator, 3, 4000, seed=0)
    assert "layer" in found.notes[0]
    assert cosines(found.vectors, generator.right[:3]).min() > 0.99


def test_in_w_ganspace_is_pca_of_the_codes_and_in_z_it_decomposes_the_mapping(style):
    style.use("w")
    found = activation_components(style, 4, 300, seed=0)
    codes = trial_codes(style, 300, 0).double().numpy()
    rows = np.linalg.svd(codes - codes.mean(axis=0))[2]
    np.testing.assert_allclose(cosines(found.vectors, rows[:4]), 1, atol=1e-6)
    style.use("z")
    assert "activations of mapping" in activation_components(style, 4, 300, seed=0).notes[0]


@pytest.mark.parametrize("layer", ["layr", "act2"])
def test_a_layer_that_does_not_exist_is_refused_with_the_nearest_name(layer):
    with pytest.raises(PullbackError, match="layer"):
        activation_components(Dense(), 3, 10, 0, layer)


def test_sefa_finds_the_first_weights_of_a_dcgan_also_where_classes_stand_beside_the_code():
    for classes in ((), ("a", "b")):
        generator = dcgan.Dcgan(dcgan.Options(widths=(N + len(classes), 5, 3), classes=classes)).eval()
        weight = generator.main[0].weight.detach().double().flatten(1)[:N].T.numpy()
        (found,) = first_weights(generator)
        assert found.layer == "main.0"
        np.testing.assert_allclose(found.matrix, weight, atol=1e-6)
        for unit_rows in (True, False):
            rows = weight / np.linalg.norm(weight, axis=1, keepdims=True) if unit_rows else weight
            values, columns = np.linalg.eigh(rows.T @ rows)
            made = weight_directions(generator, 4, unit_rows)
            np.testing.assert_allclose(made.strengths, values[::-1][:4], rtol=1e-5)
            np.testing.assert_allclose(cosines(made.vectors, columns.T[::-1][:4]), 1, atol=1e-5)


def test_sefa_of_a_stylegan_takes_all_style_layers_in_w_and_each_block_its_own_in_w_plus(style):
    dense = [layer.conv.style for layer in (*style.layers, *style.colours)]
    style.use("w")
    found = {each.layer: each.matrix for each in first_weights(style)}
    assert len(found) == len(dense)
    weight = dense[1].weight.detach().double().numpy() * dense[1].gain
    np.testing.assert_allclose(found["layers.1.conv.style"], weight, atol=1e-5)
    style.use("w+")
    found = {each.layer: each.matrix for each in first_weights(style)}
    assert np.flatnonzero(found["layers.1.conv.style"].any(axis=0)).tolist() == list(range(N, 2 * N))
    style.use("z")


def test_sefa_takes_the_layer_behind_a_normalisation_and_a_layer_that_is_the_generator():
    generator = Dense(normalised=True)
    np.testing.assert_allclose(first_weights(generator)[0].matrix, generator.layer.weight.detach(), atol=1e-6)
    linear = Linear(4)
    np.testing.assert_allclose(first_weights(linear)[0].matrix, linear.matrix.detach().numpy(), atol=1e-6)


def test_a_generator_without_a_linear_first_layer_has_no_first_weights():
    with pytest.raises(PullbackError, match="SeFa"):
        weight_directions(Smooth(), 3)


def test_the_local_basis_is_the_left_singular_vectors_of_the_mapping_at_a_code(style):
    style.use("w")
    found = mapping_directions(style, 3, codes=1, seed=5)
    z = torch.randn(1, N, generator=torch.Generator().manual_seed(5))
    jacobian = torch.autograd.functional.jacobian(lambda code: style.map(code)[0], z)[:, 0].double().numpy()
    left, singular, _ = np.linalg.svd(jacobian)
    np.testing.assert_allclose(found.strengths, singular[:3], rtol=1e-4)
    np.testing.assert_allclose(cosines(found.vectors, left.T[:3]), 1, atol=1e-4)
    style.use("z")
    with pytest.raises(PullbackError, match="mapping"):
        mapping_directions(style, 3, 1, 0)


class Embedded(FamilyGenerator):
    """Codes z, whose mapping only appends the embedding of a class, and the sum of both as an image."""

    map_classes = ("a", "b", "c")

    def __init__(self):
        super().__init__({"z": {"z": N}, "z+class": {"z": N, "class": N}}, z_dim=N, classes=self.map_classes)
        self.name = "embedded"
        self.table, self.layer = nn.Linear(3, N), nn.Linear(N, 48)

    def map(self, z, condition=None):
        return z if self.space == "z" else torch.cat([z, self.table(self.labels(condition, z))], 1)

    def render(self, blocks, condition):
        kind = blocks["class"] if "class" in blocks else self.table(self.labels(condition, blocks["z"]))
        return torch.tanh(self.layer(blocks["z"] * (1 + kind * kind))).view(-1, 3, 4, 4)


def test_an_appended_class_embedding_is_no_mapping_network():
    generator = Embedded().use(space="z+class").eval()
    assert has_mapping(generator)
    assert not has_mapping_network(generator)
    with pytest.raises(PullbackError, match="Local Basis"):
        mapping_directions(generator, 3, 4, 0)
    assert ganspace.default_layer(generator) != ganspace.CODES


def test_ganspace_takes_the_codes_only_where_a_network_maps_them(style):
    style.use("w")
    assert ganspace.default_layer(style) == ganspace.CODES
    style.use("z")
    assert ganspace.default_layer(style) == "mapping"


class Halved(Generator):
    """A linear layer of the first half of a code; the second half enters squared."""

    latent_dim = N

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(N // 2, 48)

    def forward(self, z, condition=None):
        first, second = z[:, : N // 2], z[:, N // 2 :]
        return (self.layer(first) + (second**2).sum(1, keepdim=True)).view(-1, 3, 4, 4).sigmoid()


def test_sefa_refuses_a_code_of_which_a_part_enters_no_linear_layer():
    assert first_weights(Halved())[0].matrix[:, N // 2 :] == pytest.approx(0)
    with pytest.raises(PullbackError, match=f"coordinates {N // 2} to {N - 1}"):
        weight_directions(Halved(), 3)


def test_random_directions_are_unit_and_their_seed_decides_them():
    found = random_directions(7, 4, 3)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1)
    assert (found.vectors == random_directions(7, 4, 3).vectors).all()
    assert (found.vectors != random_directions(7, 4, 4).vectors).all()


def test_sets_of_one_name_are_distinguished():
    one = DirectionSet.of("a.npy", np.eye(2))
    assert [each.name for each in named_once([one, one, random_directions(2, 1, 0)])] == [
        "a.npy",
        "a.npy (2)",
        "random",
    ]

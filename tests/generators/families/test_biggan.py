"""BigGAN and BigGAN-deep of BigGAN-PyTorch: the original's images, what the file decides, and the metric."""

import pytest
import torch
from family_checks import DATA, FILE_LAYOUTS, assert_fast_and_exact, expected, furthest, saved, state_of, thinned

from pullback import load_generator
from pullback.distances import load_distance
from pullback.errors import SpecError, WeightsError
from pullback.generators.biggan_layers import class_embedding, with_iterated_sigma, with_stored_sigma
from pullback.generators.biggan_network import ConditionalNorm, StoredNorm
from pullback.generators.families import biggan
from pullback.metric import metric_at

CASES = {"imagenet_style": 1e-6, "deep": 1e-6}
"""Stored checkpoints, and their SN_eps."""


def path_of(case):
    return DATA / "ajbrock_biggan" / f"{case}.safetensors"


def loaded(case, **more):
    return load_generator(path_of(case), BN_eps=1e-5, SN_eps=CASES[case], device="cpu", **more)


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
def test_images_are_the_originals_for_classes_and_for_class_embeddings(case):
    held, generator = expected(f"ajbrock_biggan/{case}"), loaded(case)
    for name, condition in (("labels", held["labels"]), ("y_free", held["y_free"])):
        wanted = held[f"img64__{name}"]
        assert furthest(thinned(generator.float().native(held["z"], condition)), wanted) < 1e-5
        double = condition.double() if condition.is_floating_point() else condition
        assert furthest(thinned(generator.double().native(held["z"].double(), double)), wanted) < 1e-9


@pytest.mark.parametrize(("case", "space"), [("imagenet_style", "z+class"), ("deep", "z")])
def test_every_space_runs_on_the_fast_path(case, space):
    generator = loaded(case, space=space)
    code = drawn(generator.latent_dim)
    assert_fast_and_exact(generator, code, torch.tensor([2]))


@pytest.mark.parametrize("method", ["backprop", "lanczos"])
def test_every_method_takes_soft_labels_and_embeddings(method):
    generator, z, labels = loaded("imagenet_style"), drawn(1, 12), torch.tensor([3])
    soft = torch.nn.functional.one_hot(labels, 10).float()
    made = [
        metric_at(generator, load_distance("mse"), z, condition=condition, method=method, components=2)
        for condition in (labels, soft, generator.table[labels])
    ]
    for other in made[1:]:
        assert torch.allclose(other.eigenvalues, made[0].eigenvalues, rtol=1e-3)


def test_the_class_may_be_an_index_soft_labels_an_embedding_or_a_part_of_the_code():
    generator, z = loaded("imagenet_style"), drawn(3, 12)
    labels = torch.tensor([0, 9, 2])
    table = generator.table
    wanted = generator(z, labels)
    assert furthest(generator(z, torch.nn.functional.one_hot(labels, 10).float()), wanted) < 1e-6
    assert furthest(generator(z, table[labels]), wanted) < 1e-6
    generator.use("z+class")
    assert generator.blocks == {"noise": (0, 12), "class": (12, 20)}
    assert furthest(generator(generator.map(z, labels), labels), wanted) < 1e-6
    generator.use("class")
    assert torch.equal(generator.map(z, labels), table[labels])
    images = generator(table[labels])
    assert float((images[0] - images[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("layout", FILE_LAYOUTS)
def test_a_checkpoint_is_read_in_every_layout(layout, tmp_path):
    path = saved(tmp_path, state_of("ajbrock_biggan/imagenet_style.safetensors"), layout)
    z, labels = drawn(1, 12), torch.tensor([3])
    made = load_generator(path, BN_eps=1e-5, SN_eps=1e-6, device="cpu")
    assert torch.equal(made(z, labels), loaded("imagenet_style")(z, labels))


def test_options_follow_from_the_tensors():
    options = loaded("deep").options
    assert (options["model"], options["resolution"], options["dim_z"]) == ("BigGANdeep", 32, 10)
    assert (options["n_classes"], options["shared_dim"], options["hier"]) == (6, 8, True)
    assert options["attention"] == (3,)
    options = loaded("imagenet_style").options
    assert (options["model"], options["resolution"], options["dim_z"]) == ("BigGAN", 32, 12)
    assert options["channels"] == ((16, 16),) * 3


def test_without_a_training_configuration_the_epsilon_must_be_given():
    with pytest.raises(SpecError, match="BN_eps"):
        load_generator(path_of("imagenet_style"), device="cpu")


@pytest.mark.parametrize("suffix", ["", "_best0"])
def test_the_training_configuration_beside_the_file_gives_the_epsilons(suffix, tmp_path):
    state, z, label = state_of("ajbrock_biggan/imagenet_style.safetensors"), drawn(1, 12), torch.tensor([3])
    torch.save(state, tmp_path / f"G_ema{suffix}.pth")
    torch.save({"itr": 3, "config": {"BN_eps": 0.1, "SN_eps": 1e-6}}, tmp_path / f"state_dict{suffix}.pth")
    made = load_generator(tmp_path / f"G_ema{suffix}.pth", device="cpu")
    assert made.options["BN_eps"] == 0.1
    wanted = load_generator(path_of("imagenet_style"), BN_eps=0.1, SN_eps=1e-6, device="cpu")
    assert torch.equal(made(z, label), wanted(z, label))
    assert furthest(made(z, label), loaded("imagenet_style")(z, label)) > 1e-3


def test_a_missing_tensor_is_named(tmp_path):
    state = state_of("ajbrock_biggan/imagenet_style.safetensors")
    del state["blocks.1.0.conv2.bias"]
    torch.save(state, tmp_path / "G.pth")
    with pytest.raises(WeightsError, match=r"layers\.1\.conv2\.bias"):
        load_generator(tmp_path / "G.pth", BN_eps=1e-5, device="cpu")


def test_gains_and_shifts_of_a_network_without_shared_embedding_are_tables():
    state = {
        name: tensor
        for name, tensor in state_of("ajbrock_biggan/imagenet_style.safetensors").items()
        if not name.startswith("shared.") and ".gain." not in name and not (".bn" in name and ".bias." in name)
    }
    for block in range(3):
        for norm in ("bn1", "bn2"):
            for part in ("gain", "bias"):
                state[f"blocks.{block}.0.{norm}.{part}.weight"] = drawn(7, 16, seed=block)
    found = biggan.read_state(state, {})
    assert (found.options["n_classes"], found.options["shared_dim"], found.options["hier"]) == (7, 0, False)
    generator = biggan.build(biggan.Options(**found.options | {"BN_eps": 1e-5}), found.state).eval()
    z, labels = drawn(2, generator.latent_dim), torch.tensor([6, 1])
    norm, x = generator.layers[0].bn1, drawn(2, 16, 4, 4)
    gain, shift = (state[f"blocks.0.0.bn1.{part}.weight"][labels][..., None, None] for part in ("gain", "bias"))
    plain = torch.nn.functional.batch_norm(x, norm.stored_mean, norm.stored_var, eps=1e-5)
    one_hot = torch.nn.functional.one_hot(labels, 7).float()
    assert furthest(norm(x, one_hot), plain * (1 + gain) + shift) < 1e-4
    assert furthest(generator(z, labels), generator(z, one_hot)) < 1e-6
    assert generator.use("z+class").latent_dim == generator.z_dim + 7


@pytest.mark.parametrize("names", ["bn.stored_", "bn.running_"])
def test_synchronised_norms_add_their_gain_and_others_multiply_by_it(names):
    state = {
        name.replace("stored_", names): tensor
        for name, tensor in state_of("ajbrock_biggan/imagenet_style.safetensors").items()
    }
    state["output_layer.0.bn.accumulation_counter"] = torch.ones(1)
    found = biggan.read_state(state, {"BN_eps": 1e-5})
    assert found.options["cross_replica"] == (names == "bn.running_")
    generator = biggan.build(biggan.Options(**found.options), found.state)
    norm, x, y = generator.layers[0].bn1, drawn(2, 16, 4, 4), drawn(2, 11)
    assert isinstance(norm, ConditionalNorm)
    assert isinstance(generator.last_norm, StoredNorm)
    plain = torch.nn.functional.batch_norm(x, norm.stored_mean, norm.stored_var, eps=1e-5)
    gain, shift = ((1 + norm.gain(y))[..., None, None], norm.bias(y)[..., None, None])
    wanted = plain + gain + shift if names == "bn.running_" else plain * gain + shift
    assert furthest(norm(x, y), wanted) < 1e-4


@pytest.mark.parametrize(
    ("channels", "config", "resolution"),
    [
        (((16, 16), (16, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)), {}, 64),
        (((16, 16), (16, 16), (16, 16), (16, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1)), {}, 128),
        (((4, 4),) * 6, {}, 32),
        (((4, 4),) * 9, {}, 32),
        (((4, 4),) * 6, {"resolution": 32}, 32),
        (((4, 4),) * 12, {"G_depth": 4}, 32),
        (((16, 8), (8, 4), (4, 2)), {}, 32),
    ],
)
def test_the_blocks_per_resolution_of_a_deep_network_follow_from_its_widths(channels, config, resolution):
    assert 4 * 2 ** (len(channels) // biggan._depth(channels, config)) == resolution


def test_a_power_iteration_starts_from_the_stored_vector():
    weight, u = drawn(5, 3, 2, 2).double(), drawn(1, 5, seed=2).double()
    made = with_iterated_sigma({"conv.weight": weight, "conv.u0": u, "conv.sv0": torch.ones(1)}, 1e-12)
    matrix = weight.reshape(5, -1)
    v = u @ matrix / (u @ matrix).norm()
    assert made.keys() == {"conv.weight", "conv.sigma"}
    assert float(made["conv.sigma"]) == pytest.approx(float((v @ matrix.T).norm()), rel=1e-12)


@pytest.mark.parametrize("names", [("weight_orig", "weight_u", "weight_v"), "parametrizations"])
def test_torchs_spectral_norm_uses_the_stored_vectors(names):
    inner = "parametrizations.weight."
    names = (f"{inner}original", f"{inner}0._u", f"{inner}0._v") if names == "parametrizations" else names
    weight, u, v = drawn(5, 3, 2, 2), drawn(5, seed=2), drawn(12, seed=3)
    made = with_stored_sigma(dict(zip((f"conv.{name}" for name in names), (weight, u, v), strict=True)))
    assert made.keys() == {"conv.weight", "conv.sigma"}
    assert float(made["conv.sigma"]) == pytest.approx(float(u @ weight.flatten(1) @ v), rel=1e-5)


@pytest.mark.parametrize("bad", [None, torch.tensor([5]), torch.tensor([-1]), torch.zeros(1, 4), torch.zeros(3)])
def test_a_condition_that_is_none_of_the_kinds_is_refused(bad):
    with pytest.raises(ValueError, match="net"):
        class_embedding(bad, torch.zeros(5, 3), "net")

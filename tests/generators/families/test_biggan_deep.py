"""BigGAN-deep: the whole of it against one written a second time, its layouts, its statistics and its derivatives."""

import json

import pytest
import torch
from family_checks import DATA, FILE_LAYOUTS, assert_fast_and_exact, expected, furthest, saved, state_of
from hypothesis import given
from hypothesis import strategies as st

from pullback import load_generator
from pullback.errors import PullbackError, WeightsError
from pullback.generators.checks import check_generator
from pullback.generators.families.biggan_deep import (
    LAYOUTS,
    BigGanDeep,
    ConditionalNorm,
    Options,
    PlainNorm,
    ResidualBlock,
    SelfAttention,
    statistics_rows,
)

# Every kind of layer: blocks that keep and halve their channels, that double the image and do not.
SMALL = Options(
    layers=((False, 4, 4), (True, 4, 2), (True, 2, 2), (False, 2, 1)),
    attention_layer_position=2,
    channel_width=8,
    z_dim=3,
    num_classes=5,
    n_stats=6,
)


def randomized(module, seed=0):
    """The module in float64, everything in it drawn: other statistics in each row, biases and gamma not zero."""
    stream = torch.Generator().manual_seed(seed)
    module = module.double().eval().requires_grad_(False)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_vars"):
            tensor.uniform_(0.5, 2, generator=stream)
        elif tensor.dim() < 2 or name.endswith("running_means"):
            tensor.normal_(0, 0.5, generator=stream)
        else:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=stream)
    return module


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolved(x, state, name):
    """A 1 × 1 or 3 × 3 convolution as a sum over the places of its kernel, with zeros around the image."""
    kernel, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    reach = kernel.shape[-1] // 2
    height, width = x.shape[2:]
    padded = torch.zeros(*x.shape[:2], height + 2 * reach, width + 2 * reach, dtype=x.dtype)
    padded[:, :, reach : reach + height, reach : reach + width] = x
    total = torch.zeros(x.shape[0], kernel.shape[0], height, width, dtype=x.dtype)
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            total += torch.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width])
    return total if bias is None else total + bias[:, None, None]


def normalized(x, state, name, row, code=None, eps=1e-4):
    """(x − mean) / sqrt(var + eps), with a gain 1 + scale·code and a shift offset·code, or a gain and a bias."""
    mean, variance = state[f"{name}.running_means"][row], state[f"{name}.running_vars"][row]
    x = (x - mean[:, None, None]) / (variance[:, None, None] + eps) ** 0.5
    if code is None:
        gain, shift = state[f"{name}.weight"].expand(len(x), -1), state[f"{name}.bias"].expand(len(x), -1)
    else:
        gain, shift = 1 + code @ state[f"{name}.scale.weight"].T, code @ state[f"{name}.offset.weight"].T
    return x * gain[:, :, None, None] + shift[:, :, None, None]


def doubled(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def plain_block(x, state, name, row, code, doubles, out):
    skip = x[:, :out]
    for number in range(4):
        x = normalized(x, state, f"{name}bn_{number}", row, code).clamp(min=0)
        if number == 1 and doubles:
            x, skip = doubled(x), doubled(skip)
        x = convolved(x, state, f"{name}conv_{number}")
    return skip + x


def plain_attention(x, state, name):
    def pooled(maps):
        return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5)).flatten(2)

    asking = convolved(x, state, f"{name}snconv1x1_theta").flatten(2)
    asked = pooled(convolved(x, state, f"{name}snconv1x1_phi"))
    values = pooled(convolved(x, state, f"{name}snconv1x1_g"))
    score = torch.exp(torch.einsum("bcp,bcq->bpq", asking, asked))
    share = score / score.sum(dim=2, keepdim=True)
    heard = torch.einsum("bpq,bcq->bcp", share, values).unflatten(2, x.shape[2:])
    return x + state[f"{name}gamma"] * convolved(heard, state, f"{name}snconv1x1_o_conv")


def plain_images(state, z, layout, row):
    first = z @ state["gen_z.weight"].T + state["gen_z.bias"]
    x = first.unflatten(1, (4, 4, -1)).movedim(3, 1)
    number = 0
    for index, (doubles, _, out) in enumerate(layout.layers):
        if index == layout.attention_layer_position:
            x = plain_attention(x, state, f"layers.{number}.")
            number += 1
        x = plain_block(x, state, f"layers.{number}.", row, z, doubles, out * layout.channel_width)
        number += 1
    x = convolved(normalized(x, state, "bn", row).clamp(min=0), state, "conv_to_rgb")
    return (torch.tanh(x) + 1) / 2


def made(truncation=0.6, spaces=("z+class",), space="z+class", layout=SMALL):
    return randomized(BigGanDeep(layout, spaces)).use(space, truncation=truncation)


@pytest.fixture(scope="module")
def small():
    return made()


@pytest.mark.parametrize("truncation", [0.2, 0.6, 1.0])
def test_images_are_those_of_the_network_written_a_second_time(truncation):
    generator, z = made(truncation), drawn(3, 6)
    ((row, _),) = statistics_rows(truncation, SMALL.n_stats)
    expected = plain_images(generator.state_dict(), z, SMALL, row)
    assert float(expected.std()) > 0.05
    assert torch.allclose(generator(z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("doubles", "out"), [(False, 8), (True, 8), (False, 4), (True, 4)])
def test_a_residual_block_is_the_one_written_a_second_time(doubles, out):
    block = randomized(ResidualBlock(doubles, 8, out, SMALL))
    x, code = drawn(2, 8, 4, 6), drawn(2, 6, seed=2)
    found = block(x, code, ((3, 1.0),))
    assert found.shape == (2, out, *((8, 12) if doubles else (4, 6)))
    assert torch.allclose(found, plain_block(x, block.state_dict(), "", 3, code, doubles, out), rtol=0, atol=1e-12)


def test_attention_is_the_one_written_a_second_time():
    attention, x = randomized(SelfAttention(16)), drawn(2, 16, 4, 6)
    found = attention(x)
    assert float((found - x).abs().max()) > 0.1
    assert torch.allclose(found, plain_attention(x, attention.state_dict(), ""), rtol=0, atol=1e-12)


def test_a_plain_norm_is_that_of_torch_with_the_statistics_of_its_row():
    norm, x = randomized(PlainNorm(4, SMALL)), drawn(2, 4, 3, 5)
    expected = torch.nn.functional.batch_norm(
        x, norm.running_means[2], norm.running_vars[2], norm.weight, norm.bias, eps=SMALL.eps
    )
    assert torch.allclose(norm(x, ((2, 1.0),)), expected)


def test_a_norm_of_the_code_without_a_code_only_normalises():
    norm, x = randomized(ConditionalNorm(4, SMALL)), drawn(2, 4, 3, 5)
    expected = (x - norm.running_means[2][:, None, None]) / (norm.running_vars[2][:, None, None] + SMALL.eps).sqrt()
    assert torch.allclose(norm(x, torch.zeros(2, 6).double(), ((2, 1.0),)), expected)


def test_only_the_statistics_of_the_chosen_truncation_are_used(small):
    other, z = made(1.0), drawn(2, 6)
    assert not torch.allclose(small(z), other(z), atol=1e-3)
    state = {
        name: tensor[[0, 1, 2, 3, 4, 2]] if ".running_" in name else tensor  # the last row is that of 0.6
        for name, tensor in small.state_dict().items()
    }
    other.load_state_dict(state)
    assert torch.equal(small(z), other(z))


@given(st.floats(0.01, 1), st.integers(2, 101))
def test_a_linear_interpolation_gives_the_truncation_itself(truncation, rows):
    used = statistics_rows(truncation, rows, "linear")
    assert sum(weight for _, weight in used) == pytest.approx(1)
    assert sum(row * weight for row, weight in used) == pytest.approx(truncation * (rows - 1), abs=1e-7)


@given(st.floats(0.01, 1), st.integers(2, 101))
def test_the_packages_interpolation_has_the_weights_swapped(truncation, rows):
    linear, package = (dict(statistics_rows(truncation, rows, kind)) for kind in ("linear", "package"))
    if len(linear) == len(package) == 2:
        assert list(package.values()) == pytest.approx([*linear.values()][::-1], abs=1e-7)


def test_round_off_decides_the_row_as_in_the_package():
    assert statistics_rows(0.58, 51) == ((28, 1.0),)  # 0.58 / 0.02 is a little below 29, and the weights are swapped
    assert statistics_rows(0.58, 51, "linear") == ((29, 1.0),)
    assert statistics_rows(0.5, 51) == ((25, 1.0),)
    assert statistics_rows(1.0, 51) == ((50, 1.0),)


@pytest.mark.parametrize("truncation", [-0.5, 0, 1.01, float("nan"), float("inf")])
def test_a_truncation_outside_its_range_is_refused(truncation):
    with pytest.raises(PullbackError, match=r"truncation of a BigGAN must be above 0 and at most 1; it is "):
        BigGanDeep(SMALL).use("z", truncation=truncation)


def test_a_code_is_noise_and_then_a_class(small):
    assert small.latent_dim == 6
    assert small.blocks == {"noise": (0, 3), "class": (3, 6)}
    assert small.classes == ()
    assert small.embeddings.weight.shape == (3, 5)  # a column is the class block of a true class
    noise = drawn(1, 3).expand(5, -1)
    images = small(torch.cat([noise, small.embeddings.weight.T], dim=1))
    assert float(torch.pdist(images.flatten(1)).min()) > 0.1


def test_an_image_depends_on_its_own_code_alone(small):
    z = drawn(4, 6)
    together = small(z)
    assert torch.allclose(torch.cat([small(code[None]) for code in z]), together, rtol=0, atol=1e-12)
    assert torch.allclose(small(z.flip(0)).flip(0), together, rtol=0, atol=1e-12)
    assert torch.equal(small(z), together)


def test_it_behaves_as_a_generator(small):
    check_generator(small, "small")
    images = small(drawn(2, 6))
    assert images.shape == (2, 3, 16, 16)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_forward_mode_is_the_limit_of_differences(small):
    z, tangents = drawn(2, 6), drawn(3, 2, 6, seed=3)
    pushed = torch.func.vmap(lambda tangent: torch.func.jvp(small, (z,), (tangent,))[1])(tangents)
    step = 1e-6
    for found, tangent in zip(pushed, tangents, strict=True):
        difference = (small(z + step * tangent) - small(z - step * tangent)) / (2 * step)
        assert float(difference.norm()) > 0.1
        assert torch.allclose(found, difference, rtol=0, atol=1e-7)


def test_backward_mode_agrees_with_forward_mode(small):
    z, tangent = drawn(2, 6), drawn(2, 6, seed=3)
    images, pushed = torch.func.jvp(small, (z,), (tangent,))
    weights = drawn(*images.shape, seed=4)
    leaf = z.clone().requires_grad_()
    (pulled,) = torch.autograd.grad((small(leaf) * weights).sum(), leaf)
    assert torch.allclose((pushed * weights).sum(), (pulled * tangent).sum())


def names_of_a_norm(name, *affine):
    return [f"{name}.{part}" for part in ("running_means", "running_vars", *affine)]


def test_the_state_dict_has_the_names_of_the_published_weights(small):
    blocks = [0, 1, 3, 4]  # the attention, which comes before the third block, is layer 2
    expected = ["embeddings.weight", "gen_z.weight", "gen_z.bias", "conv_to_rgb.weight", "conv_to_rgb.bias"]
    expected += [*names_of_a_norm("bn", "weight", "bias"), "layers.2.gamma"]
    expected += [f"layers.2.snconv1x1_{part}.weight" for part in ("theta", "phi", "g", "o_conv")]
    for block in blocks:
        for number in range(4):
            expected += [f"layers.{block}.conv_{number}.{part}" for part in ("weight", "bias")]
            expected += names_of_a_norm(f"layers.{block}.bn_{number}", "scale.weight", "offset.weight")
    assert sorted(small.state_dict()) == sorted(expected)


@pytest.mark.parametrize("size", LAYOUTS)
def test_a_published_layout_gives_images_of_its_size_and_attends_at_64_pixels(size):
    with torch.device("meta"):  # shapes without numbers
        generator = BigGanDeep(LAYOUTS[size], ("z+class",))
    seen = []
    for layer in generator.layers:
        if isinstance(layer, SelfAttention):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].shape[2:]))
    assert generator(torch.empty(2, 256, device="meta")).shape == (2, 3, size, size)
    assert seen == [(64, 64)]
    assert generator.blocks == {"noise": (0, 128), "class": (128, 256)}
    assert generator.embeddings.weight.shape == (128, 1000)
    assert {tensor.shape[0] for name, tensor in generator.state_dict().items() if ".running_" in name} == {51}


FOLDER = DATA / "pytorch_pretrained_biggan" / "biggan_deep"


def loaded(**more):
    return load_generator(FOLDER, device="cpu", **more)


def test_images_are_the_packages_for_every_truncation_and_condition():
    held = expected("pytorch_pretrained_biggan/biggan_deep")
    one_hot = torch.nn.functional.one_hot(held["labels"], 5)
    for name, condition in (("1.0", held["labels"]), ("0.03", one_hot.float()), ("soft", held["soft"])):
        generator = loaded(truncation=0.5 if name == "soft" else float(name))
        assert furthest(generator.native(held["z"], condition), held[f"img64__{name}"]) < 1e-5
        double = condition.double() if condition.is_floating_point() else condition
        made = generator.double().native(held["z"].double(), double)
        assert furthest(made, held[f"img64__{name}"]) < 1e-9


def test_the_package_itself_gives_the_same_images(tmp_path):
    package = pytest.importorskip("pytorch_pretrained_biggan", exc_type=ImportError)
    (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
    torch.save(
        state_of("pytorch_pretrained_biggan/biggan_deep/pytorch_model.safetensors"), tmp_path / "pytorch_model.bin"
    )
    theirs = package.BigGAN.from_pretrained(str(tmp_path)).eval()
    z, soft = drawn(2, 4).float(), torch.softmax(drawn(2, 5, seed=2).float(), dim=1)
    for truncation in (1.0, 0.58, 0.33, 0.01):
        ours = load_generator(tmp_path, truncation=truncation, device="cpu")
        assert furthest(ours.native(z, soft), theirs(z, soft, truncation).detach()) < 1e-5


def test_spaces_are_the_noise_the_class_and_both():
    generator, z, labels = loaded(), drawn(2, 4).float(), torch.tensor([4, 0])
    embedding = generator.embeddings.weight.T[labels]
    wanted = generator(z, labels)
    assert (generator.blocks, len(generator.classes)) == ({"z": (0, 4)}, 5)
    assert furthest(loaded(space="z+class")(torch.cat([z, embedding], dim=1)), wanted) < 1e-6
    assert torch.equal(loaded(space="z+class").map(z, labels), torch.cat([z, embedding], dim=1))
    by_class = loaded(space="class", truncation=0.5)
    noise = (0.5 * by_class.fixed_noise).expand(2, -1)
    assert float(by_class.fixed_noise.abs().max()) <= 2
    assert furthest(by_class(embedding), loaded(truncation=0.5)(noise, labels)) < 1e-6
    assert furthest(loaded(space="class", z_seed=1)(embedding), loaded(space="class")(embedding)) > 1e-3


@pytest.mark.parametrize("space", ["z", "z+class"])
def test_every_space_runs_on_the_fast_path(space):
    generator = loaded(space=space, truncation=0.43)
    assert_fast_and_exact(generator, drawn(generator.latent_dim), torch.tensor([2]))


@pytest.mark.parametrize("layout", FILE_LAYOUTS)
def test_a_checkpoint_is_read_in_every_layout(layout, tmp_path):
    state = state_of("pytorch_pretrained_biggan/biggan_deep/pytorch_model.safetensors")
    path = saved(tmp_path, state, layout, "pytorch_model")
    (tmp_path / "config.json").write_text((FOLDER / "config.json").read_text())
    z, labels = drawn(1, 4).float(), torch.tensor([3])
    assert torch.equal(load_generator(path, device="cpu")(z, labels), loaded()(z, labels))


def test_without_a_config_blocks_that_are_not_published_are_refused(tmp_path):
    state = state_of("pytorch_pretrained_biggan/biggan_deep/pytorch_model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_generator(tmp_path / "pytorch_model.bin", device="cpu")


def test_a_config_that_contradicts_the_tensors_is_refused(tmp_path):
    state = state_of("pytorch_pretrained_biggan/biggan_deep/pytorch_model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = json.loads((FOLDER / "config.json").read_text()) | {"n_stats": 51}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="n_stats"):
        load_generator(tmp_path, device="cpu")

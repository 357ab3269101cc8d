"""DeePSiM generators: against the same network written a second time, and what their images' channels mean."""

import pytest
import torch
from family_checks import DATA, FILE_LAYOUTS, assert_fast_and_exact, expected, furthest, saved, state_of

from pullback import load_generator
from pullback.generators.checks import check_generator
from pullback.generators.families.deepsim import FC6_WIDTHS, DeepSim, Options, fc_options, read_state
from pullback.weights.networks import Misfit

WIDTHS = ((5, 6), (4,), (3,))
FC6_SHAPES = {
    "defc7": (4096, 4096),
    "defc6": (4096, 4096),
    "defc5": (4096, 4096),
    "deconv5": (256, 256, 4, 4),
    "conv5_1": (256, 512, 3, 3),
    "deconv4": (512, 256, 4, 4),
    "conv4_1": (256, 256, 3, 3),
    "deconv3": (256, 128, 4, 4),
    "conv3_1": (128, 128, 3, 3),
    "deconv2": (128, 64, 4, 4),
    "deconv1": (64, 32, 4, 4),
    "deconv0": (32, 3, 4, 4),
}
"""The layers of the published generator of fc6 codes, in order, with torch's shapes of their weights."""


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def small():
    """A generator of 7 coordinates in float64, whose images' values are about 20 of 255 around the mean."""
    generator = DeepSim(fc_options(7, 2, WIDTHS)).double().eval().requires_grad_(False)
    for index, (name, tensor) in enumerate(generator.named_parameters()):
        inputs = 1 if tensor.dim() == 1 else tensor.shape[1] if tensor.dim() == 2 else 4 * tensor.shape[0]
        tensor.copy_(drawn(*tensor.shape, seed=index) * (2 / inputs) ** 0.5 * (10 if "deconv0" in name else 1))
    return generator


def leaky(x):
    return torch.where(x > 0, x, 0.3 * x)


def spread(x, kernel, bias, stride):
    """A transposed convolution with padding 1: every place of x puts its kernel onto the output, one border cut off."""
    size, side = kernel.shape[-1], x.shape[-1]
    total = torch.zeros(len(x), kernel.shape[1], *2 * [stride * (side - 1) + size], dtype=x.dtype)
    for i in range(side):
        for j in range(side):
            put = torch.einsum("bc,cokl->bokl", x[:, :, i, j], kernel)
            total[:, :, stride * i : stride * i + size, stride * j : stride * j + size] += put
    return total[:, :, 1:-1, 1:-1] + bias[:, None, None]


def plain_images(state, z):
    x = z
    for name in ("defc7", "defc6", "defc5"):
        x = leaky(x @ state[f"{name}.weight"].T + state[f"{name}.bias"])
    x = x.reshape(len(z), -1, 4, 4)
    for name in ("deconv2", "conv2_1", "deconv1", "deconv0"):
        x = spread(x, state[f"{name}.weight"], state[f"{name}.bias"], 2 if name.startswith("deconv") else 1)
        x = x if name == "deconv0" else leaky(x)
    blue, green, red = x.unbind(dim=1)
    return torch.stack([red + 123, green + 117, blue + 104], dim=1) / 255


def test_images_are_those_of_the_network_written_a_second_time(small):
    z = drawn(3, 7, seed=50)
    expected = plain_images(small.state_dict(), z)
    assert small(z).shape == (3, 3, 32, 32)
    assert 0.01 < float(expected.std()) < 10
    assert torch.allclose(small(z), expected, rtol=0, atol=1e-12)


def test_without_any_signal_the_image_is_the_mean_colour():
    generator = DeepSim(fc_options(7, 2, WIDTHS)).requires_grad_(False)
    for parameter in generator.parameters():
        parameter.zero_()
    image = generator(torch.zeros(1, 7))
    assert torch.allclose(image, torch.tensor([123.0, 117, 104]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255)
    generator.get_submodule("deconv0").bias.copy_(torch.tensor([-104.0, 0, 255 - 123]))  # blue, green, red
    image = generator(torch.zeros(1, 7))[0, :, 0, 0]
    assert torch.allclose(image, torch.tensor([1, 117 / 255, 0]))


def test_images_are_not_clamped():
    generator = DeepSim(fc_options(7, 2, WIDTHS)).requires_grad_(False)
    for parameter in generator.parameters():
        parameter.zero_()
    generator.get_submodule("deconv0").bias.copy_(torch.tensor([-255.0, 0, 255]))
    image = generator(torch.zeros(1, 7))
    assert float(image.min()) == pytest.approx((104 - 255) / 255)
    assert float(image.max()) == pytest.approx((123 + 255) / 255)


def test_the_published_generator_has_its_layers_in_order():
    with torch.device("meta"):  # shapes without numbers
        generator = DeepSim(fc_options())
    kernels = {
        name.removesuffix(".weight"): tuple(t.shape) for name, t in generator.state_dict().items() if t.dim() > 1
    }
    assert kernels == FC6_SHAPES
    assert list(kernels) == list(FC6_SHAPES)
    assert {name for name in generator.state_dict() if name.endswith(".bias")} == {f"{name}.bias" for name in kernels}
    assert generator(torch.empty(2, 4096, device="meta")).shape == (2, 3, 256, 256)
    assert generator.latent_dim == 4096


@pytest.mark.parametrize(("latent_dim", "of"), [(4096, "fc7"), (1000, "fc8")])
def test_codes_of_other_layers_of_alexnet_differ_in_their_size_alone(latent_dim, of):
    with torch.device("meta"):
        generator = DeepSim(fc_options(latent_dim))
    assert generator.get_submodule("defc7").weight.shape == (4096, latent_dim)
    assert generator(torch.empty(1, latent_dim, device="meta")).shape == (1, 3, 256, 256), of


@pytest.mark.parametrize("widths", [(), FC6_WIDTHS[:-1], ((5,), (3, 3)), ((3,), (1,))])
def test_widths_that_do_not_end_in_an_image_are_refused(widths):
    with pytest.raises(ValueError, match=r"the last width must be \(3,\), the channels of an image; the widths are"):
        DeepSim(fc_options(7, 2, widths))


def test_an_image_depends_on_its_own_code_alone(small):
    z = drawn(4, 7)
    together = small(z)
    assert torch.allclose(torch.cat([small(code[None]) for code in z]), together, rtol=0, atol=1e-12)
    assert torch.allclose(small(z.flip(0)).flip(0), together, rtol=0, atol=1e-12)
    assert torch.equal(small(z), together)


def test_it_behaves_as_a_generator():
    generator = DeepSim(fc_options(7, 2, WIDTHS))  # torch's own first weights, whose images are near the mean colour
    check_generator(generator, "small")
    assert (generator.classes, generator.blocks) == ((), {"z": (0, 7)})


def test_forward_mode_is_the_limit_of_differences(small):
    z, tangents = drawn(2, 7), drawn(3, 2, 7, seed=3)
    pushed = torch.func.vmap(lambda tangent: torch.func.jvp(small, (z,), (tangent,))[1])(tangents)
    step = 1e-6
    for found, tangent in zip(pushed, tangents, strict=True):
        difference = (small(z + step * tangent) - small(z - step * tangent)) / (2 * step)
        assert float(difference.norm()) > 0.1
        assert torch.allclose(found, difference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["pool5", "norm2"])
def test_images_are_the_originals(kind):
    held = expected(f"deepsim_upconv/{kind}")
    generator = load_generator(DATA / "deepsim_upconv" / f"upconvGAN_{kind}.safetensors", device="cpu").double()
    made = generator.native(held["z"].double())[..., 112:144, 112:144][..., ::2, ::2]
    assert generator.options["kind"] == kind
    assert furthest(made, held["center"]) < 1e-9 * max(1, float(held["center"].abs().max()))
    flat = generator.native(held["z"].double().flatten(1))[..., 112:144, 112:144][..., ::2, ::2]
    assert torch.equal(flat, made)


def test_xdreams_names_and_image_order(tmp_path):
    state = DeepSim(fc_options(5, 2, ((4, 6), (4,), (3,)))).state_dict()
    made = {}
    for name, tensor in state.items():
        layer, _, part = name.partition(".")
        if layer.startswith("defc"):
            made[f"fc{layer[-1]}.{part}"] = tensor
        elif part == "weight":
            number = layer.removeprefix("deconv").removeprefix("conv").removesuffix("_1")
            suffix = "_1" if layer.endswith("_1") else "_0" if f"conv{number}_1.weight" in state else ""
            made[f"tconv{number}{suffix}.weight"] = tensor
    torch.save(made, tmp_path / "fc6.pt")
    ours = load_generator(tmp_path / "fc6.pt", device="cpu")
    assert (ours.options["port"], ours.options["bias"]) == ("XDream", False)
    for name, tensor in state.items():
        if name.endswith("bias") and not name.startswith("defc"):
            tensor.zero_()
    torch.save(state, tmp_path / "upconvGAN_fc6.pt")
    same, z = load_generator(tmp_path / "upconvGAN_fc6.pt", device="cpu"), drawn(2, 5).float()
    assert furthest(ours.native(z).flip(1), same.native(z)) < 1e-6  # BGR there, RGB here
    assert torch.equal(ours(z), same(z))


def test_linear_layers_may_be_inside_a_sequence_of_their_own(tmp_path):
    state = DeepSim(fc_options(5, 2, WIDTHS)).state_dict()
    inner = {(name.replace(".", ".1.") if name.startswith("defc") else name): tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "one.pt")
    torch.save(inner, tmp_path / "other.pt")
    one, other = (load_generator(tmp_path / name, device="cpu") for name in ("one.pt", "other.pt"))
    assert torch.equal(one(drawn(1, 5).float()), other(drawn(1, 5).float()))


def shapes(kind):
    """Shapes of the published networks of convolutional codes, by layer (XDream's source)."""
    first = {"norm1": (96, 128, 128, 128), "norm2": (256, 256, 128, 128), "conv34": (384, 384, 512, 512)}[kind]
    kernels = (3, 3, 2) if kind == "conv34" else (3, 3, 3)
    made = {
        f"Rconv{6 + i}": (out, into, k, k)
        for i, (into, out, k) in enumerate(zip(first[:-1], first[1:], kernels, strict=True))
    }
    if kind == "conv34":
        made |= {"deconv5": (512, 256, 4, 4), "conv5_1": (256, 256, 3, 3), "deconv4": (256, 128, 4, 4)}
        made |= {"conv4_1": (128, 128, 3, 3), "deconv3": (128, 128, 4, 4), "conv3_1": (128, 128, 3, 3)}
        made |= {"deconv2": (128, 64, 4, 4), "conv2_1": (32, 64, 3, 3)}
    else:
        made |= {"deconv4": (128, 128, 4, 4), "conv4_1": (128, 128, 3, 3), "deconv3": (128, 64, 4, 4)}
        made |= {"conv3_1": (64, 64, 3, 3), "deconv2": (64, 32, 4, 4), "conv2_1": (32, 32, 3, 3)}
    return made | {"deconv1": (32, 16, 4, 4), "conv1_1": (3, 16, 3, 3)}


@pytest.mark.parametrize(("kind", "code", "size"), [("norm1", 27, 240), ("norm2", 13, 240), ("conv34", 13, 256)])
def test_the_kinds_of_convolutional_codes_are_recognised_and_give_images_of_their_size(kind, code, size):
    layers = shapes(kind)
    state = {f"{name}.weight": torch.empty(shape, device="meta") for name, shape in layers.items()}
    outs = {name: shape[1] if name.startswith("deconv") else shape[0] for name, shape in layers.items()}
    state |= {f"{name}.bias": torch.empty(outs[name], device="meta") for name in layers}
    found = read_state(state)
    assert found.options["kind"] == kind
    with torch.device("meta"):
        generator = DeepSim(Options(**found.options))
    own = {name: tensor.shape for name, tensor in generator.state_dict().items()}
    assert own == {name: tensor.shape for name, tensor in found.state.items()}
    channels = layers["Rconv6"][1]
    assert generator.latent_dim == channels * code * code
    assert generator.native(torch.empty(1, channels, code, code, device="meta")).shape == (1, 3, size, size)


def test_it_runs_on_the_fast_path():
    generator = load_generator(DATA / "deepsim_upconv/upconvGAN_pool5.safetensors", code_size=3, device="cpu")
    assert generator.latent_dim == 54
    assert_fast_and_exact(generator, drawn(54, seed=3))


@pytest.mark.parametrize("layout", FILE_LAYOUTS)
def test_a_checkpoint_is_read_in_every_layout(layout, tmp_path):
    path = saved(tmp_path, state_of("deepsim_upconv/upconvGAN_pool5.safetensors"), layout, "upconvGAN_pool5")
    plain = load_generator(DATA / "deepsim_upconv/upconvGAN_pool5.safetensors", device="cpu")
    z = drawn(1, plain.latent_dim).float()
    assert torch.equal(load_generator(path, device="cpu")(z), plain(z))


def test_a_network_without_a_beginning_is_refused():
    with pytest.raises(Misfit, match="beginning"):
        read_state({"deconv1.weight": torch.zeros(4, 4, 4, 4), "deconv0.weight": torch.zeros(4, 3, 4, 4)})

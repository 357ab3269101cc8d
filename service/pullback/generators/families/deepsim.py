"""DeePSiM generators: AlexNet codes to images (Dosovitskiy and Brox, "Generating Images with Perceptual Similarity
Metrics based on Deep Networks", NIPS 2016, the feature inversion generators).

Transposed 4×4 convolutions double the image. A 3×3 convolution follows some of them, and a leaky ReLU of slope 0.3
follows every layer except the last. The kinds differ in their first and last layers:

- `fc` (codes of fc6, fc7, fc8): three linear layers, then 4×4 pixels.
- `pool5` (256×6×6): three convolutions.
- `norm1` (96×27×27), `norm2` (256×13×13) and `conv34` (conv3 and conv4, 384×13×13): three convolutions, and at the end
  a 3×3 convolution and a tanh.

Images of `fc` and `pool5` are BGR with the mean subtracted, in units of 1/255 and without bounds. The tanh of the other
kinds spans −255 to 255 in the same units. The two torch ports return different images (`native`): upconvGAN returns RGB
and the plain tanh; XDream returns BGR and 255 times the tanh. Here both become RGB in about [0, 1]. Images are not
clamped, because the distance decides whether to clamp.

Names in the state dict are those of the authors' Caffe layers (`defc7`, `Rconv6`, `deconv5`, `conv5_1`, ...).
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.generators.family import FamilyGenerator, Found, Misfit, load_state
from pullback.spec import options
from pullback.weights.content import Content

SUMMARY = "DeePSiM: images from AlexNet codes (fc6, fc7, fc8, pool5, norm1, norm2, conv3, conv4)"
READS = (
    "upconvGAN_fc6.pt, _fc7, _fc8, _pool5, _norm2, ... (state dicts, also with keys such as defc7.1.weight)",
    "XDream's conversions of the Caffe networks",
)

SLOPE = 0.3
"""Slope of the leaky ReLUs below 0."""
RGB_MEAN = (123.0, 117.0, 104.0)
"""Mean of the training images in units of 1/255; the network's images have it subtracted."""
_RANGE = 255.0
"""The value 1 of an image or of a tanh, in units of 1/255."""
_START = 4
"""Height and width of the first feature map after linear layers."""

FC6_WIDTHS = ((256, 512), (256, 256), (128, 128), (64,), (32,), (3,))
"""Channels of each doubling of the published generators: of the 4×4 layer, then of the 3×3 layer if there is one."""

Kind = Literal["fc", "pool5", "norm1", "norm2", "conv34"]
Convolution = tuple[int, int, int]

_FIRST: dict[str, tuple[Convolution, Convolution, Convolution]] = {
    "pool5": ((3, 1, 1), (3, 1, 1), (3, 1, 0)),
    "norm1": ((3, 2, 2), (3, 1, 1), (3, 1, 1)),
    "norm2": ((3, 1, 2), (3, 1, 1), (3, 1, 1)),
    "conv34": ((3, 1, 0), (3, 1, 0), (2, 1, 0)),
}
"""Kernel, stride and padding of the first three convolutions."""
_SIDES = {"pool5": 6, "norm1": 27, "norm2": 13, "conv34": 13}
"""Height and width of the code in AlexNet."""
_PLAIN = {"norm1": 9, "norm2": 9, "conv34": 2}
"""The 3×3 layer `convN_1` is an ordinary convolution up to this N, and a transposed one beyond it. Other kinds have
only transposed ones."""


class Options(options.Options):
    """Options of a DeePSiM generator."""

    kind: Kind
    """Which kind of code it inverts."""
    layers: tuple[str, ...]
    """The layers in order, by their Caffe names."""
    widths: tuple[int, ...]
    """Values or channels that enter the first layer, and those that leave each layer."""
    code_size: int = 1
    """Height and width of the code, for codes of convolutional layers."""
    bias: bool = True
    """Whether the layers after the first three have biases."""
    port: Literal["upconvGAN", "XDream"] = "upconvGAN"
    """The port that `native` images follow: RGB and a plain tanh, or BGR and 255 times the tanh."""


def fc_options(latent_dim: int = 4096, start: int = 256, widths: tuple[tuple[int, ...], ...] = FC6_WIDTHS) -> Options:
    """Options of a generator of fully connected codes.

    Args:
        latent_dim: size of a code; 4096 for AlexNet's layers fc6 and fc7, 1000 for fc8.
        start: channels of the first feature map; the linear layers have 16 times as many units.
        widths: channels of each doubling, as `FC6_WIDTHS`; the last must be (3,).

    Raises:
        ValueError: the widths do not end in an image.
    """
    if not widths or widths[-1] != (3,):
        raise ValueError(f"the last width must be (3,), the channels of an image; the widths are {widths}")
    layers, sizes = ["defc7", "defc6", "defc5"], [latent_dim, *3 * [start * _START**2]]
    for number, outs in zip(reversed(range(len(widths))), widths, strict=True):
        layers += [f"deconv{number}", f"conv{number}_1"][: len(outs)]
        sizes += outs
    return Options(kind="fc", layers=tuple(layers), widths=tuple(sizes))


class DeepSim(FamilyGenerator):
    """An up-convolutional generator of codes [batch, n]; codes of convolutional layers are flattened."""

    family = "deepsim"
    name = "deepsim"
    mean: Tensor

    def __init__(self, options: Options) -> None:
        entering = options.widths[0] * options.code_size**2
        super().__init__({"z": {"z": entering}}, entering)
        self.kind, self.port = options.kind, options.port
        self.start = 0 if options.kind == "fc" else options.code_size
        self.sequence = options.layers
        self.tanh = options.kind not in ("fc", "pool5")
        before = options.widths[0]
        for name, (_, out) in zip(options.layers, pairwise(options.widths), strict=True):
            if (
                options.kind == "fc"
                and not name.startswith("defc")
                and not any(isinstance(layer, nn.ConvTranspose2d) for layer in self.children())
            ):
                before //= _START**2
            self.add_module(name, _layer(name, options, before, out))
            before = out
        self.register_buffer("mean", torch.tensor(RGB_MEAN)[:, None, None], persistent=False)

    def bgr(self, codes: Tensor) -> Tensor:
        """Return the network's raw images [batch, 3, size, size] of codes [batch, n]: in BGR, after the tanh."""
        x = codes
        if self.start:
            x = x.reshape(len(x), -1, self.start, self.start)
        *inner, last = self.sequence
        for name in inner:
            layer = self.get_submodule(name)
            if x.dim() == 2 and not isinstance(layer, nn.Linear):
                x = x.reshape(len(x), -1, _START, _START)
            x = layer(x)
            if not (self.kind in ("norm1", "norm2") and name == inner[-1]):
                x = F.leaky_relu(x, SLOPE)
        x = self.get_submodule(last)(x)
        return torch.tanh(x) if self.tanh else x

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images as the port does; see `FamilyGenerator.render`."""
        made = self.bgr(blocks["z"])
        if self.port == "upconvGAN":
            return made.flip(1)
        return made * _RANGE if self.tanh else made

    def forward(self, z: Tensor, condition: Any = None) -> Tensor:
        """Return images [batch, 3, size, size] in about [0, 1], RGB, of codes [batch, n]; see `Generator.forward`."""
        rgb = self.bgr(z.flatten(1)).flip(1)
        return ((rgb * _RANGE if self.tanh else rgb) + self.mean) / _RANGE


def _layer(name: str, options: Options, into: int, out: int) -> nn.Module:
    if name.startswith("defc"):
        return nn.Linear(into, out)
    if name.startswith("Rconv"):
        kernel, stride, padding = _FIRST[options.kind][int(name.removeprefix("Rconv")) - 6]
        return nn.Conv2d(into, out, kernel, stride, padding)
    if name.startswith("deconv"):
        return nn.ConvTranspose2d(into, out, 4, 2, 1, bias=options.bias)
    plain = int(name[len("conv")]) <= _PLAIN.get(options.kind, -1)
    return (nn.Conv2d if plain else nn.ConvTranspose2d)(into, out, 3, 1, 1, bias=options.bias)


_XDREAM = (
    (re.compile(r"^fc([567])\."), r"defc\1."),
    (re.compile(r"^conv([678])\."), r"Rconv\1."),
    (re.compile(r"^tconv(\d)(?:_0)?\."), r"deconv\1."),
    (re.compile(r"^tconv(\d_1)\."), r"conv\1."),
)
_NAME = re.compile(r"(defc[567]|Rconv[678]|deconv\d|conv\d_1)\.(weight|bias)")


def read(content: Content) -> Found | None:
    """Recognise a DeePSiM generator; see `checkpoint`."""
    return read_state(content.state)


def read_state(state: Mapping[str, Tensor]) -> Found | None:
    """Recognise a state dict of upconvGAN or XDream.

    Raises:
        Misfit: it begins like one of them, but its layers do not fit each other.
    """
    xdream = any(name.startswith("tconv") for name in state)
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in _XDREAM if xdream else ((re.compile(r"^(defc\d)\.1\."), r"\1."),):
            name = pattern.sub(replacement, name)
        made[name] = tensor
    if not all(_NAME.fullmatch(name) for name in made) or not any(name.startswith("deconv") for name in made):
        return None
    layers = sorted({name.partition(".")[0] for name in made}, key=_order)
    missing = [f"{layer}.weight" for layer in layers if f"{layer}.weight" not in made]
    if missing:
        raise Misfit(f"lacks {', '.join(missing)}")
    kind = _kind(made, layers)
    widths = [made[f"{layers[0]}.weight"].shape[1]]
    for layer in layers:
        shape = made[f"{layer}.weight"].shape
        plain = layer.startswith(("defc", "Rconv")) or (
            layer.startswith("conv") and int(layer[len("conv")]) <= _PLAIN.get(kind, -1)
        )
        widths.append(shape[0] if plain else shape[1])
    options = {
        "kind": kind,
        "layers": tuple(layers),
        "widths": tuple(widths),
        "code_size": _SIDES.get(kind, 1),
        "bias": f"{layers[3]}.bias" in made,
        "port": "XDream" if xdream else "upconvGAN",
    }
    return Found(options, made)


def _order(layer: str) -> tuple[int, int, int]:
    """Return a layer's sort key: linear layers from 7 down, first convolutions from 6 up, doublings from 5 down."""
    number = int(re.sub(r"\D", "", layer.removesuffix("_1")))
    if layer.startswith("defc"):
        return 0, -number, 0
    if layer.startswith("Rconv"):
        return 0, number, 0
    return 1, -number, int(layer.startswith("conv"))


def _kind(state: Mapping[str, Tensor], layers: list[str]) -> Kind:
    if layers[0].startswith("defc"):
        return "fc"
    if not layers[0].startswith("Rconv"):
        raise Misfit("has neither linear layers (defc7, ...) nor convolutions (Rconv6, ...) at the beginning")
    if layers[-1] == "deconv0":
        return "pool5"
    if "deconv5" in layers:
        return "conv34"
    first, second = state["Rconv6.weight"].shape, state["Rconv7.weight"].shape
    return "norm1" if first[0] != first[1] and second[0] == second[1] else "norm2"


def build(options: Options, state: Mapping[str, Tensor]) -> DeepSim:
    """Build the generator with these options and tensors.

    Raises:
        Misfit: the tensors do not fit the options.
    """
    generator = DeepSim(options)
    load_state(generator, state)
    return generator

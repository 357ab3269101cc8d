"""PGGAN (Karras et al., "Progressive growing of GANs for improved quality, stability, and variation", ICLR 2018).

The normalised code enters a linear layer that makes features of 4×4 pixels. Each block doubles them and applies two
convolutions. A leaky ReLU and pixel normalisation follow each layer: the channels of a pixel are divided by their root
mean square.
"""

import math
import re
from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.errors import ArgumentError
from pullback.generators.family import FamilyGenerator, Found, load_state
from pullback.generators.style import progressive
from pullback.generators.style.dense import Conv, Dense, pixel_norm
from pullback.generators.style.keys import count, missing, refuse_unknown
from pullback.generators.style.resampling import widened
from pullback.generators.style.stylegan1_layouts import zoo_options
from pullback.spec import options as base
from pullback.weights.content import Content

SUMMARY = "PGGAN (Karras et al., 2018), with and without labels"
READS = (
    "pytorch_GAN_zoo .pth of PGAN",
    "genforce .pth of PGGAN",
)
_ZOO_NAMES = r"(formatLayer|groupScale0\.0|scaleLayers\.\d+\.[01]|toRGBLayers\.\d+)(\.module)?\.(weight|bias)"
_START = 4
_GAIN = math.sqrt(2)


class Options(base.Options):
    """Options of a PGGAN."""

    layout: Literal["zoo", "genforce"]
    """The implementation whose arithmetic is used: whether biases are scaled, and how layers to RGB are scaled."""
    channels: tuple[int, ...]
    """Channels of each resolution, from 4 pixels on."""
    inputs: int
    """Size of the first layer's input: the code and the labels."""
    label_size: int = 0
    """How many of the inputs are labels; genforce's files do not show it."""
    attributes: tuple[tuple[str, ...], ...] = ()
    """pytorch_GAN_zoo: the values of each attribute, whose one-hot vectors together are the labels."""
    image_channels: int = 3
    """Channels of the images."""
    fused: bool = False
    """genforce: whether doubling and convolution are one transposed convolution."""
    lod: float = 0.0
    """Level of detail of a network that is still growing: 0.4 gives the previous block's doubled image weight 0.4."""
    alpha: float | None = None
    """pytorch_GAN_zoo's name for the level of detail `lod`."""
    slope: float = 0.2
    """Slope of the leaky ReLUs below 0."""
    equalized: bool = True
    """Whether weights are scaled by their number of inputs when they are used."""
    final_tanh: bool = False
    """Whether the image passes a tanh."""


class UpConv(nn.Module):
    """Doubling and a 3×3 convolution as one transposed convolution, with a kernel [in, out, 3, 3]."""

    def __init__(self, into: int, out: int, equalized: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(into, out, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out))
        self.gain = _GAIN / math.sqrt(9 * into) if equalized else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, out, 2 · height, 2 · width]."""
        return F.conv_transpose2d(x, widened(self.weight * self.gain), self.bias, stride=2, padding=1)


class Pggan(FamilyGenerator):
    """A PGGAN generator.

    Args:
        options: sizes and variants of the network.

    Raises:
        SpecError: the options need more labels or more blocks than there are.
    """

    def __init__(self, options: Options) -> None:
        o = options
        sizes = [len(values) for values in o.attributes]
        labels = sum(sizes) or o.label_size
        if not 0 <= labels < o.inputs:
            raise ArgumentError("label_size", f"must be from 0 to {o.inputs - 1}, not {labels}")
        n = o.inputs - labels
        both, noise = {"z": n, "class": labels}, {"z": n}
        spaces = {"z": noise}
        if labels:  # codes of pytorch_GAN_zoo end with labels; genforce takes labels as a separate input
            spaces = {"z": both if o.layout == "zoo" else noise, "noise": noise, "z+class": both}
        names = [", ".join(values) for values in product(*o.attributes)] if o.attributes else map(str, range(labels))
        super().__init__(spaces, n, tuple(names) if labels else ())
        self.map_classes, self.label_size = self.classes, labels
        self.classes = self.map_classes if "class" not in self.blocks else ()
        table = torch.eye(labels)
        if o.attributes:
            rows = [nn.functional.one_hot(torch.arange(size), size).float() for size in sizes]
            table = torch.stack([torch.cat(each) for each in product(*rows)])
        self.register_buffer("table", table, persistent=False)
        blocks, self.slope, self.final_tanh = len(o.channels), o.slope, o.final_tanh
        self.blocks_used = blocks
        self.lod = progressive.level(o.lod if o.alpha is None else o.alpha, blocks)
        scale = o.layout == "zoo"
        pixels = _START * _START
        gain = 1.0 if not o.equalized else _GAIN / math.sqrt(o.inputs * (1 if scale else pixels))
        self.first = Dense(o.inputs, pixels * o.channels[0], gain, gain if scale else 1.0)

        def conv(into: int, out: int, kernel: int = 3, factor: float = _GAIN) -> Conv:
            return Conv(into, out, kernel, factor, scale_bias=scale, equalized=o.equalized)

        used = o.channels[: progressive.top_block(blocks, self.lod) + 1]
        layers: list[nn.Module] = [conv(used[0], used[0])]
        for into, out in pairwise(used):
            layers += [UpConv(into, out, o.equalized) if o.fused else conv(into, out), conv(out, out)]
        self.layers = nn.ModuleList(layers)
        colour_gain = _GAIN if scale else 1.0
        self.colours = nn.ModuleDict(
            {
                str(number): conv(o.channels[number], o.image_channels, 1, colour_gain)
                for number in progressive.needed_colours(blocks, self.lod)
            }
        )
        self.normalises_first = not scale  # genforce normalises the code, then the code together with the labels

    table: Tensor

    @property
    def maps(self) -> bool:
        """Whether a code ends with labels, which `map` appends; see `FamilyGenerator.maps`."""
        return "class" in self.blocks

    def map(self, z: Tensor, condition: Any = None) -> Tensor:
        """Map z [batch, z_dim] to codes of the generator's space; appends the condition's labels if codes end with any.

        Raises:
            SpecError: there is no condition.
        """
        if not self.maps:
            return z
        if condition is None:
            raise ArgumentError("condition", f"{self.name} is class-conditional; its codes need a class")
        return torch.cat([z, self.labels(torch.as_tensor(condition, device=z.device), z)], dim=1)

    def labels(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """Labels [batch, label_size] of a condition: one-hot for each attribute; see `FamilyGenerator.labels`."""
        if condition is None:
            raise ValueError(f"{self.name} is class-conditional: give each code a class index")
        if condition.is_floating_point():
            if condition.dim() != 2 or condition.shape[1] != self.label_size:
                wanted = f"[batch, {self.label_size}]"
                raise ValueError(f"labels of {self.name} have shape {wanted}, not {list(condition.shape)}")
            return condition.to(like).expand(len(like), -1)
        return self.table.to(like)[condition.long().reshape(-1)].expand(len(like), -1)

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images [batch, channels, resolution, resolution]; see `FamilyGenerator.render`."""
        x = blocks["z"]
        x = pixel_norm(x) if self.normalises_first else x
        if self.label_size:
            x = torch.cat([x, blocks["class"] if "class" in blocks else self.labels(condition, x)], dim=1)
        x = self._passed(self.first(pixel_norm(x)).reshape(len(x), -1, _START, _START))
        features = []
        for index, layer in enumerate(self.layers):
            if index % 2 and not isinstance(layer, UpConv):
                x = progressive.doubled(x)
            x = self._passed(layer(x))
            if index % 2 == 0:
                features.append(x)
        image = progressive.blended(features, self.colours, self.blocks_used, self.lod)
        return image.tanh() if self.final_tanh else image

    def settings_made(self) -> None:
        """Give the generator no classes if its code holds the class."""
        self.classes = () if "class" in self.blocks else self.map_classes

    def _passed(self, x: Tensor) -> Tensor:
        return pixel_norm(F.leaky_relu(x, self.slope))


def read(content: Content) -> Found | None:
    """Recognise a PGGAN generator in one of the layouts of `READS`."""
    try:
        return _read(content)
    except KeyError as error:
        raise missing(error, "a PGGAN generator") from error


def _read(content: Content) -> Found | None:
    state = content.state
    if "formatLayer.module.weight" in state or ("formatLayer.weight" in state and "groupScale0.0.weight" in state):
        refuse_unknown(state, _ZOO_NAMES, "pytorch_GAN_zoo's PGAN")
        return _zoo(state, content)
    first = state.get("layer0.weight")
    if first is not None and first.dim() == 4 and first.shape[2:] == (4, 4) and "output0.weight" in state:
        refuse_unknown(state, r"lod|(layer|output)\d+\.(weight|bias)", "genforce's PGGAN")
        return _genforce(state)
    return None


def build(options: Options, state: Mapping[str, Tensor]) -> FamilyGenerator:
    """Build a PGGAN from a state dict in its own names, without the layers that the level of detail skips.

    Raises:
        Misfit: the tensors do not fit the options.
        SpecError: options do not fit each other.
    """
    generator = Pggan(options)
    given = {}
    for name, value in state.items():
        part, number = (*name.split("."), "")[:2]
        dead = part == "layers" and int(number) >= len(generator.layers)
        if not dead and not (part == "colours" and number not in generator.colours):
            given[name] = value
    load_state(generator, given)
    return generator


def _common(state: Mapping[str, Tensor], layout: str, fused: bool) -> dict[str, Any]:
    blocks = (count(state, r"layers\.\d+\.weight") + 1) // 2
    channels = tuple(int(state[f"layers.{2 * number}.weight"].shape[0]) for number in range(blocks))
    colour = next(name for name in state if re.fullmatch(r"colours\.\d+\.weight", name))
    return {
        "layout": layout,
        "channels": channels,
        "inputs": int(state["first.weight"].shape[1]),
        "image_channels": int(state[colour].shape[0]),
        "fused": fused,
    }


def _zoo(state: Mapping[str, Tensor], content: Content) -> Found:
    config = content.root.get("config") if isinstance(content.root, Mapping) else None
    config = config if isinstance(config, Mapping) else content.config
    made = {}
    for full, value in state.items():
        name = full.replace(".module.", ".")
        if match := re.fullmatch(r"formatLayer\.(weight|bias)", name):
            made[f"first.{match[1]}"] = value
        elif match := re.fullmatch(r"groupScale0\.0\.(weight|bias)", name):
            made[f"layers.0.{match[1]}"] = value
        elif match := re.fullmatch(r"scaleLayers\.(\d+)\.([01])\.(weight|bias)", name):
            made[f"layers.{2 * int(match[1]) + 1 + int(match[2])}.{match[3]}"] = value
        elif match := re.fullmatch(r"toRGBLayers\.(\d+)\.(weight|bias)", name):
            made[f"colours.{match[1]}.{match[2]}"] = value
    options = {**_common(made, "zoo", False), "label_size": int(config.get("categoryVectorDim") or 0)}
    attributes = config.get("attribKeysOrder")
    if isinstance(attributes, Mapping) and attributes:
        ordered = sorted(attributes.values(), key=lambda each: each["order"])
        values = tuple(tuple(str(value) for value in each["values"]) for each in ordered)
        if sum(map(len, values)) == options["label_size"]:
            options["attributes"] = values
    if not config:
        return Found(options, made, notes=("its file has no config; its image passes no tanh",))
    return Found({**options, **zoo_options(config)}, made)


def _genforce(state: Mapping[str, Tensor]) -> Found:
    weights = {int(m[1]): value for name, value in state.items() if (m := re.fullmatch(r"layer(\d+)\.weight", name))}
    # A fused layer stores [in, out, 3, 3]. This is visible only in a block with fewer channels than the previous one.
    ups = [(weights[i], weights[i + 1]) for i in weights if i and i % 2 == 0 and i + 1 in weights]
    fused = any(up.shape[0] != up.shape[1] and up.shape[1] == second.shape[1] for up, second in ups)
    made = {}
    for name, value in state.items():
        if match := re.fullmatch(r"layer(\d+)\.(weight|bias)", name):
            if match[1] == "0" and match[2] == "weight":
                # a 4×4 kernel with padding 3, applied to the code as one pixel, is a linear layer with a flipped kernel
                made["first.weight"] = value.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, value.shape[1])
            elif match[1] == "0":
                made["first.bias"] = value.repeat_interleave(_START * _START)
            else:
                made[f"layers.{int(match[1]) - 1}.{match[2]}"] = value
        elif match := re.fullmatch(r"output(\d+)\.(weight|bias)", name):
            made[f"colours.{match[1]}.{match[2]}"] = value
    lod = float(state["lod"]) if "lod" in state else 0.0
    return Found({**_common(made, "genforce", fused), "lod": lod}, made)

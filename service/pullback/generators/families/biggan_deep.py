"""BigGAN-deep generators of `pytorch-pretrained-biggan` (Brock, Donahue and Simonyan, "Large Scale GAN Training for
High Fidelity Natural Image Synthesis", ICLR 2019, appendix B).

The condition vector is a noise vector with a class embedding appended. It enters through a linear layer and through
the gains and shifts of every norm. Residual blocks are bottlenecks (1×1, 3×3, 3×3, 1×1). If a block reduces the
channels, its skip connection keeps the first ones. One self-attention acts in the middle of the network.

The norms use statistics that are stored for several truncations of the noise, so the truncation changes the function
and not only the sampler. Names in the state dict are those of the package without the prefix `generator.`. The
package's last convolution has as many outputs as inputs; only the three that become the image are kept.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.errors import PullbackError
from pullback.generators import biggan_layers
from pullback.generators.biggan_layers import Conv2d, Linear, affine_norm, class_embedding, with_stored_sigma
from pullback.generators.family import FamilyGenerator, Found, Misfit, load_state
from pullback.spec import options
from pullback.weights.content import Content

SUMMARY = "BigGAN-deep in the format of pytorch-pretrained-biggan"
READS = (
    "folders of pytorch-pretrained-biggan: config.json and pytorch_model.bin",
    "its published names: biggan-deep-128, biggan-deep-256, biggan-deep-512",
)
_START = 4
"""Height and width of the first feature map."""
_BOTTLENECK = 4
"""A residual block divides its input channels by this factor to get its inner channels."""
_ROUND_OFF = 1e-9
"""A smaller weight of a row of statistics is round-off of truncation / step, and counts as zero."""

Block = tuple[bool, int, int]


class Options(options.Options):
    """The shape of a BigGAN-deep. The fields have the names of the package's `config.json`."""

    layers: tuple[Block, ...]
    """Residual blocks in order: whether it doubles the image, and its channels before and after in channel widths."""
    attention_layer_position: int
    """How many residual blocks come before the self-attention."""
    channel_width: int = 128
    """The channels that the factors in `layers` multiply."""
    z_dim: int = 128
    """Size of the noise, and of a class embedding; the condition vector has twice as many coordinates."""
    num_classes: int = 1000
    """Number of classes that have an embedding."""
    n_stats: int = 51
    """Number of truncations, evenly from 0 to 1, for which norm statistics are stored."""
    eps: float = 1e-4
    """Added to a variance before its root is taken."""
    spectral: bool = False
    """Whether weights are divided by their spectral norms. If not, they already are, or never were."""
    interpolation: Literal["package", "linear"] = "package"
    """Statistics of a truncation between two stored ones. `package` swaps the two weights, as pytorch-pretrained-biggan
    0.1.1 does; `linear` interpolates correctly."""
    z_seed: int = 0
    """Seed of the fixed noise in the space `class`, drawn from a normal distribution truncated at ±2 and multiplied by
    the truncation."""


_TO_16: tuple[Block, ...] = (
    (False, 16, 16),
    (True, 16, 16),
    (False, 16, 16),
    (True, 16, 8),
    (False, 8, 8),
)
_TO_32: tuple[Block, ...] = (*_TO_16, (True, 8, 8), (False, 8, 8))
_FROM_4: tuple[Block, ...] = ((False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1))

LAYOUTS = {
    128: Options(layers=(*_TO_16, (True, 8, 4), *_FROM_4), attention_layer_position=8),
    256: Options(layers=(*_TO_32, (True, 8, 4), *_FROM_4), attention_layer_position=8),
    512: Options(layers=(*_TO_32, (True, 8, 4), *_FROM_4, (False, 1, 1), (True, 1, 1)), attention_layer_position=8),
}
"""The published layouts, by the size of their images in pixels (appendix B of the paper)."""

Rows = tuple[tuple[int, float], ...]


def statistics_rows(truncation: float, rows: int, interpolation: str = "package") -> Rows:
    """Return the rows of the stored norm statistics that a truncation uses, with their weights.

    With t = truncation · (rows − 1) = i + c, 0 ≤ c < 1, `linear` gives row i the weight 1 − c and row i + 1 the weight
    c. `package` swaps the two weights, but uses only row i if c is exactly 0. It computes t as truncation / (1 / (rows
    − 1)), and round-off matters: 0.58 gives row 28 of 51, since t is slightly below 29.

    Args:
        truncation: the bound at which the noise is truncated, in (0, 1].
        rows: number of stored rows, evenly spaced from truncation 0 to 1.
        interpolation: `package` or `linear`.

    Raises:
        PullbackError: the truncation is outside (0, 1].
    """
    if not 0 < truncation <= 1:
        raise PullbackError(f"the truncation of a BigGAN must be above 0 and at most 1; it is {truncation!r}")
    share, whole = math.modf(truncation / (1.0 / (rows - 1)) if interpolation == "package" else truncation * (rows - 1))
    row = int(whole)
    if share == 0:
        return ((row, 1.0),)
    weights = (share, 1 - share) if interpolation == "package" else (1 - share, share)
    pairs = zip((row, row + 1), weights, strict=True)
    kept = [(min(index, rows - 1), weight) for index, weight in pairs if weight > _ROUND_OFF]
    return ((kept[0][0], 1.0),) if len(kept) == 1 else tuple(kept)


class Norm(nn.Module):
    """Normalisation by stored statistics.

    Args:
        channels: of the input [batch, channels, height, width].
        layout: supplies `n_stats` and `eps`.
    """

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, channels: int, layout: Options) -> None:
        super().__init__()
        self.eps = layout.eps
        self.register_buffer("running_means", torch.zeros(layout.n_stats, channels))
        self.register_buffer("running_vars", torch.ones(layout.n_stats, channels))

    def normalised(self, x: Tensor, rows: Rows, gain: Tensor, shift: Tensor) -> Tensor:
        """Return (x − mean) / sqrt(var + eps) · gain + shift, for gain and shift [channels] or [batch, channels]."""
        mean, var = (_mixed(table, rows) for table in (self.running_means, self.running_vars))
        return affine_norm(x, mean, var, self.eps, gain, shift)


def _mixed(table: Tensor, rows: Rows) -> Tensor:
    (first, weight), *others = rows
    mixed = table[first] if weight == 1 else table[first] * weight
    for row, share in others:
        mixed = mixed + table[row] * share
    return mixed


class PlainNorm(Norm):
    """Normalisation with one gain and one shift per channel."""

    def __init__(self, channels: int, layout: Options) -> None:
        super().__init__(channels, layout)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """Return normalised features [batch, channels, height, width]."""
        return self.normalised(x, rows, self.weight, self.bias)


class ConditionalNorm(Norm):
    """Normalisation whose gain and shift per channel are affine in the condition vector."""

    def __init__(self, channels: int, layout: Options) -> None:
        super().__init__(channels, layout)
        self.scale = Linear(2 * layout.z_dim, channels, bias=False, normalised=layout.spectral)
        self.offset = Linear(2 * layout.z_dim, channels, bias=False, normalised=layout.spectral)

    def forward(self, x: Tensor, code: Tensor, rows: Rows) -> Tensor:
        """Return normalised features [batch, channels, height, width] for condition vectors [batch, 2 z_dim]."""
        return self.normalised(x, rows, 1 + self.scale(code), self.offset(code))


class ResidualBlock(nn.Module):
    """A bottleneck of four convolutions, each after a conditional norm and a ReLU, plus a skip connection.

    Args:
        doubles: whether height and width are doubled (nearest neighbour) before the first 3×3 convolution.
        into: input channels.
        out: output channels, at most `into`.
        layout: supplies the options of the norms.
    """

    def __init__(self, doubles: bool, into: int, out: int, layout: Options) -> None:
        super().__init__()
        self.doubles = doubles
        self.out = out
        inner, spectral = into // _BOTTLENECK, layout.spectral
        self.bn_0 = ConditionalNorm(into, layout)
        self.conv_0 = Conv2d(into, inner, 1, normalised=spectral)
        self.bn_1 = ConditionalNorm(inner, layout)
        self.conv_1 = Conv2d(inner, inner, 3, normalised=spectral)
        self.bn_2 = ConditionalNorm(inner, layout)
        self.conv_2 = Conv2d(inner, inner, 3, normalised=spectral)
        self.bn_3 = ConditionalNorm(inner, layout)
        self.conv_3 = Conv2d(inner, out, 1, normalised=spectral)

    def forward(self, x: Tensor, code: Tensor, rows: Rows) -> Tensor:
        """Return features [batch, out, height, width] (doubled or not) from features [batch, into, height, width]."""
        skip = x[:, : self.out]
        x = self.conv_0(F.relu(self.bn_0(x, code, rows)))
        x = F.relu(self.bn_1(x, code, rows))
        if self.doubles:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            skip = F.interpolate(skip, scale_factor=2, mode="nearest")
        x = self.conv_2(F.relu(self.bn_2(self.conv_1(x), code, rows)))
        x = self.conv_3(F.relu(self.bn_3(x, code, rows)))
        return skip + x


class SelfAttention(biggan_layers.SelfAttention):
    """Self-attention under the package's names."""

    names = ("snconv1x1_theta", "snconv1x1_phi", "snconv1x1_g", "snconv1x1_o_conv")


class BigGanDeep(FamilyGenerator):
    """A BigGAN-deep generator.

    Spaces: `z` and `noise`, the noise with a class as the condition; `class`, the class embedding with a fixed noise;
    `z+class`, both. A condition is a class index, soft labels or a class embedding.

    Args:
        layout: one of `LAYOUTS`, or any other options.
        spaces: the supported spaces; without `z` and `noise` the generator takes no condition.

    Attributes:
        truncation: truncation of the noise, in (0, 1], which selects the norm statistics.
        fixed_noise: the noise of the space `class`, [z_dim].
    """

    family = "biggan_deep"
    name = "biggan-deep"
    truncates = True
    fixed_noise: Tensor

    def __init__(self, layout: Options, spaces: Collection[str] = ("z", "noise", "class", "z+class")) -> None:
        size, width = layout.z_dim, layout.channel_width
        known = {
            "z": {"z": size},
            "noise": {"noise": size},
            "class": {"class": size},
            "z+class": {"noise": size, "class": size},
        }
        names = [str(index) for index in range(layout.num_classes)] if {"z", "noise"} & {*spaces} else ()
        super().__init__({space: known[space] for space in spaces}, size if names else 2 * size, names)
        self.layout = layout
        spectral = layout.spectral
        self.register_buffer("fixed_noise", biggan_layers.truncated_noise(size, layout.z_seed), persistent=False)
        self.embeddings = nn.Linear(layout.num_classes, size, bias=False)
        self.gen_z = Linear(2 * size, _START * _START * width * layout.layers[0][1], normalised=spectral)
        layers: list[nn.Module] = [
            ResidualBlock(doubles, width * into, width * out, layout) for doubles, into, out in layout.layers
        ]
        position = layout.attention_layer_position
        if position < len(layers):
            layers.insert(position, SelfAttention(width * layout.layers[position][1], spectral))
        self.layers = nn.ModuleList(layers)
        self.bn = PlainNorm(width * layout.layers[-1][2], layout)
        self.conv_to_rgb = Conv2d(width * layout.layers[-1][2], 3, 3, normalised=spectral)

    def own_truncation(self, truncation: float) -> float:
        """Return the truncation, which must be in (0, 1]; see `FamilyGenerator.own_truncation`."""
        statistics_rows(truncation, self.layout.n_stats)
        return truncation

    def condition_vector(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Concatenate noise and class embeddings to [batch, 2 z_dim]; arguments as in `FamilyGenerator.render`."""
        given = next(iter(blocks.values()))
        noise = blocks.get("noise", blocks.get("z"))
        if noise is None:
            noise = (self.truncation * self.fixed_noise).to(given).expand(len(given), -1)
        embedding = blocks.get("class")
        if embedding is None:
            embedding = class_embedding(condition, self.embeddings.weight.T, self.name).expand(len(given), -1)
        return torch.cat([noise, embedding], dim=1)

    def map(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map noise z [batch, z_dim] and a condition to codes of the generator's space; without classes return z."""
        if "class" not in self.blocks or not self.classes:
            return z
        embedding = class_embedding(self._condition(condition, z), self.embeddings.weight.T, self.name)
        embedding = embedding.expand(len(z), -1)
        return embedding if len(self.blocks) == 1 else torch.cat([z, embedding], dim=1)

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images [batch, 3, size, size] in [−1, 1]; see `FamilyGenerator.render`."""
        code = self.condition_vector(blocks, condition)
        rows = statistics_rows(self.truncation, self.layout.n_stats, self.layout.interpolation)
        # the first feature map is stored in the order height, width, channels
        x = self.gen_z(code).reshape(len(code), _START, _START, -1).permute(0, 3, 1, 2).contiguous()
        for layer in self.layers:
            x = layer(x, code, rows) if isinstance(layer, ResidualBlock) else layer(x)
        return torch.tanh(self.conv_to_rgb(F.relu(self.bn(x, rows))))


_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def read(content: Content) -> Found | None:
    """Recognise a state dict of `pytorch-pretrained-biggan`; see `checkpoint`."""
    return read_state(content.state, content.config)


def read_state(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> Found | None:
    """Recognise a state dict of `pytorch-pretrained-biggan`.

    The keys and shapes determine the options, with two exceptions. Only the config says which blocks double the image;
    without a config, the published layout with the same blocks is used. `eps` comes from the config too.

    Args:
        state: with or without the prefix `generator.`.
        config: the content of `config.json`.

    Raises:
        Misfit: it is a BigGAN-deep whose shapes contradict the config.
    """
    state = {name.removeprefix("generator."): tensor for name, tensor in state.items()}
    if "embeddings.weight" not in state or not any(name.startswith("gen_z.weight") for name in state):
        return None
    spectral = "gen_z.weight_orig" in state or "gen_z.parametrizations.weight.original" in state
    made = with_stored_sigma(state)
    spectral = spectral or "gen_z.sigma" in made
    options: dict[str, Any] = {"spectral": spectral}
    known = {"channel_width", "z_dim", "num_classes", "n_stats", "eps", "attention_layer_position", "layers"}
    options.update({name: value for name, value in (config or {}).items() if name in known})
    shapes = _shapes(made)
    for name, value in shapes.items():
        if name != "blocks" and options.setdefault(name, value) != value:
            raise Misfit(f"contradicts its config: {name} is {options[name]} there, and {value} by the shapes")
    if "layers" in options:
        options["layers"] = tuple((bool(up), int(into), int(out)) for up, into, out in options["layers"])
    else:
        options["layers"] = _published_blocks(shapes["blocks"], options["attention_layer_position"])
    if "conv_to_rgb.weight" in made:
        made["conv_to_rgb.weight"] = made["conv_to_rgb.weight"][:3].contiguous()
        made["conv_to_rgb.bias"] = made["conv_to_rgb.bias"][:3].contiguous()
    assumed = "no config.json lies beside the file; eps is taken to be 1e-4, as in the published models"
    return Found(options, made, notes=() if config else (assumed,))


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options that follow from the tensors' shapes."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := _LAYER.fullmatch(name):
            layers.setdefault(int(match[1]), {})[match[2]] = tensor
    ordered = [layers[index] for index in sorted(layers)]
    blocks = [layer for layer in ordered if "conv_0.weight" in layer]
    if not blocks:
        raise Misfit("has no residual blocks under `layers.`")
    width = blocks[-1]["conv_3.weight"].shape[0]
    pairs = tuple((b["conv_0.weight"].shape[1] // width, b["conv_3.weight"].shape[0] // width) for b in blocks)
    attention = next((index for index, layer in enumerate(ordered) if "gamma" in layer), len(blocks))
    z_dim, classes = state["embeddings.weight"].shape
    return {
        "blocks": pairs,
        "channel_width": width,
        "z_dim": z_dim,
        "num_classes": classes,
        "n_stats": blocks[0]["bn_0.running_means"].shape[0],
        "attention_layer_position": attention,
    }


def _published_blocks(pairs: tuple[tuple[int, int], ...], attention: int) -> tuple[Block, ...]:
    for layout in LAYOUTS.values():
        if tuple(block[1:] for block in layout.layers) == pairs and layout.attention_layer_position == attention:
            return layout.layers
    raise Misfit(
        "is a BigGAN-deep of unpublished blocks, whose config.json says which of them double the image: put that file "
        "beside it, or give the option `layers`"
    )


def build(options: Options, state: Mapping[str, Tensor]) -> BigGanDeep:
    """Build the generator with these options and tensors.

    Raises:
        Misfit: the tensors do not fit the options.
    """
    generator = BigGanDeep(options)
    load_state(generator, state)
    return generator

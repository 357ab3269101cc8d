"""BigGAN-deep generators (Brock, Donahue and Simonyan, "Large scale GAN training", ICLR 2019, appendix B).

A code is noise with a class embedding appended; it enters through a linear layer and through the gains and shifts
of every norm. Residual blocks are bottlenecks (1×1, 3×3, 3×3, 1×1) that keep the identity in the skip: where
channels are fewer afterwards, the first ones are kept. One block of self-attention (Zhang et al., 2019) works at 64×64.

Invariants: weights stand as they act, already divided by their spectral norms, since nothing is trained here. Norm
statistics are those of one truncation, chosen once: the truncation changes the function, not only the sampler. Names in
the state dict are those of `pytorch-pretrained-biggan` without spectral norm and without the prefix `generator.`; of
its last convolution, which computes as many channels as enter it, only the three that become the image are kept.
Leaves to others: random weights (`shapes`), and reading files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.errors import PullbackError
from pullback.generators.base import Generator

_START = 4
"""Height and width of the first feature map."""
_BOTTLENECK = 4
"""By how much the inner channels of a residual block are fewer than those that enter it."""


@dataclass(frozen=True)
class Layout:
    """The shape of a BigGAN-deep; fields are called as in the `config.json` of `pytorch-pretrained-biggan`."""

    layers: tuple[tuple[bool, int, int], ...]
    """Residual blocks in order: whether it doubles the image, and its channels before and after in channel widths."""
    attention_layer_position: int
    """How many residual blocks come before the self-attention."""
    channel_width: int = 128
    """The channels that the factors in `layers` multiply."""
    z_dim: int = 128
    """Size of the noise, and of a class embedding; a code has twice as many coordinates."""
    num_classes: int = 1000
    """How many classes have an embedding."""
    n_stats: int = 51
    """On how many truncations, evenly from 0 to 1, norm statistics are stored."""
    eps: float = 1e-4
    """What is added to a variance before its root is taken."""


_TO_16 = ((False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8))
_TO_32 = (*_TO_16, (True, 8, 8), (False, 8, 8))
_FROM_4 = ((False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1))

LAYOUTS = {
    128: Layout((*_TO_16, (True, 8, 4), *_FROM_4), 8),
    256: Layout((*_TO_32, (True, 8, 4), *_FROM_4), 8),
    512: Layout((*_TO_32, (True, 8, 4), *_FROM_4, (False, 1, 1), (True, 1, 1)), 8),
}
"""The published layouts by the size of their images in pixels (appendix B of the paper)."""


def statistics_row(truncation: float, rows: int) -> int:
    """The row of the stored norm statistics whose truncation is nearest to the chosen one.

    Args:
        truncation: where the noise is cut off, in (0, 1].
        rows: how many rows are stored, evenly from truncation 0 to 1.

    Raises:
        PullbackError: the truncation is outside (0, 1].
    """
    if not 0 < truncation <= 1:
        raise PullbackError(f"the truncation of a BigGAN must be above 0 and at most 1; it is {truncation!r}")
    return round(truncation * (rows - 1))


class Norm(nn.Module):
    """Normalisation by stored statistics of one truncation.

    Args:
        channels: of the input [batch, channels, height, width].
        layout: for `n_stats` and `eps`.
        row: which row of the statistics is used.
    """

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, channels: int, layout: Layout, row: int) -> None:
        super().__init__()
        self.row = row
        self.eps = layout.eps
        self.register_buffer("running_means", torch.zeros(layout.n_stats, channels))
        self.register_buffer("running_vars", torch.ones(layout.n_stats, channels))

    def apply_affine(self, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """(x − mean) / sqrt(var + eps) · gain + shift, for gain and shift [channels] or [batch, channels].

        Everything but one product and one sum is done on numbers that have no height and width.
        """
        gain = gain * (self.running_vars[self.row] + self.eps).rsqrt()
        shift = shift - self.running_means[self.row] * gain
        return torch.addcmul(shift[..., None, None], x, gain[..., None, None])


class PlainNorm(Norm):
    """Normalisation with one gain and one shift a channel."""

    def __init__(self, channels: int, layout: Layout, row: int) -> None:
        super().__init__(channels, layout, row)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features [batch, channels, height, width]."""
        return self.apply_affine(x, self.weight, self.bias)


class ConditionalNorm(Norm):
    """Normalisation with a gain and a shift a channel that are affine in the code."""

    def __init__(self, channels: int, layout: Layout, row: int) -> None:
        super().__init__(channels, layout, row)
        self.scale = nn.Linear(2 * layout.z_dim, channels, bias=False)
        self.offset = nn.Linear(2 * layout.z_dim, channels, bias=False)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Normalised features [batch, channels, height, width] for codes [batch, 2 z_dim]."""
        return self.apply_affine(x, 1 + self.scale(code), self.offset(code))


class ResidualBlock(nn.Module):
    """A bottleneck of four convolutions, each after a conditional norm and a ReLU, beside a skip.

    Args:
        doubles: whether height and width are doubled (nearest neighbour), before the first 3×3 convolution.
        into: channels that enter.
        out: channels that leave, at most as many.
        layout: for the norms.
        row: which row of the statistics the norms use.
    """

    def __init__(self, doubles: bool, into: int, out: int, layout: Layout, row: int) -> None:
        super().__init__()
        self.doubles = doubles
        self.out = out
        inner = into // _BOTTLENECK
        self.bn_0 = ConditionalNorm(into, layout, row)
        self.conv_0 = nn.Conv2d(into, inner, 1)
        self.bn_1 = ConditionalNorm(inner, layout, row)
        self.conv_1 = nn.Conv2d(inner, inner, 3, padding=1)
        self.bn_2 = ConditionalNorm(inner, layout, row)
        self.conv_2 = nn.Conv2d(inner, inner, 3, padding=1)
        self.bn_3 = ConditionalNorm(inner, layout, row)
        self.conv_3 = nn.Conv2d(inner, out, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Features [batch, out, height, width] (doubled or not) of features [batch, into, height, width]."""
        skip = x[:, : self.out]
        x = self.conv_0(F.relu(self.bn_0(x, code)))
        x = F.relu(self.bn_1(x, code))
        if self.doubles:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            skip = F.interpolate(skip, scale_factor=2, mode="nearest")
        x = self.conv_2(F.relu(self.bn_2(self.conv_1(x), code)))
        x = self.conv_3(F.relu(self.bn_3(x, code)))
        return skip + x


class SelfAttention(nn.Module):
    """Each position attends to the max-pooled map; what it gathers is added, times `gamma`.

    Args:
        channels: of the input, a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.snconv1x1_theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Features [batch, channels, height, width] of as many; height and width must be even."""
        query = self.snconv1x1_theta(x).flatten(2)
        key = F.max_pool2d(self.snconv1x1_phi(x), 2).flatten(2)
        value = F.max_pool2d(self.snconv1x1_g(x), 2).flatten(2)
        attention = (query.transpose(1, 2) @ key).softmax(-1)
        gathered = (value @ attention.transpose(1, 2)).reshape(*value.shape[:2], *x.shape[2:])
        added: Tensor = self.gamma * self.snconv1x1_o_conv(gathered)
        return x + added


class BigGanDeep(Generator):
    """A BigGAN-deep generator of codes [batch, 2 z_dim]: noise, then a class embedding.

    The embedding is part of the code and may be any vector, so that the generator has no `classes`; the embeddings of
    true classes are in `embeddings.weight` [z_dim, num_classes].

    Args:
        layout: one of `LAYOUTS`, or another.
        truncation: whose norm statistics are used, in (0, 1]; the nearest stored value is taken (0.02 apart). Those
            between are not interpolated.

    Raises:
        PullbackError: the truncation is outside (0, 1].
    """

    name = "biggan-deep"

    def __init__(self, layout: Layout, truncation: float = 0.6) -> None:
        super().__init__()
        row = statistics_row(truncation, layout.n_stats)
        width = layout.channel_width
        self.latent_dim = 2 * layout.z_dim
        self.blocks = {"noise": (0, layout.z_dim), "class": (layout.z_dim, 2 * layout.z_dim)}
        self.truncation = row / (layout.n_stats - 1)
        """The stored truncation whose statistics are used."""
        self.embeddings = nn.Linear(layout.num_classes, layout.z_dim, bias=False)
        self.gen_z = nn.Linear(self.latent_dim, _START * _START * width * layout.layers[0][1])
        layers: list[nn.Module] = [
            ResidualBlock(doubles, width * into, width * out, layout, row) for doubles, into, out in layout.layers
        ]
        position = layout.attention_layer_position
        layers.insert(position, SelfAttention(width * layout.layers[position][1]))
        self.layers = nn.ModuleList(layers)
        self.bn = PlainNorm(width * layout.layers[-1][2], layout, row)
        self.conv_to_rgb = nn.Conv2d(width * layout.layers[-1][2], 3, 3, padding=1)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [batch, 3, size, size] in [0, 1] of codes [batch, 2 z_dim]; see `Generator.forward`."""
        # The first map is stored height, width, channels.
        x = self.gen_z(z).reshape(len(z), _START, _START, -1).permute(0, 3, 1, 2).contiguous()
        for layer in self.layers:
            x = layer(x, z) if isinstance(layer, ResidualBlock) else layer(x)
        image: Tensor = torch.tanh(self.conv_to_rgb(F.relu(self.bn(x))))
        return (image + 1) / 2

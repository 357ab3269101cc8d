"""Layers of the decoders of diffusers' autoencoders: residual blocks, self-attention, spatial norms, the codebook.

Every group norm has an epsilon of 1e-6. Self-attention has one head. The parts have the names that diffusers uses.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6
"""Epsilon of every group norm."""
_SPATIAL_GROUPS = 32
"""Groups of the group norms inside spatial norms; the config does not change them."""
_SOFT_CLAMP = 3.0
"""An AutoencoderTiny bounds its latent images: 3 · tanh(z / 3)."""

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}
"""Activations by their names in diffusers."""


def conv(into: int, out: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that keeps height and width."""
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, bias=bias)


class SpatialNorm(nn.Module):
    """Group norm whose gain and shift are 1×1 convolutions of the latent image (MoVQ, Zheng et al., NeurIPS 2022)."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.norm_layer = nn.GroupNorm(_SPATIAL_GROUPS, channels, eps=EPS)
        self.conv_y, self.conv_b = conv(latent, channels, 1), conv(latent, channels, 1)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Return normalised features [batch, channels, height, width].

        The 1×1 convolutions act before the latent image is enlarged. The values are the same, at a lower cost.
        """
        side = x.shape[-2:]
        gain, shift = (F.interpolate(part(latent), size=side, mode="nearest") for part in (self.conv_y, self.conv_b))
        made: Tensor = self.norm_layer(x) * gain + shift
        return made


class GroupNorm(nn.GroupNorm):
    """Group norm with the same call as `SpatialNorm`; it ignores the latent image."""

    def forward(self, input: Tensor, latent: Tensor | None = None) -> Tensor:
        """Return normalised features [batch, channels, height, width]."""
        return super().forward(input)


def norm(channels: int, groups: int, latent: int | None) -> nn.Module:
    """Return a group norm (`latent` is None) or a spatial norm for latent images of `latent` channels."""
    return GroupNorm(groups, channels, eps=EPS) if latent is None else SpatialNorm(channels, latent)


class ResidualBlock(nn.Module):
    """Twice a norm, an activation and a 3×3 convolution, plus a skip (a 1×1 convolution if the channels change)."""

    def __init__(self, into: int, out: int, groups: int, activation: Activation, latent: int | None) -> None:
        super().__init__()
        self.activation = activation
        self.norm1, self.conv1 = norm(into, groups, latent), conv(into, out, 3)
        self.norm2, self.conv2 = norm(out, groups, latent), conv(out, out, 3)
        self.conv_shortcut = conv(into, out, 1) if into != out else None

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Return features [batch, out, height, width] from features [batch, into, height, width]."""
        inner = self.conv1(self.activation(self.norm1(x, latent)))
        inner = self.conv2(self.activation(self.norm2(inner, latent)))
        return torch.add(x if self.conv_shortcut is None else self.conv_shortcut(x), inner)


class SelfAttention(nn.Module):
    """x + o(softmax(q kᵀ / √channels) v), with q, k, v of the normalised x."""

    def __init__(self, channels: int, groups: int, latent: int | None) -> None:
        super().__init__()
        if latent is None:
            self.group_norm = GroupNorm(groups, channels, eps=EPS)
        else:
            self.spatial_norm = SpatialNorm(channels, latent)
        self.spatial = latent is not None
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Return features [batch, channels, height, width], the shape of `x`."""
        normed = (self.spatial_norm if self.spatial else self.group_norm)(x, latent)
        places = normed.flatten(2).transpose(1, 2)
        query = self.to_q(places) * places.shape[-1] ** -0.5
        attention = (query @ self.to_k(places).transpose(1, 2)).softmax(-1)
        gathered: Tensor = self.to_out[0](attention @ self.to_v(places))
        return x + gathered.transpose(1, 2).reshape(x.shape)


class _Upsampler(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return made


class _Stage(nn.Module):
    """Residual blocks, each followed by a self-attention if the stage has any, then a doubling of the image."""

    def __init__(
        self,
        resnets: Sequence[ResidualBlock],
        attentions: Sequence[SelfAttention],
        upsampler: _Upsampler | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        if attentions:
            self.attentions = nn.ModuleList(attentions)
        if upsampler is not None:
            self.upsamplers = nn.ModuleList([upsampler])
        self.count, self.doubles = len(attentions), upsampler is not None

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        for index, block in enumerate(self.resnets):
            x = block(x, latent)
            if index < self.count:
                x = self.attentions[index](x, latent)
        return self.upsamplers[0](x) if self.doubles else x


class Decoder(nn.Module):
    """The decoder of AutoencoderKL and VQModel.

    Args:
        entering: channels of the latent image.
        channels: channels of each stage, from the latent image to the image.
        blocks: residual blocks of each stage.
        attentions: whether each stage has a self-attention after every residual block.
        middle: whether the middle block has a self-attention.
        out: channels of the image.
        groups: groups of the group norms.
        activation: activation between layers; the last one is always SiLU.
        latent: channels of the latent image if the norms are spatial, else None.
    """

    def __init__(
        self,
        entering: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        attentions: Sequence[bool],
        middle: bool,
        out: int,
        groups: int,
        activation: Activation,
        latent: int | None,
    ) -> None:
        super().__init__()

        def resnet(into: int, wide: int) -> ResidualBlock:
            return ResidualBlock(into, wide, groups, activation, latent)

        first = channels[0]
        self.conv_in = conv(entering, first, 3)
        attention = [SelfAttention(first, groups, latent)] if middle else []
        self.mid_block = _Stage([resnet(first, first), resnet(first, first)], attention, None)
        stages, before = [], first
        for index, (wide, count, attends) in enumerate(zip(channels, blocks, attentions, strict=True)):
            made = [resnet(before if number == 0 else wide, wide) for number in range(count)]
            within = [SelfAttention(wide, groups, latent) for _ in made] if attends else []
            stages.append(_Stage(made, within, _Upsampler(wide) if index < len(channels) - 1 else None))
            before = wide
        self.up_blocks = nn.ModuleList(stages)
        self.conv_norm_out = norm(before, groups, latent)
        self.conv_out = conv(before, out, 3)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Return images [batch, out, height, width] of an input [batch, entering, ...] and the latent image."""
        x = self.mid_block(self.conv_in(x), latent)
        for stage in self.up_blocks:
            x = stage(x, latent)
        image: Tensor = self.conv_out(F.silu(self.conv_norm_out(x, latent)))
        return image


class Quantizer(nn.Module):
    """The codebook of a VQModel: replaces each pixel of a latent image with the nearest row."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, size)

    def forward(self, latent: Tensor) -> Tensor:
        """Latent images [batch, size, height, width] made of rows of the codebook; the derivative is zero."""
        table = self.embedding.weight
        places = latent.detach().movedim(1, -1)
        distances = table.square().sum(1) - 2 * places @ table.T
        return table[distances.argmin(-1)].movedim(-1, 1) + 0 * latent


class _TinyBlock(nn.Module):
    """Three 3×3 convolutions plus a skip, then a ReLU."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(channels, channels, 3),
            activation,
            conv(channels, channels, 3),
            activation,
            conv(channels, channels, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class _Pointwise(nn.Module):
    def __init__(self, function: Activation) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class TinyDecoder(nn.Module):
    """The decoder of AutoencoderTiny.

    Args:
        entering: channels of the latent image.
        channels: channels of each stage, from the latent image to the image.
        blocks: residual blocks of each stage.
        out: channels of the image.
        activation: activation between layers.
        factor: factor by which the image grows between stages.
    """

    def __init__(
        self,
        entering: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        out: int,
        activation: Activation,
        factor: int,
    ) -> None:
        super().__init__()
        pointwise = _Pointwise(activation)
        layers: list[nn.Module] = [conv(entering, channels[0], 3), pointwise]
        for index, (wide, count) in enumerate(zip(channels, blocks, strict=True)):
            last = index == len(channels) - 1
            layers += [_TinyBlock(wide, pointwise) for _ in range(count)]
            if not last:
                layers.append(nn.Upsample(scale_factor=factor, mode="nearest"))
            layers.append(conv(wide, out if last else wide, 3, bias=last))
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """Return images [batch, out, height, width] in about [−1, 1]."""
        image: Tensor = self.layers(torch.tanh(latent / _SOFT_CLAMP) * _SOFT_CLAMP)
        return image * 2 - 1

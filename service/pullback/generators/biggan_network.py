"""The network of BigGAN-PyTorch. BigBiGAN and StudioGAN use it too, after their tensor names are translated.

Brock, Donahue and Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", ICLR 2019.

With hierarchical noise (`hier`), BigGAN splits the noise into equal chunks. The first enters the linear layer, and the
norms of each residual block take the class embedding with the block's own chunk. BigGAN-deep feeds the class embedding
and the whole noise to the linear layer and to every norm. Without a shared embedding, the norms take the label itself.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.generators.biggan_layers import (
    Conv2d,
    Linear,
    SelfAttention,
    affine_norm,
    class_embedding,
    truncated_noise,
)
from pullback.generators.family import FamilyGenerator, Misfit
from pullback.spec.options import Options

_GROUPS = 16
"""Groups of channels of the norm style `gn`."""
_BOTTLENECK = 4
"""A block of BigGAN-deep divides its input channels by this factor to get its inner channels."""

Activation = Callable[[Tensor], Tensor]


class NetworkOptions(Options):
    """Options of the network, with the names of BigGAN-PyTorch's constructor where it has them."""

    resolution: int
    """Height and width of the images in pixels. With several residual blocks per resolution, only the last of them
    doubles the image."""
    bottom_width: int = 4
    """Height and width of the first feature map."""
    channels: tuple[tuple[int, int], ...]
    """Channels before and after each residual block, in order."""
    attention: tuple[int, ...] = ()
    """Indices of the residual blocks that a self-attention follows, from 0."""
    dim_z: int
    """Size of the noise."""
    n_classes: int
    """Number of classes; 0 for an unconditional network."""
    shared_dim: int
    """Size of the shared class embedding; 0 if there is none."""
    hier: bool
    """Whether the norms take a part of the noise."""
    spectral: bool = True
    """Whether weights are divided by their spectral norms."""
    spectral_gains: bool = True
    """Whether the weights of the norms' gains and shifts are divided by their spectral norms."""
    norm_style: Literal["bn", "in", "gn", "nonorm", "plain"] | None = "bn"
    """Norms of the residual blocks: stored statistics (`bn`; `in` is the same at inference), statistics of 16 groups of
    channels (`gn`), none (`nonorm`), or stored statistics with a gain and a shift that nothing conditions (`plain`)."""
    cross_replica: bool = False
    """Whether the norms are the original's synchronised norms: at inference these add the gain; others multiply."""
    z_seed: int = 0
    """Seed of the fixed noise in the space `class`, drawn from a normal distribution truncated at ±2."""


def _stored(x: Tensor, mean: Tensor, var: Tensor, eps: float, gain: Tensor, shift: Tensor, adds: bool) -> Tensor:
    return (
        affine_norm(x, mean, var, eps, torch.ones_like(mean), gain + shift)
        if adds
        else affine_norm(x, mean, var, eps, gain, shift)
    )


class StoredNorm(nn.Module):
    """Normalisation by stored statistics, with one gain and one shift per channel.

    Args:
        channels: channels of the features.
        eps: added to the variance.
        adds: whether the gain is added (`NetworkOptions.cross_replica`).
    """

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, eps: float, adds: bool = False) -> None:
        super().__init__()
        self.eps, self.adds = eps, adds
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return normalised features [batch, channels, height, width]."""
        return _stored(x, self.stored_mean, self.stored_var, self.eps, self.gain, self.bias, self.adds)


class ConditionalNorm(nn.Module):
    """Normalisation whose gain (around 1) and shift are linear in a condition [batch, size].

    Args:
        channels: channels of the features.
        size: size of the condition.
        eps: added to the variance.
        style: a value of `NetworkOptions.norm_style` other than `plain`.
        normalised: whether the weights are divided by their spectral norms.
        adds: whether the gain is added (`NetworkOptions.cross_replica`).
    """

    def __init__(self, channels: int, size: int, eps: float, style: str, normalised: bool, adds: bool) -> None:
        super().__init__()
        self.eps, self.style, self.adds = eps, style, adds
        self.gain = Linear(size, channels, bias=False, normalised=normalised)
        self.bias = Linear(size, channels, bias=False, normalised=normalised)
        stored = style in ("bn", "in")
        self.stored_mean: Tensor | None
        self.stored_var: Tensor | None
        self.register_buffer("stored_mean", torch.zeros(channels) if stored else None)
        self.register_buffer("stored_var", torch.ones(channels) if stored else None)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return normalised features [batch, channels, height, width]."""
        gain, shift = 1 + self.gain(condition), self.bias(condition)
        if self.stored_mean is not None and self.stored_var is not None:
            return _stored(x, self.stored_mean, self.stored_var, self.eps, gain, shift, self.adds)
        if self.style == "gn":
            x = F.group_norm(x, _GROUPS)
        return torch.addcmul(shift[..., None, None], x, gain[..., None, None])


class ResidualBlock(nn.Module):
    """Norm, activation, doubling, 3×3, norm, activation, 3×3, plus a 1×1 convolution of the doubled input.

    The 1×1 convolution acts before the doubling. The values are the same, for a quarter of the products.
    """

    def __init__(
        self, into: int, out: int, norm: Callable[[int], nn.Module], activation: Activation, normalised: bool
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = Conv2d(into, out, 3, normalised=normalised)
        self.conv2 = Conv2d(out, out, 3, normalised=normalised)
        self.conv_sc = Conv2d(into, out, 1, normalised=normalised)
        self.bn1, self.bn2 = norm(into), norm(out)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return features [batch, out, 2 height, 2 width] from features [batch, into, height, width]."""
        inner = F.interpolate(self.activation(self.bn1(x, condition)), scale_factor=2, mode="nearest")
        inner = self.conv2(self.activation(self.bn2(self.conv1(inner), condition)))
        skip = F.interpolate(self.conv_sc(x), scale_factor=2, mode="nearest")
        return torch.add(inner, skip)


class Bottleneck(nn.Module):
    """The block of BigGAN-deep: 1×1, 3×3, 3×3 and 1×1 convolutions, plus a skip that keeps the first channels."""

    def __init__(
        self,
        into: int,
        out: int,
        doubles: bool,
        norm: Callable[[int], nn.Module],
        activation: Activation,
        normalised: bool,
    ) -> None:
        super().__init__()
        self.out, self.doubles, self.activation = out, doubles, activation
        inner = into // _BOTTLENECK
        self.conv1 = Conv2d(into, inner, 1, normalised=normalised)
        self.conv2 = Conv2d(inner, inner, 3, normalised=normalised)
        self.conv3 = Conv2d(inner, inner, 3, normalised=normalised)
        self.conv4 = Conv2d(inner, out, 1, normalised=normalised)
        self.bn1, self.bn2, self.bn3, self.bn4 = norm(into), norm(inner), norm(inner), norm(inner)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return features [batch, out, height, width] (doubled or not) from features [batch, into, height, width]."""
        inner = self.conv1(self.activation(self.bn1(x, condition)))
        inner = self.activation(self.bn2(inner, condition))
        skip = x[:, : self.out]
        if self.doubles:
            inner = F.interpolate(inner, scale_factor=2, mode="nearest")
            skip = F.interpolate(skip, scale_factor=2, mode="nearest")
        inner = self.conv3(self.activation(self.bn3(self.conv2(inner), condition)))
        return torch.add(self.conv4(self.activation(self.bn4(inner, condition))), skip)


class BigGan(FamilyGenerator):
    """A BigGAN or BigGAN-deep generator.

    Spaces: `z` and `noise`, the noise with a class as the condition; `class`, the class embedding with a fixed noise;
    `z+class`, both. A condition is a class index, soft labels or a class embedding. Without a shared embedding, the
    soft labels are the embedding. An unconditional network has only the spaces `z` and `noise`.

    Args:
        options: see `NetworkOptions`.
        deep: whether it is a BigGAN-deep.
        eps: added to the variances in the residual blocks.
        last_eps: added to the variances of the last norm.
        activation: activation between layers.
        fixed_class: the class of every image, for a network that is used without conditions.

    Raises:
        Misfit: the blocks do not produce images of the given resolution.

    Attributes:
        fixed_noise: the noise of the space `class`, [dim_z].
    """

    name = "biggan"
    fixed_noise: Tensor
    labels_: Tensor

    def __init__(
        self,
        options: NetworkOptions,
        deep: bool,
        eps: float,
        last_eps: float,
        activation: Activation = F.relu,
        fixed_class: int | None = None,
    ) -> None:
        size, embedded = options.dim_z, options.shared_dim or options.n_classes
        spaces = {"z": {"z": size}, "noise": {"noise": size}}
        conditional = embedded > 0 and fixed_class is None
        if conditional:
            spaces |= {"class": {"class": embedded}, "z+class": {"noise": size, "class": embedded}}
        super().__init__(spaces, size, [str(index) for index in range(options.n_classes)] if conditional else ())
        self.deep, self.hier, self.start = deep, options.hier, options.bottom_width
        self.activation, self.fixed_class = activation, fixed_class
        self.register_buffer("fixed_noise", truncated_noise(size, options.z_seed), persistent=False)
        self.register_buffer("labels_", torch.eye(options.n_classes), persistent=False)
        self.shared = nn.Embedding(options.n_classes, options.shared_dim) if options.shared_dim else None
        self.chunk = size // (len(options.channels) + 1) if options.hier and not deep else size
        taken = embedded + self.chunk if options.hier else embedded
        entering = taken if deep else self.chunk
        spectral, style, adds = options.spectral, options.norm_style or "bn", options.cross_replica

        def norm(channels: int) -> nn.Module:
            if style == "plain":
                return StoredNorm(channels, eps, adds)
            return ConditionalNorm(channels, taken, eps, style, options.spectral_gains, adds)

        doublings = (options.resolution // self.start).bit_length() - 1
        depth = len(options.channels) // max(doublings, 1)
        if self.start << doublings != options.resolution or depth * doublings != len(options.channels):
            raise Misfit(
                f"has {len(options.channels)} residual blocks from {self.start} pixels, which do not give images of "
                f"{options.resolution} pixels"
            )
        self.linear = Linear(entering, options.channels[0][0] * self.start**2, normalised=spectral)
        layers: list[nn.Module] = []
        for index, (into, out) in enumerate(options.channels):
            block: nn.Module
            if deep:
                block = Bottleneck(into, out, (index + 1) % depth == 0, norm, activation, spectral)
            else:
                block = ResidualBlock(into, out, norm, activation, spectral)
            layers.append(block)
            if index in options.attention:
                layers.append(SelfAttention(out, spectral, ()))
        self.layers = nn.ModuleList(layers)
        last = options.channels[-1][1]
        self.last_norm = StoredNorm(last, last_eps, adds)
        self.to_rgb = Conv2d(last, 3, 3, normalised=spectral)

    @property
    def table(self) -> Tensor:
        """The embeddings of the classes [n_classes, size]: unit vectors if there is no shared embedding."""
        return self.labels_ if self.shared is None else self.shared.weight

    def embedding(self, blocks: Mapping[str, Tensor], condition: Tensor | None, batch: int) -> Tensor | None:
        """Return class embeddings [batch, size] from the codes' blocks or from a condition; None without classes."""
        if "class" in blocks:
            return blocks["class"]
        if self.fixed_class is not None:
            return self.table[self.fixed_class].expand(batch, -1)
        if not self.classes:
            return None
        return class_embedding(condition, self.table, self.name).expand(batch, -1)

    def map(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return codes of the generator's space for noise z [batch, dim_z] and a condition."""
        if "class" not in self.blocks:
            return z
        embedding = class_embedding(self._condition(condition, z), self.table, self.name).expand(len(z), -1)
        return embedding if len(self.blocks) == 1 else torch.cat([z, embedding], dim=1)

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images [batch, 3, size, size] in [−1, 1]; see `FamilyGenerator.render`."""
        given = next(iter(blocks.values()))
        batch = len(given)
        noise = blocks.get("noise", blocks.get("z"))
        if noise is None:
            noise = self.fixed_noise.to(given).expand(batch, -1)
        embedding = self.embedding(blocks, condition, batch)
        chunks = torch.split(noise, self.chunk, dim=1)
        if embedding is None:
            conditions = chunks[1:] or chunks
        elif self.hier:
            conditions = tuple(torch.cat([embedding, chunk], dim=1) for chunk in (chunks if self.deep else chunks[1:]))
        else:
            conditions = (embedding,)
        x = self.linear(conditions[0] if self.deep else chunks[0]).reshape(batch, -1, self.start, self.start)
        block = 0
        for layer in self.layers:
            if isinstance(layer, SelfAttention):
                x = layer(x)
            else:
                x = layer(x, conditions[block % len(conditions)])
                block += 1
        return torch.tanh(self.to_rgb(self.activation(self.last_norm(x))))

"""Layers shared by the BigGAN families: spectrally normalised weights, class embeddings, self-attention.

Spectral normalisation (Miyato et al., ICLR 2018) divides a weight by an estimate σ of its largest singular value. The
weights are fixed here, so σ is one number per layer. It is computed in float64 when the file is read, and the division
happens in the dtype of the network. A network therefore reproduces the original's images in float32 and in float64.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_POOL = 2
"""The keys and values of the self-attention are max-pooled by this factor."""
_QUERY, _VALUE = 8, 2
"""Factors by which the self-attention reduces the channels of queries and keys, and of values."""


class _Normalised(nn.Module):
    """Adds the attribute `sigma`, the number that divides the weight; None if the weight is used unchanged."""

    sigma: Tensor | None

    def _add_sigma(self, normalised: bool) -> None:
        self.register_buffer("sigma", torch.ones((), dtype=torch.float64) if normalised else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact, self.sigma = self.sigma, None
        made = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if exact is not None:
            # σ stays in float64, independent of the dtype of the network; Apple's GPUs have no float64
            device = cast(Tensor, self.weight).device
            self.sigma = exact.to(device, torch.float32 if device.type == "mps" else torch.float64)
        return made

    @property
    def effective_weight(self) -> Tensor:
        """The weight divided by σ."""
        weight = cast(Tensor, self.weight)
        return weight if self.sigma is None else weight / self.sigma


class Linear(_Normalised, nn.Linear):
    """A linear layer whose weight may be divided by its σ."""

    def __init__(self, into: int, out: int, bias: bool = True, normalised: bool = False) -> None:
        super().__init__(into, out, bias)
        self._add_sigma(normalised)

    def forward(self, input: Tensor) -> Tensor:
        """Return outputs [batch, out] of inputs [batch, into]."""
        return F.linear(input, self.effective_weight, self.bias)


class Conv2d(_Normalised, nn.Conv2d):
    """A convolution of stride 1 that keeps height and width. Its weight may be divided by its σ."""

    def __init__(self, into: int, out: int, kernel: int, bias: bool = True, normalised: bool = False) -> None:
        super().__init__(into, out, kernel, padding=kernel // 2, bias=bias)
        self._add_sigma(normalised)

    def forward(self, input: Tensor) -> Tensor:
        """Return features [batch, out, height, width] from features [batch, into, height, width]."""
        return F.conv2d(input, self.effective_weight, self.bias, padding=self.padding)


class SelfAttention(nn.Module):
    """Self-attention of SAGAN (Zhang et al., ICML 2019): x + γ · o(softmax(θ(x)ᵀ φ(x)) g(x)), φ and g max-pooled.

    Args:
        channels: channels of the input, a multiple of 8.
        normalised: whether the weights are divided by their σ.
    """

    names = ("theta", "phi", "g", "o")
    """The names of the four 1×1 convolutions: queries, keys, values, output."""

    def __init__(self, channels: int, normalised: bool = False, gamma_shape: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        narrow, half = channels // _QUERY, channels // _VALUE
        sizes = ((channels, narrow), (channels, narrow), (channels, half), (half, channels))
        for name, (into, out) in zip(self.names, sizes, strict=True):
            self.add_module(name, Conv2d(into, out, 1, bias=False, normalised=normalised))
        self.gamma = nn.Parameter(torch.zeros(gamma_shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, channels, height, width], the shape of `x`; height and width must be even."""
        theta, phi, g, o = (self.get_submodule(name) for name in self.names)
        query = theta(x).flatten(2)
        key = F.max_pool2d(phi(x), _POOL).flatten(2)
        value = F.max_pool2d(g(x), _POOL).flatten(2)
        attention = (query.transpose(1, 2) @ key).softmax(-1)
        gathered = (value @ attention.transpose(1, 2)).reshape(*value.shape[:2], *x.shape[2:])
        added: Tensor = self.gamma * o(gathered)
        return x + added


def affine_norm(x: Tensor, mean: Tensor, var: Tensor, eps: float, gain: Tensor, shift: Tensor) -> Tensor:
    """Return (x − mean) / sqrt(var + eps) · gain + shift, for gain and shift [channels] or [batch, channels].

    Only one product and one sum act on full feature maps. The rest acts on tensors without height and width.
    """
    gain = gain * (var + eps).rsqrt()
    shift = shift - mean * gain
    return torch.addcmul(shift[..., None, None], x, gain[..., None, None])


def class_embedding(condition: Tensor | None, table: Tensor, name: str) -> Tensor:
    """Return the class embeddings [batch, size] of a condition.

    Args:
        condition: class indices [batch], soft labels [batch, classes], or class embeddings [batch, size]. If the number
            of classes equals the size of an embedding, a matrix is treated as soft labels.
        table: the embeddings of the classes [classes, size].
        name: the generator's name, for messages.

    Raises:
        ValueError: there is no condition, it has a wrong shape, or a class index is out of range.
    """
    classes, size = table.shape
    if condition is None:
        raise ValueError(f"{name} is class-conditional: give each code a class index, soft labels or an embedding")
    if not condition.is_floating_point() and condition.dim() == 2 and condition.shape[1] == classes > 1:
        condition = condition.to(table)  # one-hot labels of an integer dtype
    if not condition.is_floating_point():
        indices = condition.reshape(-1).to(table.device)
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < classes:
            raise ValueError(f"classes of {name} go from 0 to {classes - 1}; there is {indices.tolist()[:8]}")
        return table[indices.long()]
    if condition.dim() == 2 and condition.shape[1] == classes:
        return condition.to(table) @ table
    if condition.dim() == 2 and condition.shape[1] == size:
        return condition.to(table)
    raise ValueError(
        f"a condition of {name} is class indices [batch], soft labels [batch, {classes}] or embeddings "
        f"[batch, {size}]; this one has shape {list(condition.shape)}"
    )


def with_stored_sigma(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of torch's own spectral norm to weights and their σ = uᵀ W v.

    torch stores `weight_orig`, `weight_u` and `weight_v` (or the same three under `parametrizations.weight`) and uses
    the stored u and v at inference. W is flattened to [out, inputs].
    """
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, u, v = _torch_norm(name, state)
        if layer is not None:
            made[f"{layer}weight"] = tensor
            if u is not None and v is not None:
                matrix = tensor.flatten(1).double()
                made[f"{layer}sigma"] = torch.dot(u.double().flatten(), matrix @ v.double().flatten())
        elif not name.endswith(_TORCH_VECTORS):
            made[name] = tensor
    return made


_OLD, _NEW = "weight_orig", "parametrizations.weight.original"
_TORCH_VECTORS = ("weight_u", "weight_v", "parametrizations.weight.0._u", "parametrizations.weight.0._v")


def _torch_norm(name: str, state: Mapping[str, Tensor]) -> tuple[str | None, Tensor | None, Tensor | None]:
    """Return the prefix of the layer that this weight belongs to, and its u and v."""
    for suffix, u, v in ((_OLD, *_TORCH_VECTORS[:2]), (_NEW, *_TORCH_VECTORS[2:])):
        if name == suffix or name.endswith(f".{suffix}"):
            layer = name.removesuffix(suffix)
            return layer, state.get(layer + u), state.get(layer + v)
    return None, None, None


def with_iterated_sigma(state: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """Convert a state dict of BigGAN-PyTorch's spectral norm to weights and their σ.

    BigGAN-PyTorch stores the row vector `u0` and makes one power iteration at every call: v = u W / |u W|, σ = |v Wᵀ|.
    An iteration at inference does not update `u0`. `sv0` is only a log; `u1`, `sv1`, ... do not change the output.

    Args:
        state: the tensors by name.
        eps: lower bound of a norm that is divided by (SN_eps).
    """
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, last = name.rpartition(".")
        if last.startswith(("u", "sv")) and last.removeprefix("sv").removeprefix("u").isdigit():
            continue
        made[name] = tensor
        u = state.get(f"{layer}.u0") if last == "weight" else None
        if u is not None:
            matrix = tensor.flatten(1).double()
            v = F.normalize(u.double().reshape(1, -1) @ matrix, eps=eps)
            u = F.normalize(v @ matrix.T, eps=eps)
            made[f"{layer}.sigma"] = (v @ matrix.T @ u.T).reshape(())
    return made


def truncated_noise(size: int, seed: int, bound: float = 2.0) -> Tensor:
    """Draw noise [size] from the standard normal distribution truncated at ±bound, in float32."""
    stream, drawn = np.random.default_rng(seed), np.empty(0)
    while len(drawn) < size:
        more = stream.standard_normal(2 * size)
        drawn = np.concatenate([drawn, more[np.abs(more) <= bound]])
    return torch.from_numpy(drawn[:size]).float()

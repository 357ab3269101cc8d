"""Attention and pairwise distances, written as operations that have their own rules; see `compositions`.

The attention kernels that torch uses on a CPU have no forward-mode derivative. Neither does `cdist` on any device.
"""

import math
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pullback.metric.forward.tape import plain


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """`F.scaled_dot_product_attention`: softmax(QKᵀ · scale + mask) V; zero for a fully masked row."""
    if dropout_p:
        return NotImplemented
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:  # noqa: SIM108
            scores = torch.where(attn_mask, scores, -math.inf)
        else:
            scores = scores + attn_mask
        masked = (plain(scores) == -math.inf).all(-1, keepdim=True)
        if bool(masked.any()):
            weights = torch.where(masked, 0.0, torch.softmax(torch.where(masked, 0.0, scores), dim=-1))
            return weights @ value
    return torch.softmax(scores, dim=-1) @ value


def multi_head_attention_forward(*args: Any, **kwargs: Any) -> Any:
    """`F.multi_head_attention_forward` (used by `nn.MultiheadAttention`), as the operations in torch's own code."""
    return _MULTI_HEAD(*args, **kwargs)


def _seen_through(function: Any) -> Any:
    """A copy of a function of `torch.nn.functional` whose inner operations are recorded, not the call as a whole.

    Such a function first asks whether an argument overrides it. In the copy the answer is always no.
    """
    unseen = {name: lambda *_: False for name in function.__globals__ if name.startswith("has_torch_function")}
    return FunctionType(function.__code__, {**function.__globals__, **unseen}, function.__name__, function.__defaults__)


_MULTI_HEAD = _seen_through(F.multi_head_attention_forward)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Any:
    """`torch.cdist`: p-norms of all differences between vectors [..., P, M] and vectors [..., R, M]."""
    return torch.linalg.vector_norm(x1[..., :, None, :] - x2[..., None, :, :], p, dim=-1)


def pdist(input: Tensor, p: float = 2.0) -> Any:
    """`F.pdist`: p-norms of the differences of all pairs of vectors [N, M]."""
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return torch.linalg.vector_norm(input[first] - input[second], p, dim=-1)

"""Torch kernels that can be differentiated in forward mode and twice.

Flash attention and the fused attention of `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` have no forward-mode
derivative and no second derivative. Torch's plain kernels for the same operations have both. The same holds for the
fused recurrent layers of oneDNN and cuDNN.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_RECURRENT = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Use the plain attention kernels within the context, and restore the previous setting at its end."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def plain_recurrence() -> Iterator[None]:
    """Use recurrent layers made of plain operations within the context."""
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
        yield


class DifferentiableKernels(TorchFunctionMode):
    """Use differentiable kernels, even if the network selects others.

    A generator may select an attention kernel in its `forward`, which would overrule `differentiable_kernels`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function within the contexts that it needs."""
        if func is F.scaled_dot_product_attention or func is F.multi_head_attention_forward:
            with differentiable_kernels():
                return func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _RECURRENT:
            with plain_recurrence():
                return func(*args, **(kwargs or {}))
        if name in ("ldexp", "ldexp_") and len(args) == 2:  # in forward mode, torch 2.13 crashes the process here
            scale = 2.0 ** args[1]
            return args[0].mul_(scale) if name == "ldexp_" else args[0] * scale
        return func(*args, **(kwargs or {}))

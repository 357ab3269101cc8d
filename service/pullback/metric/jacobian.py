"""The Jacobian of residual features with respect to the latent code, in forward mode.

J = ∂ r(G(z)) / ∂z is built a chunk of columns at a time: `vmap(jvp)` pushes a chunk of unit tangents through the
network for a whole batch of codes, and the primal pass is shared by the chunk. This needs the image of a code to
depend on that code alone, since every code of the batch is moved along the same unit vector at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from pullback.distances.base import ResidualDistance
from pullback.generators.base import images_of

Features = Callable[[Tensor], Tensor]
"""A map from latent codes [batch, n] to residual features [batch, m], sample by sample."""


def feature_map(generator: nn.Module, distance: ResidualDistance, condition: Tensor | None = None) -> Features:
    """r∘G: latent codes [batch, n] to residual features [batch, m], for classes [batch] where G has classes."""

    def features(z: Tensor) -> Tensor:
        return distance.residual(images_of(generator, z, condition))

    return features


def jacobian(features: Features, z: Tensor, tangents: int) -> Tensor:
    """Every column of the Jacobian at every code.

    Args:
        features: the map to differentiate.
        z: latent codes [batch, n].
        tangents: how many columns are pushed forward at once, at least 1; memory grows with batch × tangents.

    Returns:
        Jᵀ [batch, n, m]: row i is the derivative of the features along latent coordinate i.
    """
    n = z.shape[1]
    axes = torch.eye(n, dtype=z.dtype, device=z.device)
    rows: Tensor | None = None
    with exact_arithmetic(), torch.no_grad():
        for start in range(0, n, tangents):
            chunk = axes[start : start + tangents, None, :].expand(-1, len(z), -1)
            pushed = vmap(lambda tangent: jvp(features, (z,), (tangent,))[1])(chunk)
            if rows is None:  # written in place: a list of chunks joined at the end would hold everything twice
                rows = pushed.new_empty(len(z), n, pushed.shape[-1])
            rows[:, start : start + tangents] = pushed.transpose(0, 1)
    assert rows is not None
    return rows


def directional_difference(features: Features, z: Tensor, direction: Tensor, step: Tensor) -> Tensor:
    """The central difference (r(z + εv) − r(z − εv)) / 2ε of the features along a direction.

    Args:
        features: the map.
        z: latent codes [batch, n].
        direction: v [batch, n].
        step: ε of each code [batch, 1], in latent units.

    Returns:
        [batch, m], an independent estimate of J v.
    """
    with exact_arithmetic(), torch.no_grad():
        both = features(z + step * direction) - features(z - step * direction)
    return both / (2 * step)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 in products on a GPU: TF32, torch's default for convolutions, keeps 10 bits of the mantissa.

    Torch has two sets of switches for this. The older raise an error where a caller mixed them, and do not always
    overrule the newer; so the older are used where they work, and the newer where those do not.
    """
    matmul = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn  # whose `conv` torch's annotations leave out
    older, newer = None, (matmul.fp32_precision, cudnn.conv.fp32_precision)
    with suppress(RuntimeError):
        older = torch.get_float32_matmul_precision(), cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
    by_newer = older is None or "tf32" in (matmul.fp32_precision, cudnn.conv.fp32_precision)
    if by_newer:
        matmul.fp32_precision = cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        if by_newer:
            matmul.fp32_precision, cudnn.conv.fp32_precision = newer
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            cudnn.allow_tf32 = older[1]

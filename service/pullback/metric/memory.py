"""What a metric needs in memory, and the largest batch and chunk of tangents that fit.

The need is measured on one plain forward pass of one code, whose operators report the size of what they produce, and
scaled: forward mode keeps a chunk's tangents of one operator at a time (its input, its output and workspace), next to
the Jacobian rows collected so far and their Gram products. Leaves to others how many workers share a machine.
"""

from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback.distances.base import ResidualDistance
from pullback.errors import MemoryPlanError
from pullback.generators.base import any_condition, images_of, like
from pullback.metric.gauss_newton import BLOCK

GIB = 2**30
_LIVE = 6
"""Copies of the largest activation that live at once: tangent in, tangent out, mask or norm, and the workspace of a
convolution, measured as peak memory over the estimate on DCGAN-64 with LPIPS-alex and LPIPS-vgg."""
_DENSE = 9
"""Matrices n × n that live at once: H, its symmetric part, the eigenvectors, LAPACK's copy and workspace, or the
certificate's products; measured as peak memory for n = 1500 to 3000."""
_FIXED = 64 * 2**20
"""Buffers of the mathematical libraries, whatever the sizes."""
_MOST_TANGENTS = 64
"""Chunks beyond this gained nothing on any machine tried; smaller ones leave room for more codes."""
_SHARE = 0.7
"""Part of the free memory that is planned with; the rest is for what cannot be foreseen."""


@dataclass(frozen=True)
class Footprint:
    """The sizes that one code's metric is made of.

    Attributes:
        latent_dim: n.
        features: m, the length of the residual.
        largest: bytes of the largest array that any operator makes for one code.
        itemsize: bytes of one number.
    """

    latent_dim: int
    features: int
    largest: int
    itemsize: int

    def bytes(self, batch: int, tangents: int) -> int:
        """Peak memory beyond the weights, for a batch of codes with a chunk of tangents."""
        pushed = _LIVE * batch * tangents * self.largest
        rows = batch * self.latent_dim * self.features * self.itemsize
        block = batch * self.latent_dim * min(BLOCK, self.features) * 8
        dense = _DENSE * batch * self.latent_dim**2 * 8
        return _FIXED + rows + max(pushed + 2 * batch * tangents * self.features * self.itemsize, block + dense)


@dataclass(frozen=True)
class Fit:
    """A batch and a chunk of tangents, and what they need.

    Attributes:
        batch: codes at once.
        tangents: Jacobian columns at once.
        bytes: the estimated peak beyond the weights.
        available: the bytes that were planned with.
    """

    batch: int
    tangents: int
    bytes: int
    available: int


class _LargestOutput(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest tensor that any operator makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view of an input (the transposed weight of a linear layer, say) is nothing new, however large.
        held = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
        for leaf in _tensors(result):
            if leaf.untyped_storage().data_ptr() not in held:
                self.bytes = max(self.bytes, leaf.numel() * leaf.element_size())
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@torch.no_grad()
def footprint(generator: nn.Module, distance: ResidualDistance) -> Footprint:
    """Measure one code's sizes with one plain forward pass."""
    latent_dim = int(generator.latent_dim)  # type: ignore[arg-type]
    z = torch.zeros(1, latent_dim).to(like(generator))
    condition = any_condition(generator, 1, z.device)
    images = images_of(generator, z, condition)
    with _LargestOutput() as in_distance:
        residual = distance.residual(images)
    with _LargestOutput() as in_generator:
        images_of(generator, z, condition)
    largest = max(in_distance.bytes, in_generator.bytes)
    return Footprint(latent_dim, residual.shape[1], largest, residual.element_size())


def usable_bytes(device: torch.device) -> int:
    """Memory of a device that may be planned with now: most of what is free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_SHARE * free)


def fit(
    generator: nn.Module,
    distance: ResidualDistance,
    *,
    codes: int,
    budget: int | None = None,
    batch: int | None = None,
    tangents: int | None = None,
    held: int = 0,
) -> Fit:
    """The largest batch and chunk of tangents whose estimated peak stays within the budget.

    Args:
        generator: where its parameters are decides whose memory counts.
        distance: the distance.
        codes: no batch is larger than this.
        budget: bytes; by default most of what is free on the generator's device.
        batch: fixed instead of chosen.
        tangents: fixed instead of chosen.
        held: bytes that the caller keeps besides, such as a shard's results.

    Raises:
        MemoryPlanError: the smallest choice, or the fixed one, does not fit.
    """
    device = like(generator).device
    available = budget if budget is not None else usable_bytes(device)
    sizes = footprint(generator, distance)
    # A GPU wants many codes at once; a CPU core is full with one, and smaller arrays stay in its cache.
    most = 1 if device.type == "cpu" else codes
    widths = [tangents] if tangents else _halvings(min(_MOST_TANGENTS, sizes.latent_dim))
    for chosen_batch in [batch] if batch else _halvings(most):
        for chosen_tangents in widths:
            need = sizes.bytes(chosen_batch, chosen_tangents) + held
            # Prefer fewer codes (where there is a choice) to fewer than 8 tangents, which share the primal pass.
            fixed = batch is not None or tangents is not None
            roomy = fixed or chosen_batch == 1 or chosen_tangents >= min(8, sizes.latent_dim)
            if need <= available and roomy:
                return Fit(chosen_batch, chosen_tangents, need, available)
    least = sizes.bytes(batch or 1, tangents or 1) + held
    raise MemoryPlanError(
        f"one metric of n = {sizes.latent_dim} with {sizes.features} residual features needs about "
        f"{least / GIB:.3g} GiB with a batch of {batch or 1} and {tangents or 1} tangents at once; "
        f"{available / GIB:.3g} GiB may be used. Nothing was started. "
        "Use a smaller distance.size, fewer workers, or a machine or GPU with more memory."
    )


def _halvings(largest: int) -> list[int]:
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes

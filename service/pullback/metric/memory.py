"""What a metric needs in memory, and the largest batch and chunk of tangents that fit.

The need is measured and scaled: one code is pushed forward with few tangents and with more while every tensor that
operators make is followed from birth to death, and the peaks give what a code and what a tangent cost. What the
mathematical libraries take beside it (blocked copies of weights, workspaces) is estimated.
Leaves to others: how many workers share a machine.
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pullback.distances import Distance, ResidualDistance
from pullback.errors import MemoryPlanError
from pullback.generators.base import any_condition, like
from pullback.metric.gauss_newton import BLOCK
from pullback.metric.jacobian import derivative_at, feature_map, pull_back
from pullback.metric.products import squared_map

GIB = 2**30
_DENSE = 9
"""Matrices n × n that live at once: H, its symmetric part, the eigenvectors, LAPACK's copy and workspace, or the
certificate's products; measured as peak memory for n = 1500 to 3000."""
_FIXED = 2 * 2**20
"""Buffers of the mathematical libraries, whatever the sizes."""
_MOST_IMAGES = 32
"""Codes × tangents at once on a CPU: its cores are full with fewer, and more only takes memory."""
_CACHED = 9 * 2**20
"""Bytes of a CPU's largest tangent beyond which each allocation is mapped and cleared anew by the system: from there
on, larger chunks are slower."""
_SHARE = 0.7
"""Part of the free memory that is planned with; the rest is for what cannot be foreseen."""


@dataclass(frozen=True)
class Footprint:
    """What one code's metric takes, in bytes.

    Attributes:
        latent_dim: n.
        features: m, the length of the residual; 0 for a distance without one.
        itemsize: of one number.
        recorded: what a code takes while its tangents are pushed: activations, derivatives, masks.
        pushed: what one tangent of one code takes at its widest.
        largest: of the largest tensor that one tangent needs.
        reverse: what one code takes in a pass of reverse mode.
        scratch: copies of weights that the libraries make while they work.
    """

    latent_dim: int
    features: int
    itemsize: int
    recorded: int
    pushed: int
    largest: int
    reverse: int
    scratch: int

    def bytes(self, batch: int, tangents: int, whole: bool = True) -> int:
        """Peak memory beyond the weights, for a batch of codes with a chunk of tangents.

        Args:
            batch: codes at once.
            tangents: tangents of each at once.
            whole: whether the Jacobian is held whole; else only H is.
        """
        n = self.latent_dim
        rows = batch * n * self.features * self.itemsize if whole else batch * n * n * 8
        pushing = batch * (self.recorded + tangents * self.pushed)
        pulling = batch * self.reverse * (1 if whole else tangents)
        block = batch * n * min(BLOCK, self.features) * 8 if whole else 0
        # the largest weights belong to small activations: their copies are gone where a tangent is at its widest
        return _FIXED + rows + max(self.scratch, pushing, pulling, block + _DENSE * batch * n**2 * 8)


@dataclass(frozen=True)
class Fit:
    """A batch and a chunk of tangents, and what they need.

    Attributes:
        batch: codes at once.
        tangents: Jacobian columns, or vectors of a product, at once.
        bytes: the estimated peak beyond the weights.
        available: the bytes that were planned with.
        whole: whether the Jacobian is held whole.
    """

    batch: int
    tangents: int
    bytes: int
    available: int
    whole: bool = True

    def halved(self, error: Exception) -> "Fit":
        """The next smaller batch, or chunk where the batch is 1, where there is less memory than was planned with.

        Raises:
            MemoryPlanError: there is no smaller one; from the error that said so.
        """
        if self.batch == self.tangents == 1:
            raise MemoryPlanError(
                "one code with one tangent at a time does not fit into the memory that is left. What was stored "
                "before is kept. Close what else uses the device, lower distance.size, or take a larger device"
            ) from error
        if self.batch > 1:
            return replace(self, batch=self.batch // 2)
        return replace(self, tangents=self.tangents // 2)


class LivePeak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors that operators make.

    Attributes:
        live: bytes of those that are alive.
        peak: the most that were alive at once.
        largest: bytes of the largest.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.largest = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count what it made."""
        result = func(*args, **(kwargs or {}))
        # A view of an input (the transposed weight of a linear layer, say) is nothing new, however large.
        known = set(_storages((args, kwargs)))
        self._forget_dead()
        for pointer, storage in _storages(result).items():
            if pointer not in known and pointer not in self._held:
                held = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._held[pointer] = held, storage.nbytes()
                self.live += storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _forget_dead(self) -> None:
        dead = [pointer for pointer, (held, _) in self._held.items() if held.expired()]  # type: ignore[no-untyped-call]
        for pointer in dead:
            self.live -= self._held.pop(pointer)[1]


def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """The memory of a tree's tensors by where it is; those that only stand for others (within `vmap`) have none."""
    found = {}
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            with suppress(RuntimeError):
                found[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage()
    return found


_footprints: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, Footprint]] = WeakKeyDictionary()


def footprint(generator: nn.Module, distance: Distance) -> Footprint:
    """Measure one code's sizes; once for as long as the generator and the distance live."""
    known = _footprints.setdefault(generator, WeakKeyDictionary())
    if distance not in known:
        known[distance] = _measure(generator, distance)
    return known[distance]


def _measure(generator: nn.Module, distance: Distance) -> Footprint:
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    z = torch.randn(1, n, generator=torch.Generator().manual_seed(0)).to(like(generator))
    condition = any_condition(generator, 1, z.device)
    weights = [p.numel() * p.element_size() for part in (generator, distance) for p in part.parameters()]
    scratch = max(weights, default=0)
    if not isinstance(distance, ResidualDistance):
        squared = squared_map(generator, distance, z[0], condition)

        def twice() -> None:
            with torch.enable_grad():
                point = z.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(squared(point).sum(), point, create_graph=True)
                torch.autograd.grad(gradient.sum(), point, retain_graph=True)

        (taken,) = _peaks(twice)
        return Footprint(n, 0, z.element_size(), 0, taken.peak, taken.largest, taken.peak, scratch)
    features = feature_map(generator, distance, condition)
    push = derivative_at(features, z)
    with torch.no_grad():
        residual = push(z.new_zeros(1, 1, n))  # whatever is kept from pass to pass is there from now on

    def pushed(tangents: int) -> Callable[[], Any]:
        return lambda: derivative_at(features, z)(z.new_zeros(tangents, 1, n))

    one, two, three = _peaks(pushed(1), pushed(3), lambda: pull_back(features, z, residual[0]))
    each = max((two.peak - one.peak) // 2, two.largest // 3)
    return Footprint(
        n,
        residual.shape[-1],
        residual.element_size(),
        max(one.peak - each, 0),
        each,
        two.largest // 3,
        three.peak,
        scratch,
    )


def _peaks(*runs: Callable[[], Any]) -> list[LivePeak]:
    taken = []
    for run in runs:
        with LivePeak() as peak:
            run()
        taken.append(peak)
    return taken


def usable_bytes(device: torch.device) -> int:
    """Memory of a device that may be planned with now: most of what is free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_SHARE * free)


def fit(
    generator: nn.Module,
    distance: Distance,
    *,
    codes: int,
    budget: int | None = None,
    batch: int | None = None,
    tangents: int | None = None,
    held: int = 0,
) -> Fit:
    """The batch and chunk of tangents to work with: as large as pays, within the budget.

    Where not even one code's Jacobian fits, H is built from products instead (`Fit.whole` is False).

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
    for whole in (True, False) if sizes.features else (False,):
        for chosen_batch, chosen_tangents in _choices(sizes, device, codes, batch, tangents):
            need = sizes.bytes(chosen_batch, chosen_tangents, whole) + held
            if need <= available:
                return Fit(chosen_batch, chosen_tangents, need, available, whole)
    least = sizes.bytes(batch or 1, tangents or 1, whole=False) + held
    raise MemoryPlanError(
        f"one metric of n = {sizes.latent_dim} with {sizes.features} residual features needs about "
        f"{least / GIB:.3g} GiB with a batch of {batch or 1} and {tangents or 1} tangents at once; "
        f"{available / GIB:.3g} GiB may be used. Nothing was started. "
        "Use a smaller distance.size, fewer workers, or a machine or GPU with more memory."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory could not be had; on a CPU it has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def codes_together(batch: int, latent_dim: int) -> int:
    """Codes to compute before their probes are made, which cost less a code for a few of them together.

    At least the batch, else 4 unless their whole metrics would be large.
    """
    return max(batch, 1, min(4, 2**26 // (8 * latent_dim**2)))


def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next allocation of this process, where it can be told to.

    Large arrays are otherwise mapped from the system and given back one by one, and clearing their pages takes up to a
    third of a metric's time on a CPU. For processes that do nothing but compute: their memory stays at its peak.
    """
    with suppress(OSError, AttributeError):  # another system's library
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # the parameters' numbers in glibc's malloc.h


def _choices(
    sizes: Footprint, device: torch.device, codes: int, batch: int | None, tangents: int | None
) -> list[tuple[int, int]]:
    """Batches and chunks to try, the best first."""
    n = sizes.latent_dim
    if device.type == "cpu":
        most = min(_MOST_IMAGES, max(4, _CACHED // max(1, sizes.largest)))
        batches = _halvings(max(1, min(codes, most // n)))  # the tangents of one code fill it, unless n is small
    else:
        most, batches = 256, _halvings(min(codes, 64))
    few = min(4, n)
    pairs = []
    for chosen in [batch] if batch else batches:
        widest = max(1, min(n, most // chosen))
        widths = {*_halvings(widest), min(few, widest)}
        for width in [tangents] if tangents else sorted(widths, reverse=True):
            pairs.append((chosen, width))
    # fewer codes rather than fewer than 4 tangents, which share what is done once a code
    roomy = [pair for pair in pairs if pair[0] == 1 or pair[1] >= few or batch or tangents]
    return roomy or pairs


def _halvings(largest: int) -> list[int]:
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes

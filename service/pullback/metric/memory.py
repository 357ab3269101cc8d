"""The memory that a metric needs, and the largest batch and chunk of tangents that fit.

The need is measured on a small run and scaled up. The job's own method runs at one code with one tangent and with
three, and every tensor that operators allocate is followed until it is freed. The peaks give the cost of a code and of
a tangent. The scratch memory of the mathematical libraries (rearranged copies of weights, workspaces) is estimated.
Elsewhere: the choice of the method (`strategy`), and how many workers share a machine.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pullback.distances import Distance, ResidualDistance
from pullback.errors import MemoryPlanError
from pullback.generators.base import any_condition, generate, reference_tensor
from pullback.metric.allocation import LivePeak
from pullback.metric.curvature import AT_ONCE
from pullback.metric.exact import Maps
from pullback.metric.gauss_newton import BLOCK
from pullback.metric.jacobian import Features, Push, feature_map, pull_back
from pullback.metric.krylov import subspace_size
from pullback.metric.methods import DENSE, Setting, product_at, push_at
from pullback.metric.products import squared_map
from pullback.metric.reverse import rows_by_reverse

GIB = 2**30
_DENSE = 9
"""Matrices n × n alive at once: H, its symmetric part, the eigenvectors, and LAPACK's copy and workspace or the
certificate's products. Measured as peak memory for n = 1500 to 3000."""
_FIXED = 2 * 2**20
"""Buffers of the mathematical libraries, independent of all sizes."""
_MOST_IMAGES = 32
"""Largest codes × tangents at once on a CPU. Fewer already keep its cores busy; more only take memory."""
_CACHED = 9 * 2**20
"""Bytes of the largest tangent up to which larger chunks pay on a CPU. Beyond it the system maps and clears memory for
each allocation, so larger chunks are slower."""
_RECORDED = 4
"""Largest number of codes that share a recording on a CPU. A metric of n = 64 at 64 × 64 pixels takes 6 to 18 per cent
less time than one code after the other."""
_MOST_HELD = 2**26
"""Largest size of their Jacobians in bytes."""
_CHECKED = 16
"""Largest number of codes whose certificates are computed at once on a CPU, if that takes at most a twentieth more
memory. A pass of a small network for 16 codes takes about a third less time than four passes for 4 codes."""
_AGREEMENT = 1e-2
"""Largest relative difference between Jv and Jᵀu at which a derivative by two reverse passes is accepted."""

Kind = Literal["jacobian", "rows", "pairs"]
"""Held in memory: a whole Jacobian, H built from products, or eigenpairs only."""


@dataclass(frozen=True)
class Footprint:
    """The memory of one code's metric by one method, in bytes.

    Attributes:
        latent_dim: n.
        features: m, the length of the residual; 0 for a distance without a residual.
        itemsize: bytes of one number.
        recorded: bytes per code while its tangents are pushed or its vectors multiplied: activations, derivatives,
            masks.
        pushed: bytes per tangent (or vector) of one code at its widest.
        largest: bytes of the largest tensor that one tangent needs.
        reverse: bytes per code in a reverse-mode pass, or in the forward passes of its certificate.
        scratch: bytes of the copies of weights that the libraries make while they work.
        copies: bytes of the float64 copies of the networks, for the certificate.
        checked: bytes of the forward passes of those copies for one code.
        more: growth of `reverse` and `checked` for each further code that a check without a Jacobian takes at once.
        kind: a whole Jacobian, H built from products, or eigenpairs only.
        kept: number of eigenpairs that an iterative method finds.
        most: largest number of tangents (or vectors) that the method takes at once.
    """

    latent_dim: int
    features: int
    itemsize: int
    recorded: int
    pushed: int
    largest: int
    reverse: int
    scratch: int
    copies: int = 0
    checked: int = 0
    more: tuple[int, int] = (0, 0)
    kind: Kind = "jacobian"
    kept: int = 0
    most: int = 2**20

    def bytes(self, batch: int, tangents: int, together: int | None = None) -> int:
        """Peak memory beyond the weights.

        Args:
            batch: codes computed at once.
            tangents: tangents of each code at once.
            together: codes whose certificates are computed at once; by default `batch`.
        """
        n = self.latent_dim
        whole = self.kind == "jacobian"
        together = batch if together is None else max(batch, together)
        at_once = batch if whole else 1  # products are made code by code
        pushing = at_once * (self.recorded + min(tangents, self.most) * self.pushed)
        further = 0 if whole else checked_at_once(tangents) - 1
        pulling = (together if whole else 1) * self.reverse + further * self.more[0]
        if self.kind == "pairs":
            held = 8 * (2 * n + 4 * self.kept) * subspace_size(n, self.kept) + 8 * n * (6 * self.kept + 32)
            decomposing = 0
        else:
            held = together * n**2 * 8 + (batch * n * self.features * self.itemsize if whole else 0)
            # J is freed before the certificate and the decomposition need their memory
            decomposing = _DENSE * together * n**2 * 8 - (held if whole else 0)
        block = batch * n * min(BLOCK, self.features) * 8 if whole else 0
        checking = (
            self.copies + self.checked + further * self.more[1] + self.scratch
        )  # float64 checks take one code at a time
        if not whole:
            checking += self.recorded  # the products stay alive until the certificate is finished
        # The largest weights belong to small activations. Their copies are freed before a tangent is at its widest.
        return _FIXED + max(held + max(self.scratch, pushing, block + decomposing), pulling, checking)


@dataclass(frozen=True)
class Fit:
    """A batch and a chunk of tangents, and the memory they need.

    Attributes:
        batch: codes computed at once.
        tangents: Jacobian columns, or vectors of a product, computed at once.
        bytes: estimated peak memory beyond the weights.
        available: bytes that the plan may use.
        whole: whether the whole Jacobian is held.
        together: codes whose certificates are computed at once; 0 for the number that `codes_together` gives.
    """

    batch: int
    tangents: int
    bytes: int
    available: int
    whole: bool = True
    together: int = 0

    def halved(self, error: Exception) -> "Fit":
        """The next smaller fit after a failed allocation: half the batch, else half the chunk, else no whole J.

        Raises:
            MemoryPlanError: there is no smaller fit. Its cause is the error of the allocation.
        """
        if self.batch > 1:
            return replace(self, batch=self.batch // 2, together=0)
        if self.tangents > 1:
            return replace(self, tangents=self.tangents // 2)
        if self.whole:
            return replace(self, whole=False)
        reason = str(error).strip().partition("\n")[0]
        raise MemoryPlanError(
            "one code with one tangent at a time does not fit into the memory that is left. What was stored "
            "before is kept. Close what else uses the device, use smaller images for the distance (its size), or a "
            f"larger device (the last error was: {reason})"
        ) from error


def measure(generator: nn.Module, distance: Distance, setting: Setting, kind: Kind, kept: int) -> Footprint:
    """Measure the memory of one code's metric, by running parts of the method.

    Raises:
        Exception: any error of the networks, if they cannot be differentiated in the way that the method needs.
    """
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    reference = reference_tensor(generator)
    weights = [p for part in (generator, distance) for p in [*part.parameters(), *part.buffers()]]
    scratch = max((w.numel() * w.element_size() for w in weights), default=0)
    both = torch.randn(2, n, generator=torch.Generator().manual_seed(0)).to(reference)
    condition = any_condition(generator, 2, both.device)
    z, own = both[:1], None if condition is None else condition[:1]
    with torch.enable_grad():
        if not generate(generator, z.detach().requires_grad_(), own).requires_grad:
            raise RuntimeError(
                "the images do not depend on the latent code by operations that torch can follow "
                "(no_grad, detach, numpy, or images of integers)"
            )
    directions = torch.randn(3, n, generator=torch.Generator().manual_seed(1)).to(both)
    features = 0
    if isinstance(distance, ResidualDistance):
        mapped = feature_map(generator, distance, own)
        with torch.no_grad():
            residual = mapped(z)
        features = residual.shape[1]
        if kind == "jacobian":
            _check_route(feature_map(generator, distance, condition), both, setting, directions)

        def certify(many: int) -> Any:
            with torch.no_grad():
                mapped(z.repeat(many, 1))
            return _reverse(mapped, z, residual)
    else:
        squared = squared_map(generator, distance, z[0], own)

        def certify(many: int) -> Any:
            with torch.no_grad():
                squared(z.repeat(many, 1))

    def run(vectors: int) -> Callable[[], Any]:
        if kind != "jacobian":
            return lambda: product_at(generator, distance, z[0], own, setting, vectors)(directions[:vectors])
        if setting.route == "rows":
            return lambda: rows_by_reverse(lambda codes: mapped(codes)[:, :vectors], z, vectors)
        return lambda: push_at(mapped, z, setting)(directions[:vectors, None])

    exact = Maps(generator, distance, z, own)

    def copied() -> None:
        exact.copies  # noqa: B018 - the copies are made when they are first asked for

    def forward(many: int) -> Any:
        codes = z.double().repeat(many, 1)
        with torch.no_grad():
            maps = exact.exact_features_of() if kind == "jacobian" else None
            return exact.exact_squared_at(0)()(codes) if maps is None else maps(slice(0, 1))(codes)

    run(1)()  # warm-up: allocates whatever is kept from pass to pass
    one, three = _peaks(run(1), run(3))
    # Differences in float32 are over one side of a code at a time, and in other arithmetic over both (`differences`).
    passes = 2 if setting.precision == "float32" else 3
    counts = (passes,) if kind == "jacobian" else (1, AT_ONCE)
    certificates = [peak.peak for peak in _peaks(*[lambda many=many: certify(many) for many in counts])]
    each = max((three.peak - one.peak) // 2, three.largest // 3)
    recorded = max(one.peak - each, 0)
    if kind == "jacobian" and setting.route != "rows":  # measured apart: recording may exceed a few tangents
        pushes: list[Push] = []
        (recording,) = _peaks(lambda: pushes.append(push_at(mapped, z, setting)))
        few, more = _peaks(*[lambda count=count: pushes[0](directions[:count, None]) for count in (1, 3)])
        each = max((more.peak - few.peak) // 2, more.largest // 3)
        recorded = max(recording.peak - each, recording.live + few.peak - each, 0)
        each += more.largest // 3  # a convolution library copies its input into its own layout
    copies, exactly = 0, [0]
    if reference.dtype != torch.float64:
        with suppress(Exception):  # some networks run in float32 only; their certificate uses no copy
            (made,) = _peaks(copied)
            copies = made.peak
            counts = (2,) if kind == "jacobian" else (1, AT_ONCE)
            exactly = [peak.peak for peak in _peaks(*[lambda many=many: forward(many) for many in counts])]
    return Footprint(
        latent_dim=n,
        features=features,
        itemsize=reference.element_size(),
        recorded=recorded,
        pushed=each,
        largest=three.largest // 3,
        reverse=certificates[0],
        scratch=scratch,
        copies=copies,
        checked=exactly[0],
        more=(_growth(certificates), _growth(exactly)),
        kind=kind,
        kept=kept if setting.method not in DENSE else 0,
        most=1 if setting.method == "backprop" else n,
    )


def _growth(peaks: Sequence[int]) -> int:
    """Bytes for each further code, from the peaks of one code and of `AT_ONCE` codes; 0 for a single peak."""
    return (peaks[-1] - peaks[0]) // (AT_ONCE - 1)


def _check_route(features: Features, z: Tensor, setting: Setting, directions: Tensor) -> None:
    """Run the Jacobian's route once for several codes and tangents.

    Raises:
        RuntimeError: two reverse passes contradict one, because a backward pass leaves torch (`detach`, numpy).
    """
    if setting.route == "rows":
        rows_by_reverse(lambda codes: features(codes)[:, :2], z, 2)
        return
    push: Push = push_at(features, z, setting)
    pushed = push(directions[:2, None].expand(-1, len(z), -1))
    if setting.route != "reverse":
        return
    cotangents = torch.randn(pushed.shape[1:], generator=torch.Generator().manual_seed(2)).to(pushed)
    pulled, _ = pull_back(features, z, cotangents)
    by_push, by_pull = (pushed[0] * cotangents).sum(1), (pulled * directions[0]).sum(1)
    size = pushed[0].norm(dim=1) * cotangents.norm(dim=1) / pushed.shape[-1] ** 0.5
    if bool(((by_push - by_pull).abs() > _AGREEMENT * (by_pull.abs() + size)).any()):
        raise RuntimeError("the backward pass of an operation leaves torch, so it cannot be differentiated")


def _reverse(features: Features, z: Tensor, residual: Tensor) -> Any:
    try:
        return pull_back(features, z, residual)
    except (NotImplementedError, RuntimeError):  # the certificate reports that there is no reverse mode
        return None


def _peaks(*runs: Callable[[], Any]) -> list[LivePeak]:
    taken = []
    for run in runs:
        with LivePeak() as peak:
            run()
        taken.append(peak)
    return taken


def fit(
    sizes: Footprint,
    device: torch.device,
    *,
    codes: int,
    available: int,
    batch: int | None = None,
    tangents: int | None = None,
    held: int = 0,
) -> Fit | None:
    """The largest batch and chunk of tangents that are worthwhile and fit into memory; None if none fits.

    Args:
        sizes: the memory of one code.
        device: CPUs and GPUs are fully used at different sizes.
        codes: upper bound of a batch.
        available: bytes that may be used.
        batch: fixed batch; by default chosen.
        tangents: fixed chunk; by default chosen.
        held: bytes that the caller needs in addition, for example for a shard's results.
    """
    for chosen_batch, chosen_tangents in _choices(sizes, device, codes, batch, tangents):
        together = min(codes, codes_together(chosen_batch, sizes.latent_dim)) if sizes.kind != "pairs" else 1
        need = sizes.bytes(chosen_batch, chosen_tangents, together) + held
        if need <= available:
            chosen = Fit(chosen_batch, chosen_tangents, need, available, sizes.kind == "jacobian")
            more = min(codes, _CHECKED)
            if device.type != "cpu" or sizes.kind != "jacobian" or more <= together:
                return chosen
            larger = sizes.bytes(chosen_batch, chosen_tangents, more) + held
            fits = larger <= min(available, need + need // 20)
            return replace(chosen, bytes=larger, together=more) if fits else chosen
    return None


def checked_at_once(tangents: int) -> int:
    """Number of codes that a certificate without a Jacobian passes through the networks at once: at most `tangents`."""
    return max(1, min(AT_ONCE, tangents))


def codes_together(batch: int, latent_dim: int) -> int:
    """Codes to compute before probing them, because probes are cheaper per code for several codes at once.

    At least the batch. Otherwise 4, or fewer if their metrics would be large.
    """
    return max(batch, 1, min(4, 2**26 // (8 * latent_dim**2)))


def _choices(
    sizes: Footprint, device: torch.device, codes: int, batch: int | None, tangents: int | None
) -> list[tuple[int, int]]:
    """Batches and chunks to try, best first."""
    n = sizes.latent_dim
    if device.type == "cpu":
        most = min(_MOST_IMAGES, max(4, _CACHED // max(1, sizes.largest)))
        batches = _halvings(max(1, min(codes, max(most // n, _recorded_together(sizes, most)))))
    else:
        most, batches = 256, _halvings(min(codes, 64))
    few = min(4, n)
    pairs = []
    for chosen in [batch] if batch else batches:
        widest = max(1, min(n, most // chosen))
        if chosen <= _RECORDED and device.type == "cpu":
            widest = max(widest, few)
        widths = {*_halvings(widest), min(few, widest)}
        for width in [tangents] if tangents else sorted(widths, reverse=True):
            pairs.append((chosen, width))
    # Prefer fewer codes to fewer than 4 tangents, because the tangents of a code share its primal pass.
    roomy = [pair for pair in pairs if pair[0] == 1 or pair[1] >= few or batch or tangents]
    return roomy or pairs


def _recorded_together(sizes: Footprint, most: int) -> int:
    """Codes whose Jacobians a CPU computes at once although the tangents of one code fill it.

    They share a recording, which takes the time of some forward passes whatever their number. One code if its
    activations or its Jacobian are large.
    """
    if sizes.kind != "jacobian" or most < 2 * _RECORDED:
        return 1
    held = sizes.latent_dim * sizes.features * sizes.itemsize
    return max(1, min(_RECORDED, _MOST_HELD // max(1, held)))


def _halvings(largest: int) -> list[int]:
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes

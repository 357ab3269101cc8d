"""Directions that cover every latent coordinate, and checks of Jacobians by reverse mode. See also `differences`.

A direction D moves all coordinates at once, each by an amount inversely proportional to the norm of its Jacobian
column. So every column contributes equally to J D, and one wrong column among thousands is visible in
J D − (r(z + εD) − r(z − εD)) / 2ε. The signs in D and all other random numbers of a code are drawn from a seed, which
is a checksum of the code. They differ between samples, and are the same for every batch, order and device.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pullback.metric.check_timing import verifying
from pullback.metric.forward.torch_modes import raise_if_no_way_helps
from pullback.metric.jacobian import Features, pull_back

SMALLEST = 1e-3
"""Columns smaller than this, relative to the largest, are weighted as if they had this size, because their round-off is
as large as in other columns."""
NEGLIGIBLE = 1e-6
"""Columns smaller than this, relative to the largest, count as zero; see `finite_steps`."""
FEW = 8
"""With at most this many coordinates, signs cannot move the code both along itself and along its mean."""
_SWITCHED = 2e-3
"""Relative change common to all columns that switching ReLUs (inputs within round-off of zero) may cause."""
_DRAWS = 16
"""Sign vectors drawn. The one best aligned with the code and its mean is used."""
_BLOCK = 8192
"""Features per block. Products are summed in the Jacobian's dtype within a block, and in float64 over blocks."""


def seed_of(code: Tensor) -> int:
    """The seed of all random numbers in the checks of a code [n]: the CRC-32 of its numbers in float64."""
    numbers: object = code.detach().to("cpu", torch.float64).contiguous().numpy()
    return zlib.crc32(numbers)  # type: ignore[arg-type]


def draw_signs(z: Tensor, salt: int = 0) -> Tensor:
    """Random signs [batch, n] float64 on the CPU for codes [batch, n]. Another salt gives other signs."""
    drawn = [torch.randint(0, 2, (z.shape[1],), generator=_stream(code, 2 * salt)) for code in z]
    return 2 * torch.stack(drawn).to(torch.float64) - 1


def draw_signs_along(z: Tensor, salt: int = 0) -> Tensor:
    """Random signs [batch, n] as from `draw_signs`, but the best of several draws: aligned with the code and its mean.

    Some networks normalise their codes without differentiating the norm or the mean. Their derivative is wrong only
    along the code, or along equal changes of all coordinates.
    """
    return torch.stack([_signs_along(code, _stream(code, 2 * salt)) for code in z.detach().to("cpu", torch.float64)])


def _signs_along(code: Tensor, stream: torch.Generator) -> Tensor:
    drawn = 2 * torch.randint(0, 2, (_DRAWS, len(code)), generator=stream).to(torch.float64) - 1
    cosines = drawn @ along_code_and_mean(code[None])[0, :2].T
    return drawn[int(cosines.abs().amin(dim=1).argmax())]


def along_code_and_mean(z: Tensor) -> Tensor:
    """Unit vectors along each code, (1, ..., 1), and the code minus its mean [batch, 3, n] float64 on the CPU.

    Networks that normalise their codes behave specially in these directions. A zero code gives a zero vector.
    """
    codes = z.detach().to("cpu", torch.float64)
    along = torch.stack([codes, torch.ones_like(codes), codes - codes.mean(dim=1, keepdim=True)], dim=1)
    lengths = along.norm(dim=2, keepdim=True)
    still = lengths <= torch.finfo(torch.float64).eps * codes.norm(dim=1)[:, None, None]
    unit: Tensor = torch.where(still, 0.0, along / torch.where(still, 1.0, lengths))
    return unit


def draw_features(z: Tensor, reference_tensor: Tensor) -> Tensor:
    """Random normal features [batch, m] for codes [batch, n], with the dtype and device of a tensor [..., m]."""
    drawn = [torch.randn(reference_tensor.shape[-1], generator=_stream(code, 1)) for code in z]
    return torch.stack(drawn).to(reference_tensor)


def _stream(code: Tensor, salt: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(bytes([salt]), seed_of(code)))  # the generator uses 32 bits


def covering(sizes: Tensor, signs: Tensor, smallest: float = SMALLEST) -> Tensor:
    """Directions [batch, n] to which every column contributes equally, by the norm of the largest column.

    Args:
        sizes: norms of the columns [batch, n].
        signs: ±1 [batch, n].
        smallest: see `SMALLEST`.
    """
    largest = sizes.amax(dim=1, keepdim=True)
    scaled = sizes / torch.where(largest > 0, largest, torch.ones_like(largest))
    return signs.to(sizes) / torch.where(largest > 0, scaled.clamp_min(smallest), torch.ones_like(scaled))


def still(sizes: Tensor) -> Tensor:
    """Whether columns count as zero, given their norms [..., n]."""
    return sizes <= NEGLIGIBLE * sizes.amax(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Looks:
    """The records that the checks need of a Jacobian after it is freed, for a batch of codes.

    Attributes:
        sizes: norm of each column [batch, n] float64 on the CPU.
        directions: D [batch, n] float64 on the CPU, from `covering`.
        pushed: J D [batch, m].
        even: a direction whose coordinates move by similar amounts [batch, n] float64 on the CPU.
        pushed_even: J times `even` [batch, m].
        along: `along_code_and_mean` [batch, 3, n] if there are at most `FEW` coordinates; else [batch, 0, n].
        pushed_along: J times each of them [batch, 3 or 0, m].
        projected: Jᵀu for random features u [batch, n].
        product_error: see `Certificate` [batch].
        column_error: see `Certificate` [batch]; NaN before `compare_columns`.
        value: the features r at the codes [batch, m]; empty before `compare_columns`.
    """

    sizes: Tensor
    directions: Tensor
    pushed: Tensor
    even: Tensor
    pushed_even: Tensor
    along: Tensor
    pushed_along: Tensor
    projected: Tensor
    product_error: Tensor
    column_error: Tensor
    value: Tensor

    @staticmethod
    def joined(parts: Sequence["Looks"]) -> "Looks":
        """Join the records of several batches."""
        return Looks(*[torch.cat([getattr(part, entry.name) for part in parts]) for entry in fields(Looks)])

    def __getitem__(self, part: slice | Tensor) -> "Looks":
        return Looks(*[getattr(self, entry.name)[part] for entry in fields(Looks)])


@verifying
def look(rows: Tensor, metric: Tensor, z: Tensor) -> Looks:
    """Record what the checks need of a Jacobian.

    Args:
        rows: Jᵀ [batch, n, m].
        metric: H as computed from the Jacobian [batch, n, n] float64.
        z: the codes [batch, n].
    """
    batch, n, m = rows.shape
    sizes = (metric.diagonal(dim1=1, dim2=2) / 2).clamp_min(0).sqrt().cpu()
    directions = covering(sizes, draw_signs_along(z))
    even = covering(sizes, draw_signs_along(z, 1), smallest=0.1)
    pushed, pushed_even = torch.bmm(torch.stack([directions, even], dim=1).to(rows), rows).unbind(1)
    along = along_code_and_mean(z)[:, : 3 if n <= FEW else 0]
    both = torch.stack([draw_features(z, rows), pushed], dim=1)
    pulled = torch.zeros(batch, 2, n, dtype=torch.float64, device=rows.device)
    for start in range(0, m, _BLOCK):  # J on the right: on a CPU four times as fast as J times two columns
        pulled += torch.bmm(both[:, :, start : start + _BLOCK], rows[:, :, start : start + _BLOCK].transpose(1, 2))
    wanted = torch.bmm(metric, directions.to(metric)[:, :, None])[:, :, 0].cpu()
    # Both sides in units of the coordinates that D moves. Each row of H D is then a sum of n comparable entries.
    error = ((wanted - 2 * pulled[:, 1].cpu()) * directions.abs()).abs().amax(dim=1)
    size = 2 * n**0.5 * sizes.amax(dim=1) ** 2  # bound of such a sum: its value may cancel, its round-off does not
    return Looks(
        sizes,
        directions,
        pushed,
        even,
        pushed_even,
        along,
        torch.bmm(along.to(rows), rows),
        pulled[:, 0].cpu(),
        torch.where(error == 0, torch.zeros_like(error), error / size),
        torch.full((batch,), torch.nan, dtype=torch.float64),
        rows.new_empty(batch, 0),
    )


@verifying
def compare_columns(features: Features, z: Tensor, looks: Looks) -> Looks:
    """The records of a batch with `value` and `column_error` filled in. Reverse mode runs once.

    Args:
        features: the map.
        z: the codes [batch, n].
        looks: the records of the Jacobians.
    """
    try:
        pulled, value = pull_back(features, z, draw_features(z, looks.pushed))
    except RuntimeError as failure:
        # There is no reverse mode: the user's operator lacks one, or the network overwrites a tensor that the reverse
        # pass needs.
        raise_if_no_way_helps(failure)
        with torch.no_grad():
            pulled, value = torch.full_like(z, torch.nan), features(z)
    scale = looks.sizes.maximum(SMALLEST * looks.sizes.amax(dim=1, keepdim=True))
    deviation = (looks.projected - pulled.to("cpu", torch.float64)).abs()
    errors = torch.where(deviation == 0, torch.zeros_like(deviation), deviation / scale)
    # A ReLU that switches between the two passes changes all columns alike. A wrong column stands out.
    common = (6 * errors.median(dim=1).values).clamp_max(_SWITCHED)
    error = errors.amax(dim=1) - common
    error = torch.where(error < 0, torch.zeros_like(error), error)
    return replace(looks, column_error=error, value=value)


@verifying
def probe_symmetry(product: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """`symmetry_error` of a product at a code z [n], a scalar: the largest over all pairs of four random unit vectors.

    For a pair u, v it is |uᵀHv − vᵀHu| / (‖Hu‖ + ‖Hv‖).
    """
    drawn = torch.randn(4, len(z), generator=_stream(z, 2), dtype=torch.float64)
    directions = drawn / drawn.norm(dim=1, keepdim=True)
    products = product(directions.to(z)).to("cpu", torch.float64)
    crossed, norms = products @ directions.T, products.norm(dim=1)
    size = norms[:, None] + norms[None, :]
    error: Tensor = (crossed - crossed.T).abs() / torch.where(size == 0, torch.ones_like(size), size)
    return error.amax()

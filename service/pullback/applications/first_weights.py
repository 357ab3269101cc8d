"""Directions from the first weights that act on the code (SeFa: Shen and Zhou, CVPR 2021).

With A the weights of the layers that see the code, one row for each of their outputs, the directions are the
eigenvectors of AᵀA, by descending eigenvalue. The published code scales every row of A to unit length, and does not
sort; this module scales by default, and sorts.

A layer sees the code if each entry of its input is an entry of the code or does not depend on it. So the style layers
of a StyleGAN in W, and the class embeddings of a BigGAN, are found like the first layer of a DCGAN. If a normalisation
of the code comes first, the layer after it is taken, with its own input in place of the code.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pullback.applications.direction_sets import DirectionSet
from pullback.applications.recorded_layers import layers, recorded
from pullback.errors import PullbackError
from pullback.generators.attributes import latent_size
from pullback.generators.base import reference_tensor

Floats = npt.NDArray[np.float64]

_LARGEST = 2**30
"""Bytes of the weights of one layer."""
_AFFINE = 1e-3
"""Largest deviation from a straight line, relative to the change, of a layer that is linear in its input."""


@dataclass(frozen=True, eq=False)
class FirstWeights:
    """The weights `[outputs, n]` of a layer that sees the code, as a function of the code."""

    layer: str
    matrix: Floats


def weight_directions(generator: nn.Module, count: int, unit_rows: bool = True) -> DirectionSet:
    """Return the leading eigenvectors of AᵀA.

    Args:
        generator: the generator.
        count: number of directions, at most n.
        unit_rows: scale each row of A to unit length, as the published code does.

    Raises:
        PullbackError: no layer is linear in the code.
    """
    found = first_weights(generator)
    n = latent_size(generator)
    total = np.zeros((n, n))
    for each in found:
        rows = each.matrix
        if unit_rows:
            lengths = np.linalg.norm(rows, axis=1)
            rows = rows[lengths > 0] / lengths[lengths > 0, None]
        total += rows.T @ rows
    values, columns = np.linalg.eigh(total)
    unseen = np.flatnonzero(np.diag(total) == 0)
    if len(unseen):
        raise PullbackError(
            f"no layer of this generator is linear in the coordinates {unseen[0]} to {unseen[-1]} of the code, so it "
            "has no first weights (SeFa). Leave it out."
        )
    names = found[0].layer if len(found) == 1 else f"{len(found)} layers, {found[0].layer} to {found[-1].layer}"
    scaled = "rows of unit length" if unit_rows else "rows as they are"
    notes = (f"eigenvectors of AᵀA of {names}; {scaled}",)
    return DirectionSet.of("sefa", columns.T[::-1][:count], values[::-1][:count], notes)


def first_weights(generator: nn.Module) -> list[FirstWeights]:
    """Return the weights of every layer that sees the code, in the order of computation.

    Raises:
        PullbackError: no layer is linear in the code, or its weights take more than 1 GiB.
    """
    candidates = {
        name: module
        for name, module in layers(generator).items()
        if any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
    }
    # Not mapped codes: in W+ those repeat one code in every block.
    codes = torch.randn(2, latent_size(generator), generator=torch.Generator().manual_seed(0))
    codes = codes.to(reference_tensor(generator))
    calls = recorded(generator, codes, candidates, one_class=True)
    seen = [(name, where) for name, call in calls.items() if (where := _coordinates(codes, call[0])) is not None]
    if not seen and calls:  # a normalisation comes first
        name, (given, _) = next(iter(calls.items()))
        if given[0].numel() == codes.shape[1]:
            seen = [(name, torch.arange(codes.shape[1], device=given.device).reshape(given[0].shape))]
    found = [
        FirstWeights(name, matrix)
        for name, where in seen
        if (matrix := _matrix(candidates[name], name, calls[name][0][:1], where, codes.shape[1])) is not None
    ]
    if not found:
        raise PullbackError(
            "no layer of this generator is linear in the code, so it has no first weights (SeFa). Leave it out."
        )
    return found


def _coordinates(codes: Tensor, given: Tensor) -> Tensor | None:
    """Return the coordinate of the code at each place of a layer's input, −1 for a constant; None for other inputs.

    Two codes differ by other numbers in each coordinate, and an input that copies a coordinate differs by the same.
    """
    if len(given) != len(codes) or given.dtype != codes.dtype:
        return None
    of_code, of_input = codes[0] - codes[1], (given[0] - given[1]).flatten()
    order = torch.argsort(of_code)
    places = torch.searchsorted(of_code[order], of_input).clamp(max=len(order) - 1)
    coordinates = order[places]
    copied, constant = of_code[coordinates] == of_input, of_input == 0
    if not bool((copied | constant).all()) or not bool(copied.any()):
        return None
    coordinates[~copied] = -1
    return coordinates.reshape(given[0].shape)


@torch.no_grad()
def _matrix(module: nn.Module, name: str, given: Tensor, where: Tensor, latent_dim: int) -> Floats | None:
    """Return the weights `[outputs, n]` of a layer by evaluating it; None if it is not linear in its input."""
    given = torch.where(where < 0, given, torch.zeros_like(given))
    start = module(given)
    if not isinstance(start, Tensor) or not _is_affine(module, given, start):
        return None
    if start.numel() * latent_dim * 8 > _LARGEST:
        raise PullbackError(
            f"the weights of the first layer {name!r} are {start.numel()} × {latent_dim}, too many to decompose. "
            "Leave this method (SeFa) out."
        )
    columns = np.zeros((latent_dim, start.numel()))
    for coordinate in torch.unique(where[where >= 0]).tolist():
        moved = module(given + (where == coordinate).to(given))
        columns[coordinate] = (moved - start).double().flatten().cpu().numpy()
    return columns.T


def _is_affine(module: nn.Module, given: Tensor, start: Tensor) -> bool:
    stream = torch.Generator().manual_seed(0)
    step = torch.randn(given.shape, generator=stream).to(given)
    near, far = module(given + step), module(given + 2 * step)
    change = (far - start).abs().max()
    return bool(change > 0) and bool((far - 2 * near + start).abs().max() <= _AFFINE * change)

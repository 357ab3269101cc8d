"""Matrix products in which one or both operands depend on the code.

d(LR) = dL R + L dR. If L is a fixed matrix F times one number per column, L = F ∘ σ (as in the modulated layers of
CIPS), then dL R + L dR = F (dσ ∘ R + σ ∘ dR). This is one product, and it does not need the tangent of L. The same
holds for R and its rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from pullback.metric.forward.structures import gathered, is_small, pieces, ratio
from pullback.metric.forward.tape import Tape, Term, Traced, plain

_COPIED = 2**13
"""Largest batch of fixed matrices, in numbers, that is copied for each tangent. Larger ones are multiplied one tangent
at a time."""


_WIDE = 4
"""If the result has this many times the numbers of its operands, a product of joined operands is faster."""


def product(tape: Tape, func: Callable[..., Any], left: Any, right: Any, result: Tensor) -> list[Term]:
    """The terms of `left @ right`, where at least one operand is traced."""
    a, b = plain(left), plain(right)
    if a.dim() < 2 or b.dim() < 2:
        return _of_vectors(tape, func, left, right, result)
    for mine, other, turned in ((left, right, False), (right, left, True)):
        if isinstance(mine, Traced) and is_small(tape, mine):
            terms = _structured(tape, mine, other, turned, result)
            if terms is not None:
                return terms
    if isinstance(left, Traced) and isinstance(right, Traced) and _is_wide(a, b, result):
        return [tape.emit(both, [tape.whole(left), tape.whole(right)], result.shape, [a, b])]
    terms = []
    if isinstance(left, Traced):
        terms.append(tape.emit(times, [tape.whole(left)], result.shape, [b]))
    if isinstance(right, Traced):
        terms.append(tape.emit(after, [tape.whole(right)], result.shape, [a]))
    return terms


def _structured(tape: Tape, mine: Traced, other: Any, turned: bool, result: Tensor) -> list[Term] | None:
    """The terms if `mine` is a fixed matrix times few numbers; None if it is not.

    `mine` is the first operand, or the second if `turned`. "Rows" are its axis that the result keeps, and "columns" its
    axis that is summed over.
    """
    rows, columns = (-1, -2) if turned else (-2, -1)
    found = [(piece, piece.depends_on(rows), piece.depends_on(columns)) for piece in pieces(tape, mine)]
    if any(by_row and by_column for _, by_row, by_column in found):
        return None
    matrix, fixed = mine.primal, plain(other)

    def multiplied(factor: Tensor) -> Tensor:
        made: Tensor = fixed @ factor if turned else factor @ fixed
        return made

    terms: list[Term] = []
    wanted = torch.broadcast_shapes(matrix.shape[:-2], fixed.shape[:-2])  # type: ignore[no-untyped-call]
    by_columns = [piece for piece, by_row, _ in found if not by_row]
    for piece, by_row, _ in found:
        if by_row:
            index = piece.index.narrow(columns, 0, 1)
            terms.append(gathered(tape, piece.slot, index, index.shape).times(multiplied(piece.factor)))
    reference, scale = None, None
    if by_columns:
        reference = by_columns[0].factor
        scale = ratio(matrix, reference, (matrix.dim() + rows,))
    if isinstance(other, Traced) and (reference is None or scale is None):
        whole = tape.whole(other)
        terms.append(tape.emit(times if turned else after, [whole], result.shape, [matrix]))
    if reference is None:
        return terms
    inner = [scale] if isinstance(other, Traced) and scale is not None else []
    operand: list[Term] = [term.times(inner[0].mT) for term in other.terms] if inner else []
    lonely: list[tuple[Tensor, list[Term]]] = []
    for piece in by_columns:
        index = piece.index.narrow(rows, 0, 1).mT
        term = gathered(tape, piece.slot, index, index.shape)
        share = ratio(piece.factor, reference, (matrix.dim() + rows,))
        if share is not None:
            operand.append(term.times(fixed * share.mT))
        else:
            lonely.append((piece.factor, [term.times(fixed)]))
    for factor, parts in [(reference, operand), *lonely]:
        value = fixed.expand(*wanted, *fixed.shape[-2:])
        slot = tape.whole(tape.wrap(value, parts))
        terms.append(tape.emit(times if turned else after, [slot], result.shape, [factor]))
    return terms


def _is_wide(left: Tensor, right: Tensor, result: Tensor) -> bool:
    """Whether a result is much larger than its operands, such as the scores of an attention."""
    alike = left.dim() == right.dim() and left.shape[:-2] == right.shape[:-2] and left.dtype == right.dtype
    return alike and result.numel() >= _WIDE * (left.numel() + right.numel())


def both(t: Tensor, u: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """dL R + L dR = [dL, L] [R; dR] for tangents [chunk, ..., rows, inner] and [chunk, ..., inner, columns].

    A sum of two products would write and read the large result twice more.
    """
    rows = torch.cat([t, left.expand(t.shape)], dim=-1)
    columns = torch.cat([right.expand(u.shape), u], dim=-2)
    return rows @ columns


def times(t: Tensor, right: Tensor) -> Tensor:
    """Tangents [chunk, ..., rows, inner] times a fixed matrix or a batch of fixed matrices."""
    if right.numel() == right.shape[-2] * right.shape[-1]:
        made = t.reshape(-1, t.shape[-1]) @ right.view(right.shape[-2:])
        made = made.view(*t.shape[:-1], -1)
        extra = right.dim() - (t.dim() - 1)
        return made.view(len(t), *[1] * extra, *made.shape[1:]) if extra > 0 else made
    return _each(t, right, lambda x, out: torch.matmul(x, right, out=out))


def after(t: Tensor, left: Tensor) -> Tensor:
    """A fixed matrix or a batch of fixed matrices times tangents [chunk, ..., inner, columns]."""
    if left.numel() == left.shape[-2] * left.shape[-1]:
        stacked = t.reshape(-1, *t.shape[-2:])
        matrix = left.view(left.shape[-2:])
        made = torch.bmm(matrix.expand(len(stacked), *matrix.shape), stacked)
        extra = max(0, left.dim() - (t.dim() - 1))
        return made.view(len(t), *[1] * extra, *t.shape[1:-2], *made.shape[-2:])
    return _each(t, left, lambda x, out: torch.matmul(left, x, out=out))


def _each(t: Tensor, fixed: Tensor, multiply: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
    """Multiply by a batch of fixed matrices without copying the batch for each tangent, as `matmul` would."""
    if fixed.numel() <= _COPIED:
        missing = fixed.dim() - (t.dim() - 1)
        return multiply(t.view(len(t), *[1] * missing, *t.shape[1:]) if missing > 0 else t, None)
    first = multiply(t[0], None)
    made = first.new_empty(len(t), *first.shape)
    made[0] = first
    for one, into in zip(t[1:], made[1:], strict=True):
        multiply(one, into)
    return made


def _of_vectors(tape: Tape, func: Callable[..., Any], left: Any, right: Any, result: Tensor) -> list[Term]:
    def turned(tangent: Tensor, other: Tensor) -> Tensor:
        made: Tensor = func(other, tangent)
        return made

    terms = []
    if isinstance(left, Traced):
        terms.append(tape.emit(vmap(func, (0, None)), [tape.whole(left)], result.shape, [plain(right)]))
    if isinstance(right, Traced):
        terms.append(tape.emit(vmap(turned, (0, None)), [tape.whole(right)], result.shape, [plain(left)]))
    return terms

"""Check that a module behaves as a generator: try it on a few codes before anything is computed.

An error is one sentence that names the cause and what to do. The outcome of a check is cached until the module changes
(its training mode, parameters, buffers, dtypes or devices).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pullback.errors import PullbackError, exit_message, is_interrupt, with_message
from pullback.generators.attributes import class_names, latent_size, loading_notes, name_of
from pullback.generators.base import OVERSHOOT, any_condition, generate, reference_tensor
from pullback.generators.codes import trial_codes
from pullback.generators.differentiability import Suspect, differentiability_problem, first_suspect
from pullback.generators.family import FamilyGenerator
from pullback.generators.full_precision import HALF, is_marked, mark, unmark

_SAME = 1e-3
"""Largest difference of images in [0, 1] that counts as round-off. On a GPU, round-off may differ from call to call."""
_SAME_HALF = 2e-2
"""The same bound for images in half precision or bfloat16."""
_REPEATED = 1e-2
"""Fraction of these bounds that counts as round-off when a CPU repeats the same computation. The bound is tighter than
for two batch sizes, so that weak noise is found too."""
_ROWS = 1e-1
"""The same fraction for two equal codes in one batch: a CPU may sum their rows in a different order."""
_SEED = 2021
"""Seed of the trial codes. It is not 0, because a user's random weights may have been drawn with that seed."""
_MORE_CODES = 6
"""Further codes to try, besides the first two, before images count as independent of the code."""
_FAR = 100.0
"""Factor by which those codes are longer than standard normal codes: saturated images may change only far out."""
_MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers that behave differently in training mode."""


@dataclass(frozen=True)
class _Checked:
    fingerprint: tuple[Any, ...]
    channels: int
    coarse: Suspect | None


_checked: WeakKeyDictionary[nn.Module, _Checked] = WeakKeyDictionary()


def check_once(generator: nn.Module) -> None:
    """Run `check_generator`, unless this module has been checked and has not changed since.

    A derivative that is zero or incomplete passes: the certificate of the metric tests it numerically.
    """
    known = _checked.get(generator) if isinstance(generator, nn.Module) else None
    if known is None or known.fingerprint != _fingerprint(generator):
        check_generator(generator, name_of(generator), strict=False)


def notes_of(generator: nn.Module) -> tuple[str, ...]:
    """Return notes on a checked generator for readers of the results: how it was loaded and what was adapted."""
    notes = loading_notes(generator)
    if reference_tensor(generator).dtype == torch.float64:
        notes += ("its weights are float64, so everything is computed in float64",)
    known = _checked.get(generator)
    if known is not None and known.channels == 1:
        notes += ("its images have one channel, which is repeated to three for the distance",)
    if known is not None and known.coarse is not None:
        place = f"{known.coarse.function}, {known.coarse.place}"
        notes += (
            f"its casts to half precision or bfloat16 ({place}) are left out: it computes in the precision of its codes"
            if is_marked(generator)
            else f"a part of it computes in half precision or bfloat16 ({place}), in "
            "which derivatives have two or three digits; samples may be quarantined for it",
        )
    return notes


@torch.no_grad()
def check_generator(generator: nn.Module, name: str, *, strict: bool = True) -> None:
    """Try a generator on a few codes and raise if the metric could not be trusted.

    Args:
        generator: any module.
        name: the generator's name in messages.
        strict: also refuse a derivative that is zero or incomplete.

    Raises:
        PullbackError: it has no `latent_dim`. Or its images have a wrong shape, are not finite, lie far outside [0, 1],
            do not depend on the code, differ between two calls with the same code, depend on the code's position in
            the batch or on the other codes there, or have no derivative in the code.
    """
    if not isinstance(generator, nn.Module):
        raise PullbackError(f"a torch.nn.Module is needed, not {generator!r}; `load_generator` makes one")
    if any(module.training and isinstance(module, _MODAL) for module in generator.modules()):
        raise PullbackError(f"{name} is in training mode, in which images depend on chance or batch: call its .eval()")
    latent_size(generator, name)
    drawn = trial_codes(generator, 2 + _MORE_CODES, _SEED)
    z = drawn[:2]
    condition = any_condition(generator, 2, z.device)
    images = _images(generator, z, condition, name)
    _refuse_form(images, name)
    _refuse_values(images, name, bounded=not isinstance(generator, FamilyGenerator))
    _refuse_chance(generator, z, condition, images, name)
    same_class = None if condition is None else condition[:1].expand(len(drawn))
    if condition is not None:
        images = _images(generator, z, same_class[:2], name)  # type: ignore[index]
    few = 4 * torch.finfo(images.dtype).eps
    if float((images[0] - images[1]).abs().max()) <= few:
        more = trial_codes(generator, 2 + _MORE_CODES, _SEED, _FAR)[2:]
        others = _images(generator, more, None if same_class is None else same_class[2:], name)
        if float((others - images[:1]).abs().max()) <= few:
            raise PullbackError(
                f"{name} gives the same image for {2 + _MORE_CODES} codes: its images must depend on them"
            )
    problem = differentiability_problem(generator, drawn[:4], None if same_class is None else same_class[:4], strict)
    if problem is not None:
        raise PullbackError(f"{name} {problem}")
    coarse = None if z.dtype in HALF else first_suspect("coarse", generator, z, condition)
    if coarse is not None:
        _refine_coarse(generator, z, condition, coarse, name)
    _checked[generator] = _Checked(_fingerprint(generator), images.shape[1], coarse)


def _images(generator: nn.Module, z: Tensor, condition: Tensor | None, name: str) -> Tensor:
    try:
        return generate(generator, z, condition)
    except SystemExit as error:
        raise PullbackError(f"{name} failed on codes {tuple(z.shape)}: {exit_message(error)}") from error
    except Exception as error:  # user code may raise anything
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        text = str(with_message(error)).strip().partition("\n")[0][:300]
        hint = ""
        if isinstance(error, TypeError) and "argument" in text and condition is None:
            hint = (
                ". It is called with codes alone; for a class-conditional generator set the attribute `classes`, a "
                "tuple of the class names, and for other arguments give them defaults"
            )
        raise PullbackError(f"{name} failed on codes {tuple(z.shape)}: {type(error).__name__}: {text}{hint}") from error


def _refuse_form(images: Any, name: str) -> None:
    """Raise unless `images` is a float tensor [2, 1 or 3, height, width]; the message says how to correct it."""
    needed = "images [2, 3, height, width] are needed (or one channel)"
    if not isinstance(images, Tensor):
        raise PullbackError(f"{name} gave {_described(images)} for 2 codes; {needed}{_inside(images)}")
    shape = tuple(images.shape)
    if images.dim() != 4 or shape[0] != 2 or shape[1] not in (1, 3):
        hint = ""
        if images.dim() == 4 and shape[0] == 2 and shape[3] in (1, 3, 4):
            hint = ": its channels are last, return x.permute(0, 3, 1, 2)"
        elif images.dim() == 4 and shape[0] == 2 and shape[1] in (2, 4):
            hint = f": return three of its {shape[1]} channels as x[:, :3]" if shape[1] == 4 else ""
        elif images.dim() == 3 and shape[0] == 2:
            hint = ": for one channel, return x[:, None]"
        elif images.dim() == 2:
            hint = ": reshape them in forward"
        elif images.dim() == 5:
            hint = ": return one frame or one level alone"
        raise PullbackError(f"{name} gave {shape} for 2 codes; {needed}{hint}")
    if not images.is_floating_point():
        raise PullbackError(
            f"{name} gave images of {images.dtype}, which have no derivative: return floats in [0, 1], from before the "
            "conversion"
        )


def _described(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"{kind} with the keys {', '.join(map(str, list(value)[:6]))}"
    return f"{kind} of {len(value)}" if isinstance(value, Sequence) and not isinstance(value, str) else kind


def _inside(value: Any) -> str:
    """Return how to extract the images from a generator's return value; empty if it contains no images."""
    if hasattr(value, "__array__") and not isinstance(value, Tensor):
        return ": return a torch tensor, which alone has a derivative"
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, Sequence) else ()
    tensors = [(key, part) for key, part in parts if isinstance(part, Tensor)]
    batches = [(key, part) for key, part in tensors if part.dim() == 4]
    if batches:
        # Feature maps have other numbers of channels than images. Of several sizes of an image, the largest is meant.
        key, largest = max(batches, key=lambda entry: (entry[1].shape[1] in (1, 3), entry[1].shape[2:].numel()))
        return f": return its images alone, for example x[{key!r}], which is {list(largest.shape)}"
    return ": return one tensor, for example torch.stack(x)" if any(part.dim() == 3 for _, part in tensors) else ""


def _refuse_values(images: Tensor, name: str, bounded: bool) -> None:
    finite = images.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        kind = "NaN" if bool(images.isnan().any()) else "infinite"
        hint = "; half precision overflows, use float32" if images.dtype in HALF else ""
        raise PullbackError(f"{name} gives images that are not finite ({kind} values){hint}")
    low, high = float(images.min()), float(images.max())
    if bounded and (low < -OVERSHOOT or high > 1 + OVERSHOOT):
        if low < -1 - OVERSHOOT or (high > 1 + OVERSHOOT and low < -OVERSHOOT):
            hint = "for a tanh output: (x + 1) / 2; for normalised images: x * std + mean"
        else:
            hint = "for a tanh output: (x + 1) / 2" if low < -OVERSHOOT else "for images in [0, 255]: x / 255"
        raise PullbackError(f"{name} gives values from {low:.2f} to {high:.2f}; images must be in [0, 1] ({hint})")


def _refine_coarse(generator: nn.Module, z: Tensor, condition: Tensor | None, coarse: Suspect, name: str) -> None:
    """Leave casts to half precision out if they hide small steps of the code.

    Raises:
        PullbackError: images do not follow small steps without these casts either, as under autocast.
    """
    if _follows_small_steps(generator, z, condition, name):
        return
    mark(generator)
    if not _follows_small_steps(generator, z, condition, name):
        unmark(generator)
        raise PullbackError(
            f"{name} computes in half precision or bfloat16 ({coarse.function}, {coarse.place}), so coarsely that its "
            "images do not follow small steps of the code, and every metric would be quarantined. Remove .half() or "
            "autocast there"
        )


def _follows_small_steps(generator: nn.Module, z: Tensor, condition: Tensor | None, name: str) -> bool:
    """Whether images change almost linearly over small steps of the codes."""
    step = _SMALL_STEP * z.norm(dim=1, keepdim=True) * torch.nn.functional.normalize(z.flip(1), dim=1)
    try:
        behind, here, ahead = (_images(generator, z + sign * step, condition, name).double() for sign in (-1, 0, 1))
    except PullbackError:
        if is_marked(generator):  # it needs its casts
            return False
        raise
    change, bend = (ahead - behind).norm(), (ahead - 2 * here + behind).norm()
    return float(bend) <= _COARSE * float(change)


_SMALL_STEP = 1e-3
"""Length of a step of the code, relative to its norm, that must change the images for a certificate to work."""
_COARSE = 0.3
"""Largest deviation from a straight line, as a fraction of the images' change, at which they still follow the step."""


def _refuse_chance(generator: nn.Module, z: Tensor, condition: Tensor | None, images: Tensor, name: str) -> None:
    """Raise if images are random, or depend on the position of a code in its batch or on the other codes there."""

    def of(rows: list[int]) -> Tensor:
        return _images(generator, z[rows], None if condition is None else condition[rows], name)

    repeats = _REPEATED if images.device.type == "cpu" else 1.0
    before = {path: buffer.clone() for path, buffer in generator.named_buffers()}
    if not _alike(images, of([0, 1]), repeats):
        written = [path for path, now in generator.named_buffers() if not _unchanged(before.get(path), now)]
        if written:
            raise PullbackError(
                f"{name} gives another image for the same code: each call changes its buffer {written[0]}. Leave that "
                "out in evaluation mode"
            )
        raise PullbackError(
            f"{name} gives another image for the same code{_drawn_at(generator, z, condition)}: freeze its noise (make "
            "it a buffer), and leave training mode"
        )
    twice = of([0, 0])
    if not _alike(twice[:1], twice[1:], _ROWS if images.device.type == "cpu" else 1.0):
        raise PullbackError(
            f"{name} gives a code another image at another place in the batch{_drawn_at(generator, z, condition)}: "
            "draw its noise once for all codes (a buffer of shape [1, ...]), not for each row of the batch"
        )
    for row in (0, 1):
        if not _alike(images[row : row + 1], of([row])):
            raise PullbackError(
                f"{name} gives another image for a code alone than for the same code in a batch{_coupling(generator)}: "
                "its images must not depend on each other (batch statistics, minibatch deviation), nor on the size of "
                "the batch (noise of the whole batch's shape); leave training mode, or make the noise a buffer"
            )


def _alike(a: Tensor, b: Tensor, part: float = 1.0) -> bool:
    """Return whether images are equal up to round-off, or up to the fraction `part` of it."""
    tolerance = part * (_SAME_HALF if a.dtype in HALF else _SAME)
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-2 * tolerance, atol=tolerance)


def _unchanged(before: Tensor | None, now: Tensor) -> bool:
    return before is not None and before.shape == now.shape and bool(((before == now) | (before != before)).all())


def _drawn_at(generator: nn.Module, z: Tensor, condition: Tensor | None) -> str:
    suspect = first_suspect("random", generator, z, condition)
    return "" if suspect is None else f" (it draws numbers with {suspect.function}, {suspect.place})"


def _coupling(generator: nn.Module) -> str:
    """Name the first layer that computes statistics of its batch even in evaluation mode."""
    for path, module in generator.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return f" (its {type(module).__name__} {path!r} has no running statistics)"
    return ""


def _fingerprint(generator: nn.Module) -> tuple[Any, ...]:
    """Return the state that a check depends on: modes, and the identity, version, dtype and device of all tensors."""
    tensors = [*generator.named_parameters(), *generator.named_buffers()]
    return (
        tuple(module.training for module in generator.modules()),
        tuple((name, id(t), t.data_ptr(), _version(t), t.dtype, t.device, t.shape) for name, t in tensors),
        repr(getattr(generator, "latent_dim", None)),
        class_names(generator),
    )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

"""Inputs and outputs of a generator's layers, recorded by hooks while it makes images.

A *layer* is a module without children that holds a parameter. Layers are named as `named_modules` names them; the
generator itself, if it has no children, is `generator`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from pullback.errors import PullbackError
from pullback.generators import generate, reference_tensor
from pullback.generators.base import any_condition
from pullback.spec import nearest

WHOLE = "generator"
"""The name of the generator itself."""


class _Finished(Exception):  # noqa: N818 - not an error: every wanted layer was recorded
    """Ends a forward pass."""


def layers(generator: nn.Module) -> dict[str, nn.Module]:
    """Return the layers by name, in the order of `named_modules`, which need not be that of computation."""
    return {
        name or WHOLE: module
        for name, module in generator.named_modules()
        if not any(True for _ in module.children()) and any(True for _ in module.parameters(recurse=False))
    }


def module_named(generator: nn.Module, name: str) -> nn.Module:
    """Return a module of a generator.

    Raises:
        PullbackError: it has no module of this name; the message has the nearest one.
    """
    modules: dict[str, nn.Module] = {name or WHOLE: module for name, module in generator.named_modules()}
    if name not in modules:
        raise PullbackError(
            f"the generator has no layer {name!r}{nearest(name, modules) or '.'} Nothing was computed. "
            "Names of layers are those of named_modules(), such as the prefixes of the keys in its checkpoint."
        )
    return modules[name]


@contextmanager
def _recording(modules: dict[str, nn.Module], found: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    handles = []
    for name, module in modules.items():

        def keep(_: nn.Module, inputs: tuple[object, ...], output: object, name: str = name) -> None:
            given = next((each for each in inputs if isinstance(each, Tensor)), None)
            if name not in found and given is not None and isinstance(output, Tensor):
                found[name] = (given.detach(), output.detach())
            if len(found) == len(modules):
                raise _Finished

        handles.append(module.register_forward_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def recorded(
    generator: nn.Module, codes: Tensor, modules: dict[str, nn.Module], one_class: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the first input and the output of each module for codes `[batch, n]`, in the order of computation.

    Modules that are not called, or that give no tensor, are left out. The pass ends when all are recorded. The codes of
    a class-conditional generator get its classes in turn, or all get the first one.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    codes = codes.to(reference_tensor(generator))
    with _recording(modules, found), suppress(_Finished):
        condition = any_condition(generator, len(codes), codes.device)
        if condition is not None and one_class:
            condition = condition[:1].repeat(len(codes))
        generate(generator, codes, condition)
    return found


def first_layer(generator: nn.Module, codes: Tensor) -> str | None:
    """Return the name of the layer that is computed first; None if the generator has no layers."""
    return next(iter(recorded(generator, codes, layers(generator))), None)


def flat_outputs(generator: nn.Module, batches: Iterable[Tensor], name: str) -> Iterator[Tensor]:
    """Yield the outputs of one module `[batch, d]` for batches of codes.

    Raises:
        PullbackError: there is no such module, or it gives no tensor with one row for each code.
    """
    module = module_named(generator, name)
    for codes in batches:
        found = recorded(generator, codes, {name: module})
        if name not in found or len(found[name][1]) != len(codes):
            raise PullbackError(
                f"the layer {name!r} gives no tensor with one row for each code, so it has no activations to compare. "
                "Nothing was computed. Choose another layer."
            )
        yield found[name][1].flatten(1)

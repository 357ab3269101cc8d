"""What the tape and its pushes hold, and let go of."""

import gc
import weakref

import torch
from test_rules import CODE, KERNEL, draw, image
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pullback.metric.forward.linearize import Linearization
from pullback.metric.forward.tape import Tape, plain, storage_of


class Calls(TorchFunctionMode):
    """Counts the calls of an operation."""

    def __init__(self, func):
        self.func, self.count = func, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is self.func
        return func(*args, **(kwargs or {}))


def test_steps_that_nothing_needs_are_dropped():
    def network(z):
        x = image(z)
        F.conv2d(x, KERNEL)  # for a look, or a hook
        return F.conv2d(x, KERNEL, padding=1)[:, :2].flatten(1) + F.conv2d(x, KERNEL).detach().mean()

    push = Linearization(network, draw(2, CODE)).push
    with Calls(torch.conv2d) as seen:
        push(draw(3, 2, CODE))
    assert seen.count == 1


def test_a_push_lets_go_of_what_nothing_needs_any_more():
    """The tangents of each layer, which are as large as a chunk, live no longer than to the next."""
    alive, most = [], []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if func is torch.conv2d:
                alive.append(weakref.ref(made.untyped_storage()))
                most.append(sum(reference() is not None for reference in alive))
            return made

    def network(z):
        x = image(z)
        for _ in range(6):
            x = F.conv2d(x, draw(3, 3, 3, 3), padding=1).flip(3)
        return x.flatten(1)

    push = Linearization(network, draw(2, CODE)).push
    with Watch():
        push(draw(3, 2, CODE))
    assert len(most) == 6
    assert max(most) <= 2


def test_a_tape_lets_go_of_the_values_whose_tangents_do_not_need_them():
    values = []

    def network(z):
        x = F.conv2d(image(z), KERNEL)
        for operation in (torch.Tensor.contiguous, lambda x: x.flip(2), lambda x: F.interpolate(x, scale_factor=2)):
            x = operation(x)
            values.append(weakref.ref(plain(x)))
        return x.mean((2, 3))

    linearization = Linearization(network, draw(2, CODE))
    gc.collect()
    assert [value() for value in values] == [None, None, None]
    assert linearization.value.shape == (2, 5)


def test_a_value_that_was_given_new_memory_looks_at_the_old_no_more():
    tape = Tape()
    shared = draw(3).clone()
    first, second = tape.wrap(shared, []), tape.wrap(shared.view(3, 1), [])
    tape.view(storage_of(first), first, second)
    assert tape.viewed(first)
    assert tape.viewed(second)
    first.primal = draw(3).clone()
    assert not tape.viewed(second)

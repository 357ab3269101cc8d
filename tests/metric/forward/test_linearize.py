"""What the tape keeps, and what it refuses; the rules of its operations are in `test_rules`."""

import math

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from test_rules import CODE, KERNEL, draw, on_image
from torch.func import jvp
from torch.nn import functional as F

from pullback.errors import PullbackError
from pullback.metric.forward.linearize import Linearization
from pullback.metric.forward.tape import Term, Untraceable, combine, plain
from pullback.metric.jacobian import by_forward_mode, derivative_at


class Straight(torch.autograd.Function):
    """Rounds, and claims to be the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.round(x * 2) / 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * 1


class Reversed(torch.autograd.Function):
    """The identity, whose derivative claims the opposite sign."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def jvp(ctx, tangent):
        return -tangent


class Untouched(Reversed):
    """As `Reversed`, and never does anything to what it is given."""

    @staticmethod
    def forward(x):
        return x


def into_a_detached_view(x):
    y, z = F.conv2d(x, KERNEL, padding=1), F.conv2d(x, KERNEL)
    kept = y * z.sum((2, 3), keepdim=True)
    y.detach().add_(1)
    return kept


def into_a_detached_view_of_a_written(x):
    y = x * 1
    d = y.detach()
    y += 1
    return y * d


def into_a_constant(x):
    scale, x = torch.full((4,), 2.0, dtype=torch.float64), F.conv2d(x, KERNEL, padding=1)
    y = x * scale
    scale.mul_(3)
    return y


def by_overload(x):
    y = x * 1
    torch.ops.aten.tanh_.default(y)
    return y * x


def squeezed_in_place(x):
    y = x.sum(1, keepdim=True)
    y.squeeze_(1)
    return y[:, None] * x


def inner_gradient(x):
    return x + torch.func.grad(lambda y: y.square().sum() * y.sum())(x)


def by_complex_multiplication(x):
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2).contiguous())
    return torch.view_as_real(pairs * (1 + 2j)).flatten(-2) + x


def half_in_autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = F.layer_norm(x.float(), (4,))
    return y.double() + x


UNTRACEABLE = {
    "function with a derivative of its own": on_image(Straight.apply),
    "function that is the identity": on_image(lambda x: Reversed.apply(x) * x),
    "function that does nothing": on_image(lambda x: Untouched.apply(x) * x),
    "filter in frequencies": on_image(lambda x: x + torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=(4, 4))),
    "spectrum": on_image(lambda x: x + torch.fft.fft(x).abs()),
    "complex factor": on_image(lambda x: (x * 2j).imag + x),
    "complex numbers": on_image(by_complex_multiplication),
    "number taken": on_image(lambda x: x * x.sum().item()),
    "float taken": on_image(lambda x: x * float(x.sum())),
    "list taken": on_image(lambda x: x * torch.tensor(x.sum((0, 1, 2)).tolist(), dtype=torch.float64)),
    "tensor of elements": on_image(lambda x: x * torch.tensor([x.sum(), 2.0, 3.0, 4.0])),
    "tensor of a tensor": on_image(lambda x: x * torch.tensor(x)),
    "filled with a value": on_image(lambda x: x * torch.full((4,), x.sum())),
    "mapped over": on_image(lambda x: x + torch.vmap(torch.exp)(x)),
    "gradient within": on_image(inner_gradient),
    "detached view written": on_image(into_a_detached_view),
    "written with a detached view": on_image(into_a_detached_view_of_a_written),
    "constant written after it was read": on_image(into_a_constant),
    "overload in place": on_image(by_overload),
    "squeezed in place": on_image(squeezed_in_place),
    "in autocast": on_image(half_in_autocast),
    "eigenvalues": on_image(lambda x: torch.linalg.eigvals(x).abs()[..., None] + x),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", UNTRACEABLE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_followed_is_refused_and_torch_can_do_it(name, batch):
    z = draw(batch, CODE)
    with pytest.raises(Untraceable):
        Linearization(UNTRACEABLE[name], z)
    pushed = derivative_at(UNTRACEABLE[name], z)(draw(3, batch, CODE))
    wanted = torch.stack([jvp(UNTRACEABLE[name], (z,), (tangent,))[1] for tangent in draw(3, batch, CODE)])
    torch.testing.assert_close(pushed, wanted, rtol=1e-10, atol=1e-12)


def test_a_rough_arithmetic_that_cannot_be_had_is_refused_and_not_replaced():
    """Else float32 numbers would be recorded as those of bfloat16."""
    with pytest.raises(PullbackError, match=r"cannot be bfloat16.*Nothing was computed; use float32"):
        derivative_at(UNTRACEABLE["eigenvalues"], draw(1, CODE), torch.bfloat16)


NEITHER = {
    "array": on_image(lambda x: x * float(np.asarray(x).sum())),
    "memory": on_image(lambda x: x * float(x.untyped_storage().data_ptr() % 10007)),
    "address": on_image(lambda x: x * float(x.data_ptr() % 10007)),
    "address that is always the same": on_image(lambda x: x * (1 + min(x.data_ptr(), 1))),
    "storage": on_image(lambda x: x * (1 + min(x.storage().nbytes(), 1))),
    "checkpoint that is a function": on_image(
        lambda x: x + torch.utils.checkpoint.checkpoint(torch.exp, x, use_reentrant=True)
    ),
}


@pytest.mark.parametrize("name", NEITHER)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_neither_can_do_is_an_error_and_not_a_number(name):
    with pytest.raises(Untraceable):
        Linearization(NEITHER[name], draw(2, CODE))
    with pytest.raises(PullbackError, match="cannot be computed"):
        derivative_at(NEITHER[name], draw(2, CODE))(draw(3, 2, CODE))


def test_a_caller_keeps_the_code_that_a_network_writes_into():
    z = draw(2, CODE).clone()
    Linearization(lambda z: z.mul_(2).sin(), z)
    assert torch.equal(z, draw(2, CODE))


def test_what_a_network_keeps_of_a_derivative_is_a_constant_to_the_next():
    """As an activation that a hook has kept, or a state that goes from pass to pass."""
    kept = []

    def network(z):
        x = z.sin() * (kept[-1] if kept else 1)
        x = torch.stack([x, *kept[-1:]]).sum(0)
        kept.append(x.cos())
        return x

    for _ in range(3):
        z, before = draw(2, CODE), len(kept)
        found = Linearization(network, z).push(draw(3, 2, CODE))
        last = plain(kept[before - 1]) if before else 1
        torch.testing.assert_close(found, z.cos() * last * draw(3, 2, CODE), rtol=1e-12, atol=1e-12)
    later = kept[-1] + 1
    assert type(later) is torch.Tensor


def test_a_derivative_within_another_is_refused():
    def network(z):
        return z + Linearization(lambda inner: inner * z, torch.ones_like(z)).value

    with pytest.raises(Untraceable, match="within another"):
        Linearization(network, draw(2, CODE))


def test_the_value_has_no_graph_though_the_code_has():
    z = draw(2, CODE).clone().requires_grad_()
    assert not Linearization(lambda z: z, z).value.requires_grad


def test_terms_of_any_shape_add_up_to_their_broadcast_sum():
    tangents = [draw(3, 5), draw(3, 4, 1), draw(3, 2, 4, 5), draw(3, 1, 4, 5)]
    factors = [None, draw(2, 4, 5), draw(5), None]
    wanted = tangents[0][:, None, None] + tangents[1][:, None] * factors[1] + tangents[2] * factors[2] + tangents[3]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]):
        found = combine([tangents[i] for i in order], [factors[i] for i in order], torch.Size([2, 4, 5]))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tangents[2], draw(3, 2, 4, 5))


def test_a_hidden_infinity_is_zero_and_one_that_shows_is_infinite():
    term = Term(0, torch.tensor([math.inf, math.inf, 2.0])).within(torch.tensor([0.0, 1.0, 3.0]))
    assert term.factor is not None
    assert term.factor.tolist() == [0.0, math.inf, 6.0]


def test_a_network_that_ignores_the_code_is_refused_and_has_no_derivative():
    z = draw(2, CODE)
    with pytest.raises(Untraceable, match="do not depend"):
        Linearization(lambda z: torch.ones(2, 4, dtype=torch.float64), z)
    assert not derivative_at(lambda z: torch.ones(2, 4, dtype=torch.float64), z)(draw(3, 2, CODE)).any()


def test_an_error_of_the_network_is_the_one_that_the_user_sees():
    def broken(z):
        raise ValueError("no such class")

    with pytest.raises(PullbackError, match="ValueError: no such class"):
        derivative_at(broken, draw(2, CODE))(draw(3, 2, CODE))


def test_lack_of_memory_is_no_reason_to_try_another_way():
    def large(z):
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError):
        derivative_at(large, draw(2, CODE))


def test_the_recorded_derivative_is_used_where_there_is_one():
    """A recorded push runs no network."""
    calls = []

    def network(z):
        calls.append(1)
        return z.sin()

    push = derivative_at(network, draw(2, CODE))
    push(draw(3, 2, CODE))
    push(draw(3, 2, CODE))
    assert len(calls) == 1
    by_forward_mode(network, draw(2, CODE))(draw(3, 2, CODE))
    assert len(calls) > 1


def test_a_compiled_network_has_the_same_derivative():
    compiled = torch.compile(lambda x: torch.relu(x) * 2 + x.exp(), backend="eager")
    z, tangents = draw(2, CODE), draw(3, 2, CODE)
    wanted = torch.where(z > 0, 2.0, 0.0) * tangents + z.exp() * tangents
    torch.testing.assert_close(derivative_at(lambda z: compiled(z), z)(tangents), wanted, rtol=1e-10, atol=1e-12)


def test_what_a_network_sees_is_described_like_a_tensor():
    def network(z):
        assert (z.shape, z.dtype, z.device.type, len(z), z.dim()) == ((2, CODE), torch.float64, "cpu", 2, 2)
        assert z.is_contiguous()
        assert "tensor" in repr(z)
        assert (z == z).all()
        return z.sin()

    torch.testing.assert_close(Linearization(network, draw(2, CODE)).value, draw(2, CODE).sin())

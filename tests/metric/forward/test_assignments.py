"""Writes into tensors are recorded, and tensors that share memory see them."""

import pytest
import torch
from test_rules import CODE, differs, draw, on_code, on_image
from torch import nn
from torch.nn import functional as F

from pullback.metric.forward.linearize import Linearization
from pullback.metric.forward.tape import Untraceable
from pullback.metric.jacobian import derivative_at

MASK = draw(4, 4) > 0


def into_a_buffer(x):
    canvas = torch.zeros_like(x)
    canvas[:, 1:] = x[:, 1:]
    return canvas + x


def into_itself(x):
    y = x * 1
    y[:, 0] = y[:, 1] * 2
    return y


def into_a_view(x):
    y = x * 1
    y[:, 0].mul_(2)
    return y


def into_its_base(x):
    y = x * 1
    part = y[:, 0]
    y *= 2
    return part[:, None] * y


def filled_in_place(x):
    y = x * 1
    y.fill_(3.0)
    return x * y


def copied_in_place(x):
    y = x * 1
    y.copy_(2 * x)
    return x * y


def into_an_output(x):
    made = torch.empty_like(x.detach())
    torch.add(x, 1, out=made)
    return made + x


def transforms(z):
    """The rotation and translation of StyleGAN3's Fourier features, assembled number by number."""
    t = F.linear(z, draw(4, CODE))
    t = t / t[:, :2].norm(dim=1, keepdim=True)
    rotation = torch.eye(3, dtype=z.dtype).unsqueeze(0).repeat([z.shape[0], 1, 1])
    rotation[:, 0, 0] = t[:, 0]
    rotation[:, 0, 1] = -t[:, 1]
    rotation[:, 1, 0] = t[:, 1]
    rotation[:, 1, 1] = t[:, 0]
    shift = torch.eye(3, dtype=z.dtype).unsqueeze(0).repeat([z.shape[0], 1, 1])
    shift[:, 0, 2] = -t[:, 2]
    shift[:, 1, 2] = -t[:, 3]
    return rotation @ shift @ draw(3, 3)


def interleaved(x):
    out = x.new_empty(len(x), 3, 8, 8)
    out[:, :, ::2, ::2] = x
    out[:, :, 1::2, ::2] = x.exp()
    out[:, :, ::2, 1::2] = 0.5
    out[:, :, 1::2, 1::2] = out[:, :, ::2, ::2] * out[:, :, 1::2, ::2]
    return out


def halves_in_place(x):
    y = x * 2
    a, b = y.chunk(2, 2)
    a += b
    b.mul_(a).relu_()
    return y * a.sum()


def copied_into_views(x):
    out = torch.zeros(len(x), 6, 4, 4, dtype=x.dtype)
    out[:, :3].copy_(x)
    out[:, 3:].copy_(x.exp().flip(1))
    return out * x.sum()


def added_up(x):
    total = torch.zeros(x.shape, dtype=x.dtype)
    for index in range(3):
        total += x * index
    total[:, 0] += x[:, 1]
    total[:, 1] *= total[:, 0]
    return total


def causal(x):
    out = torch.zeros(len(x), 4, 4, dtype=x.dtype)
    for index in range(4):
        out[:, index] = x[:, 0, index] + torch.sin(out[:, index - 1] if index else x[:, 1, 0])
    return out


def coupled_halves(x):
    """A coupling layer that writes half of its input, as RealNVP's inverse often does."""
    y = x.clone()
    y[:, 1:] = (x[:, 1:] - x[:, :1].sin()) * torch.exp(-x[:, :1].tanh())
    return y


def assigned_twice(x):
    y = x * 1
    z = y.view(len(x), -1)
    y[:, 0] = z[:, 5:6].view(-1, 1, 1)
    z[:, 3] = y[:, 1, 0, 0]
    return y + z.view_as(y)


def forgotten(x):
    y = x.exp()
    y[:, 1] = 3.0
    y[:, 2].zero_()
    y[:, 0, 0].fill_(1)
    return y + x


def copied_from_what_changes(x):
    constant = torch.ones(4, dtype=x.dtype)
    y, w = x * 1, x * 1
    y.copy_(constant)
    w.fill_(constant[0])
    constant.mul_(3)
    return y * w * x


def buffer_of_a_module():
    kept = nn.Module()
    kept.register_buffer("cache", torch.zeros(1, 3, 4, 4, dtype=torch.float64))

    def network(x):
        kept.cache[:] = x[:1]
        return kept.cache * x

    return kept, network


def output_of_product(x):
    made = torch.empty(len(x), 3, 4, 4, dtype=x.dtype)
    torch.matmul(x, x, out=made)
    return made


WRITTEN = {
    "buffer filled": on_image(into_a_buffer),
    "part of itself filled": on_image(into_itself),
    "view written": on_image(into_a_view),
    "base of a view written": on_image(into_its_base),
    "filled in place": on_image(filled_in_place),
    "copied in place": on_image(copied_in_place),
    "transforms": on_code(transforms),
    "interleaved": on_image(interleaved),
    "halves in place": on_image(halves_in_place),
    "copied into views": on_image(copied_into_views),
    "added up": on_image(added_up),
    "rows by rows": on_image(causal),
    "coupled halves": on_image(coupled_halves),
    "assigned twice": on_image(assigned_twice),
    "forgotten": on_image(forgotten),
    "copied from what changes": on_image(copied_from_what_changes),
}


def by(f):
    """A network that writes into a copy of an image, and notices both."""

    def network(x):
        y = x * 1
        f(y, x)
        return y + x

    return on_image(network)


def assign(index, value=lambda x: 2.0):
    def write(y, x):
        y[index] = value(x)

    return by(write)


BY = {
    "mask": assign((slice(None), slice(None), MASK)),
    "mask of values": by(lambda y, x: y.__setitem__(y > 0, 0.5)),
    "mask with values from the code": assign((slice(None), slice(None), MASK), lambda x: x.exp()[:, :, MASK]),
    "places": assign((slice(None), torch.tensor([2, 0])), lambda x: x.exp()[:, :2]),
    "places apart": assign(
        (slice(None), torch.tensor([2, 0]), slice(None), torch.tensor([1, 3])), lambda x: x[0, :2, None, :, 0].exp()
    ),
    "list": assign((slice(None), [1, 2]), lambda x: x[:, :1].exp()),
    "ellipsis and steps": assign((..., slice(1, None, 2)), lambda x: x[..., :2].exp()),
    "a value that broadcasts": assign((slice(None), 1), lambda x: x.mean((2, 3))[:, :1, None]),
    "a value with too many axes": assign((0, 0), lambda x: x[:1, 1].exp()),
    "constant with a factor": assign((slice(None), 1), lambda x: draw(4)),
    "none": assign((slice(None), None, 1), lambda x: x[:, None, 0].exp()),
    "index_put_": by(lambda y, x: y.index_put_((torch.tensor([0]), torch.tensor([1])), x[0, 0], accumulate=True)),
    "index_add_": by(lambda y, x: y.index_add_(1, torch.tensor([0, 2, 2]), x.exp(), alpha=2)),
    "index_copy_": by(lambda y, x: y.index_copy_(1, torch.tensor([0, 2]), x.exp()[:, 1:])),
    "index_fill_": by(lambda y, x: y.index_fill_(1, torch.tensor([0, 2]), 4)),
    "scatter_": by(lambda y, x: y.scatter_(1, torch.zeros(len(y), 1, 4, 4, dtype=torch.long), x.exp())),
    "scatter_add_": by(lambda y, x: y.scatter_add_(1, torch.zeros(len(y), 3, 4, 4, dtype=torch.long), x.exp())),
    "masked_fill_": by(lambda y, x: y.masked_fill_(MASK, 2)),
    "masked_scatter_": by(lambda y, x: y.masked_scatter_(MASK.expand_as(y), x.exp())),
    "addcmul_": by(lambda y, x: y.addcmul_(x, x.exp(), value=2)),
    "lerp_": by(lambda y, x: y.lerp_(x.exp(), 0.3)),
    "copy_ that broadcasts": by(lambda y, x: y.copy_(x[:, :1].exp())),
    "copy_ of itself": by(lambda y, x: x.copy_(y)),
    "copy_ of a constant": by(lambda y, x: y.copy_(draw(4, 4))),
    "sub_ with a factor": by(lambda y, x: y.sub_(x.exp(), alpha=3)),
    "div_ and neg_": by(lambda y, x: y.div_(x.exp()).neg_().clamp_(min=-1)),
    "functions in place": by(lambda y, x: torch.sigmoid_(F.elu_(F.leaky_relu_(y, 0.2)))),
    "in its diagonal": by(lambda y, x: y.diagonal(0, 2, 3).copy_(x[..., 0].exp())),
    "in a transposed view": by(lambda y, x: y.mT[:, :, 1].mul_(x[..., 0])),
    "through a flat view": by(lambda y, x: y.view(-1)[3:9].add_(x.flatten()[:6])),
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [*WRITTEN, *BY])
def test_a_write_is_recorded(name, batch):
    assert differs({**WRITTEN, **BY}[name], draw(batch, CODE)) < 1e-10


@pytest.mark.parametrize(
    ("written", "pure"),
    [
        (into_an_output, lambda x: x + 1 + x),
        (output_of_product, lambda x: x @ x),
        (buffer_of_a_module()[1], lambda x: x[:1] * x),
    ],
)
def test_a_write_that_forward_mode_refuses_is_recorded(written, pure):
    z, tangents = draw(1, CODE), draw(3, 1, CODE)
    found = Linearization(on_image(written), z).push(tangents)
    torch.testing.assert_close(found, Linearization(on_image(pure), z).push(tangents), rtol=1e-12, atol=1e-12)


def test_a_plain_tensor_is_plain_again_and_holds_what_was_written():
    kept, network = buffer_of_a_module()
    z = draw(1, CODE)
    for _ in range(2):
        Linearization(on_image(network), z)
        assert type(kept.cache) is torch.Tensor
        found = kept.cache.clone()
        on_image(network)(z)
        assert torch.equal(found, kept.cache)


def test_a_plain_tensor_is_plain_again_after_an_error():
    canvas = torch.zeros(2, CODE, dtype=torch.float64)

    def network(z):
        canvas[:] = z
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class"):
        Linearization(network, draw(2, CODE))
    assert type(canvas) is torch.Tensor
    assert torch.equal(canvas, draw(2, CODE))


def read_before(x):
    scale = torch.ones(4, dtype=x.dtype)
    y = x * scale
    scale[:] = x[0, 0, 0]
    return y * scale


def read_through_a_view(x):
    scale = torch.ones(4, dtype=x.dtype)
    part = scale[1:]
    scale[:] = x[0, 0, 0]
    return x[..., 1:] * part


def a_detached_alias(x):
    y = x * 1
    d = y.detach()
    y[:, 0] = x[:, 1]
    return y * d


def into_a_parameter(x):
    kept = nn.Parameter(torch.ones(4, dtype=x.dtype), requires_grad=False)
    kept.copy_(x[0, 0, 0])
    return x * kept


REFUSED = {
    "constant read before": on_image(read_before),
    "constant read through a view": on_image(read_through_a_view),
    "detached alias": on_image(a_detached_alias),
    "parameter": on_image(into_a_parameter),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_a_write_might_be_read_unseen_it_is_refused(name):
    z = draw(2, CODE)
    with pytest.raises(Untraceable):
        Linearization(REFUSED[name], z)


@pytest.mark.parametrize("name", ["constant read before", "detached alias"])
def test_what_is_refused_torch_does(name):
    z, tangents = draw(2, CODE), draw(3, 2, CODE)
    found = derivative_at(REFUSED[name], z)(tangents)
    wanted = torch.stack([torch.func.jvp(REFUSED[name], (z,), (t,))[1] for t in tangents])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)

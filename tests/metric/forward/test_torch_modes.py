"""Torch's own derivatives: each way to them, and which is used where one fails or is wrong."""

import itertools

import pytest
import torch
from operations import OPERATIONS, metric_of, reference
from operations_base import CODE, Single, codes, draw
from torch.nn import functional as F

from pullback import load_distance, metric_at
from pullback.errors import PullbackError
from pullback.metric.forward.linearize import Linearization
from pullback.metric.forward.torch_modes import Pushforward
from pullback.metric.jacobian import by_forward_mode, derivative_at, one_line
from pullback.metric.products import gauss_newton_product

MSE = load_distance("mse", device="cpu")


class Cube(torch.autograd.Function):
    """Written as before `torch.func`: with a context in `forward`, and no forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class CubeOnce(Cube):
    """Its backward pass cannot be differentiated: torch leaves it out of the graph without a word."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


def along(f, x, tangents):
    """Central differences."""
    return torch.stack([(f(x + 1e-5 * v) - f(x - 1e-5 * v)) / 2e-5 for v in tangents])


FUNCTIONS = {
    "forward mode": torch.sin,
    "no batching rule": lambda x: x.masked_fill(torch.zeros_like(x, dtype=torch.bool), 0).exp(),
    "no forward mode": lambda x: Cube.apply(x) + x,
    "no second derivative": lambda x: CubeOnce.apply(x),
    "no second derivative in one of two branches": lambda x: CubeOnce.apply(x) + x.sin(),
    "wrong formula in forward mode": lambda x: torch.cholesky_inverse(x.tril() + 3 * torch.eye(4)),
    "wrong formula in reverse mode": lambda x: F.batch_norm(
        (x[None].expand(2, 4, 4, 4) * draw(4, 1, 1)).contiguous(memory_format=torch.channels_last)[..., None],
        draw(4),
        draw(4).abs() + 0.5,
    ),
    "neither forward mode nor a second derivative": lambda x: F.ctc_loss(
        F.log_softmax(x, 1)[:, None], torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2])
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_derivative_is_that_of_differences_by_whichever_way(name):
    f, x, tangents = FUNCTIONS[name], draw(4, 4), draw(3, 4, 4, seed=5)
    push = Pushforward(lambda x: (f(x),), [x])
    for chunk in (tangents, tangents[:1]):
        torch.testing.assert_close(push(chunk)[0], along(f, x, chunk), rtol=1e-6, atol=1e-6)


def test_a_point_that_overlaps_itself_is_copied():
    x = draw(4).expand(4, 4)
    found = Pushforward(lambda x: (F.layer_norm(x.mT, (4,)),), [x])(draw(2, 4, 4))[0]
    wanted = Pushforward(lambda x: (F.layer_norm(x.mT, (4,)),), [x.clone()])(draw(2, 4, 4))[0]
    torch.testing.assert_close(found, wanted)


def test_every_way_is_tried_and_the_first_error_is_the_one_that_is_raised():
    errors = []

    def broken(x):
        errors.append(f"error {len(errors)}")
        raise RuntimeError(errors[-1])

    with pytest.raises(RuntimeError, match="error 0"):
        Pushforward(broken, [draw(4)])(draw(2, 4))
    assert len(errors) > 2


def test_lack_of_memory_ends_the_search():
    calls = []

    def large(x):
        calls.append(1)
        raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError):
        Pushforward(large, [draw(4)])(draw(2, 4))
    assert len(calls) == 1


def test_a_recording_that_cannot_be_replayed_gives_way_to_torch(monkeypatch):
    def fails(self, tangents):
        raise RuntimeError("view size is not compatible")

    monkeypatch.setattr(Linearization, "push", fails)
    z, tangents = draw(2, CODE), draw(3, 2, CODE)
    push = derivative_at(torch.sin, z)
    for _ in range(2):
        torch.testing.assert_close(push(tangents), z.cos() * tangents)


def test_the_error_of_a_replay_is_shown_before_those_of_its_fallbacks(monkeypatch):
    def fails(self, tangents):
        raise RuntimeError("the first failure. And more")

    def network(z):
        if type(z) is torch.Tensor:
            raise ValueError("another")
        return z.sin()

    monkeypatch.setattr(Linearization, "push", fails)
    with pytest.raises(PullbackError, match=r"RuntimeError: the first failure\. Nothing") as caught:
        derivative_at(network, draw(2, CODE))(draw(3, 2, CODE))
    assert "\n" not in str(caught.value)


def test_an_error_is_shown_in_one_line():
    assert one_line(ValueError("first line\n  second. Third one.")) == "ValueError: first line second"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("long " * 100))) < 220


def test_noise_that_is_seeded_in_forward_is_the_same_for_each_tangent():
    def network(z):
        return z * torch.randn(CODE, generator=torch.Generator().manual_seed(3), dtype=z.dtype)

    z = draw(2, CODE)
    for push in (derivative_at(network, z), by_forward_mode(network, z)):
        torch.testing.assert_close(push(draw(3, 2, CODE)), network(draw(3, 2, CODE)))


def test_dropout_that_is_seeded_in_forward_drops_the_same_in_value_and_derivative():
    def network(z):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return F.dropout(z, 0.5).exp()

    z, tangents = draw(2, CODE), draw(3, 2, CODE)
    made = Linearization(network, z)
    kept = made.value != 1
    assert kept.any()
    assert not kept.all()
    torch.testing.assert_close(made.push(tangents), torch.where(kept, 2 * made.value * tangents, 0))


WITHOUT_A_DERIVATIVE = (
    "sdpa",
    "sdpa in its own context",
    "MultiheadAttention",
    "TransformerEncoder",
    "TransformerEncoder hooked",
    "LSTM",
    "cholesky_inverse",
    "generator seeded in forward",
)
OTHER_METHODS = ("block_krylov", "lanczos", "backprop", "finite_difference")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "gauss_newton") for name in WITHOUT_A_DERIVATIVE),
        *zip(WITHOUT_A_DERIVATIVE, itertools.cycle(OTHER_METHODS), strict=False),
        *(("LSTM", method) for method in OTHER_METHODS[:1] + OTHER_METHODS[2:]),
        *(("sdpa", method) for method in OTHER_METHODS[1:]),
    ],
)
def test_every_method_differentiates_what_has_no_derivative_by_torchs_default_kernels(name, method):
    wanted = reference(name, batch=2)
    metric = metric_at(Single(OPERATIONS[name]), MSE, codes(2), method=method)
    error = (metric.matrix - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    assert float(error.max()) < (1e-2 if method == "finite_difference" else 1e-3)
    assert bool(metric.certificate.passed.all())


@pytest.mark.parametrize("method", ["gauss_newton", "block_krylov", "lanczos"])
def test_a_wrong_batching_rule_of_torch_does_not_reach_the_metric(method):
    """That of the backward pass of `cdist`, for several cotangents at once."""
    wanted = reference("cdist", batch=2)
    metric = metric_at(Single(OPERATIONS["cdist"]), MSE, codes(2), method=method)
    torch.testing.assert_close(metric.matrix, wanted, rtol=1e-3, atol=1e-7)
    assert bool(metric.certificate.passed.all())


def test_an_old_autograd_function_has_products():
    z = draw(CODE)
    found = gauss_newton_product(lambda z: Cube.apply(z), z, chunk=3)(torch.eye(CODE, dtype=torch.float64))
    torch.testing.assert_close(found, torch.diag(2 * (3 * z**2) ** 2))


class Recurrent(Single):
    """Writes into the state that the reverse pass of tanh needs, so that torch has no reverse mode for it."""

    def __init__(self):
        super().__init__(None)

    def forward(self, z):
        state = torch.zeros_like(z)
        for index in range(4):
            state = torch.tanh(state + z * (index + 1))
            state[:, index] = state[:, index] * 2
        return torch.sigmoid(state @ draw(CODE, 48).to(z)).view(-1, 3, 4, 4)


def test_a_network_that_only_runs_forwards_is_measured_and_vouched_for_by_torchs_forward_mode():
    z, generator = codes(2), Recurrent().double()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        torch.autograd.functional.jacobian(generator, z.double())
    metric = metric_at(Recurrent(), MSE, z)
    columns = along(lambda z: generator(z).flatten(1), z.double(), torch.eye(CODE, dtype=torch.float64))
    wanted = metric_of(columns.permute(1, 2, 0))
    torch.testing.assert_close(metric.matrix, wanted, rtol=1e-4, atol=1e-8)
    assert bool(metric.certificate.passed.all())

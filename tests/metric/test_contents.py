"""Caches of what is made of weights and networks: no change of what they were made from goes unnoticed."""

import threading

import pytest
import torch
from torch import nn

from pullback.distances import load_distance
from pullback.errors import PullbackError
from pullback.metric import metric_at
from pullback.metric.contents import ContentCache, checksum, one_call
from pullback.metric.precision import in_double
from toy_generators import Smooth

MSE = load_distance("mse", device="cpu")


class Turned(nn.Module):
    """A transposed convolution with a stride, whose kernel is rearranged and cached."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.kernel = nn.Parameter(0.1 * torch.randn(4, 3, 4, 4, generator=stream))
        self.gain = 1.0
        self.register_buffer("offset", torch.zeros(4))

    def forward(self, z):
        image = nn.functional.conv_transpose2d((z + self.offset)[:, :, None, None].expand(-1, -1, 4, 4), self.kernel,
                                               stride=2, padding=1)  # fmt: skip
        return torch.sigmoid(self.gain * image)


def _optimizer(network):
    network.kernel.grad = torch.ones_like(network.kernel)
    torch.optim.SGD(network.parameters(), lr=0.05).step()


def _load(network):
    state = network.state_dict()
    network.load_state_dict({**state, "kernel": 1.5 * state["kernel"]})


def _data(network):
    network.kernel.data.mul_(1.5)


def _numpy(network):
    network.kernel.detach().numpy()[...] *= 1.5


def _permuted(network):
    network.kernel.data.copy_(network.kernel.flatten()[torch.randperm(192)].view(4, 3, 4, 4))


def _copied(network):
    with torch.no_grad():
        network.kernel.copy_(1.5 * network.kernel)


def _replaced(network):
    network.kernel = nn.Parameter(1.5 * network.kernel.detach())


def _attribute(network):
    network.gain = 2.0


def _buffer(network):
    network.offset.data += 0.5


CHANGES = [_optimizer, _load, _data, _numpy, _permuted, _copied, _replaced, _attribute, _buffer]


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("gauss_newton", "float32"),
        ("gauss_newton", "float64"),
        ("gauss_newton", "bfloat16"),
        ("block_krylov", "float64"),
        ("lanczos", "float32"),
    ],
)
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_network_changes_its_metric(change, precision, method):
    z = torch.randn(4, generator=torch.Generator().manual_seed(1))
    network = Turned()
    asked = {"method": method, "precision": precision, "components": 2}
    before = metric_at(network, MSE, z, **asked)
    change(network)
    after = metric_at(network, MSE, z, **asked)
    fresh = Turned()
    fresh.load_state_dict(network.state_dict())
    fresh.gain = network.gain
    wanted = metric_at(fresh, MSE, z, **asked)
    torch.testing.assert_close(after.eigenvalues, wanted.eigenvalues, rtol=1e-6, atol=0)
    assert not torch.allclose(after.eigenvalues, before.eigenvalues, rtol=1e-3)


def test_a_changed_mask_changes_the_metric_in_float64():
    z, distance = torch.zeros(4), load_distance("mse", device="cpu", mask=[0, 0, 0.5, 0.5])
    before = metric_at(Turned(), distance, z, precision="float64").matrix
    distance.mask = load_distance("mse", device="cpu", mask=[0, 0, 1, 1]).mask
    after = metric_at(Turned(), distance, z, precision="float64").matrix
    assert float(after.trace()) > 2 * float(before.trace())


def test_training_mode_is_that_of_the_network_as_it_is_now():
    network = nn.Sequential(nn.BatchNorm1d(3)).eval()
    assert not in_double(network).training
    network.train()
    assert in_double(network)[0].training


def test_a_copy_in_float64_has_every_tensor_in_float64_and_shares_none():
    network = Smooth()
    network.plain, network.several = torch.ones(3), {"all": [torch.ones(2, dtype=torch.float16)]}
    double = in_double(network)
    assert {double.matrix.dtype, double.plain.dtype, double.several["all"][0].dtype} == {torch.float64}
    assert isinstance(double.matrix, nn.Parameter)
    double.matrix.data.zero_()
    assert bool(network.matrix.any())
    assert in_double(double) is double, "a network in float64 needs no copy"


def test_weights_that_are_computed_from_others_can_be_copied():
    """Weight normalisation keeps a tensor with a history in a plain attribute, which deepcopy refuses by itself."""
    network = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))
    network(torch.ones(3))
    x = torch.randn(2, 3)
    torch.testing.assert_close(in_double(network)(x.double()), network(x).double(), rtol=1e-5, atol=1e-6)


def test_a_network_that_cannot_be_copied_is_refused_in_float64_only():
    network = Smooth()
    network.lock = threading.Lock()
    assert metric_at(network, MSE, torch.zeros(6)).certificate.failures() == [""]
    with pytest.raises(PullbackError, match=r"Smooth, which cannot be copied.*lock"):
        metric_at(network, MSE, torch.zeros(6), precision="float64")


def _made(cache, tensor, made, key="kernel"):
    return cache.get(tensor, key, lambda: made.append(1) or 2 * tensor)


def test_a_result_is_computed_once_for_a_tensor_until_it_changes():
    cache, tensor, made = ContentCache(), torch.randn(100), []
    for _ in range(3):
        assert torch.equal(_made(cache, tensor, made), 2 * tensor)
    assert len(made) == 1
    tensor.data[50] += 1
    assert torch.equal(_made(cache, tensor, made), 2 * tensor)
    _made(cache, tensor, made, key="another")
    assert len(made) == 3


def test_within_one_call_a_tensor_is_read_once(monkeypatch):
    from pullback.metric import contents

    read = []
    monkeypatch.setattr(contents, "checksum", lambda tensor: read.append(1) or checksum(tensor))
    cache, tensor, made = ContentCache(), torch.randn(100), []
    with one_call(), one_call():
        _made(cache, tensor, made)
        _made(cache, tensor, made)
    assert len(read) == 1
    with one_call():
        tensor.data[3] = 0  # between two calls, or before the first look
        assert torch.equal(_made(cache, tensor, made), 2 * tensor)
    assert len(made) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 7, 5000, 100_000])
def test_a_checksum_depends_on_every_number_and_on_their_order(dtype, size):
    tensor = torch.randint(1, 100, (size,)).to(dtype)
    assert checksum(tensor) == checksum(tensor.clone())
    if size:
        changed = tensor.clone()
        changed[size // 2] += 1
        assert checksum(changed) != checksum(tensor)
    if size > 10:
        assert checksum(tensor.sort().values) != checksum(tensor)

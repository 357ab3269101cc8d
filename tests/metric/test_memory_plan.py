"""The memory plan: its numbers on known sizes, its choices, and its estimate against real runs."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pullback.distances import load_distance
from pullback.errors import MemoryPlanError
from pullback.metric import memory
from pullback.metric.memory import GIB, Fit, Footprint, fit, footprint
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu")
SIZES = Footprint(latent_dim=100, features=300_000, largest=2**18, itemsize=4)


def test_the_footprint_of_a_linear_generator_is_that_of_its_image():
    assert footprint(Linear(latent_dim=6, size=8), MSE) == Footprint(6, 3 * 8 * 8, 3 * 8 * 8 * 4, 4)
    assert footprint(Linear(latent_dim=5, size=16).double(), MSE) == Footprint(5, 768, 768 * 8, 8)
    assert footprint(Classes(latent_dim=6, size=8), MSE) == Footprint(6, 192, 192 * 4, 4)


def test_the_largest_activation_counts_wherever_it_is():
    class Wide(Linear):
        def forward(self, z, condition=None):
            wide = z.repeat(1, 10_000)
            return super().forward(z) + 0 * wide.sum()

    assert footprint(Wide(), MSE).largest == 6 * 10_000 * 4
    resized = load_distance("mse", device="cpu", size=64)
    assert footprint(Linear(), resized) == Footprint(6, 3 * 64 * 64, 3 * 64 * 64 * 4, 4)


def test_weights_are_no_activation_however_large():
    class Mapped(Linear):
        def __init__(self):
            super().__init__()
            self.mapping = nn.Linear(6, 4000, bias=False)

        def forward(self, z, condition=None):
            return super().forward(z) + 0 * self.mapping(z).sum()

    # the mapping's output has 16 kB; a transposed view of its weights has 96 kB
    assert footprint(Mapped(), MSE).largest == 4000 * 4


@pytest.mark.weights
def test_the_footprint_of_faces_under_lpips_is_known_from_the_architectures(faces, lpips_alex):
    # AlexNet on 64 × 64: 15², 7² and three times 3² pixels; the largest array is DCGAN's 64 channels of 32 × 32
    features = 64 * 15**2 + 192 * 7**2 + (384 + 256 + 256) * 3**2
    assert footprint(faces, lpips_alex) == Footprint(100, features, 64 * 32 * 32 * 4, 4)


@given(st.integers(1, 64), st.integers(1, 64))
def test_more_codes_and_more_tangents_never_need_less(batch, tangents):
    assert SIZES.bytes(batch + 1, tangents) > SIZES.bytes(batch, tangents)
    assert SIZES.bytes(batch, tangents + 1) >= SIZES.bytes(batch, tangents)
    assert SIZES.bytes(batch, tangents) > batch * SIZES.latent_dim * SIZES.features * SIZES.itemsize


class _OnAGpu(nn.Module):
    """A stand-in whose parameters are not on the CPU, where a batch of several codes is worth its memory."""

    def __init__(self):
        super().__init__()
        self.parameter = nn.Parameter(torch.empty(1, device="meta"))


@pytest.fixture
def known_sizes(monkeypatch):
    monkeypatch.setattr(memory, "footprint", lambda generator, distance: SIZES)


def _fit_on_a_gpu(budget, codes=16, **fixed):
    return fit(_OnAGpu(), MSE, codes=codes, budget=budget, **fixed)


def test_all_that_is_there_is_used_where_there_is_plenty(known_sizes):
    assert _fit_on_a_gpu(10**15) == Fit(16, 64, SIZES.bytes(16, 64), 10**15)


def test_fewer_codes_come_before_fewer_than_eight_tangents(known_sizes):
    assert _fit_on_a_gpu(SIZES.bytes(4, 8)).batch == 4
    assert _fit_on_a_gpu(SIZES.bytes(4, 8) - 1).batch == 2
    assert _fit_on_a_gpu(SIZES.bytes(4, 8) - 1).tangents >= 8
    tight = _fit_on_a_gpu(SIZES.bytes(1, 8) - 1)
    assert tight.batch == 1
    assert tight.tangents < 8


@settings(max_examples=50)
@given(st.integers(SIZES.bytes(1, 1), SIZES.bytes(16, 64) * 2), st.integers(1, 20))
def test_every_choice_keeps_within_its_budget_and_leaves_no_larger_batch_out(budget, codes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "footprint", lambda generator, distance: SIZES)
        chosen = _fit_on_a_gpu(budget, codes)
    assert chosen.bytes == SIZES.bytes(chosen.batch, chosen.tangents) <= budget == chosen.available
    assert 1 <= chosen.batch <= codes
    assert chosen.tangents >= 8 or chosen.batch == 1
    larger = [codes // 2**k for k in range(6) if codes // 2**k > chosen.batch]
    assert all(SIZES.bytes(batch, 8) > budget for batch in larger)


def test_a_cpu_takes_one_code_at_once():
    assert fit(Linear(), MSE, codes=50, budget=GIB).batch == 1


def test_no_more_tangents_are_taken_than_there_are_latent_coordinates():
    assert fit(Linear(latent_dim=6), MSE, codes=1, budget=GIB).tangents == 6


def test_what_the_caller_fixed_is_kept(known_sizes):
    assert _fit_on_a_gpu(10**15, batch=3, tangents=5) == Fit(3, 5, SIZES.bytes(3, 5), 10**15)
    assert _fit_on_a_gpu(SIZES.bytes(3, 16), batch=3) == Fit(3, 16, SIZES.bytes(3, 16), SIZES.bytes(3, 16))
    assert _fit_on_a_gpu(SIZES.bytes(2, 5), tangents=5) == Fit(2, 5, SIZES.bytes(2, 5), SIZES.bytes(2, 5))


def test_a_fixed_batch_gets_as_few_tangents_as_it_takes(known_sizes):
    assert _fit_on_a_gpu(SIZES.bytes(7, 1), batch=7) == Fit(7, 1, SIZES.bytes(7, 1), SIZES.bytes(7, 1))


def test_too_little_memory_is_told_with_the_need_and_what_to_do(known_sizes):
    with pytest.raises(MemoryPlanError) as caught:
        _fit_on_a_gpu(SIZES.bytes(1, 1) - 1)
    told = str(caught.value)
    assert "n = 100" in told
    assert "300000 residual features" in told
    assert f"{SIZES.bytes(1, 1) / GIB:.3g} GiB" in told
    assert "batch of 1 and 1 tangents" in told
    assert "Nothing was started" in told
    assert "distance.size, fewer workers, or a machine" in told


def test_a_fixed_choice_that_does_not_fit_is_told_as_such(known_sizes):
    with pytest.raises(MemoryPlanError, match="batch of 8 and 32 tangents"):
        _fit_on_a_gpu(SIZES.bytes(8, 32) - 1, batch=8, tangents=32)


def test_by_default_most_of_the_free_memory_is_planned_with():
    free = psutil.virtual_memory().available
    available = fit(Smooth(), MSE, codes=1).available
    assert 0.5 * free < available < 0.9 * free


_REAL_RUN = """
import json, pathlib, resource, sys
import psutil, torch
torch.set_num_threads(1)
from toy_generators import Linear
from pullback.distances import load_distance
from pullback.generators import load_generator
from pullback.metric import metric_at
from pullback.metric.memory import footprint

def peak_bytes():
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux hands ru_maxrss down from the process that started this one
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

case, runs = sys.argv[1], []
if case == "dense":
    generator, distance, widths = Linear(latent_dim=2200), load_distance("mse", device="cpu"), [8]
else:
    generator, distance = load_generator("dcgan-faces", device="cpu"), load_distance("lpips", device="cpu")
    widths = [16, 64]
z = torch.zeros(1, generator.latent_dim)
sizes = footprint(generator, distance)
for tangents in widths:
    before = psutil.Process().memory_info().rss
    metric_at(generator, distance, z, batch=1, tangents=tangents)
    runs.append((sizes.bytes(1, tangents), peak_bytes() - before))
print(json.dumps(runs))
"""


@pytest.mark.parametrize("case", [pytest.param("faces", marks=pytest.mark.weights), "dense"])
def test_a_real_run_needs_no_more_than_was_estimated_and_not_much_less(case, request):
    """`faces` is ruled by activations and Jacobian rows, `dense` by the n × n matrices of the decomposition."""
    if case == "faces":
        request.getfixturevalue("faces")
        request.getfixturevalue("lpips_alex")
    tests = Path(__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(tests)!r}){_REAL_RUN}"
    result = subprocess.run([sys.executable, "-c", code, case], capture_output=True, text=True, check=True)
    for estimated, needed in json.loads(result.stdout):
        assert needed <= estimated < 8 * needed

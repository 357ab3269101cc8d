"""The memory plan: its numbers on known sizes, its choices, and its estimate against real runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from pullback.distances import load_distance
from pullback.errors import MemoryPlanError
from pullback.metric import memory, metric_at, pullback_metric
from pullback.metric.memory import GIB, Fit, Footprint, LivePeak, codes_together, fit, footprint, is_out_of_memory
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu")
SSIM = load_distance("ssim", device="cpu")
SIZES = Footprint(
    latent_dim=100,
    features=300_000,
    itemsize=4,
    recorded=2**22,
    pushed=2**20,
    largest=2**18,
    reverse=2**22,
    scratch=2**23,
)


def test_the_footprint_knows_the_residual_the_number_and_the_weights():
    sizes = footprint(Linear(latent_dim=5, size=16).double(), MSE)
    assert (sizes.latent_dim, sizes.features, sizes.itemsize) == (5, 768, 8)
    assert sizes.scratch == 768 * 5 * 8
    assert footprint(Classes(latent_dim=6, size=8), MSE).features == 192


@pytest.mark.parametrize("size", [8, 32])
def test_what_a_tangent_takes_grows_with_the_image(size):
    sizes = footprint(Linear(size=size), MSE)
    image = 3 * size * size * 4
    assert sizes.largest == image
    assert image <= sizes.pushed <= 4 * image
    assert image <= sizes.reverse <= 8 * image


def test_the_largest_activation_counts_wherever_it_is():
    class Wide(Linear):
        def forward(self, z, condition=None):
            wide = z.repeat(1, 10_000)
            return super().forward(z) + 0 * wide.sum()

    assert footprint(Wide(), MSE).largest == 6 * 10_000 * 4
    assert footprint(Linear(), load_distance("mse", device="cpu", size=64)).largest == 3 * 64 * 64 * 4


def test_a_distance_that_is_no_sum_of_squares_has_a_footprint_without_a_jacobian():
    sizes = footprint(Linear(size=16), SSIM)
    assert sizes.features == 0
    assert sizes.reverse > 3 * 16 * 16 * 4
    assert fit(Linear(size=16), SSIM, codes=1, budget=GIB).whole is False


def test_a_footprint_is_measured_once_for_the_same_networks(monkeypatch):
    generator = Linear()
    first = footprint(generator, MSE)
    monkeypatch.setattr(memory, "_measure", lambda generator, distance: pytest.fail("measured again"))
    assert footprint(generator, MSE) is first


def test_tensors_are_followed_from_birth_to_death():
    with LivePeak() as peak:
        x = torch.ones(1000)
        y = x + 1
        z = (y * 2).view(10, 100)
        del y
        for _ in range(5):
            _ = z.sum()
    assert peak.largest == 4000
    assert peak.peak in range(12_000, 12_100)
    assert peak.live in range(8_000, 12_100)


@given(st.integers(1, 64), st.integers(1, 64), st.booleans())
def test_more_codes_and_more_tangents_never_need_less(batch, tangents, whole):
    assert SIZES.bytes(batch + 1, tangents, whole) > SIZES.bytes(batch, tangents, whole)
    assert SIZES.bytes(batch, tangents + 1, whole) >= SIZES.bytes(batch, tangents, whole)
    if whole:
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
    assert _fit_on_a_gpu(10**15) == Fit(16, 16, SIZES.bytes(16, 16), 10**15)


@settings(max_examples=50)
@given(st.integers(SIZES.bytes(1, 1), SIZES.bytes(16, 64) * 2), st.integers(1, 20))
@example(387262976, 3)  # enough for 3 codes with 4 tangents, and not with 5
def test_every_choice_keeps_within_its_budget_and_leaves_no_larger_batch_out(budget, codes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "footprint", lambda generator, distance: SIZES)
        chosen = _fit_on_a_gpu(budget, codes)
    assert chosen.bytes == SIZES.bytes(chosen.batch, chosen.tangents) <= budget == chosen.available
    assert chosen.whole
    assert 1 <= chosen.batch <= codes
    assert chosen.tangents >= 4 or chosen.batch == 1
    larger = [codes // 2**k for k in range(6) if codes // 2**k > chosen.batch]
    assert all(SIZES.bytes(batch, 4) > budget for batch in larger)


def test_a_cpu_takes_one_code_at_once_where_its_tangents_fill_it_and_more_of_small_codes(known_sizes):
    assert fit(Linear(), MSE, codes=50, budget=GIB).batch == 1


def test_a_cpu_takes_several_codes_of_few_coordinates_at_once():
    chosen = fit(Linear(latent_dim=6), MSE, codes=50, budget=GIB)
    assert chosen.batch > 1
    assert chosen.tangents == 6


def test_a_cpus_tangents_stay_small_enough_to_be_kept_by_the_allocator(known_sizes):
    chosen = fit(Linear(), MSE, codes=1, budget=10**12)
    assert chosen.tangents * SIZES.largest <= 18 * 2**20


def test_where_the_jacobian_does_not_fit_the_metric_is_built_from_products(known_sizes):
    chosen = _fit_on_a_gpu(SIZES.bytes(1, 1) - 1)
    assert not chosen.whole
    assert chosen.bytes <= SIZES.bytes(1, 1) - 1


def test_the_metric_from_products_is_that_from_the_jacobian(monkeypatch):
    """J is never held whole where it does not fit: H is 2 Jᵀ(J I), a chunk of coordinates after the other."""
    generator, z = Smooth(latent_dim=12), torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    wanted = metric_at(generator, MSE, z, method="gauss_newton")
    tight = Fit(1, 5, 1, 1, whole=False)
    monkeypatch.setattr(pullback_metric, "fit", lambda *arguments, **fixed: tight)
    found = metric_at(generator, MSE, z, method="gauss_newton")
    torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-5, atol=1e-7)
    assert found.certificate.failures() == ["", "", ""]
    assert bool(found.certificate.column_error.isnan().all()), "there was no Jacobian to look at"


def test_what_the_caller_fixed_is_kept(known_sizes):
    assert _fit_on_a_gpu(10**15, batch=3, tangents=5) == Fit(3, 5, SIZES.bytes(3, 5), 10**15)
    assert _fit_on_a_gpu(SIZES.bytes(3, 11), batch=3).tangents <= 11
    assert _fit_on_a_gpu(SIZES.bytes(2, 5), tangents=5) == Fit(2, 5, SIZES.bytes(2, 5), SIZES.bytes(2, 5))


def test_a_fixed_batch_gets_as_few_tangents_as_it_takes(known_sizes):
    chosen = _fit_on_a_gpu(SIZES.bytes(7, 1), batch=7)
    assert chosen.batch == 7
    assert SIZES.bytes(7, chosen.tangents) <= SIZES.bytes(7, 1) < SIZES.bytes(7, 16)


def test_too_little_memory_is_told_with_the_need_and_what_to_do(known_sizes):
    least = SIZES.bytes(1, 1, whole=False)
    with pytest.raises(MemoryPlanError) as caught:
        _fit_on_a_gpu(least - 1)
    told = str(caught.value)
    assert "n = 100" in told
    assert "300000 residual features" in told
    assert f"{least / GIB:.3g} GiB" in told
    assert "batch of 1 and 1 tangents" in told
    assert "Nothing was started" in told
    assert "distance.size, fewer workers, or a machine" in told


def test_a_fixed_choice_that_does_not_fit_is_told_as_such(known_sizes):
    with pytest.raises(MemoryPlanError, match="batch of 8 and 32 tangents"):
        _fit_on_a_gpu(SIZES.bytes(8, 32, whole=False) - 1, batch=8, tangents=32)


def test_by_default_most_of_the_free_memory_is_planned_with():
    free = psutil.virtual_memory().available
    available = fit(Smooth(), MSE, codes=1).available
    assert 0.5 * free < available < 0.9 * free


@pytest.mark.parametrize(
    ("error", "memory_ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, memory_ran_out):
    assert is_out_of_memory(error) is memory_ran_out


def test_out_of_memory_halves_the_batch_then_the_chunk_and_goes_on(monkeypatch):
    generator, z = Smooth(latent_dim=8), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    wanted = metric_at(generator, MSE, z, batch=4, tangents=8)
    tried = []
    compute = pullback_metric.by_jacobian

    def scarce(generator, distance, z, condition, setting, batch, tangents):
        tried.append((batch, tangents))
        if batch * tangents > 3:
            raise torch.OutOfMemoryError("out of memory")
        return compute(generator, distance, z, condition, setting, batch, tangents)

    monkeypatch.setattr(pullback_metric, "by_jacobian", scarce)
    found = metric_at(generator, MSE, z, batch=4, tangents=8)
    assert tried[:5] == [(4, 8), (2, 8), (1, 8), (1, 4), (1, 2)]
    assert (found.batch, found.tangents) == (1, 2)
    torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-6, atol=1e-9)


def test_no_memory_at_all_is_an_error_that_says_what_to_do(monkeypatch):
    def none(*arguments):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(pullback_metric, "by_jacobian", none)
    with pytest.raises(MemoryPlanError, match=r"one code with one tangent.*lower distance\.size"):
        metric_at(Smooth(), MSE, torch.zeros(6))


def test_halving_ends_at_one_code_and_one_tangent():
    chosen, seen = replace(Fit(8, 6, 1, 1), whole=True), []
    for _ in range(5):
        chosen = chosen.halved(RuntimeError())
        seen.append((chosen.batch, chosen.tangents))
    assert seen == [(4, 6), (2, 6), (1, 6), (1, 3), (1, 1)]
    with pytest.raises(MemoryPlanError):
        chosen.halved(RuntimeError())


@given(st.integers(1, 64), st.integers(1, 8192))
def test_few_codes_wait_for_their_probes_and_large_metrics_none(batch, latent_dim):
    together = codes_together(batch, latent_dim)
    assert batch <= together <= max(batch, 4)
    assert together == batch or together * latent_dim**2 * 8 <= 2**26 or together == 1


_REAL_RUN = """
import ctypes, gc, json, pathlib, sys
import torch
torch.set_num_threads(1)
from toy_generators import Linear
from pullback.distances import load_distance
from pullback.generators import load_generator
from pullback.metric import metric_at
from pullback.metric.memory import footprint

def status(key):
    return 1024 * int(pathlib.Path("/proc/self/status").read_text().partition(key)[2].split()[0])

case, runs = sys.argv[1], []
if case == "dense":
    generator, distance, widths = Linear(latent_dim=2200), load_distance("mse", device="cpu"), [8]
else:
    generator, distance = load_generator(case, device="cpu"), load_distance("lpips", device="cpu")
    widths = [8, 16]
z = torch.randn(1, generator.latent_dim)
condition = "brown" if generator.classes else None
sizes = footprint(generator, distance)
for tangents in widths:
    for measured in (False, True):  # the first time, kernels are rearranged and kept
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
        before = status("VmRSS:")
        metric_at(generator, distance, z, condition=condition, method="gauss_newton", batch=1, tangents=tangents)
    runs.append((sizes.bytes(1, tangents), status("VmHWM:") - before))
print(json.dumps(runs))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    "case",
    [
        pytest.param("dcgan-faces", marks=pytest.mark.weights),
        pytest.param("dcgan-eyes", marks=pytest.mark.weights),
        "dense",
    ],
)
def test_a_real_run_needs_what_was_predicted_within_a_quarter(case, request):
    """Faces and eyes are ruled by activations and Jacobian rows, `dense` by the n × n matrices of the decomposition."""
    if case != "dense":
        request.getfixturevalue(case.removeprefix("dcgan-"))
        request.getfixturevalue("lpips_alex")
    tests = Path(__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(tests)!r}){_REAL_RUN}"
    # every large array is given back to the system at once: what is resident is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    result = subprocess.run(
        [sys.executable, "-c", code, case], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    for predicted, needed in json.loads(result.stdout):
        assert 0.8 < predicted / needed < 1.25

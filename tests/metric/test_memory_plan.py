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

from pullback.distances import load_distance
from pullback.errors import MemoryPlanError
from pullback.metric import compute as pullback_metric
from pullback.metric import metric_at, strategy
from pullback.metric.allocation import LivePeak, is_out_of_memory
from pullback.metric.memory import GIB, Fit, Footprint, codes_together, fit, measure
from pullback.metric.methods import Setting
from pullback.metric.strategy import Request, Strategy, decide
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
PRODUCTS = replace(SIZES, kind="rows")
SMALL = replace(SIZES, features=30_000)
CPU, GPU = torch.device("cpu"), torch.device("meta")


def footprint(generator, distance):
    """The footprint of the default method."""
    if distance is SSIM:
        return measure(generator, distance, Setting("backprop", route="second"), "rows", 0)
    return measure(generator, distance, Setting("gauss_newton"), "jacobian", 0)


def decided(generator, distance, codes=1, method="auto", **options):
    """The strategy for all components."""
    setting = Setting("gauss_newton")
    return decide(generator, distance, Request(method, generator.latent_dim, codes, setting, **options))


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
    assert decided(Linear(size=16), SSIM, budget=GIB).fit.whole is False


def test_a_footprint_is_measured_once_for_the_same_networks(monkeypatch):
    generator = Linear()
    first = decided(generator, MSE, budget=GIB)
    monkeypatch.setattr(strategy, "measure", lambda *arguments: pytest.fail("measured again"))
    assert decided(generator, MSE, budget=GIB) == first


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


def test_a_compiled_network_takes_the_memory_of_its_operators():
    network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    compiled = torch.compile(network, backend="eager")
    peaks = []
    for function in (network, compiled, compiled):
        with LivePeak() as peak:
            function(torch.ones(4, 8))
        peaks.append((peak.peak, peak.largest))
    assert peaks[1:] == peaks[:1] * 2
    assert peaks[0][1] == 4 * 64 * 4


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([SIZES, PRODUCTS]))
def test_more_codes_and_more_tangents_never_need_less(batch, tangents, sizes):
    assert sizes.bytes(batch + 1, tangents) >= sizes.bytes(batch, tangents)
    assert sizes.bytes(batch, tangents + 1) >= sizes.bytes(batch, tangents)
    if sizes is SIZES:
        assert sizes.bytes(batch, tangents) > batch * SIZES.latent_dim * SIZES.features * SIZES.itemsize


def on_a_gpu(available, codes=16, sizes=SIZES, **fixed):
    """A fit on another device than the CPU, where a batch of several codes is worth its memory."""
    return fit(sizes, GPU, codes=codes, available=available, **fixed)


def needed(batch, tangents, codes=16, sizes=SIZES):
    """Bytes that a fit for so many codes counts."""
    return sizes.bytes(batch, tangents, min(codes, codes_together(batch, sizes.latent_dim)))


def test_all_that_is_there_is_used_where_there_is_plenty():
    assert on_a_gpu(10**15) == Fit(16, 16, needed(16, 16), 10**15)


@settings(max_examples=50)
@given(st.integers(needed(1, 1), needed(16, 64) * 2), st.integers(1, 20))
@example(387262976, 3)  # enough for 3 codes with 4 tangents, and not with 5
def test_every_choice_keeps_within_its_budget_and_leaves_no_larger_batch_out(budget, codes):
    chosen = on_a_gpu(budget, codes)
    assert chosen.bytes == needed(chosen.batch, chosen.tangents, codes) <= budget == chosen.available
    assert chosen.whole
    assert 1 <= chosen.batch <= codes
    assert chosen.tangents >= 4 or chosen.batch == 1
    larger = [codes // 2**k for k in range(6) if codes // 2**k > chosen.batch]
    assert all(needed(batch, 4, codes) > budget for batch in larger)


def test_a_cpu_takes_one_code_at_once_where_its_tangents_or_its_jacobian_fill_it():
    assert fit(SIZES, CPU, codes=50, available=GIB).batch == 1
    assert fit(replace(SMALL, largest=9 * 2**20), CPU, codes=50, available=GIB).batch == 1


def test_a_cpu_records_four_codes_at_once_where_they_are_small():
    chosen = fit(SMALL, CPU, codes=50, available=GIB)
    assert (chosen.batch, chosen.tangents) == (4, 8)
    assert fit(SMALL, CPU, codes=1, available=GIB).batch == 1


def test_a_cpu_checks_sixteen_codes_at_once_where_that_takes_no_more_memory():
    small = replace(SMALL, reverse=2**20)
    chosen = fit(small, CPU, codes=50, available=GIB)
    assert (chosen.batch, chosen.together) == (4, 16)
    assert chosen.bytes == small.bytes(4, 8, 16) <= 1.05 * small.bytes(4, 8, 4)
    assert fit(small, CPU, codes=6, available=GIB).together == 6
    assert chosen.halved(RuntimeError()).together == 0, "memory is short after all"
    assert fit(replace(small, reverse=2**24), CPU, codes=50, available=GIB).together == 0
    assert fit(small, CPU, codes=50, available=small.bytes(4, 8, 4)).together == 0
    assert fit(small, CPU, codes=1, available=GIB).together == 0


def test_a_cpu_takes_several_codes_of_few_coordinates_at_once():
    chosen = decided(Linear(latent_dim=6), MSE, codes=50, budget=GIB).fit
    assert chosen.batch > 1
    assert chosen.tangents == 6


def test_a_cpus_tangents_stay_small_enough_to_be_kept_by_the_allocator():
    chosen = fit(SIZES, CPU, codes=1, available=10**12)
    assert chosen.tangents * SIZES.largest <= 18 * 2**20


def test_where_the_jacobian_does_not_fit_the_metric_is_built_from_products():
    generator, mse = Linear(latent_dim=200, size=64).double(), load_distance("mse", device="cpu").double()
    assert decided(generator, mse, budget=GIB, method="gauss_newton").fit.whole
    whole = measure(generator, mse, Setting("gauss_newton"), "jacobian", 0).bytes(1, 1)
    tight = decided(generator, mse, budget=whole - 1, method="gauss_newton")
    assert (tight.method, tight.route, tight.fit.whole) == ("gauss_newton", "forward", False)
    assert tight.fit.bytes < whole


def test_the_metric_from_products_is_that_from_the_jacobian():
    """J is never held whole where it does not fit: H is 2 Jᵀ(J I), a chunk of coordinates after the other."""
    generator, z = Smooth(latent_dim=12), torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    wanted = metric_at(generator, MSE, z, method="gauss_newton")
    tight = Strategy("gauss_newton", "forward", Fit(1, 5, 1, 1, whole=False))
    found = metric_at(generator, MSE, z, strategy=tight)
    torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-5, atol=1e-7)
    assert found.certificate.failures() == ["", "", ""]
    assert bool(found.certificate.column_error.isnan().all()), "there was no Jacobian to look at"


def test_what_the_caller_fixed_is_kept():
    assert on_a_gpu(10**15, batch=3, tangents=5) == Fit(3, 5, needed(3, 5), 10**15)
    assert on_a_gpu(needed(3, 11), batch=3).tangents <= 11
    assert on_a_gpu(needed(2, 5), tangents=5) == Fit(2, 5, needed(2, 5), needed(2, 5))


def test_a_fixed_batch_gets_as_few_tangents_as_it_takes():
    chosen = on_a_gpu(needed(7, 1), batch=7)
    assert chosen.batch == 7
    assert needed(7, chosen.tangents) <= needed(7, 1) < needed(7, 16)


def test_too_little_memory_is_an_error_with_the_need_and_advice():
    assert on_a_gpu(needed(1, 1, 1) - 1, codes=1) is None
    with pytest.raises(MemoryPlanError) as caught:
        decided(Linear(), MSE, budget=1000)
    message = str(caught.value)
    for part in ("n = 6", "192 residual features", "GiB", "batch of 1 and 1 tangents", "Nothing was started"):
        assert part in message


def test_a_fixed_choice_that_does_not_fit_is_named():
    with pytest.raises(MemoryPlanError, match="batch of 8 and 32 tangents"):
        decided(Linear(), MSE, codes=8, budget=1000, batch=8, tangents=32)


def test_by_default_most_of_the_free_memory_is_planned_with():
    free = psutil.virtual_memory().available
    available = decided(Smooth(), MSE).fit.available
    assert 0.5 * free < available < 0.9 * free


def caused(error):
    """An error that a user's code raised from another."""
    outer = ValueError("the block failed")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("unable to mmap 4096 bytes from file: Cannot allocate memory (12)"),
        MemoryError("Unable to allocate 8 GiB for an array"),
        OSError(12, "Cannot allocate memory"),
        caused(MemoryError()),
    ],
    ids=str,
)
def test_every_library_that_runs_out_of_memory_is_understood(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("out of memory of the past"),
        OSError(2, "No such file"),
        caused(ValueError()),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_exhausted_memory(error):
    assert not is_out_of_memory(error)


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
    assert metric_at(Smooth(), MSE, torch.zeros(6)).whole is False
    monkeypatch.setattr(pullback_metric, "by_rows", none)
    with pytest.raises(MemoryPlanError, match=r"one code with one tangent.*smaller images"):
        metric_at(Smooth(), MSE, torch.zeros(6))


def test_halving_ends_at_one_code_and_one_tangent():
    chosen, seen = replace(Fit(8, 6, 1, 1), whole=True), []
    for _ in range(5):
        chosen = chosen.halved(RuntimeError())
        seen.append((chosen.batch, chosen.tangents))
    assert seen == [(4, 6), (2, 6), (1, 6), (1, 3), (1, 1)]
    chosen = chosen.halved(RuntimeError())
    assert chosen == Fit(1, 1, 1, 1, whole=False), "the Jacobian itself is given up last"
    with pytest.raises(MemoryPlanError):
        chosen.halved(RuntimeError())


@given(st.integers(1, 64), st.integers(1, 8192))
def test_few_codes_wait_for_their_probes_and_large_metrics_none(batch, latent_dim):
    together = codes_together(batch, latent_dim)
    assert batch <= together <= max(batch, 4)
    assert together == batch or together * latent_dim**2 * 8 <= 2**26 or together == 1


REAL_RUNS = [
    ("attending", "mse", "gauss_newton", "float32", 3),  # GroupNorm and attention
    ("attending", "mse", "gauss_newton", "float64", 2),
    ("attending", "ssim", "backprop", "float32", 1),
    ("modulated", "mse", "gauss_newton", "float32", 3),
    ("large", "mse", "gauss_newton", "float32", 2),
    ("wide", "mse", "gauss_newton", "float32", 1),  # ruled by the n × n matrices of the decomposition
    ("attending", "mse", "block_krylov", "float32", 1),
    ("dcgan-faces", "lpips", "gauss_newton", "float32", 4),
]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.weights] * ("dcgan" in c[0]), id=" ".join(map(str, c))) for c in REAL_RUNS],
)
def test_a_real_run_needs_what_was_predicted_within_a_quarter(case, request):
    if case[1] == "lpips":
        request.getfixturevalue("faces")
        request.getfixturevalue("lpips_alex")
    # every large array is given back to the system at once: what is resident is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    program = Path(__file__).with_name("memory_cases.py")
    result = subprocess.run(
        [sys.executable, program, *map(str, case)], capture_output=True, text=True, check=False, env=environment
    )
    assert result.returncode == 0, result.stderr
    predicted, needed = json.loads(result.stdout)[:2]
    assert 0.9 < predicted / needed < 1.25

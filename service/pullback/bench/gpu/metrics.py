"""Time one metric and many: ratios to the paper's method and to the floor, and share of the device's matrix rate.

Pullback and the baseline run in strict float32, and at torch's default precision, where cuDNN's convolutions use TF32.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pullback.bench.gpu.rates import matrix_rate
from pullback.bench.gpu.rows import RowFile
from pullback.bench.gpu.subjects import Subject, lpips, subject
from pullback.bench.gpu.timing import seconds, torch_defaults
from pullback.errors import PullbackError, WeightsError
from pullback.metric import metric_at
from pullback.metric.allocation import is_out_of_memory
from pullback.metric.precision import arithmetic
from pullback.metric.products import differentiable_gradients, squared_map
from pullback.spec.metric import Precision

_ROWS = 24
"""Number of backward passes of the baseline that are timed. The remaining passes are extrapolated."""


def biggan_256(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Compare at BigGAN-deep-256, which has goals."""
    compare(rows, _sized("biggan_deep_tiny", "biggan_deep_256", device, quick), quick, goals=True)


def biggan_128(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Compare at BigGAN-deep-128."""
    compare(rows, _sized("biggan_deep_tiny", "biggan_deep_128", device, quick), quick)


def stylegan2_256(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Compare at StyleGAN2-256 in W, with two LPIPS trunks."""
    shape = _sized("stylegan2_tiny", "stylegan2_256", device, quick)
    compare(rows, shape, quick)
    vgg = Subject(f"{shape.name}, vgg", shape.generator, lpips("vgg", device), shape.codes, None)
    compare(rows, vgg, quick)


def dcgans(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Compare at the trained generators."""
    for name in ("dcgan-faces", "dcgan-eyes"):
        try:
            trained = _sized("fc6_tiny", name, device, quick)
        except WeightsError as error:
            rows.add(f"{name}: left out", None, note=str(error).partition(". Looked at")[0])
            continue
        compare(rows, trained, quick)


def _sized(small: str, full: str, device: torch.device, quick: bool) -> Subject:
    return subject(small, device, points=2) if quick else subject(full, device)


def many_codes(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Measure metrics per second for several numbers of codes in one call."""
    try:
        trained = subject("fc6_tiny" if quick else "dcgan-faces", device, points=8 if quick else 256)
    except WeightsError as error:
        rows.add("dcgan-faces: left out", None, note=str(error).partition(". Looked at")[0])
        return
    for points in (1, 8) if quick else (1, 16, 64, 256):
        taken = _ours(trained, "float32", points, 0.1 if quick else 4.0)
        rows.add(f"{trained.name}: {points} codes", points / taken, "metrics/s", note="float32, certificates included")


def compare(rows: RowFile, measured: Subject, quick: bool, goals: bool = False) -> None:
    """Time Pullback's method, the baseline and the floor for one generator.

    Args:
        rows: receives the results.
        measured: the generator, distance and codes.
        quick: whether sizes and times are small.
        goals: whether the ratios to the baseline have goals.
    """
    device, n, name = measured.codes.device, measured.latent_dim, measured.name
    flops = forward_operations(measured)
    rows.add(f"{name}: one forward pass", flops / 1e9, "GFLOP", note=f"n = {n}")
    on_gpu = device.type == "cuda"
    modes: list[tuple[str, Precision, AbstractContextManager[None], float]] = [
        ("strict float32", "float32", arithmetic("float32"), 8.0)
    ]
    if on_gpu or quick:  # a CPU has only one arithmetic; the quick check still fills every row
        modes.append(("default", "tf32" if on_gpu else "float32", torch_defaults(), 30.0))
    for mode, precision, plainly, goal in modes:
        longest = 0.1 if quick else 6.0
        try:
            ours = _ours(measured, precision, 1, longest)
            several = _ours(measured, precision, len(measured.codes), longest) / len(measured.codes)
        except (PullbackError, RuntimeError) as error:
            rows.add(f"{name}, {mode}: ours", None, note=f"{type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        with plainly:
            floor = _floor(measured, longest)
            baseline = _baseline(measured, 2 if quick else _ROWS, longest)
        rows.add(f"{name}, {mode}: one metric", ours, "s", note="with its certificate")
        rows.add(f"{name}, {mode}: of {len(measured.codes)}, each", several, "s")
        rows.add(f"{name}, {mode}: times the floor", min(ours, several) / floor, note=f"floor {floor:.3g} s")
        rows.add(
            f"{name}, {mode}: times backprop",
            baseline / min(ours, several),
            at_least=goal if goals and on_gpu else None,
            note=f"backprop {baseline:.3g} s, extrapolated from {2 if quick else _ROWS} of {n} backward passes",
        )
        rate = matrix_rate(device, precision, 256 if quick else 8192)
        rows.add(
            f"{name}, {mode}: share of the matrix rate",
            n * flops / min(ours, several) / rate,
            at_least=0.5 if goals and on_gpu else None,
            note="n forward passes' operations over the time and the measured rate",
        )


def forward_operations(measured: Subject) -> int:
    """Count the floating-point operations of one forward pass of generator and distance for one code."""
    own = None if measured.classes is None else measured.classes[:1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        measured.distance.residual_at(measured.generator, measured.codes[:1], own)
    return int(counter.get_total_flops())


def _ours(measured: Subject, precision: Precision, points: int, longest: float) -> float:
    def work() -> object:
        return metric_at(
            measured.generator,
            measured.distance,
            measured.codes[:points],
            condition=measured.condition(points),
            method="gauss_newton",
            precision=precision,
        )

    return seconds(work, measured.codes.device, runs=5, at_most=longest)


def _floor(measured: Subject, longest: float) -> float:
    """Return the seconds of n forward passes at the best batch size."""
    n, device = measured.latent_dim, measured.codes.device
    best = float("inf")
    for batch in (1, 8, 32, 128):
        codes = torch.randn(min(batch, n), n, generator=torch.Generator().manual_seed(1)).to(measured.codes)
        classes = None if measured.classes is None else measured.classes[:1].repeat(len(codes))

        def forward(codes: Tensor = codes, classes: Tensor | None = classes) -> None:
            with torch.no_grad():
                measured.distance.residual_at(measured.generator, codes, classes)

        try:
            best = min(best, seconds(forward, device, runs=5, at_most=longest / 4) * n / len(codes))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
    return best


def _baseline(measured: Subject, passes: int, longest: float) -> float:
    """Return the seconds of the paper's method at one code: building the gradient's graph, and n backward passes."""
    device, n = measured.codes.device, measured.latent_dim
    own = None if measured.classes is None else measured.classes[:1]
    squared = squared_map(measured.generator, measured.distance, measured.codes[0], own)
    code = measured.codes[:1].detach().clone().requires_grad_()
    held: list[Tensor] = []

    def build() -> None:
        held.clear()
        with torch.enable_grad():
            held.extend(differentiable_gradients(squared, code)[0].unbind())

    def backward() -> None:
        for entry in held[:passes]:
            torch.autograd.grad(entry, code, retain_graph=True)

    building = seconds(build, device, runs=3, at_most=longest / 2)
    return building + seconds(backward, device, runs=3, at_most=longest) * n / min(passes, n)

"""In which arithmetic a metric is computed, and how far that is from float64.

`float32` is IEEE arithmetic in every product; on a GPU torch's default for convolutions is TF32, which keeps 10 bits
of the mantissa, and is here chosen by name. `bfloat16` keeps 8 bits of the tangents only: the image, and with it every
activation's state, is computed in float32. `float64` computes with copies of the networks.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pullback.errors import PullbackError

Network = TypeVar("Network", bound=nn.Module)
Precision = Literal["float32", "float64", "tf32", "bfloat16"]


def tangent_dtype(precision: Precision) -> torch.dtype | None:
    """The dtype of tangents; None where it is that of the networks."""
    return torch.bfloat16 if precision == "bfloat16" else None


def require(precision: Precision, device: torch.device) -> None:
    """Refuse an arithmetic that the device does not have.

    Raises:
        PullbackError: it does not; says what it has.
    """
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)):
        raise PullbackError(
            f"metric.precision: {device} has no tf32, which NVIDIA GPUs from compute capability 8.0 on have. Nothing "
            "was computed; use float32, float64 or bfloat16"
        )


_doubles: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def in_double(module: Network) -> Network:
    """A copy of a network in float64, made once for as long as the network lives; it takes twice its memory."""
    if module not in _doubles:
        _doubles[module] = copy.deepcopy(module).double()
    double: Any = _doubles[module]
    return double  # type: ignore[no-any-return]


@contextmanager
def arithmetic(precision: Precision = "float32", deterministic: bool = False) -> Iterator[None]:
    """Products of float32 in full, or with TF32 where that is asked for; and only algorithms that repeat themselves.

    Torch has two sets of switches for TF32. The older raise an error where a caller mixed them, and do not always
    overrule the newer; so the older are used where they work, and the newer where those do not.

    Args:
        precision: `tf32` lets a GPU use it; every other forbids it.
        deterministic: use torch's deterministic algorithms; an operation that has none is only warned about.
    """
    matmul = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn  # whose `conv` torch's annotations leave out
    rough = precision == "tf32"
    older, newer = None, (matmul.fp32_precision, cudnn.conv.fp32_precision)
    with suppress(RuntimeError):
        older = torch.get_float32_matmul_precision(), cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if rough else "highest")
        cudnn.allow_tf32 = rough
    wanted = "tf32" if rough else "ieee"
    by_newer = older is None or {matmul.fp32_precision, cudnn.conv.fp32_precision} != {wanted}
    if by_newer:
        matmul.fp32_precision = cudnn.conv.fp32_precision = wanted
    try:
        with _deterministic() if deterministic else nullcontext():
            yield
    finally:
        if by_newer:
            matmul.fp32_precision, cudnn.conv.fp32_precision = newer
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            cudnn.allow_tf32 = older[1]


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may differ from run to run
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def relative_error(measured: Tensor, exact: Tensor) -> Tensor:
    """‖measured − exact‖ / ‖exact‖ of each row [batch, ...]; 0 where both are zero; float64 on the CPU."""
    measured, exact = measured.flatten(1).to("cpu", torch.float64), exact.flatten(1).to("cpu", torch.float64)
    error, size = (measured - exact).norm(dim=1), exact.norm(dim=1)
    return torch.where(error == 0, torch.zeros_like(error), error / size)

"""The arithmetic of a metric, and its error relative to float64.

`float32` is IEEE arithmetic in every product. On a GPU, torch's default for convolutions is TF32, which keeps 10 bits
of the mantissa. Here TF32 is used only with precision `tf32`. `bfloat16` keeps 8 bits of the tangents only: the image
and all activations are computed in float32. `float64` computes with float64 copies of the networks.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pullback.errors import ArgumentError, PullbackError, is_interrupt
from pullback.generators.base import reference_tensor
from pullback.generators.full_precision import HALF, is_marked, mark
from pullback.spec.metric import Precision

Network = TypeVar("Network", bound=nn.Module)


def tangent_dtype(precision: Precision) -> torch.dtype | None:
    """The dtype of tangents; None for the dtype of the networks."""
    return torch.bfloat16 if precision == "bfloat16" else None


def require(precision: Precision, device: torch.device) -> None:
    """Check that a device supports an arithmetic.

    Raises:
        PullbackError: the device does not support it. The message lists what it supports.
    """
    if precision == "tf32" and not (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)):
        raise ArgumentError(
            "precision",
            f"{device} has no tf32, which NVIDIA GPUs from compute capability 8.0 on have. Nothing was computed; use "
            "float32, float64 or bfloat16",
        )


def in_double(module: Network) -> Network:
    """A float64 copy of a network in its present state: parameters, buffers, other tensors and plain attributes.

    If all its numbers are float64 already, the network itself is returned. Each call makes a new copy, because no
    reliable test shows that the network is unchanged since an earlier copy. A copy takes 1 ms for 1.5 MB of
    float32 weights.

    Raises:
        PullbackError: the network holds something that cannot be copied.
    """
    tensors = _tensors_of(module)
    if all(tensor.dtype == torch.float64 for tensor in tensors if tensor.is_floating_point()):
        return module
    try:
        return converted(module, [tensor for tensor in tensors if tensor.is_floating_point()], torch.float64)
    except Exception as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        raise ArgumentError(
            "precision",
            f"float64 computes with a copy of {type(module).__name__}, which cannot be copied "
            f"({type(error).__name__}: {error}). Nothing was computed; use float32, or give networks whose weights are "
            "float64 already",
        ) from error


def in_single(module: Network) -> Network:
    """A float32 copy of a network in float16 or bfloat16; any other network is returned unchanged.

    The copy has the same weights, but derivatives of float16 or bfloat16 activations have errors of 1e-3 to 1e-2.

    Raises:
        PullbackError: the network holds something that cannot be copied.
    """
    if reference_tensor(module).dtype not in HALF:
        return module
    try:
        return converted(module, [tensor for tensor in _tensors_of(module) if tensor.dtype in HALF], torch.float32)
    except Exception as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        raise PullbackError(
            f"{type(module).__name__} is in {reference_tensor(module).dtype}, too coarse for derivatives, "
            f"and cannot be copied to float32 "
            f"({type(error).__name__}: {error}). Nothing was computed; convert it yourself with .float()"
        ) from error


def as_precise_as(distance: Network, generator: nn.Module) -> Network:
    """The distance in float64 if the generator is in float64, else the distance itself.

    Probes take steps near the round-off of the code's dtype. Round-off of a float32 distance would hide such a step.

    Raises:
        PullbackError: the distance holds something that cannot be copied.
    """
    return in_double(distance) if reference_tensor(generator).dtype == torch.float64 else distance


def converted(module: Network, tensors: Sequence[Tensor], dtype: torch.dtype) -> Network:
    """A copy of a network in which the given tensors have another dtype."""
    memo: dict[int, Any] = {}
    for tensor in tensors:
        other = tensor.detach().to(dtype, copy=True)
        memo[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else other
    made = copy.deepcopy(module, memo)
    if is_marked(module):
        mark(made)
    return made


def _tensors_of(module: nn.Module) -> list[Tensor]:
    """The tensors of a network and its parts, including those in plain attributes, lists, tuples and dictionaries."""
    found: dict[int, Tensor] = {}

    def collect(value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif depth and isinstance(value, dict):
            for item in list(value.values()):
                collect(item, depth - 1)
        elif depth and isinstance(value, list | tuple):
            for item in value:
                collect(item, depth - 1)

    for part in module.modules():
        collect(vars(part), 3)
    return list(found.values())


@contextmanager
def arithmetic(precision: Precision = "float32", deterministic: bool = False) -> Iterator[None]:
    """Use full float32 products, or TF32 if requested, within the context; optionally deterministic algorithms.

    Torch has two sets of switches for TF32. The older set raises an error if a caller has mixed both, and does not
    always overrule the newer set. So the older set is used if it works, and the newer set otherwise.

    Args:
        precision: `tf32` allows TF32 on a GPU; every other value forbids it.
        deterministic: use torch's deterministic algorithms. An operation that has none causes only a warning.
    """
    matmul = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn  # torch's annotations lack its attribute `conv`
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
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise cuBLAS results may vary between runs
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def relative_error(measured: Tensor, exact: Tensor) -> Tensor:
    """‖measured − exact‖ / ‖exact‖ for each row [batch, ...]; 0 if both are zero; float64 on the CPU."""
    measured, exact = measured.flatten(1).to("cpu", torch.float64), exact.flatten(1).to("cpu", torch.float64)
    error, size = (measured - exact).norm(dim=1), exact.norm(dim=1)
    return torch.where(error == 0, torch.zeros_like(error), error / size)

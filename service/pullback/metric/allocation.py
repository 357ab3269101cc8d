"""Memory allocation: free memory, peak use of a computation, and recognition of out-of-memory errors.

Elsewhere: how much memory a metric needs (`memory`).
"""

import ctypes
import errno
import sys
from contextlib import suppress
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SHARE = 0.7
"""Fraction of the free memory that a plan may use. The rest is a reserve."""
_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's CPU allocator on Linux
    "not enough memory",  # the same on Windows
    "cannot allocate memory",  # strerror(ENOMEM)
    "unable to allocate",  # numpy
    "failed to allocate",
    "memory allocation failed",
    "out of memory",  # CUDA, HIP, MPS, XPU
    "std::bad_alloc",
    "bad allocation",
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED and its counterparts in cuDNN, cuSOLVER, cuSPARSE and cuFFT
    "cudaerrormemoryallocation",
    "could not create a primitive",  # oneDNN allocates its scratch memory with the primitive
    "could not create a memory",
    "could not execute a primitive",
    "unable to mmap",
)
"""Parts of the messages, in lower case, with which libraries report exhausted memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or an error in its chain of causes, reports exhausted memory.

    Only CUDA and Python have a type for this error. Every other error is recognised by its message.
    """
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(link, OSError) and link.errno == errno.ENOMEM:
            return True
        message = str(link).lower()
        if isinstance(link, RuntimeError | OSError) and any(part in message for part in _OUT_OF_MEMORY):
            return True
        link = link.__cause__
    return False


def usable_bytes(device: torch.device) -> int:
    """Bytes of a device's memory that a plan may use now: most of the free memory."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(_SHARE * free)


def _workspace(func: Any, args: Any, result: Any) -> int:
    """Bytes that an operator allocates and frees internally, as float64 convolutions on a CPU do.

    oneDNN does not support float64, and torch's own convolution unfolds the patches of the whole batch.
    """
    if func.overloadpacket not in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward):
        return 0
    backward = func.overloadpacket is torch.ops.aten.convolution_backward
    weight, output = (args[2], args[0]) if backward else (args[1], result)
    if weight.device.type != "cpu" or weight.dtype != torch.float64 or weight.dim() < 4 or weight[0, 0].numel() == 1:
        return 0
    patches = weight[0].numel() * output[0, 0].numel()
    transposed = args[7] if backward else args[6]
    if transposed:  # torch unfolds one image at a time
        source = args[1] if backward else args[0]
        return int(weight[0].numel() * source[0, 0].numel() * weight.element_size())
    return int(len(output) * patches * weight.element_size())


class LivePeak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measure the memory of the tensors that operators allocate.

    Attributes:
        live: bytes of all tensors that are alive.
        peak: largest number of bytes alive at once.
        largest: bytes of the largest tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.largest = 0
        if "torch._dynamo" in sys.modules and LivePeak.__torch_dispatch__ is _plain_dispatch:
            # A compiled network would compile this method too, again for each storage. Hide it, as torch does.
            LivePeak.__torch_dispatch__ = torch.compiler.disable(_plain_dispatch)  # type: ignore[no-untyped-call, method-assign]
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not let torch wrap `__torch_dispatch__`: the wrapper imports torch.compile (0.9 s) at its first call."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and count the memory that it allocates."""
        result = func(*args, **(kwargs or {}))
        # A view of an input (such as the transposed weight of a linear layer) allocates nothing.
        known = set(_storages((args, kwargs)))
        self._forget_dead()
        for pointer, storage in _storages(result).items():
            if pointer not in known and pointer not in self._held:
                held = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._held[pointer] = held, storage.nbytes()
                self.live += storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        self.peak = max(self.peak, self.live + _workspace(func, args, result))
        return result

    def _forget_dead(self) -> None:
        dead = [pointer for pointer, (held, _) in self._held.items() if held.expired()]  # type: ignore[no-untyped-call]
        for pointer in dead:
            self.live -= self._held.pop(pointer)[1]


_plain_dispatch = LivePeak.__torch_dispatch__


def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """The storages of a tree's tensors, by address. Wrapper tensors (within `vmap`) have no storage."""
    found = {}
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            with suppress(RuntimeError), torch._C.DisableTorchFunction():  # the network does not make this access
                found[leaf.untyped_storage().data_ptr()] = leaf.untyped_storage()
    return found


def keep_freed_memory() -> None:
    """Make the C library reuse freed memory within this process, if the library has a setting for it.

    By default the C library maps large arrays from the system and returns them one by one. Clearing their pages takes
    up to a third of a metric's time on a CPU. Call this only in processes that only compute, because their memory
    stays at its peak.
    """
    with suppress(OSError, AttributeError):  # the C library of another system has no such setting
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameter numbers from glibc's malloc.h

"""Check the sizes that a weight file declares before anything is allocated.

A few kilobytes can declare gigabytes: archive members that are compressed a thousandfold, members that share their
bytes, tensors that repeat one number (strides of zero), tensors without data. `torch.save` and safetensors never write
such files, so reading one raises an error.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
import torch
from torch import Tensor

from pullback.errors import WeightsError

_MOST_EXPANSION = 20
"""Largest ratio of the declared size to the file's size. Compression of weights saves a tenth; tied weights, and
averages saved beside raw weights, give a ratio of two to four."""
_SMALL = 64 * 2**20
"""Number of bytes that any file may declare, whatever its size."""
_MOST_CONTAINERS = 1_000_000
"""Largest number of lists and mappings in a checkpoint, counting repeated visits. A training log has some thousands."""
_DEEPEST = 12
"""Number of nested levels of lists and mappings to check; `networks` reads fewer."""


def check_file(path: Path, size: int) -> None:
    """Raise if a file is larger than the free memory. The file is read into memory as a whole.

    Args:
        path: the file, for the message.
        size: size of the file in bytes.

    Raises:
        WeightsError: it is too large.
    """
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    if size > free:
        raise WeightsError(
            f"the weight file {path} has {size / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB of memory are free; it was "
            "not read. Save the generator's state dict alone, or use a machine with more memory"
        )


def check_archive(file: BinaryIO, path: Path, size: int) -> None:
    """Raise if the members of a zip archive (torch's format) declare more than the file can hold.

    Args:
        file: the open file; its position does not change.
        path: the file, for the message.
        size: size of the file in bytes.

    Raises:
        WeightsError: the declared sizes exceed what the file can hold, or the free memory.
        zipfile.BadZipFile: the archive is damaged.
    """
    at = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    finally:
        file.seek(at)
    packed, declared = sum(each.compress_size for each in members), sum(each.file_size for each in members)
    if packed > size or declared > max(_SMALL, _MOST_EXPANSION * size):
        raise WeightsError(
            f"the weight file {path} has {size:,} bytes and declares {declared:,}; it was not read, since torch.save "
            "writes no such file. Save the state dict again with torch.save(model.state_dict(), ...), or get the file "
            "from its source again"
        )
    check_file(path, declared)


def check_content(content: Any, path: Path, size: int) -> None:
    """Raise if tensors and arrays have more elements than the file can hold, before anything is built from them.

    Args:
        content: the content that was read from the file.
        path: the file, for the message.
        size: size of the file in bytes.

    Raises:
        WeightsError: a tensor has too many elements or no plain data, or the content has too many lists and mappings.
    """
    total, containers = 0, 0
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Tensor):
            plain = value.layout is torch.strided and value.device.type == "cpu"
            if plain and not value.is_quantized:
                total += value.numel() * value.element_size()
        elif isinstance(value, np.ndarray):
            total += value.nbytes
        elif isinstance(value, Mapping | list | tuple | set):
            containers += 1
            if containers > _MOST_CONTAINERS:
                raise WeightsError(
                    f"the weight file {path} holds more than {_MOST_CONTAINERS:,} lists and mappings, so it is no "
                    "checkpoint; it is not used. Save the generator's state dict alone"
                )
            if depth < _DEEPEST:
                inner = value.values() if isinstance(value, Mapping) else value
                waiting += [(each, depth + 1) for each in inner if not isinstance(each, int | float | str | bytes)]
    if total > max(_SMALL, _MOST_EXPANSION * size):
        raise WeightsError(
            f"the weight file {path} has {size:,} bytes, and its tensors stand for {total:,}; it is not used. Save the "
            "state dict again with contiguous tensors: {name: tensor.contiguous() for name, tensor in ...}"
        )

"""Read torch's file formats (zip, the older stream, tar) as data if `torch.load(weights_only=True)` refuses them.

Declared sizes are checked against the file's bytes before anything is allocated. All storages are loaded on the CPU.
"""

import io
import struct
import sys
import tarfile
import zipfile
from typing import Any

import torch
from torch import Tensor

from pullback.weights.pickle_data import DataUnpickler, RefusedPickleError, rebuilt

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of torch's older stream."""
_PROTOCOL = 1001
_DEEPEST = 2
"""Largest depth of nested streams: NVIDIA's pickles hold one stream for each tensor."""


def read_data(content: bytes) -> Any:
    """Read a torch file of any format, or a plain pickle, as data.

    Raises:
        RefusedPickleError: it names something other than plain data, or declares more bytes than it holds.
        Exception: it is damaged. As the documentation of pickle says, nearly any type of error is possible.
    """
    if content[:2] == b"PK":
        return _read_zip(content)
    if content[257:262] == b"ustar":
        return _read_tar(content)
    return _read_stream(content, 0)


def _tensor(raw: bytes | bytearray | memoryview, dtype: torch.dtype) -> Tensor:
    """Make a 1-D tensor, which owns its memory, from little-endian numbers."""
    if sys.byteorder != "little":
        raise RefusedPickleError("a storage", "is little-endian, and this machine is not")
    return torch.frombuffer(bytearray(raw), dtype=dtype) if len(raw) else torch.empty(0, dtype=dtype)


def _storage_id(pid: Any) -> tuple[torch.dtype, str, int, Any]:
    """Return dtype, key, numel and view of a persistent id `("storage", type, key, location, numel, view)`."""
    if (
        not isinstance(pid, tuple)
        or len(pid) not in (5, 6)
        or pid[0] != "storage"
        or not isinstance(pid[1], torch.dtype)
    ):
        raise RefusedPickleError("a persistent id")
    if not isinstance(pid[4], int) or pid[4] < 0:
        raise RefusedPickleError("a storage", "has no size")
    return pid[1], str(pid[2]), pid[4], pid[5] if len(pid) == 6 else None


def _read_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        record = next((name for name in sorted(names, key=len) if name.endswith("data.pkl")), None)
        if record is None:
            raise RefusedPickleError("a zip archive", "has no data.pkl")
        folder = record.removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big":
            raise RefusedPickleError("an archive", "is big-endian; save it again on another machine")
        storages: dict[str, Tensor] = {}

        def load_storage(pid: Any) -> Tensor:
            dtype, key, numel, _ = _storage_id(pid)
            if key not in storages:
                raw = archive.read(f"{folder}data/{key}")
                if len(raw) != numel * dtype.itemsize:
                    raise RefusedPickleError("a storage", f"has {len(raw):,} bytes and declares {numel:,} numbers")
                storages[key] = _tensor(raw, dtype)
            return storages[key].view(dtype)

        return DataUnpickler(io.BytesIO(archive.read(record)), load_storage, _nested(0)).load()


def _nested(depth: int) -> Any:
    def load(content: bytes) -> Tensor:
        if depth >= _DEEPEST:
            raise RefusedPickleError("a stream", "has too many others inside")
        found = _read_zip(content) if content[:2] == b"PK" else _read_stream(content, depth + 1)
        if not isinstance(found, Tensor):
            raise RefusedPickleError("torch.storage._load_from_bytes", "holds no storage")
        return found

    return load


def _read_stream(content: bytes, depth: int) -> Any:
    """Read torch's older format (three short pickles, then the content) or a plain pickle."""
    file = io.BytesIO(content)
    first = DataUnpickler(file, None, _nested(depth)).load()
    if not (isinstance(first, int) and first == MAGIC):
        return first
    if DataUnpickler(file).load() != _PROTOCOL:
        raise RefusedPickleError("a stream", "has an unknown protocol")
    system = DataUnpickler(file).load()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise RefusedPickleError("a stream", "is big-endian; save it again on another machine")
    storages: dict[str, Tensor] = {}
    left = len(content)

    def load_storage(pid: Any) -> Any:
        nonlocal left
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":  # a class with its source text
            return pid[1]
        dtype, key, numel, view = _storage_id(pid)
        if key not in storages:
            left -= numel * dtype.itemsize
            if left < 0:
                raise RefusedPickleError("a storage", "declares more bytes than the file has")
            storages[key] = torch.zeros(numel, dtype=dtype)
        if view is None:
            return storages[key]
        _, offset, size = view
        return rebuilt(storages[key], offset, (size,), (1,))

    found = DataUnpickler(file, load_storage, _nested(depth)).load()
    for key in DataUnpickler(file).load():
        storage = storages[str(key)]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel():
            raise RefusedPickleError("a storage", f"has {numel:,} numbers and declares {storage.numel():,}")
        raw = file.read(numel * storage.element_size())
        if len(raw) != numel * storage.element_size():
            raise RefusedPickleError("a storage", "is cut off")
        storage.copy_(_tensor(raw, storage.dtype))
    return found


def _read_tar(content: bytes) -> Any:
    """Read torch's first format: a tar archive of storages, tensors and the pickle that refers to them."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        parts = {}
        for name in ("storages", "tensors", "pickle"):
            member = archive.getmember(name)
            if not member.isreg() or member.issparse() or member.size > len(content):
                raise RefusedPickleError("a tar archive", f"has no plain file {name}")
            file = archive.extractfile(member)
            assert file is not None
            parts[name] = io.BytesIO(file.read())
    held: dict[int, Tensor] = {}
    file = parts["storages"]
    for _ in range(_count(DataUnpickler(file).load(), content)):
        key, _, dtype = DataUnpickler(file).load()
        (numel,) = struct.unpack("<q", file.read(8))
        if not isinstance(dtype, torch.dtype) or not 0 <= numel <= len(content):
            raise RefusedPickleError("a storage")
        held[int(key)] = _tensor(file.read(numel * dtype.itemsize), dtype)
    for target, root, offset, numel in DataUnpickler(file).load():
        held[int(target)] = rebuilt(held[int(root)], offset, (numel,), (1,))
    file = parts["tensors"]
    for _ in range(_count(DataUnpickler(file).load(), content)):
        key, storage, _ = DataUnpickler(file).load()
        (ndim,) = struct.unpack("<i4x", file.read(8))
        if not 0 <= ndim <= 64:
            raise RefusedPickleError("a tensor", f"has {ndim} dimensions")
        size = struct.unpack(f"<{ndim}q", file.read(8 * ndim))
        stride = struct.unpack(f"<{ndim}q", file.read(8 * ndim))
        (offset,) = struct.unpack("<q", file.read(8))
        held[int(key)] = rebuilt(held[int(storage)], offset, size, stride)

    def load(pid: Any) -> Any:
        return pid[0] if isinstance(pid, tuple) else held[int(pid)]

    return DataUnpickler(parts["pickle"], load).load()


def _count(value: Any, content: bytes) -> int:
    if not isinstance(value, int) or not 0 <= value <= len(content):
        raise RefusedPickleError("a tar archive", "declares no number of entries")
    return value

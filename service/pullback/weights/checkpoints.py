"""Read weight files into tensors without running any code that they contain.

Three formats: torch's own (`weights_only=True`), safetensors, and numpy pickles (a restricted unpickler that allows
only numpy's array constructor). `networks` and the families interpret the tensors.
"""

import argparse
import collections
import os
import pathlib
import pickle
import types
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pullback.errors import WeightsError
from pullback.regular_files import NotRegularError, open_regular
from pullback.weights.declared_sizes import check_archive, check_content, check_file
from pullback.weights.file_kinds import kind_of
from pullback.weights.pickle_data import RefusedPickleError
from pullback.weights.pickled_networks import Modules, plain
from pullback.weights.torch_streams import read_data

_SAFE = [
    argparse.Namespace,
    types.SimpleNamespace,
    collections.defaultdict,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefdU"},
]
"""Classes of plain data that training code saves beside its tensors, such as its options. They run no code."""
_SAFE_FUNCTIONS = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
"""Constructors of numpy's arrays and scalars."""


def read_checkpoint(path: Path) -> Any:
    """Read the content of a weight file, on the CPU; raises as `read_with_modules`.

    Settings that torch itself reads safely, such as `argparse.Namespace`, stay objects.
    """
    return _read(path)[0]


def read_with_modules(path: Path) -> tuple[Any, Modules]:
    """Read a weight file as plain containers, and the parts of networks that were pickled as whole objects.

    Raises:
        WeightsError: the file is missing, damaged, of an unknown format, or cannot be read without running code.
    """
    content, modules = _read(path)
    return plain(content)[0], modules


def _read(path: Path) -> tuple[Any, Modules]:
    """Read a safetensors file, a torch file of any format, or a pickle of NVIDIA's networks.

    The content determines the format; the suffix is ignored. Networks that were pickled as whole objects become state
    dicts.

    Returns:
        Plain containers of tensors on the CPU, arrays, numbers and text; and the parts of pickled networks.

    Raises:
        WeightsError: the file is missing, damaged, of an unknown format, or cannot be read without running code. The
            message names the likely format and the remedy.
    """
    safe: list[Any] = list(_SAFE)
    for module in ("numpy._core.multiarray", "numpy.core.multiarray"):  # the name before numpy 2.0
        safe += [(function, f"{module}.{name}") for name, function in _SAFE_FUNCTIONS.items()]
    try:
        # pass a file and not its path: torch would choose the format by the suffix `.safetensors`
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            check_file(path, size)
            if _is_safetensors(file, path, size):
                return load_file(path, device="cpu"), {}
            if file.read(2) == b"PK":
                check_archive(file, path, size)
            file.seek(0)
            try:
                _refuse_other_protocols(file)
                with torch.serialization.safe_globals(safe):
                    content = torch.load(file, map_location="cpu", weights_only=True)
                check_content(content, path, size)
                return content, {}
            except WeightsError:
                raise
            except Exception as refused:
                file.seek(0)
                content = _as_data(file, refused)
                check_content(content[0], path, size)
                return content
    except FileNotFoundError as error:
        raise WeightsError(f"there is no weight file {path}") from error
    except NotRegularError as error:
        raise WeightsError(f"the weight file {path} cannot be read: {error.strerror}") from error
    except WeightsError:
        raise
    except Exception as error:  # SafetensorError, RuntimeError, ...: damaged pickles raise nearly anything
        kind = kind_of(path)
        needs_code = isinstance(error, pickle.UnpicklingError)
        refused_name = getattr(error.__cause__, "name", None)
        never_run = "; code in a checkpoint is never run"
        named = f" (it names {refused_name}){never_run}" if refused_name else ""
        if kind is not None:
            raise WeightsError(f"the weight file {path} cannot be read: it is {kind[0]}{named}.\n{kind[1]}.") from error
        if needs_code:
            raise WeightsError(
                f"the weight file {path} is damaged, or holds more than tensors{named or never_run}.\n"
                "Save its state dict alone (torch.save(model.state_dict(), ...), or safetensors) and use that file."
            ) from error
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(f"the weight file {path} cannot be read: {reason}") from error


def _refuse_other_protocols(file: BinaryIO) -> None:
    """Raise for a pickle that torch did not write. torch writes protocol 2, and only warns about other protocols."""
    start = file.read(2)
    file.seek(0)
    if start[:1] == b"\x80" and start != b"\x80\x02":
        raise pickle.UnpicklingError("a plain pickle")


def _as_data(file: BinaryIO, refused: Exception) -> tuple[Any, Modules]:
    """Read a file that torch refuses to load without running code; raises torch's error if it is not plain data."""
    content = file.read()
    is_pickle = content[:1] == b"\x80" or content[:2] == b"PK" or content[257:262] == b"ustar"
    if not is_pickle:
        raise refused
    try:
        return plain(read_data(content))
    except RefusedPickleError as error:
        if isinstance(refused, pickle.UnpicklingError):
            raise refused from error
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        raise refused from error


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file that `read_checkpoint` has read; empty for other files."""
    with open_regular(path) as file:
        if not _is_safetensors(file, path, os.fstat(file.fileno()).st_size):
            return {}
    with safe_open(path, "pt") as held:
        return dict(held.metadata() or {})


def _is_safetensors(file: BinaryIO, path: Path, size: int) -> bool:
    """Return whether a file begins like a safetensors file: the length of a JSON header, then the header."""
    start = file.read(9)
    file.seek(0)
    return (path.suffix == ".safetensors" and not start.startswith(b"PK")) or (
        len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < size
    )


class _NumpyUnpickler(pickle._Unpickler):
    # The C unpickler allocates a table as long as the largest index in the file: five bytes can cost 64 GB.
    def find_class(self, module: str, name: str) -> Any:
        # numpy 2.0 renamed `numpy.core` to `numpy._core`; older files contain the old name
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _SAFE_FUNCTIONS[name]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a numpy pickle")


def read_numpy_pickle(path: Path) -> dict[str, Any]:
    """Read a pickle of nested dicts of numpy arrays.

    Raises:
        WeightsError: the file is missing or damaged, or contains anything except numpy arrays.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            check_file(path, size)
            content = _NumpyUnpickler(file).load()
        check_content(content, path, size)
    except WeightsError:
        raise
    except Exception as error:  # the documentation of pickle: "other exceptions may also be raised"
        raise WeightsError(f"the weight file {path} cannot be read as a numpy pickle: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"the weight file {path} holds {type(content).__name__}, not named arrays")
    return content

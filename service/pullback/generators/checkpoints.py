"""Reading weight files into tensors without running any code that they may carry.

Three formats: torch's own (`weights_only=True`), safetensors, and numpy pickles (a restricted unpickler that knows
numpy's array constructor and nothing else). Leaves to others what the tensors mean.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from pullback.errors import WeightsError


def read_checkpoint(path: Path) -> Any:
    """The content of a `.safetensors` file or of a torch file, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, of another format, or needs code to be read.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"there is no weight file {path}") from error
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "")
        raise WeightsError(
            f"the weight file {path} is damaged, or holds more than tensors; "
            f"code in a checkpoint is never run. {reason}\n"
            "Save its state dict alone (torch.save(model.state_dict(), ...), or safetensors) and use that file."
        ) from error
    except Exception as error:  # SafetensorError, RuntimeError, ...: damaged pickles raise nearly anything
        raise WeightsError(f"the weight file {path} cannot be read: {error}") from error


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy renamed `numpy.core` to `numpy._core` in 2.0; old files name the old one.
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a numpy pickle")


def read_numpy_pickle(path: Path) -> dict[str, Any]:
    """A pickle of nested dicts of numpy arrays.

    Raises:
        WeightsError: the file is missing, damaged or names anything but numpy arrays.
    """
    try:
        with path.open("rb") as file:
            content = _NumpyUnpickler(file).load()
    except Exception as error:  # the documentation of pickle: "other exceptions may also be raised"
        raise WeightsError(f"the weight file {path} cannot be read as a numpy pickle: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"the weight file {path} holds {type(content).__name__}, not named arrays")
    return content


def state_dict_in(content: Any, marker: str, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, wherever its author put it.

    Args:
        content: what `read_checkpoint` gave: a state dict, or a mapping that holds one (`state_dict`, ...).
        marker: a key that the wanted state dict has (after a `module.` of data parallel training is dropped).
        path: the file, for messages.

    Raises:
        WeightsError: there is no such state dict.
    """
    candidates = [content, *(content.values() if isinstance(content, Mapping) else ())]
    for candidate in candidates:
        if not isinstance(candidate, Mapping):
            continue
        state = {str(k).removeprefix("module."): v for k, v in candidate.items() if isinstance(v, Tensor)}
        if marker in state:
            return state
    top = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(f"the weight file {path} has no state dict with the key {marker!r}; at its top are: {top[:300]}")

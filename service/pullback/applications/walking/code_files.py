"""Latent codes of a file: those that `pullback invert` and `pullback search` write, or any array of numpy."""

from pathlib import Path

import numpy as np

from pullback.analysis.bootstrap import Floats
from pullback.errors import PullbackError
from pullback.regular_files import open_regular


def read_codes(path: Path | str, latent_dim: int) -> Floats:
    """Return the codes `[k, n]` of a `.npy` file.

    Args:
        path: the file; its array is `[n]`, `[k, n]`, or `[k, layers, width]` in W+.
        latent_dim: n.

    Raises:
        PullbackError: the file is missing or damaged, or its codes have another size.
    """
    try:
        with open_regular(Path(path)) as file:
            array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise PullbackError(f"there is no file of codes {path}. Nothing was computed.") from None
    except (OSError, EOFError, ValueError) as error:
        raise PullbackError(f"the file of codes {path} is no .npy file: {error}. Nothing was computed.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim == 0 or array.size == 0:
        raise PullbackError(f"the file of codes {path} holds no array of numbers. Nothing was computed.")
    width = array.shape[-1] if array.ndim < 3 else int(np.prod(array.shape[1:]))
    if width != latent_dim:
        raise PullbackError(
            f"the codes in {path} have {width} coordinates, and those of the sweep {latent_dim}: they are codes of "
            "another generator or space. Nothing was computed."
        )
    return np.asarray(array.reshape(-1, latent_dim), dtype=np.float64)

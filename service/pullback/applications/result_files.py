"""The files of an application's result: its figures and images as PNG, and its arrays as `.npy`."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from pullback.applications.results import ApplicationResult
from pullback.errors import PullbackError

_RESOLUTION = 200


def write_files(result: ApplicationResult, folder: Path) -> list[Path]:
    """Write figures and images into a folder, which is made if it is missing. Files of the same names are replaced.

    Args:
        result: its figures are named after their labels, or else after the application. If its module exports
            `images(result)`, which returns arrays [height, width, 3] of bytes by name, or `arrays(result)`, these are
            written too, as PNG and as `.npy`.
        folder: the folder.

    Returns:
        The paths.

    Raises:
        PullbackError: the folder cannot be written to.
    """
    from PIL import Image

    paths: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, drawn in enumerate(result.figures().values(), 1):
            name = re.sub(r"[^\w.-]", "-", str(drawn.get_label())) or f"{result.application}-{number}"
            paths.append(folder / f"{name}.png")
            drawn.savefig(paths[-1], dpi=_RESOLUTION, format="png")
        images: Any = getattr(result._module, "images", lambda result: {})
        for name, pixels in images(result).items():
            paths.append(folder / f"{name}.png")
            Image.fromarray(np.asarray(pixels, np.uint8)).save(paths[-1])
        arrays: Any = getattr(result._module, "arrays", lambda result: {})
        for name, array in arrays(result).items():
            paths.append(folder / f"{name}.npy")
            np.save(paths[-1], np.asarray(array), allow_pickle=False)
    except OSError as error:
        raise PullbackError(
            f"the files of the result cannot be written into {folder}: {error.strerror or error}. The result itself is "
            "kept; the same command with another --output writes them"
        ) from error
    return paths

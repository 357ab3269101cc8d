"""The files of an inversion's result: reconstructions as PNG, the codes as `.npy`, and the figures."""

import re
from pathlib import Path

import numpy as np

from pullback.applications.inversion import figure, scalars_of
from pullback.applications.results import ApplicationResult
from pullback.errors import PullbackError


def write_files(result: ApplicationResult, folder: str | Path) -> list[Path]:
    """Write a reconstruction for each picture, `codes.npy` [pictures, n], and the figures into a folder.

    A picture that could not be inverted has no reconstruction, and NaN for its code. Names that occur twice get their
    row's number.

    Raises:
        PullbackError: the folder cannot be written.
    """
    from PIL import Image

    place, data, said = Path(folder), result.dataset, scalars_of(result)
    written = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        stems = [
            re.sub(r"[^\w.-]+", "_", Path(name).stem) or f"picture-{row}" for row, name in enumerate(said["pictures"])
        ]
        for row, stem in enumerate(stems):
            if said["problems"][row] or not np.isfinite(data["distance"].values[row]):
                continue
            name = stem if stems.count(stem) == 1 else f"{stem}-{row}"
            path = place / f"{name}.reconstruction.png"
            Image.fromarray(data["reconstruction"].values[row]).save(path)
            written.append(path)
        np.save(place / "codes.npy", data["code"].values)
        written.append(place / "codes.npy")
        for drawn in figure(result).values():
            path = place / f"{drawn.get_label() or 'figure'}.png"
            drawn.savefig(path, dpi=200)
            written.append(path)
    except OSError as error:
        raise PullbackError(
            f"the files of this inversion cannot be written into {place}: {error.strerror or error}. The result itself "
            "is kept; name another folder"
        ) from error
    return written

"""Inversion from Python and in notebooks: `pullback.invert`."""

import html
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pullback.analysis.protocol import About
from pullback.applications import inversion
from pullback.applications.inverting.assembly import make_inverter, refuse_another
from pullback.applications.inverting.pictures import Picture, PictureError, files_in, of_array, read_picture
from pullback.applications.inverting.result_files import write_files
from pullback.applications.inverting.several import in_this_process, invert_pictures
from pullback.applications.protocol import Checkpoint, Progress
from pullback.applications.results import ApplicationResult
from pullback.distances import Distance, load_distance
from pullback.errors import ArgumentError, SpecError
from pullback.generators import load_generator
from pullback.spec import explain
from pullback.store.reader import Sweep, open_sweep


class Inversion:
    """The codes of pictures, and how good they are. A notebook shows the figure and the table.

    Attributes:
        result: the result, with `tables()`, `sentences()`, `cautions()` and `dataset`.
    """

    def __init__(self, result: ApplicationResult) -> None:
        self.result = result

    @property
    def codes(self) -> npt.NDArray[np.float64]:
        """Codes [pictures, n]; NaN for a picture that could not be inverted."""
        codes: npt.NDArray[np.float64] = self.result.dataset["code"].values
        return codes

    @property
    def distances(self) -> npt.NDArray[np.float64]:
        """Squared distance of each picture and its reconstruction [pictures]."""
        distances: npt.NDArray[np.float64] = self.result.dataset["distance"].values
        return distances

    @property
    def reconstructions(self) -> npt.NDArray[np.uint8]:
        """Images of the codes [pictures, height, width, 3]."""
        images: npt.NDArray[np.uint8] = self.result.dataset["reconstruction"].values
        return images

    def figure(self) -> Any:
        """Return a matplotlib figure of the pictures beside their reconstructions; None if there is none."""
        return next(iter(inversion.figure(self.result).values()), None)

    def save(self, folder: str | Path) -> list[Path]:
        """Write reconstructions, codes and figures into a folder; returns the files. Raises PullbackError."""
        return write_files(self.result, folder)

    def __repr__(self) -> str:
        return "\n".join(inversion.sentences(self.result))

    def _repr_html_(self) -> str:
        import base64
        import io

        table = inversion.summary(self.result)
        heads = "".join(f"<th>{html.escape(each)}</th>" for each in table.headings)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.text()
        )
        drawn = self.figure()
        shown = ""
        if drawn is not None:
            content = io.BytesIO()
            drawn.savefig(content, format="png", dpi=100)
            encoded = base64.b64encode(content.getvalue()).decode()
            shown = f'<img alt="pictures and reconstructions" src="data:image/png;base64,{encoded}">'
        return f"{shown}<table><tr>{heads}</tr>{rows}</table><p>{html.escape(repr(self))}</p>"


def invert(
    images: Any,
    generator: nn.Module | str | Path,
    *,
    distance: Distance | str | None = None,
    sweep: Sweep | str | Path | None = None,
    **options: Any,
) -> Inversion:
    """Find the latent codes of images.

    Args:
        images: a path of a picture or a folder, a PIL image, an array or tensor [height, width, 3] or
            [3, height, width] of bytes or of numbers in [0, 1]; or a list, or a batch [images, ...], of these.
        generator: a generator, or the name of one as for `load_generator`.
        distance: the distance that is minimised, a sum of squares; LPIPS by default.
        sweep: a sweep of this generator. Starts are looked for among its codes too, and the default solver and those
            such as `lbfgs_metric` use its mean metric; without it, solvers that need one use that of a few own codes.
        options: as in a job's `application`: `solver`, `condition`, `prior`, `budget`, `seconds`, `mask`, `seed`, ...

    Raises:
        SpecError: an option is unknown or cannot work.
        PullbackError: there is no picture, or the sweep is of another generator.
    """
    paths, arrays = _split(images)
    try:
        given = inversion.Options.model_validate({"images": tuple(paths) or ("array",), **options})
    except ValidationError as error:
        raise SpecError(explain(error, ()), "invert") from error
    loaded = generator if isinstance(generator, nn.Module) else load_generator(generator)
    device = next((each.device for each in loaded.parameters()), torch.device("cpu"))
    if not isinstance(distance, Distance):
        distance = load_distance(distance or given.distance or "lpips", device=device, mask=given.mask)
    opened = open_sweep(sweep) if isinstance(sweep, str | Path) else sweep
    if opened is not None:
        refuse_another(opened, loaded, None)
    inverter = make_inverter(loaded, distance, given, opened)
    pictures: list[Picture | PictureError] = []
    for file in files_in(paths) if paths else ():
        try:
            pictures.append(read_picture(file, *inverter.shape))
        except PictureError as error:
            pictures.append(error)
    pictures += [of_array(each, *inverter.shape, f"image {place}") for place, each in enumerate(arrays)]
    with tempfile.TemporaryDirectory(prefix="pullback-inversion-") as folder:
        progress = Progress(Checkpoint(Path(folder) / "state"))
        here = in_this_process(inverter, progress)
        dataset = invert_pictures(inverter, pictures, given.together, progress, here)
    about = About("" if opened is None else opened.name, "" if opened is None else opened.snapshot, 0)
    return Inversion(ApplicationResult("inversion", given, dataset, about))


def _split(images: Any) -> tuple[list[str], list[Any]]:
    """The paths and the arrays among what was given.

    Raises:
        ArgumentError: there is no image.
    """
    if isinstance(images, str | Path):
        return [str(images)], []
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        images = list(images)
    given: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
    if not given:
        raise ArgumentError("images", "there is no image; give a path, an array, or several")
    paths = [str(each) for each in given if isinstance(each, str | Path)]
    return paths, [each for each in given if not isinstance(each, str | Path)]

"""Inversion: the code of a picture, by starts from own samples and by solvers that use the derivative or the metric.

`inverting.objective` defines what is minimised, `inverting.solvers` lists the solvers, `inverting.starts` the starts
and `inverting.pictures` what becomes of a picture before. Each picture is inverted on its own, so an interrupted run
goes on with the next one, and a file that is no picture leaves the others alone.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from pullback.analysis.protocol import Table
from pullback.applications.inverting.assembly import inverter_of
from pullback.applications.inverting.pictures import Picture, PictureError, files_in, read_picture
from pullback.applications.inverting.several import in_processes, invert_pictures
from pullback.applications.inverting.solvers import SOLVERS
from pullback.applications.protocol import Progress, Subject
from pullback.applications.results import ApplicationResult
from pullback.errors import PullbackError
from pullback.spec import nearest
from pullback.spec import options as base

if TYPE_CHECKING:
    import xarray as xr

    from pullback.analysis.drawing import Figure

SUMMARY = "the latent code of pictures: inversion by Gauss-Newton, quasi-Newton, first-order and evolutionary solvers"
NEEDS = ("generator",)
VERSION = 2

EXACT = 1e-3
"""D² below which the image counts as matched."""
_DRAWN, _ACROSS, _TRACES, _NOTED = 24, 4, 6, 10
"""Pictures in the figure, pictures side by side, lines of the traces, and notes of pictures that are shown."""


class Options(base.Options):
    """Options of an inversion."""

    images: Annotated[tuple[str, ...], base.Local()]
    """Pictures, or folders of pictures: files that Pillow reads, or `.npy` arrays."""
    solver: str | None = None
    """The solver: hybrid (the default; hybrid_lbfgs_metric with a sweep), hybrid_lbfgs, adam, adam_basis, lbfgs,
    lbfgs_metric, levenberg_marquardt, gauss_newton_cg, cma, ..."""
    distance: str | None = None
    """The distance that is minimised, a sum of squares; by default the sweep's, or lpips."""
    mask: Annotated[str | tuple[float, float, float, float] | None, base.Local()] = None
    """The part of the image that counts: a `.npy` array, or a box [top, left, bottom, right] in fractions."""
    condition: str | int | None = None
    """Class of all pictures; by default every class is tried."""
    pixel_weight: float = Field(default=10.0, ge=0)
    """Weight of the mean squared difference of pixels."""
    prior: float = Field(default=0.01, ge=0)
    """Weight of the squared norm of the code, divided by n. It is left out near an exact match."""
    nearest: int = Field(default=3, ge=0, le=1000)
    """Starts from the nearest own samples."""
    random: int = Field(default=2, ge=0, le=1000)
    """Random starts."""
    budget: float = Field(default=6000.0, gt=0)
    """Most work for a picture, in images: a gradient counts as 3, a Jacobian as n."""
    seconds: float | None = Field(default=None, gt=0)
    """Most CPU seconds for a picture; by default no limit."""
    samples: int = Field(default=1500, ge=20, le=1_000_000)
    """Own samples from which starts come."""
    held_out: bool = True
    """Whether LPIPS-vgg, which no solver sees, judges the result where its weights are present."""
    together: int = Field(default=1, ge=1, le=4096)
    """Pictures that are inverted at once. More than one is faster on a GPU."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of every random choice."""

    @field_validator("images", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("solver")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in SOLVERS:
            close = nearest(value, SOLVERS) or f"; choose one of {', '.join(SOLVERS)}"
            raise ValueError(f"there is no solver {value!r}{close}")
        return value


def run(subject: Subject, given: Options, progress: Progress) -> "xr.Dataset":
    """Return codes, images and costs of all pictures; see the long names of the variables.

    Raises:
        PullbackError: there is no picture, the sweep is of another generator, or an option cannot work.
    """
    files = files_in(given.images)
    inverter = inverter_of(subject, given)
    pictures: list[Picture | PictureError] = []
    for file in files:
        try:
            pictures.append(read_picture(file, *inverter.shape))
        except PictureError as error:
            pictures.append(error)
    problems = [picture for picture in pictures if isinstance(picture, PictureError)]
    if len(problems) == len(pictures):
        others = f", and neither are the other {len(problems) - 1} files" if len(problems) > 1 else ""
        raise PullbackError(f"{problems[0]}{others}. Nothing was computed. Name a PNG, JPEG or WebP file")
    with in_processes(subject, given, inverter, progress) as invert:
        return invert_pictures(inverter, pictures, given.together, progress, invert)


def scalars_of(result: ApplicationResult) -> dict[str, Any]:
    """Return what a result says in words: `pictures`, `notes`, `problems`, `distance`, `solver` and more."""
    found: dict[str, Any] = json.loads(result.dataset.attrs["scalars"])
    return found


def summary(result: ApplicationResult) -> Table:
    """Return one row a picture: how close its reconstruction is, where its code lies, and what it cost."""
    data, said = result.dataset, scalars_of(result)
    held_out = bool(np.isfinite(data["held_out"].values).any())
    classes = said["classes"]
    rows: list[list[Any]] = []
    for row, name in enumerate(said["pictures"]):
        at = data.isel(picture=row)
        if said["problems"][row]:
            rows.append([said["problems"][row], *[None] * (6 + held_out + bool(classes))])
            continue
        work = int(at["forwards"]) + 3 * int(at["gradients"]) + int(at["columns"])
        rows.append(
            [
                Path(name).name,
                *([classes[int(at["condition"])]] if classes else []),
                float(at["distance"]),
                float(at["mse"]),
                *([float(at["held_out"])] if held_out else []),
                float(at["norm"]) / float(np.sqrt(said["latent_dim"])),
                work,
                int(at["columns"]) / said["latent_dim"],
                float(at["seconds"]),
            ]
        )
    columns = [
        "picture",
        *(["class"] if classes else []),
        f">{said['distance']}",
        ">MSE",
        *([">LPIPS-vgg (held out)"] if held_out else []),
        ">‖z‖ / √n",
        ">work (images)",
        ">Jacobians",
        ">CPU s",
    ]
    return Table(columns, rows, f"Codes of {said['generator']} by {said['solver']}")


def sentences(result: ApplicationResult) -> list[str]:
    """Return how many pictures are matched exactly, how close the others are, and what the search cost."""
    data, said = result.dataset, scalars_of(result)
    distance = data["distance"].values
    known = np.isfinite(distance)
    count = int(known.sum())
    if not count:
        return ["No picture could be inverted."]
    exact = int((distance[known] < EXACT).sum())
    found = [
        f"{exact} of {count} pictures {'is' if exact == 1 else 'are'} matched to {said['distance']} below {EXACT:g}; "
        f"the median distance is {np.median(distance[known]):.2g}.",
        f"A picture took {np.median(data['seconds'].values[known]):.2g} CPU seconds (median).",
    ]
    problems = [each for each in said["problems"] if each]
    if problems:
        found.append(f"{len(problems)} of {len(distance)} files could not be inverted; the table says why.")
    return found


def cautions(result: ApplicationResult) -> list[str]:
    """Return how the pictures were cropped and resized, and which codes are far from the typical norm."""
    data, said = result.dataset, scalars_of(result)
    found = [
        f"{Path(name).name}: {note}. Only this part is matched."
        for name, note in zip(said["pictures"], said["notes"], strict=True)
        if note
    ][:_NOTED]
    share = data["norm"].values / np.sqrt(said["latent_dim"])
    far = int((np.isfinite(share) & ((share < 0.5) | (share > 1.5))).sum())
    if far:
        found.append(
            f"The norm of {far} codes is below half or above one and a half times that of own samples: the generator "
            "was not trained on such codes. A larger `prior` keeps the norm."
        )
    return found


def figure(result: ApplicationResult) -> "dict[str, Figure]":
    """Draw each picture beside its reconstruction, and the objective against the work."""
    from pullback.analysis.drawing import (
        PAGE,
        SMALL,
        draw_line,
        legend_above,
        log_axis,
        new_figure,
        plain_axes,
        series,
    )

    data, said = result.dataset, scalars_of(result)
    known = np.flatnonzero(np.isfinite(data["distance"].values))[:_DRAWN]
    if not len(known):
        return {}
    pairs = new_figure("inversion-images", width=PAGE, height=0.4 + 1.8 * -(-len(known) // _ACROSS))
    rows = -(-len(known) // _ACROSS)
    for place, picture in enumerate(known):
        at = data.isel(picture=picture)
        axes = pairs.add_subplot(rows, _ACROSS, place + 1)
        gap = np.full((at.sizes["y"], max(1, at.sizes["x"] // 16), 3), 255, dtype=np.uint8)
        axes.imshow(np.concatenate([at["target"].values, gap, at["reconstruction"].values], axis=1))
        axes.set_axis_off()
        name = Path(said["pictures"][picture]).name
        axes.set_title(f"{name[-18:]}\n{float(at['distance']):.2g}", fontsize=SMALL)
    traces = new_figure("inversion-trace")
    axes = plain_axes(traces, x="work (images)", y="best value of the objective")
    for place, picture in enumerate(known[:_TRACES]):
        trace = data["trace"].values[picture]
        label = Path(said["pictures"][picture]).name[-18:]
        draw_line(axes, trace[:, 0], np.maximum(trace[:, 2], 1e-12), series(place), label, marked=False)
    log_axis(axes.yaxis)
    legend_above(axes)
    return {
        f"Each picture (left), the image of its code (right), and their {said['distance']}.": pairs,
        "The best value of the objective against the work, for the first pictures.": traces,
    }


def to_json(result: ApplicationResult) -> dict[str, Any]:
    """Return everything but images and traces."""
    left_out = ("target", "reconstruction", "trace")
    numbers = {str(name): each.values for name, each in result.dataset.variables.items() if str(name) not in left_out}
    return {
        **scalars_of(result),
        **{name: values for name, values in numbers.items() if name != "distance"},
        "squared_distance": numbers["distance"],
    }

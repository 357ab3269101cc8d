"""Image strips: images along the axes of the mean metric, which show what its spectrum states.

Codes of the sweep are moved linearly along an eigenvector of the mean metric, z + tv. The steps are the same along
every axis, so that axes of large and small eigenvalues can be compared by eye. If only a part of the mean metric was
computed, the axes are those of that part.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pullback.analysis.figure_files import FigureTable
from pullback.analysis.statistics.mean_metric import MeanMetric
from pullback.distances import Distance
from pullback.errors import PullbackError
from pullback.generators import generate, reference_tensor
from pullback.generators.user_code import unmoved
from pullback.metric.precision import arithmetic
from pullback.store.reader import Sweep
from pullback.sweep.identity import stored_job
from pullback.sweep.inputs import Inputs, changes, inputs_of, stored_inputs
from pullback.sweep.parts import load_parts

CODES = 3
"""How many codes are moved."""
STEPS = 7
"""Images in a strip, the unmoved one in the middle."""
REACH = 0.45
"""The largest step, relative to the mean norm of the codes; 4.5 for a DCGAN's codes of norm 10 (Wang & Ponce)."""


@dataclass(frozen=True)
class Strips:
    """Images along axes.

    Attributes:
        titles: the title of each code: its sample, and its class if there are classes [codes].
        ranks: the rank of each axis in the mean metric, from 0 [axes].
        eigenvalues: the mean metric's eigenvalue of each axis [axes].
        steps: t [steps], in latent units.
        images: [codes, axes, steps, height, width, 3] in [0, 1].
        distances: D² to the unmoved image [codes, axes, steps].
        distance: the distance's name.
    """

    titles: list[str]
    ranks: list[int]
    eigenvalues: NDArray[np.float64]
    steps: NDArray[np.float64]
    images: NDArray[np.float32]
    distances: NDArray[np.float64]
    distance: str

    @property
    def row_labels(self) -> list[str]:
        """The label of each axis: its rank from 1, and its eigenvalue."""
        return [f"axis {rank + 1}, λ = {value:.2g}" for rank, value in zip(self.ranks, self.eigenvalues, strict=True)]

    @property
    def step_labels(self) -> list[str]:
        """The label of each step."""
        return [f"{step:+.1f}".replace("-", "−") if abs(step) > 1e-9 else "0" for step in self.steps]

    def table(self) -> FigureTable:
        """Return D² to the unmoved image for each code, axis and step."""
        columns = ("code", "axis", "eigenvalue", "t", f"D² ({self.distance})")
        rows = [
            (title, rank + 1, float(value), float(step), float(self.distances[i, j, k]))
            for i, title in enumerate(self.titles)
            for j, (rank, value) in enumerate(zip(self.ranks, self.eigenvalues, strict=True))
            for k, step in enumerate(self.steps)
        ]
        return FigureTable("", columns, rows)

    @property
    def change_at_the_ends(self) -> NDArray[np.float64]:
        """Mean D² over codes and both ends, of each axis [axes]."""
        mean: NDArray[np.float64] = self.distances[:, :, [0, -1]].mean(axis=(0, 2))
        return mean


def shown_axes(axes: int) -> list[int]:
    """Return the ranks, from 0, of the first six axes, one in the middle and the last; nothing if there is no axis."""
    if axes == 0:
        return []
    return sorted({*range(min(6, axes)), (axes - 1) // 2, axes - 1})


def image_strips(sweep: Sweep, mean: MeanMetric) -> Strips:
    """Generate the image strips of a sweep along the axes of its mean metric.

    Raises:
        PullbackError: the sweep's generator or distance cannot be loaded on this machine, or has changed since.
    """
    job = stored_job(sweep.provenance, "report")
    generator, distance = load_parts(job, "auto")
    _refuse_other_inputs(inputs_of(generator, distance), stored_inputs(sweep.provenance))
    good = sweep.dataset().isel(sample=slice(0, CODES))
    codes = good["latent"].values
    ranks = shown_axes(mean.eigenvectors.shape[0])
    if not ranks:
        raise PullbackError("the kept part of the mean metric has no positive eigenvalue, hence no axis to walk along")
    axes = mean.eigenvectors[ranks]
    reach = REACH * float(np.linalg.norm(codes, axis=1).mean())
    steps = np.linspace(-reach, reach, STEPS)
    images, distances = [], []
    for code, class_index in zip(codes, good["condition"].values, strict=True):
        moved = code + steps[:, None] * axes[:, None, :]
        pairs = [_images(generator, distance, strip, int(class_index)) for strip in moved]
        images.append([pair[0] for pair in pairs])
        distances.append([pair[1] for pair in pairs])
    return Strips(
        titles=_titles(good["sample"].values, good["condition"].values, sweep.provenance["classes"]),
        ranks=ranks,
        eigenvalues=mean.eigenvalues[ranks],
        steps=steps,
        images=np.array(images, np.float32),
        distances=np.array(distances, np.float64),
        distance=str(sweep.provenance["distance"]),
    )


def _titles(samples: NDArray[np.int64], conditions: NDArray[np.int32], classes: list[str]) -> list[str]:
    return [
        f"sample {sample}" + (f", {classes[condition]}" if condition >= 0 else "")
        for sample, condition in zip(samples, conditions, strict=True)
    ]


def _images(
    generator: torch.nn.Module,
    distance: Distance,
    strip: NDArray[np.float64],
    class_index: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the images of one strip [steps, height, width, 3], and their distances to the middle one."""
    z = torch.as_tensor(strip).to(reference_tensor(generator))
    with torch.no_grad(), arithmetic(), unmoved():
        classes = None if class_index < 0 else torch.full((len(z),), class_index, device=z.device)
        made = generate(generator, z, classes)
        changes = distance.squared_at(generator, z[len(z) // 2].expand_as(z), z, classes)
    # Far out along an axis a generator may leave [0, 1] or return NaN; such pixels are drawn black.
    shown = made.nan_to_num(0, 0, 0).clamp(0, 1).float().expand(-1, 3, -1, -1)
    return shown.permute(0, 2, 3, 1).cpu().numpy(), changes.double().cpu().numpy()


def _refuse_other_inputs(here: Inputs, recorded: Inputs) -> None:
    if changed := changes(recorded, here):
        raise PullbackError(f"{', '.join(changed)} on this machine is not what the sweep was computed with")

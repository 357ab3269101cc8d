"""Images along the axes of the mean metric: the picture of what the spectrum claims.

Codes of the sweep are moved linearly along an eigenvector of the mean metric, z + μv, by the same steps along every
axis, so that the eye compares axes of large and small eigenvalues fairly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pullback.analysis import Analysis
from pullback.distances import Distance
from pullback.errors import PullbackError
from pullback.generators import images_of, like
from pullback.metric.precision import arithmetic
from pullback.spec import JobSpec
from pullback.store.reader import Sweep
from pullback.sweep.identity import weights_of
from pullback.sweep.plan import load_parts

FACES = 3
"""How many codes are moved."""
STEPS = 7
"""Images in a strip, the unmoved one in the middle."""
REACH = 0.45
"""The largest step, relative to the mean norm of the codes; 4.5 for a DCGAN's codes of norm 10 (Wang & Ponce)."""


@dataclass(frozen=True)
class Strips:
    """Images along axes.

    Attributes:
        titles: what each code is called: its sample, and its class where there are classes [codes].
        ranks: the rank of each axis in the mean metric, from 0 [axes].
        eigenvalues: the mean metric's eigenvalue of each axis [axes].
        steps: μ [steps], in latent units.
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
    def change_at_the_ends(self) -> NDArray[np.float64]:
        """Mean D² over codes and both ends, of each axis [axes]."""
        mean: NDArray[np.float64] = self.distances[:, :, [0, -1]].mean(axis=(0, 2))
        return mean


def telling_ranks(axes: int) -> list[int]:
    """The first six axes, one in the middle and the last."""
    return sorted({*range(min(6, axes)), (axes - 1) // 2, axes - 1})


def walk(sweep: Sweep, analysis: Analysis) -> Strips:
    """Generate the strips of a sweep.

    Raises:
        PullbackError: the sweep's generator or distance cannot be loaded on this machine, or is another by now.
    """
    job = JobSpec.model_validate({"name": "report", **sweep.provenance["spec"]})
    generator, distance = load_parts(job, "auto")
    _refuse_other_weights(weights_of(generator, distance), sweep.provenance["weights"])
    good = sweep.dataset().isel(sample=slice(0, FACES))
    codes = good["latent"].values
    ranks = telling_ranks(analysis.mean_metric.eigenvectors.shape[0])
    axes = analysis.mean_metric.eigenvectors[ranks]
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
        eigenvalues=analysis.mean_metric.eigenvalues[ranks],
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
    """The images of one strip [steps, height, width, 3], and their distances to the middle one."""
    z = torch.as_tensor(strip).to(like(generator))
    with torch.no_grad(), arithmetic():
        classes = None if class_index < 0 else torch.full((len(z),), class_index, device=z.device)
        made = images_of(generator, z, classes)
        changes = distance.squared_at(generator, z[len(z) // 2].expand_as(z), z, classes)
    # far out along an axis a generator may leave [0, 1], or the numbers altogether: such pixels are drawn black
    shown = made.nan_to_num(0, 0, 0).clamp(0, 1).float()
    return shown.permute(0, 2, 3, 1).cpu().numpy(), changes.double().cpu().numpy()


def _refuse_other_weights(here: dict[str, str], recorded: dict[str, str]) -> None:
    changed = sorted(name for name in {*here, *recorded} if here.get(name) != recorded.get(name))
    if changed:
        raise PullbackError(f"{', '.join(changed)} on this machine is not what the sweep was computed with")

"""The subjects of the GPU check: generators with a distance and codes, at full or small size.

Trained weights are used if they are found. The trunk of LPIPS-vgg is too large to carry, so it gets random weights of
the same shape. Its times equal those of the trained trunk, but its metrics differ.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pullback.bench.gpu.carry import HALF
from pullback.distances import ResidualDistance, load_distance
from pullback.distances.lpips import Lpips
from pullback.distances.trunks import untrained_trunk
from pullback.errors import WeightsError
from pullback.generators import any_condition, load_generator, random_weights, reference_tensor
from pullback.weights.manifest import FOLDER_VARIABLE


@dataclass(frozen=True)
class Subject:
    """A generator, a distance and codes.

    Attributes:
        name: name in tables.
        generator: G, on the device.
        distance: the distance, on the device.
        codes: latent codes from N(0, I) [points, n].
        classes: classes of the codes [points], if the generator is class-conditional.
    """

    name: str
    generator: nn.Module
    distance: ResidualDistance
    codes: Tensor
    classes: Tensor | None

    @property
    def latent_dim(self) -> int:
        """n, the size of a code."""
        return int(self.codes.shape[1])

    def condition(self, points: int) -> list[int] | None:
        """Return the classes of the first codes, for `metric_at`."""
        return None if self.classes is None else [int(value) for value in self.classes[:points]]


def subject(
    name: str, device: torch.device, *, trunk: str = "alex", points: int = 8, size: int | None = None
) -> Subject:
    """Build a subject.

    Args:
        name: a registered generator, or a function of `pullback.generators.random_weights`.
        device: a torch device.
        trunk: trunk of LPIPS.
        points: number of codes.
        size: pixels to which the distance resizes images.

    Raises:
        WeightsError: the weights of a registered generator are not on this machine.
    """
    makers: dict[str, Callable[..., nn.Module]] = vars(random_weights)
    generator = makers[name](device=device).to(device) if name in random_weights.BUILDERS else _registered(name, device)
    codes = torch.randn(points, int(generator.latent_dim), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    codes = codes.to(reference_tensor(generator))
    return Subject(name, generator, lpips(trunk, device, size), codes, any_condition(generator, points, device))


def _registered(name: str, device: torch.device) -> nn.Module:
    """Load a registered generator, if necessary from the carried half-precision file."""
    try:
        return load_generator(name, device=str(device))
    except WeightsError:
        half = Path(os.environ.get(FOLDER_VARIABLE, ".")) / HALF
        if name != "dcgan-eyes" or not half.is_file():
            raise
        return load_generator(name, weights=half, device=str(device))


def lpips(trunk: str, device: torch.device, size: int | None = None) -> ResidualDistance:
    """Load LPIPS, with random weights if the trained ones are missing."""
    try:
        loaded = load_distance("lpips", trunk=trunk, size=size, device=str(device))
        assert isinstance(loaded, ResidualDistance)
        return loaded
    except WeightsError:
        network = untrained_trunk(trunk, seed=0)
        stream = torch.Generator().manual_seed(1)
        heads = [torch.rand(channels, generator=stream) / channels for channels in network.channels]
        made = Lpips(network, heads, name=f"lpips-{trunk} of random weights", size=size)
        return made.to(device).eval().requires_grad_(False)

"""Targets of the benchmark of inversion with their starts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pullback.applications.inverting.library_cache import library_of
from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.starts import Library
from pullback.bench.inversion_settings import InversionBench
from pullback.distances import ResidualDistance, load_distance
from pullback.errors import ArgumentError
from pullback.generators import generate, load_generator, reference_tensor
from pullback.generators.attributes import class_names
from pullback.generators.codes import input_size, mapped

LEVELS = (0.05, 0.2)
"""D² of the starts of S4, one after the other."""
PHOTOGRAPH = (4, 5)
"""Remainder and divisor of the numbers of targets of S3 that are crops of a photograph."""
_FACE = (135, 80, 395, 340)
"""Left, top, right and bottom of the face in Matplotlib's photograph."""
_SHIFT = 12
"""Most pixels by which the crop of the photograph is moved."""


@dataclass(frozen=True)
class Problem:
    """One target of a suite with its starts.

    Attributes:
        image: the target [1, 3, height, width].
        code: its code [n]; None out of range.
        starts: codes [starts, n].
        condition: class of each start; None without classes.
        seconds: CPU seconds that the starts took.
    """

    image: Tensor
    code: Tensor | None
    starts: Tensor
    condition: Tensor | None
    seconds: float


@dataclass
class Problems:
    """Makes the targets and starts of a benchmark; the networks are loaded when they are first used.

    Args:
        settings: of the benchmark.
    """

    settings: InversionBench
    _held: dict[tuple[str, int], Problem] = field(default_factory=dict, init=False)

    @cached_property
    def generator(self) -> Any:
        """G, on the CPU: CPU seconds are an endpoint."""
        return load_generator(self.settings.generator, device="cpu")

    @cached_property
    def distance(self) -> ResidualDistance:
        """D, a residual distance."""
        found = load_distance(self.settings.distance, device="cpu")
        if not isinstance(found, ResidualDistance):
            raise ArgumentError("distance", f"{found.name} is no sum of squares")
        return found

    @cached_property
    def library(self) -> Library:
        """The own samples of the starts; not those of the targets."""
        return library_of(self.generator, self.settings.samples, self.settings.seed)

    def drawn(self, generator: Any, stream: int, numbers: Sequence[int] | range) -> tuple[Tensor, Tensor | None]:
        """Return codes [numbers, n] that depend on the seed, the stream and their number alone, and their classes."""
        size = input_size(generator)
        rows = [
            np.random.default_rng(
                np.random.SeedSequence(self.settings.seed, spawn_key=(stream, number))
            ).standard_normal(size)
            for number in numbers
        ]
        names = class_names(generator)
        own = torch.tensor([number % len(names) for number in numbers]) if names else None
        inputs = torch.from_numpy(np.stack(rows)).to(reference_tensor(generator))
        return mapped(generator, inputs, own), own

    def problem(self, suite: str, number: int) -> Problem:
        """Return the target with this number and its starts; those of the last number are kept."""
        if not any(held == number for _, held in self._held):
            self._held.clear()
        if (suite, number) not in self._held:
            self._held[suite, number] = self._made(suite, number)
        return self._held[suite, number]

    def _made(self, suite: str, number: int) -> Problem:
        codes, own = self.drawn(self.generator, 1, [number, number + 5000])
        with torch.no_grad():
            images = generate(self.generator, codes, own).clamp(0, 1)
        image, code = images[:1], codes[0].double()
        if suite == "S4":
            return self._local(number, codes[:1], image, row_of(own, 0))
        if suite == "S3":
            image = _out_of_range(images, number, self.settings.seed)
        objective = Objective(self.generator, self.distance, image)
        given = None if own is None or suite in ("S2b", "S3") else int(own[0])
        library = self.library
        began = time.process_time()
        starts = library.starts(
            objective, nearest=1, random=self.settings.random, condition=given, seed=self.settings.seed, first=number
        )
        seconds = time.process_time() - began
        return Problem(image, None if suite == "S3" else code, starts.codes, starts.condition, seconds)

    def _local(self, number: int, code: Tensor, image: Tensor, own: Tensor | None) -> Problem:
        """A start in a random direction at the wanted distance, which bisection finds."""
        wanted = LEVELS[number % len(LEVELS)]
        stream = np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=(4, number)))
        direction = torch.from_numpy(stream.standard_normal(code.shape[1]))
        direction /= direction.norm()

        def away(step: float) -> float:
            with torch.no_grad():
                moved = generate(self.generator, (code.double() + step * direction).to(code), own)
                return float(self.distance.squared(moved, image))

        low, high = 0.0, 1.0
        while away(high) < wanted and high < 100:
            low, high = high, 2 * high
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if away(middle) < wanted else (low, middle)
        return Problem(image, code[0].double(), code.double() + high * direction, own, 0.0)


def row_of(own: Tensor | None, row: int) -> Tensor | None:
    """Return the class of one row [1]; None without classes."""
    return None if own is None else own[row : row + 1]


def _out_of_range(images: Tensor, number: int, seed: int) -> Tensor:
    """A target that no code has, from the images [2, 3, height, width] of two own samples, or a photograph."""
    kind = number % PHOTOGRAPH[1]
    if kind == 0:
        noise = torch.randn(images[:1].shape, generator=torch.Generator().manual_seed(seed + number))
        return (images[:1] + 0.05 * noise).clamp(0, 1)
    if kind == 1:
        return images[:1].flip(3) if number % 2 else images[:1].roll((4, 4), (2, 3))
    if kind == 2:
        return images.mean(dim=0, keepdim=True)
    if kind == 3:
        return images[:1].flip(1)
    return _photograph(images.shape[-2], images.shape[-1], number, seed)


def _photograph(height: int, width: int, number: int, seed: int) -> Tensor:
    """A crop of the portrait that Matplotlib ships [1, 3, height, width], moved and mirrored by chance."""
    from PIL import Image

    stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, number)))
    left, top, right, bottom = _FACE
    across, down = stream.integers(-_SHIFT, _SHIFT + 1, 2)
    portrait = files("matplotlib").joinpath("mpl-data", "sample_data", "grace_hopper.jpg")
    with portrait.open("rb") as opened, Image.open(opened) as picture:
        cut = picture.convert("RGB").crop((left + across, top + down, right + across, bottom + down))
        values = torch.from_numpy(np.asarray(cut, dtype=np.float32).copy() / 255).permute(2, 0, 1)[None]
    image = interpolate(values, (height, width), mode="bilinear", antialias=True)
    return image.flip(3) if stream.integers(2) else image

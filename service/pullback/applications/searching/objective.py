"""The score that a search maximises: a unit of a feature network, or a function of the user, maybe with noise.

A unit is written `trunk:layer:channel`, such as `alex:conv3:17`: a channel of AlexNet, VGG16 or SqueezeNet (the trunks
of LPIPS) after the ReLU, as its mean over the map or at the centre of the map. A function is `module:function`; it maps
images [batch, 3, height, width] in [0, 1] to scores [batch].

Noise is multiplicative: the search sees score · max(0, 1 + level · ε) with ε ~ N(0, 1) (Wang & Ponce, GECCO 2022). The
ε of evaluation e comes from the seed and e alone, so all searchers meet the same noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pullback.distances.lpips import image_statistics, trunk_input
from pullback.distances.trunks import Trunk, load_trunk
from pullback.errors import PullbackError, SpecError
from pullback.generators.user_code import imported, unmoved
from pullback.spec import names_code, nearest
from pullback.weights.manifest import locate

Floats = npt.NDArray[np.float64]

_CONVOLUTIONS = {"alex": "conv", "vgg": "block", "squeeze": "fire"}
"""What the layers of a trunk are called, with a number from 1."""


@dataclass(frozen=True)
class Unit:
    """A channel of a layer of a trunk.

    Attributes:
        trunk: `alex`, `vgg` or `squeeze`.
        layer: index of the layer among those of LPIPS, from 0.
        channel: index of the channel, from 0.
        centre: the activation at the centre of the map in place of its mean.
    """

    trunk: str
    layer: int
    channel: int
    centre: bool = False


def read_unit(text: str, centre: bool = False) -> Unit:
    """Read `trunk:layer:channel`; the layer is a number from 1, or has a name such as `conv3`.

    Raises:
        SpecError: it has another form, or there is no such trunk.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise SpecError([f"unit: {text!r} is not trunk:layer:channel, such as alex:conv3:17"])
    trunk, layer, channel = parts
    if trunk not in _CONVOLUTIONS:
        hint = nearest(trunk, _CONVOLUTIONS) or f"; there are {', '.join(_CONVOLUTIONS)}"
        raise SpecError([f"unit: there is no trunk {trunk!r}{hint}"])
    number = layer.removeprefix(_CONVOLUTIONS[trunk])
    if not (number.isdecimal() and channel.isdecimal() and int(number) >= 1):
        raise SpecError(
            [f"unit: {text!r} needs a layer such as {_CONVOLUTIONS[trunk]}3 and the number of a channel, from 0"]
        )
    return Unit(trunk, int(number) - 1, int(channel), centre)


class UnitScore(nn.Module):
    """The activation of a unit.

    Args:
        trunk: the network.
        unit: its layer and channel.

    Raises:
        SpecError: the trunk has no such layer or channel.
    """

    def __init__(self, trunk: Trunk, unit: Unit) -> None:
        super().__init__()
        layers = len(trunk.channels)
        if unit.layer >= layers:
            raise SpecError([f"unit: {unit.trunk} has layers 1 to {layers}, not {unit.layer + 1}"])
        channels = trunk.channels[unit.layer]
        if unit.channel >= channels:
            raise SpecError(
                [f"unit: layer {unit.layer + 1} of {unit.trunk} has channels 0 to {channels - 1}, not {unit.channel}"]
            )
        self.stages = trunk.stages[: unit.layer + 1]
        self.unit = unit
        self.smallest = trunk.smallest
        shift, scale = image_statistics()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> Tensor:
        """Return activations [batch] of images [batch, 3, height, width] in [0, 1].

        Raises:
            ValueError: the images are too small for the trunk.
        """
        if min(images.shape[-2:]) < self.smallest:
            raise ValueError(
                f"images of {images.shape[-2]} × {images.shape[-1]} are too small for {self.unit.trunk}, which needs "
                f"{self.smallest}; set `size` to that or more"
            )
        held = trunk_input(images, self.get_buffer("shift"), self.get_buffer("scale"))
        for stage in self.stages:
            held = stage(held)
        picked = held[:, self.unit.channel]
        return picked[:, picked.shape[1] // 2, picked.shape[2] // 2] if self.unit.centre else picked.mean(dim=(1, 2))


@dataclass(frozen=True)
class Objective:
    """A checked score.

    Attributes:
        function: maps images [batch, 3, height, width] in [0, 1] to scores [batch].
        name: its name in messages and figures.
        size: images are resized to size × size first; None keeps their size.
        source: SHA-256 of the source of a user's function, by file; empty otherwise.
    """

    function: Callable[[Tensor], Any]
    name: str
    size: int | None = None
    source: tuple[tuple[str, str], ...] = ()

    def __call__(self, images: Tensor) -> Floats:
        """Return scores [batch] in float64, without noise.

        Args:
            images: [batch, channels, height, width], with one channel or three.

        Raises:
            PullbackError: the score raises, has another shape, or is not a finite number.
        """
        if images.shape[1] == 1:
            images = torch.cat([images, images, images], dim=1)
        if self.size is not None:
            images = interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        try:
            with unmoved():
                given = self.function(images)
        except PullbackError:
            raise
        except (Exception, SystemExit) as error:  # user code may raise anything
            words = " ".join(str(error).split())
            raise PullbackError(f"the score {self.name} raised {type(error).__name__}: {words}. {_KEPT}") from error
        scores = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
        if scores.shape != (len(images),) or scores.dtype.kind not in "fiu":
            found = f"{list(scores.shape)} of {scores.dtype}" if scores.dtype.kind != "O" else type(given).__name__
            raise PullbackError(
                f"the score {self.name} gave {found} for {len(images)} images; one number for each, [{len(images)}], "
                f"is needed. {_KEPT}"
            )
        if not np.isfinite(scores).all():
            wrong = int(np.sum(~np.isfinite(scores)))
            raise PullbackError(
                f"the score {self.name} gave {wrong} of {len(scores)} values that are not finite numbers. {_KEPT}"
            )
        return scores.astype(np.float64)


_KEPT = "Nothing is lost: the search is kept up to the generation before, and the same command goes on from there"


@dataclass(frozen=True)
class Noise:
    """Multiplicative noise.

    Attributes:
        level: standard deviation of the factor; 0 for none.
        seed: seed of the stream.
    """

    level: float = 0.0
    seed: int = 0

    def __call__(self, scores: Floats, first: int) -> Floats:
        """Return noisy scores [batch] of the evaluations from number `first` on."""
        if self.level == 0:
            return scores
        drawn = [
            np.random.Generator(np.random.Philox(key=np.array([self.seed, 0x5EA], np.uint64), counter=number))
            for number in range(first, first + len(scores))
        ]
        factors = 1 + self.level * np.array([stream.standard_normal() for stream in drawn])
        return scores * np.maximum(0, factors)


def objective_of(
    unit: str | None,
    score: str | Callable[[Tensor], Any] | None,
    device: torch.device,
    centre: bool = False,
    size: int | None = None,
) -> Objective:
    """Return the objective that options name.

    Args:
        unit: `trunk:layer:channel`.
        score: `module:function`, or the function itself. Exactly one of the two is given.
        device: where the trunk computes.
        centre: the unit at the centre of its map.
        size: images are resized first.

    Raises:
        SpecError: none or both are given, or one is wrong.
        WeightsError: the trunk's weights are missing.
    """
    if (unit is None) == (score is None):
        raise SpecError(["unit: give either `unit`, such as alex:conv3:17, or `score`, such as my_module:function"])
    if unit is not None:
        read = read_unit(unit, centre)
        path, _ = locate(f"trunk-{read.trunk}")
        return Objective(UnitScore(load_trunk(read.trunk, path), read).eval().to(device), unit, size)
    if isinstance(score, str):
        if not names_code(score):
            raise SpecError([f"score: {score!r} is not module:function"])
        function, source = imported(score, "score")
        return Objective(function, score, size, tuple(sorted(source.items())))
    assert score is not None
    return Objective(score, getattr(score, "__name__", type(score).__name__), size)

"""LPIPS v0.1 (Zhang et al., CVPR 2018) in residual form.

LPIPS(x, y) = Σ_l 1/(H_l W_l) Σ_pixels Σ_c w_lc (û_lc(x) − û_lc(y))², with û the activations of layer l divided by
their norm over channels, and w_l ≥ 0 the calibrated head. It is a sum of squares, so
r(x) = concat_l sqrt(w_l / (H_l W_l)) · û_l(x) gives ||r(x) − r(y)||² = LPIPS(x, y). LPIPS itself is D², not D.
With a mask, each layer's sum over pixels is weighted by the mask at that layer's resolution.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pullback.distances.base import ResidualDistance
from pullback.distances.mask import Mask
from pullback.distances.trunks import Trunk, load_trunk
from pullback.errors import WeightsError
from pullback.spec import DistanceOptions
from pullback.weights.checkpoints import read_checkpoint
from pullback.weights.manifest import locate

# The constants of LPIPS's scaling layer: ImageNet's mean and deviation for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10

SUMMARY = "LPIPS v0.1 (Zhang et al. 2018) with calibrated linear heads"


class Options(DistanceOptions):
    """The options of LPIPS."""

    trunk: Literal["alex", "vgg", "squeeze"] = "alex"
    """The feature network; Wang & Ponce used `squeeze`."""
    input_range: Literal["standard", "paper"] = "standard"
    """`standard` feeds the trunk images in [-1, 1] as LPIPS documents; `paper` in [0, 1] as Wang & Ponce did."""

    @property
    def label(self) -> str:
        """The short name used in tables, such as `lpips-alex`."""
        return f"lpips-{self.trunk}"


class Lpips(ResidualDistance):
    """LPIPS as a residual distance.

    Args:
        trunk: the feature network.
        heads: the non-negative weights of the channels [channels], one tensor per stage.
        name: the short name for tables.
        input_range: `standard` feeds the trunk images in [-1, 1], as LPIPS documents; `paper` feeds it unchanged
            images in [0, 1], as Wang & Ponce (ICLR 2021) did.
        clamp: see `Distance`.
        size: see `Distance`.
        mask: see `Distance`.

    Raises:
        WeightsError: the heads do not fit the trunk, or a weight is negative.
        ValueError: the input range is unknown.
    """

    def __init__(
        self,
        trunk: Trunk,
        heads: list[Tensor],
        *,
        name: str = "lpips",
        input_range: str = "standard",
        clamp: bool = False,
        size: int | None = None,
        mask: Mask | None = None,
    ) -> None:
        super().__init__(clamp, size, mask)
        if [len(head) for head in heads] != trunk.channels:
            raise WeightsError(f"LPIPS heads of sizes {[len(h) for h in heads]} for a trunk of {trunk.channels}")
        if not all(bool((head >= 0).all()) for head in heads):
            raise WeightsError("an LPIPS head has a weight that is negative or no number; it would not be a distance")
        if input_range not in ("standard", "paper"):
            raise ValueError(f"input_range is 'standard' or 'paper', not {input_range!r}")
        self.name = name
        self.trunk = trunk
        self.input_range = input_range
        for index, head in enumerate(heads):
            self.register_buffer(f"head_{index}", head.clone())
        shift, scale = image_statistics()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def features(self, images: Tensor) -> Tensor:
        """Return the residual [batch, Σ_l C_l H_l W_l] of images [batch, 3, height, width] in [0, 1].

        Raises:
            ValueError: the images are too small for the trunk.
        """
        if min(images.shape[-2:]) < self.trunk.smallest:
            raise ValueError(
                f"images of {images.shape[-2]} × {images.shape[-1]} are too small for {self.name}, which needs "
                f"{self.trunk.smallest}; set its `size` to that or more"
            )
        shift, scale = self.get_buffer("shift"), self.get_buffer("scale")
        images = images.to(shift.dtype)  # the generator may have another precision
        parts = []
        for index, activation in enumerate(self.trunk(trunk_input(images, shift, scale, self.input_range))):
            head = self.get_buffer(f"head_{index}")
            height, width = activation.shape[-2:]
            weight = torch.sqrt(head / (height * width)).view(1, -1, 1, 1)
            parts.append(self.weighted(weight * _unit_normalized(activation)).flatten(1))
        return torch.cat(parts, dim=1)


def image_statistics() -> tuple[Tensor, Tensor]:
    """Return ImageNet's mean and deviation [1, 3, 1, 1] for images in [-1, 1], as every trunk needs them."""
    return torch.tensor(_SHIFT).view(1, 3, 1, 1), torch.tensor(_SCALE).view(1, 3, 1, 1)


def trunk_input(images: Tensor, shift: Tensor, scale: Tensor, input_range: str = "standard") -> Tensor:
    """Return what a trunk is fed for images [batch, 3, height, width] in [0, 1].

    Args:
        images: in [0, 1].
        shift: mean of `image_statistics`.
        scale: deviation of `image_statistics`.
        input_range: `standard` maps images to [-1, 1] first; `paper` leaves them in [0, 1].
    """
    return ((2 * images - 1 if input_range == "standard" else images) - shift) / scale


def _unit_normalized(activation: Tensor) -> Tensor:
    """Divide activations by their norm over channels. All-zero pixels give zero, with zero derivative.

    LPIPS adds its epsilon outside the square root, whose derivative at zero is infinite, so such pixels would give NaN
    derivatives. The inner `where` keeps the argument of the root away from zero; the outer one restores the zeros.
    """
    squares = torch.sum(activation * activation, dim=1, keepdim=True)
    alive = squares > 0
    norm = torch.sqrt(torch.where(alive, squares, torch.ones_like(squares)))
    return torch.where(alive, activation / (norm + _EPSILON), torch.zeros_like(activation))


def load_lpips(
    trunk: str = "alex",
    *,
    input_range: str = "standard",
    clamp: bool = False,
    size: int | None = None,
    mask: Mask | None = None,
) -> Lpips:
    """Load LPIPS with torchvision's trunk and the calibrated v0.1 heads from this machine's weight files.

    Raises:
        WeightsError: the trunk's or the heads' file is missing or damaged.
    """
    trunk_path, trunk_hash = locate(f"trunk-{trunk}")
    heads_path, heads_hash = locate(f"heads-{trunk}")
    distance = Lpips(
        load_trunk(trunk, trunk_path),
        _read_heads(heads_path),
        name=f"lpips-{trunk}",
        input_range=input_range,
        clamp=clamp,
        size=size,
        mask=mask,
    )
    distance.weights |= {f"trunk-{trunk}": trunk_hash, f"heads-{trunk}": heads_hash}
    return distance.eval().requires_grad_(False)


def build(options: Options, mask: Mask | None) -> Lpips:
    """Build the distance of a job; see `load_lpips`."""
    return load_lpips(options.trunk, input_range=options.input_range, clamp=options.clamp, size=options.size, mask=mask)


def _read_heads(path: Path) -> list[Tensor]:
    """Read the heads of the `lpips` package: `lin0.model.1.weight` [1, channels, 1, 1], `lin1...`, ..."""
    content = read_checkpoint(path)
    keys = [f"lin{index}.model.1.weight" for index in range(len(content) if isinstance(content, Mapping) else 0)]
    if not keys or not all(isinstance(content.get(key), Tensor) for key in keys):
        raise WeightsError(
            f"the file {path} does not hold the linear heads of LPIPS: lin0.model.1.weight, lin1..., ..."
        )
    return [content[key].flatten() for key in keys]

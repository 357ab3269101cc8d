"""Images of networks that were grown block by block (Karras et al., "Progressive growing of GANs", ICLR 2018).

The level of detail `lod` is the number of final blocks that are not used yet: 0 is the whole network, 1 makes images of
half the size, and 0.4 blends 0.6 of the last block's image with 0.4 of the previous block's doubled image.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pullback.errors import ArgumentError


def top_block(blocks: int, lod: float) -> int:
    """Return the index of the last block that an image needs."""
    return blocks - 1 - math.floor(lod)


def needed_colours(blocks: int, lod: float) -> tuple[int, ...]:
    """Return the indices of the blocks whose features become images."""
    top = top_block(blocks, lod)
    return (top,) if lod == math.floor(lod) else (top - 1, top)


def blended(features: Sequence[Tensor], colours: nn.ModuleDict, blocks: int, lod: float) -> Tensor:
    """Blend the images of the top blocks, at the image size of the whole network.

    Args:
        features: features [batch, channels, height, width] of each block up to the top one.
        colours: the layers to RGB, by the number of their block.
        blocks: the number of blocks of the whole network.
        lod: the level of detail.
    """
    needed = needed_colours(blocks, lod)
    image: Tensor = colours[str(needed[0])](features[needed[0]])
    if len(needed) == 2:
        share = math.ceil(lod) - lod
        image = share * colours[str(needed[1])](features[needed[1]]) + (1 - share) * doubled(image)
    for _ in range(math.floor(lod)):
        image = doubled(image)
    return image


def level(lod: float, blocks: int) -> float:
    """Return the level of detail if it is valid.

    Raises:
        SpecError: the network has too few blocks.
    """
    if not 0 <= lod <= blocks - 1:
        raise ArgumentError("lod", f"must be from 0 to {blocks - 1}, not {lod}")
    return lod


def doubled(x: Tensor) -> Tensor:
    """Double height and width of x by repeating pixels."""
    return F.interpolate(x, scale_factor=2, mode="nearest")

"""The section `distance` of a sweep's job: what all distances share. Each distance's module has its own options."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator

from pullback.plugins import DISTANCES
from pullback.spec.messages import code_meant, describe, names_code, number_hint, shown
from pullback.spec.options import Options
from pullback.spec.plugin_field import PluginOptions

_CODE = "module:function"
"""How messages write the name of a user's own function."""


class DistanceOptions(Options):
    """The options that every distance has. The `Options` of a distance's module derive from this class."""

    name: str
    """The distance: a name of `pullback plugins`, or `module:function` for a function of your own."""
    clamp: bool = False
    """Clamp images to [0, 1] inside the differentiated path, so that saturated pixels count for nothing."""
    size: int | None = Field(default=None, ge=16, le=4096)
    """Resize images bilinearly to size × size before measuring; by default the generator's own size is kept."""
    mask: tuple[float, float, float, float] | str | None = None
    """Measure a part of the image: a box [top, left, bottom, right] in fractions of it, or the path of an array
    [height, width] of weights in [0, 1] (`.npy`). Nothing is renormalised."""

    @field_validator("mask", mode="before")
    @classmethod
    def _is_box_or_path(cls, mask: Any) -> Any:
        if mask is None or (isinstance(mask, str) and mask.endswith(".npy")):
            return mask
        if not isinstance(mask, list | tuple) or len(mask) != 4:
            raise ValueError(
                f"a box [top, left, bottom, right] or the path of an array (.npy) is needed, not {describe(mask)}"
            )
        for edge in mask:
            if isinstance(edge, bool) or not isinstance(edge, int | float):
                raise ValueError(f"a number is needed, not {describe(edge)}{number_hint(edge)}")
        top, left, bottom, right = (float(edge) for edge in mask)
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(
                "a box is [top, left, bottom, right] in fractions of the image from 0 to 1, with top < bottom and "
                f"left < right; this one is {shown(list(mask))} (divide pixels by the image's height or width)"
            )
        return top, left, bottom, right

    @property
    def label(self) -> str:
        """The short name used in tables."""
        return self.name

    def local_keys(self) -> Iterator[str]:
        """Yield the keys whose values name files or code on the machine that runs the job."""
        if isinstance(self.mask, str):
            yield "mask"
        yield from super().local_keys()


class CustomOptions(DistanceOptions):
    """A user's own function: f(images) -> [batch, m], a residual, or f(x, y) -> [batch], a squared distance."""

    @field_validator("name")
    @classmethod
    def _is_code(cls, name: str) -> str:
        if not names_code(name):
            raise ValueError(
                f"{shown(name)} is not of the form 'module:function', both written as in Python{code_meant(name)}"
            )
        return name

    def local_keys(self) -> Iterator[str]:
        """Yield `name`, which is code, and the keys of the other distances."""
        yield "name"
        yield from super().local_keys()


def _kind_of(name: str) -> str | None:
    return _CODE if ":" in name else None


DistanceField = PluginOptions(DISTANCES, DistanceOptions, {_CODE: CustomOptions}, _kind_of)
DistanceSpec = Annotated[DistanceOptions, DistanceField]
"""The distance of a job: the options of the distance that it names."""

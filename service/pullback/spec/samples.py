"""The section `samples` of a sweep's job."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pullback.spec.options import Local, Options

MOST_CODES = 10_000_000
"""Bound of every number of codes, coordinates and vectors in a job: no product of two of them exceeds 64 bits."""

_NEEDED_BY = {
    "codes": ("codes", "around", "between", "line"),
    "directions": ("line",),
}
_READ_BY = {
    **_NEEDED_BY,
    "key": ("codes", "around", "between", "line"),
    "first": ("codes", "around", "between", "line"),
    "bound": ("truncated_normal",),
    "norms": ("sphere",),
    "each": ("around", "sphere"),
    "steps": ("between", "line"),
    "interpolation": ("between",),
    "extent": ("line",),
    "scale": ("normal", "truncated_normal", "uniform", "sphere", "around"),
}
"""The distributions that read each key; with any other one the key would change nothing, so it is refused."""


class SamplesSpec(Options):
    """The latent codes. The random numbers of sample i are drawn from `SeedSequence(seed, spawn_key=(i,))`.

    In a space with a mapping, such as `w`, a drawn code is an input of the mapping network, and the sample's code is
    what the network maps it to.
    """

    count: int = Field(ge=1, le=MOST_CODES)
    """Number of latent codes."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the whole set."""
    distribution: Literal["normal", "truncated_normal", "uniform", "sphere", "codes", "around", "between", "line"] = (
        "normal"
    )
    """`normal`: N(0, scale² I). `truncated_normal`: scale times a standard normal that is cut off at ±bound. `uniform`:
    in [−scale, scale]. `sphere`: a random direction, times one of `norms`. `codes`: the rows of a file. `around`: a row
    of a file plus N(0, scale² I). `between`: from each row of a file to the next. `line`: from a row along a row of
    `directions`."""
    scale: float = Field(default=1.0, gt=0, le=1e30)
    """Standard deviation of each latent coordinate; for `uniform` the largest value, for `sphere` a factor of the
    norms."""
    bound: float = Field(default=2.0, gt=0, le=100)
    """Where `truncated_normal` is cut off, in standard deviations."""
    norms: tuple[Annotated[float, Field(gt=0, le=1e30)], ...] | None = Field(default=None, min_length=1)
    """Norms that the samples of `sphere` take in turn; by default √n."""
    codes: Annotated[str | None, Local()] = Field(default=None, min_length=1)
    """The file of given codes, one a row: `.npy`, `.npz`, a Zarr array, or the store of another sweep."""
    key: str | None = Field(default=None, min_length=1)
    """The name of the array in an `.npz` file or a Zarr group."""
    first: int = Field(default=0, ge=0, le=MOST_CODES)
    """The row of the first sample."""
    each: int = Field(default=1, ge=1, le=MOST_CODES)
    """For `around`, the samples of each row. For `sphere`, the samples that share a direction."""
    steps: int = Field(default=11, ge=2, le=MOST_CODES)
    """The samples of each segment of `between` or each line of `line`, both ends included."""
    interpolation: Literal["linear", "spherical"] = "linear"
    """`linear`: a straight segment. `spherical`: along the great circle, with norms between those of the ends."""
    directions: Annotated[str | None, Local()] = Field(default=None, min_length=1)
    """The file of directions, one a row, which lines take in turn; as `codes`."""
    extent: float = Field(default=1.0, gt=0, le=1e30)
    """A line goes from −extent to +extent times its direction."""
    map: bool | None = None
    """Whether codes pass the mapping network of the generator's space. By default drawn codes do. Codes of a file do
    not, because they are codes of the space already."""

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        for key, kinds in _NEEDED_BY.items():
            if self.distribution in kinds and getattr(self, key) is None:
                raise ValueError(f"samples.distribution {self.distribution!r} needs `{key}`, the path of a file")
        for key in sorted(self.model_fields_set & {*_READ_BY}):
            default = type(self).model_fields[key].default
            if self.distribution not in _READ_BY[key] and getattr(self, key) != default:
                raise ValueError(
                    f"`{key}` changes nothing with the distribution {self.distribution!r}; remove it, or choose "
                    f"{' or '.join(_READ_BY[key])}"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_idle_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the keys that this distribution does not read."""
        idle = {key for key, kinds in _READ_BY.items() if self.distribution not in kinds}
        idle |= {"map"} if self.map is None else set()
        return {key: value for key, value in serialize(self).items() if key not in idle}

    @property
    def is_drawn(self) -> bool:
        """Whether the codes need no file."""
        return self.distribution not in _READ_BY["key"]

    @property
    def is_mapped(self) -> bool:
        """Whether the codes pass the mapping network of a generator that has one."""
        return self.is_drawn if self.map is None else self.map

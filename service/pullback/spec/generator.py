"""The section `generator` of a job."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pullback.errors import PluginError
from pullback.plugins import GENERATORS
from pullback.spec.messages import nearest
from pullback.spec.options import Options

CYCLE = "cycle"
"""The condition of a class-conditional generator that gives sample i the class i mod (number of classes)."""


def _family_options(family: Any) -> set[str]:
    """Return the names of the options of a generator family; of all families that can be imported if it is not known.

    Families need torch, so they are imported only for a job that has such an option.
    """
    found: set[str] = set()
    for name in GENERATORS.names() if family is None else [family]:
        try:
            found |= {*GENERATORS.options(name).model_fields}
        except PluginError:  # an unknown or broken family is reported where it is used
            continue
    return found


class GeneratorSpec(Options):
    """Which generator; a bare name in the YAML means `{name: ...}`."""

    name: str = Field(min_length=1)
    """A name of `pullback generators list`, the path of a checkpoint, or `module:factory` for your own code."""
    weights: str | None = None
    """A local weight file to use in place of the generator's registered one."""
    network: str | None = Field(default=None, min_length=1)
    """The key of one network in a checkpoint that holds several, such as `g_ema`. By default the generator's averaged
    weights are taken, else its raw ones; the result records which were taken."""
    condition: str | None = None
    """For a class-conditional generator: a class name, or `cycle` to take the classes in turn over the samples."""
    family: str | None = Field(default=None, min_length=1)
    """The family of a checkpoint (`pullback plugins` lists them), where it cannot be recognised from the file."""
    space: str = Field(default="z", min_length=1)
    """The latent space of the codes, such as `z`, `w`, `w+` or `z+class`."""
    truncation: float = Field(default=1.0, ge=0, le=100)
    """ψ of the family's truncation; 1 means none."""
    truncation_cutoff: int | None = Field(default=None, ge=0, le=1000)
    """How many layers are truncated; by default all."""
    noise: Literal["const", "none", "seed"] = "const"
    """The noise maps of a StyleGAN: `const` keeps those of the file, `none` sets them to zero, `seed` draws them once
    from `noise_seed`."""
    noise_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of noise maps that are drawn."""
    control: Literal["shuffled", "random"] | None = None
    """Replace the weights: `shuffled` permutes the numbers of each tensor, `random` draws them with the same mean and
    standard deviation. A control shows which part of a metric comes from training."""
    control_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the permutations or draws of `control`."""
    args: dict[str, Any] | None = None
    """Keyword arguments of a `module:factory`: plain values."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the family, such as a resolution that the file does not hold; they may also stand beside `name`."""

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        others = [key for key in data if key not in cls.model_fields]
        known = _family_options(data.get("family")) if others else set()
        taken = {key: data[key] for key in others if key in known}
        given = data.get("options", {})
        if not taken or not isinstance(given, Mapping):
            return data
        return {**{key: value for key, value in data.items() if key not in taken}, "options": {**given, **taken}}

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        known: Collection[str] = (info.context or {}).get("generators", ())
        looks_local = ":" in name or "/" in name or Path(name).suffix != ""
        if known and name not in known and not looks_local:
            raise ValueError(
                f"unknown generator {name!r}{nearest(name, known) or ';'} registered are {', '.join(sorted(known))} "
                "(your own: 'module:factory', or the path of a checkpoint)"
            )
        return name

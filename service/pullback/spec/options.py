"""The base of every options model: strict, frozen, and documented by its own docstrings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


@dataclass(frozen=True)
class Local:
    """Marks a field that names a file or code on the machine that runs the job: `Annotated[str | None, Local()]`.

    The HTTP service refuses a job that sets such a field, unless it runs with `--allow-code`.
    """


@dataclass(frozen=True)
class OtherSweep(Local):
    """Marks a field that names a further sweep, as an address or as `ADDRESS@SNAPSHOT`.

    The sweep's snapshot is part of the key of a result, so a sweep that grew gives another result.
    """


class Options(BaseModel):
    """Options of a plug-in, or one section of a job.

    A plug-in's module subclasses it under the name `Options`, beside the function that the options set. Every field has
    a type, a default if it may be left out, and a docstring; the docstring is the help text of the command line, of
    HTTP and of the documentation. Unknown keys are errors, nothing is coerced (text is never a number), instances
    cannot be changed, and numbers are finite. YAML has lists and no tuples, so a list is read as a tuple: annotate a
    sequence as `tuple[float, ...]`.

    Example:
        class Options(pullback.spec.options.Options):
            draws: int = Field(default=1000, ge=10, le=1_000_000)
            "Bootstrap samples behind each interval."
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_become_tuples(cls, data: Any) -> Any:
        return {key: _tuples(value) for key, value in data.items()} if isinstance(data, Mapping) else data

    def sweep_keys(self) -> Iterator[str]:
        """Yield the keys whose values name further sweeps."""
        for key, field in type(self).model_fields.items():
            if any(isinstance(mark, OtherSweep) for mark in field.metadata) and getattr(self, key) is not None:
                yield key

    def local_keys(self) -> Iterator[str]:
        """Yield the keys whose values name files or code on the machine that runs the job."""
        for key, field in type(self).model_fields.items():
            if any(isinstance(mark, Local) for mark in field.metadata) and getattr(self, key) != field.default:
                yield key


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value

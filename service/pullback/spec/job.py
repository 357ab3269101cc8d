"""The part that jobs of all kinds share."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from pullback.spec.options import Options

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"


class JobBase(Options):
    """The keys that all kinds of jobs share."""

    bare_names: ClassVar[tuple[str, ...]] = ()
    """Sections for which a bare name is short for `{name: ...}`."""

    name: str = Field(pattern=NAME_PATTERN)
    """Letters, digits, `_`, `.` and `-`, at most 100, the first a letter or a digit."""

    @model_validator(mode="before")
    @classmethod
    def _expand_bare_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: {"name": value} if key in cls.bare_names and isinstance(value, str) else value
            for key, value in data.items()
        }

"""Names of a sweep's axes: the file `SWEEP.axes.yaml` beside the sweep, which a user writes or `pullback axes --name`.

axes:
- name: smile
  axis: 3                 # a rank from 1, or a combination of axes of the mean metric, such as 2*1-0.5*3
  vector: 1f0c9d2a77be    # fingerprint of the axis that was named
  tags: [mouth]
  range: [-0.3, 0.4]      # where the name holds, in image distance from the unmoved image
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field, ValidationError, field_validator

from pullback.atomic_files import replace_file
from pullback.driving.sidecar_files import sidecar_path
from pullback.errors import PullbackError
from pullback.spec.options import Options
from pullback.spec.yaml_reader import read_yaml

if TYPE_CHECKING:
    from pullback.store.location import Location

_NAME = re.compile(r"[^\W\d][\w .'-]{0,39}")
_RESERVED = ("all", "spectrum")
_HEAD = "# Names of axes of the mean metric. `axis` is a rank from 1 or a combination, such as 2*1-0.5*3.\n"


class AxisName(Options):
    """The name of one axis."""

    name: str
    """Begins with a letter; at most 40 letters, digits, spaces and . ' - _."""
    axis: int | str
    """The axis of the mean metric: its rank from 1, or a combination of ranks."""
    vector: str | None = Field(default=None, max_length=64)
    """Fingerprint of the axis that was named; see `fingerprint`."""
    tags: tuple[str, ...] = ()
    """Words that axes have in common: `tag:mouth` names all axes with the tag `mouth`."""
    range: tuple[float, float] | None = None
    """Lower and upper end within which the name holds, as image distance D from the unmoved image."""

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise ValueError(
                f"{name!r} is no name of an axis; write a letter first, then at most 39 letters, digits, spaces, "
                f". ' - or _ (and not {' or '.join(_RESERVED)})"
            )
        return name

    @field_validator("range")
    @classmethod
    def _ascends(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError(f"the range {list(ends)} does not ascend")
        return ends


class _File(Options):
    axes: tuple[AxisName, ...] = ()


def names_path(sweep: "Location | Path | str") -> Path:
    """Return the path of the file of names beside a sweep."""
    return sidecar_path(sweep, "axes")


def read_names(path: Path) -> tuple[AxisName, ...]:
    """Return the names in a file, in its order; none if there is no file.

    Raises:
        PullbackError: the file is not YAML of this form, or gives a name twice.
    """
    if not path.exists():
        return ()
    content, problems = read_yaml(path)
    try:
        if problems:
            raise ValueError("; ".join(problems))
        names = _File.model_validate({} if content is None else content).axes
        twice = sorted({each.name for each in names if [other.name for other in names].count(each.name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} is given twice")
    except (ValueError, ValidationError) as error:
        why = _first(error) if isinstance(error, ValidationError) else str(error)
        raise PullbackError(f"the file of axis names {path} is wrong: {why}. Nothing was computed.") from None
    return names


def entries_of(names: Sequence[AxisName], texts: Sequence[str]) -> list[AxisName | None]:
    """Return the entry of each axis, given as a rank, a combination or a name; None where there is none."""
    by_axis, by_name = {str(each.axis): each for each in names}, {each.name: each for each in names}
    return [by_name.get(text) or by_axis.get(text) for text in texts]


def write_name(path: Path, named: AxisName) -> None:
    """Add a name to a file, in place of an earlier entry of this name or of this axis.

    Raises:
        PullbackError: the file has mistakes; it is left as it is.
        OSError: it cannot be written.
    """
    kept = [each for each in read_names(path) if each.name != named.name and str(each.axis) != str(named.axis)]
    entries = [each.model_dump(mode="json", exclude_defaults=True) for each in (*kept, named)]
    replace_file(path, _HEAD + yaml.safe_dump({"axes": entries}, sort_keys=False, allow_unicode=True))


def fingerprint(vector: npt.ArrayLike) -> str:
    """Return 12 hexadecimal digits that identify a unit vector up to its sign and to changes below 1e-3."""
    values = np.asarray(vector, dtype=np.float64)
    signed = values * (1 if values[np.argmax(np.abs(values))] > 0 else -1)
    return hashlib.sha256((np.rint(1000 * signed) + 0.0).astype("<i4").tobytes()).hexdigest()[:12]


def named_axis(name: str, axis: int | str, vector: npt.ArrayLike) -> AxisName:
    """Return the entry of a named axis.

    Raises:
        PullbackError: it is no valid name.
    """
    try:
        return AxisName(name=name, axis=axis, vector=fingerprint(vector))
    except ValidationError as error:
        raise PullbackError(f"{_first(error)}. Nothing was written.") from None


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"])
    words = found["msg"].removeprefix("Value error, ")
    return f"{where}: {words}" if where else words

"""Named edits of GANSpace: files with one direction each, its name, and the layers that it moves.

GANSpace's window writes an edit as a pickle of one dict (`interactive.py`, `export_direction`). Its keys, which are
those of our JSON files, are

| key | content |
|---|---|
| `name`, `component_index` | name, and rank from 0 |
| `lat_comp`, `lat_stdev` | direction `[1, n]`, and standard deviation of codes along it; `act_*` is the same in activations |
| `sigma_range` | reach of the slider, in standard deviations |
| `edit_start`, `edit_end` | layers that are moved: the first, and the one after the last |
| `latent_space`, `edit_type`, `truncation`, `example_seed`, `model_name`, `output_class` | where it was found |
| `decomposition` | `name`, `components`, `samples`, `layer` and `class_name` |

A JSON file holds a list of such dicts, one for each axis. It adds `tags`, `range` (image distance D within which the
name holds), `rate` (of the mean metric), `sweep` and `snapshot`. GANSpace reads pickles only, one in a file, with
arrays in place of lists.
"""  # noqa: E501 - a table

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_REACH = 2.0
"""Reach of a slider without a range, in standard deviations: GANSpace's windows show about as much."""


@dataclass(frozen=True, eq=False)
class Edits:
    """Named edits as arrays.

    Attributes:
        vectors: `[k, n]`, or `[k, layer]` where a direction belongs to layers.
        deviations: `[k]`; None if an edit has none.
        names: `[k]`.
        layers: first layer, and the one after the last, of each edit.
    """

    vectors: Floats
    deviations: Floats | None
    names: tuple[str, ...]
    layers: tuple[tuple[int, int], ...]


def are_edits(content: Any) -> bool:
    """Return whether content of a file is an edit or a list of edits."""
    first = content[0] if isinstance(content, Sequence) and not isinstance(content, str) and content else content
    return isinstance(first, Mapping) and "lat_comp" in first and "name" in first


def edits_of(content: Any) -> Edits:
    """Return the edits of a file's content.

    Raises:
        ValueError: an edit is incomplete, or directions have different sizes.
    """
    entries = [content] if isinstance(content, Mapping) else list(content)
    rows, deviations, names, layers = [], [], [], []
    for number, entry in enumerate(entries, 1):
        try:
            rows.append(np.asarray(entry["lat_comp"], dtype=np.float64).reshape(-1))
            names.append(str(entry["name"]))
            layers.append((int(entry.get("edit_start", 0)), int(entry.get("edit_end", 2**31))))
            deviations.append(float(entry.get("lat_stdev", np.nan)))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ValueError(f"edit {number} has no usable {error}") from None
    sizes = sorted({len(row) for row in rows})
    if len(sizes) > 1:
        raise ValueError(f"its edits have {sizes[0]} and {sizes[-1]} coordinates")
    known = np.array(deviations)
    return Edits(np.array(rows), known if np.isfinite(known).all() else None, tuple(names), tuple(layers))


def reach_of(ends: tuple[float, float] | None, rate: float, deviation: float) -> float:
    """Return a slider's reach in standard deviations: a named range, by t = D √(2 / λ), or two of them.

    Args:
        ends: D within which a name holds; None without a range.
        rate: λ of the mean metric along the axis.
        deviation: standard deviation of codes along it.
    """
    if ends is None or rate <= 0 or deviation <= 0:
        return _REACH
    return float(max(map(abs, ends)) * np.sqrt(2 / rate) / deviation)

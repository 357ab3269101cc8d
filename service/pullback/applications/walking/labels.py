"""Labels of axes, codes and frames in a result of the application `axes`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.bootstrap import Floats
from pullback.analysis.scalars import variable
from pullback.interchange.axis_names import AxisName

if TYPE_CHECKING:
    import xarray as xr


def name_variables(names: Sequence[str], entries: Sequence[AxisName | None]) -> dict[str, Any]:
    """Return the variables of a result that come from names: `name`, `tags` and `named_range`.

    Args:
        names: of each axis; empty for none.
        entries: the entry of each axis in the file of names; None for none.
    """
    ends = [(np.nan, np.nan) if each is None or each.range is None else each.range for each in entries]
    tags = ["" if each is None else ", ".join(each.tags) for each in entries]
    return {
        "name": (("axis",), list(names), {"long_name": "name"}),
        "tags": (("axis",), tags, {"long_name": "tags of the name"}),
        "named_range": variable(
            ("end", "axis"), np.array(ends, dtype=np.float64).T, "D within which the name holds", "image distance"
        ),
    }


def distance_labels(data: "xr.Dataset") -> list[list[list[str]]]:
    """Return D of each frame as text `[axes][codes][frames]`: empty if unmoved, in brackets where the name fails."""
    distances, steps = data["distance"].values, data["t"].values
    low, high = named_ranges(data)[:, :, None, None]
    signed = np.sign(steps) * distances
    # D is measured, so a frame at the end of the range may be beyond it by a little.
    outside = (signed < 1.02 * low) | (signed > 1.02 * high)

    def text(value: float, beyond: bool) -> str:
        return "" if value == 0 else f"(D {value:.2g})" if beyond else f"D {value:.2g}"

    return [
        [[text(*each) for each in zip(*frames, strict=True)] for frames in zip(*codes, strict=True)]
        for codes in zip(distances, outside, strict=True)
    ]


def named_ranges(data: "xr.Dataset") -> Floats:
    """Return the ends of the range of each name `[2, axes]`; NaN where there is none, as in results of old versions."""
    if "named_range" in data:
        return np.asarray(data["named_range"].values, dtype=np.float64)
    return np.full((2, data.sizes["axis"]), np.nan)


def tags_of(data: "xr.Dataset") -> list[str]:
    """Return the tags of each axis, separated by commas; empty where there are none."""
    return data["tags"].values.tolist() if "tags" in data else [""] * data.sizes["axis"]


def labels(data: "xr.Dataset") -> list[str]:
    """Return the label of each axis: its name, or its rank or expression."""
    texts, names = data["text"].values.tolist(), data["name"].values.tolist()
    return [
        (f"{name} ({text})" if name != text else name) if name else (f"axis {text}" if text.isdigit() else text)
        for text, name in zip(texts, names, strict=True)
    ]


def code_labels(data: "xr.Dataset") -> list[str]:
    """Return the label of each code: its sample, or its place among new codes or those of a file, and its class."""
    scalars = scalars_of(data)
    classes, other = scalars["classes"], "code" if scalars.get("of_file") else "new code"
    found = []
    for place, (number, condition) in enumerate(zip(data["number"].values, data["condition"].values, strict=True)):
        words = f"sample {number}" if number >= 0 else f"{other} {place + 1}"
        found.append(words + (f", {classes[condition]}" if condition >= 0 and classes else ""))
    return found


def step_labels(data: "xr.Dataset") -> list[str]:
    """Return the label of each frame: the step that was asked for."""
    equal = scalars_of(data)["steps"] == "equal"
    name = "D" if equal else "t"
    return [
        "0" if abs(step) < 1e-12 else f"{name} {step:+.2g}".replace("-", "−") for step in data["asked"].values.tolist()
    ]


def scalars_of(data: "xr.Dataset") -> dict[str, Any]:
    """Return the entries of the result that are no arrays."""
    scalars: dict[str, Any] = json.loads(data.attrs["scalars"])
    return scalars

"""Labels of axes, codes and frames in a result of the application `axes`."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


def labels(data: "xr.Dataset") -> list[str]:
    """Return the label of each axis: its name, or its rank or expression."""
    texts, names = data["text"].values.tolist(), data["name"].values.tolist()
    return [
        (f"{name} ({text})" if name != text else name) if name else (f"axis {text}" if text.isdigit() else text)
        for text, name in zip(texts, names, strict=True)
    ]


def code_labels(data: "xr.Dataset") -> list[str]:
    """Return the label of each code: its sample and class."""
    classes = scalars_of(data)["classes"]
    found = []
    for place, (number, condition) in enumerate(zip(data["number"].values, data["condition"].values, strict=True)):
        words = f"sample {number}" if number >= 0 else f"new code {place + 1}"
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

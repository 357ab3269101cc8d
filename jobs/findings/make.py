"""Make docs/findings.md again: train the autoencoder, run the sweeps, compute the statistics, write the page.

    python jobs/findings/make.py sweeps/findings

Sweeps that are finished and statistics that are cached are not computed again, so an interrupted run goes on. All of
it takes some hours on two cores; most of that are the sweeps of the eyes. `--count` makes smaller sweeps.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from page import write  # noqa: E402
from sweeps import COUNT, jobs  # noqa: E402

WEIGHTS = "digits.safetensors"
PAGE = HERE.parent.parent / "docs" / "findings.md"


def train(folder: Path) -> Path:
    """Return the weights of the autoencoder, trained if they are not in the folder."""
    weights = folder / WEIGHTS
    if not weights.exists():
        subprocess.run([sys.executable, str(HERE / "digits.py"), str(weights)], check=True)
    return weights


def run(folder: Path, count: int) -> None:
    """Run every sweep, or go on with it."""
    weights = train(folder)
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    for job in jobs(folder, count):
        if job["name"].startswith("digits"):
            job["generator"]["weights"] = str(weights)
        file = folder / f"{job['name']}.yaml"
        file.write_text(yaml.safe_dump(job, sort_keys=False))
        command = [sys.executable, "-m", "pullback", "run", str(file), "--serial"]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True)


def main() -> None:
    """Read the command line and make the page."""
    parser = argparse.ArgumentParser(description="Make the page of findings again.")
    parser.add_argument("folder", type=Path, help="where the sweeps are, or will be")
    parser.add_argument("--count", type=int, default=COUNT, help="samples of each sweep")
    parser.add_argument(
        "--page", type=Path, default=HERE.parent.parent / "docs" / "findings.md", help="what is written"
    )
    parser.add_argument("--finished-only", action="store_true", help="run no sweep")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not given.finished_only:
        run(folder, given.count)
    write(folder, given.page, [job["name"] for job in jobs(folder, given.count)])
    print(f"the page is {given.page}")


if __name__ == "__main__":
    main()

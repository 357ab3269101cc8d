"""`python -m pullback.bench.gpu`: runs the GPU check. Needs only torch and what the metric imports."""

import argparse
import sys
from pathlib import Path

from pullback.bench.gpu.check import BUDGET, check_gpu
from pullback.bench.gpu.rows import plain_table
from pullback.errors import PullbackError


def main() -> None:
    """Parse the arguments, run the check and print its table."""
    parser = argparse.ArgumentParser(prog="python -m pullback.bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the check itself")
    parser.add_argument("--parts", default="", help="names separated by commas; all by default")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="time limit of all parts together")
    asked = parser.parse_args()
    try:
        rows = check_gpu(
            asked.out,
            device=asked.device,
            quick=asked.quick,
            only=[name for name in asked.parts.split(",") if name],
            budget=asked.seconds,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except PullbackError as error:
        sys.exit(f"error: {error}")
    print(plain_table(rows))
    if any(row.what in ("not finished", "left out") for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()

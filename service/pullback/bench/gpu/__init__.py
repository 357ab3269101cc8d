"""A check of a GPU in a few minutes: its speed, its correctness, and its bottlenecks.

Run it with `python -m pullback.bench.gpu`. `check` runs each part in its own process with a time limit, and writes the
table. `parts` lists the parts.
"""

import os
import sys

CARRIED_VARIABLE = "PULLBACK_CARRIED"
"""Environment variable: a folder of packages for GPU machines without a network (`carry`)."""

if os.environ.get(CARRIED_VARIABLE):
    sys.path.append(
        os.environ[CARRIED_VARIABLE]
    )  # appended, so that installed packages come first (PYTHONPATH would be searched before them)

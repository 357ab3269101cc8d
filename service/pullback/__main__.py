"""`python -m pullback`."""

import sys

# Python puts the working directory first. Move it last, so that a file `statistics.py` there does not hide Python's.
if not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))

from pullback.cli import main

main()

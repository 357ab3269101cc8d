"""The command line; see `entry`."""

from pullback.cli.common import EXIT_INTERRUPTED
from pullback.cli.entry import app, main

__all__ = ["EXIT_INTERRUPTED", "app", "main"]

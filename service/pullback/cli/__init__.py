"""The command line. `entry` assembles and runs it; each other module holds one group of commands, or helpers."""

from pullback.cli.common import EXIT_INTERRUPTED
from pullback.cli.entry import app, command, main

__all__ = ["EXIT_INTERRUPTED", "app", "command", "main"]

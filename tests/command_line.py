"""The command line, called as its console script calls it, in this process."""

import contextlib
import io
import json
import signal
import sys
from dataclasses import dataclass

from pullback import cli
from pullback.signals import ENDING


@dataclass(frozen=True)
class CommandResult:
    """What a command printed and left with."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output as strict JSON: `NaN` and `Infinity` are no JSON."""

        def refuse(constant):
            raise ValueError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)

    def next_commands(self):
        """The commands that were suggested: `next: pullback ...`, `to resume: pullback ...`, `see pullback ...`."""
        lines = (self.out + self.err).splitlines()
        found = [line.partition("pullback ") for line in lines if "pullback " in line and ":" in line]
        return [f"pullback {rest}" for before, _, rest in found if before.endswith((": ", "see "))]


def call(*arguments):
    """`pullback` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    before, handlers = sys.argv, {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    sys.argv = ["pullback", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.command()
            except SystemExit as left:
                code = left.code or 0
    finally:
        sys.argv = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return CommandResult(code, out.getvalue(), err.getvalue())

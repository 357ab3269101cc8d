"""Analyses that are asked for over HTTP: each `pullback analyze` in a process of its own, a few at once.

What is made is kept beside its sweep by its snapshot, so it is made once. The processes end with the service.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pullback.analysis import Analysis
from pullback.analysis.kept import load_analysis
from pullback.api.catalog import Opened
from pullback.api.problems import RequestError

COMMAND = (sys.executable, "-m", "pullback", "analyze")
"""What is followed by a sweep, `--snapshot` and the snapshot."""
_GOODBYE_SECONDS = 5.0
_SAID_BYTES = 2000
_KEPT_FAILURES = 100


@dataclass(frozen=True, eq=False)
class _Made:
    """An analysis in the making."""

    opened: Opened
    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def failure(self) -> str | None:
        """Why there is no analysis, now that it has ended; None where there is one."""
        words = self._words()
        return None if load_analysis(self.opened.sweep) is not None else words

    def _words(self) -> str:
        """The last thing that it said, in one line; closes what it said it to."""
        with self.said:
            self.said.seek(0, os.SEEK_END)
            self.said.seek(max(0, self.said.tell() - _SAID_BYTES))
            lines = self.said.read().decode(errors="replace").strip().splitlines()
        code = self.process.returncode
        if code < 0:  # as the system does where memory runs out
            return f"its process was ended by {signal.Signals(-code).name}"
        return lines[-1].strip() if lines else f"its process ended with exit code {code}"


class Analyses:
    """Makes analyses of snapshots.

    Args:
        at_once: how many; each takes a core, and memory for the metrics that it compares.
        command: what makes one.
    """

    def __init__(self, at_once: int = 1, command: Sequence[str] = COMMAND) -> None:
        self._at_once, self._command = at_once, tuple(command)
        self._lock = threading.Lock()
        self._making: dict[tuple[Path, str], _Made] = {}
        self._failures: dict[tuple[Path, str], str] = {}
        self._closed = False

    def kept(self, opened: Opened) -> Analysis:
        """The analysis of a sweep's snapshot.

        Raises:
            RequestError: (404) none is kept; it says whether it is being made, or why it could not be.
        """
        with self._lock:
            self._look()
            in_making, failure = _key(opened) in self._making, self._failures.get(_key(opened))
        analysis = load_analysis(opened.sweep)  # looked for last: it may have come this moment
        if analysis is not None:
            return analysis
        snapshot = opened.sweep.snapshot
        if in_making:
            raise RequestError(
                404, f"the analysis of snapshot {snapshot} is being made; ask again in a moment", {"Retry-After": "2"}
            )
        why = "" if failure is None else f" (the last try failed: {failure})"
        here = f"POST /v1/sweeps/{opened.id}/analysis makes one, or, in" if _may_keep(opened) else "one is made in"
        raise RequestError(
            404,
            f"no analysis of snapshot {snapshot} is kept{why}; {here} the folder that is served: "
            f"pullback analyze {opened.id}",
        )

    def make(self, opened: Opened) -> bool:
        """Have the analysis of a sweep's snapshot made, unless it is; returns whether it is kept already.

        Raises:
            RequestError: (409) it cannot be kept, or there are fewer than two samples to compare; (503) enough are
                being made.
        """
        if load_analysis(opened.sweep) is not None:
            return True
        good = opened.sweep.status().good
        if good < 2:
            raise RequestError(
                409, f"{opened.id} has {good} good samples at this snapshot; an analysis needs 2 at least"
            )
        if not _may_keep(opened):
            raise RequestError(409, "the service may not write beside its sweeps, so analyses are made elsewhere")
        with self._lock:
            self._look()
            if _key(opened) not in self._making:
                self._start(opened)
        return False

    def close(self) -> None:
        """End what is being made; it can be asked for again."""
        with self._lock:
            self._closed = True
            for made in self._making.values():
                made.process.terminate()
            for made in self._making.values():
                try:
                    made.process.wait(_GOODBYE_SECONDS)
                except subprocess.TimeoutExpired:
                    made.process.kill()
                    made.process.wait()
                made.said.close()
            self._making.clear()

    def _start(self, opened: Opened) -> None:
        if self._closed:
            raise RequestError(503, "the service is about to end; nothing was started. Ask again when it runs")
        if len(self._making) >= self._at_once:
            raise RequestError(
                503,
                "another analysis is being made, as many as this service makes at once; nothing was started. "
                "Ask again in a minute",
                {"Retry-After": "60"},
            )
        said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process lives
        try:
            process = subprocess.Popen(
                [*self._command, str(opened.sweep.path), "--snapshot", opened.sweep.snapshot],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        except OSError as error:
            said.close()
            raise RequestError(503, f"an analysis could not be started ({error.strerror}); ask again later") from error
        self._failures.pop(_key(opened), None)
        self._making[_key(opened)] = _Made(opened, process, said)

    def _look(self) -> None:
        """Take in those that have ended."""
        for key, made in list(self._making.items()):
            if made.process.poll() is None:
                continue
            del self._making[key]
            failure = made.failure()
            if failure is not None:
                self._failures[key] = failure
            while len(self._failures) > _KEPT_FAILURES:
                del self._failures[next(iter(self._failures))]


def _may_keep(opened: Opened) -> bool:
    """Whether the service may write beside a sweep."""
    return os.access(opened.sweep.path.parent, os.W_OK)


def _key(opened: Opened) -> tuple[Path, str]:
    return opened.sweep.path, opened.sweep.snapshot

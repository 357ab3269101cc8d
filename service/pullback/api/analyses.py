"""Analyses requested over HTTP. Each runs `pullback analyze` in a process of its own, a few at once.

A result is cached beside its sweep by snapshot, so it is computed once. The processes end with the service.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlencode

from pullback.analysis import Analysis, choose
from pullback.analysis.cache import load_analysis
from pullback.analysis.request import DEFAULT_STATISTICS, arguments, given_options
from pullback.api.analysis_claims import Claim
from pullback.api.catalog import Opened
from pullback.api.problem_details import RequestError
from pullback.driving.last_words import last_words
from pullback.spec.options import Options

COMMAND = (sys.executable, "-P", "-m", "pullback", "analyze")
"""The command; a sweep, `--snapshot`, the snapshot and the options follow."""
_TERMINATE_SECONDS = 5.0
_OUTPUT_BYTES = 65_536
_REMEMBERED_FAILURES = 100

_Key = tuple[Path, str, tuple[str, ...]]
"""The store, the snapshot, and the further arguments of `pullback analyze`."""


@dataclass(frozen=True, eq=False)
class _Running:
    """An analysis that is being computed."""

    opened: Opened
    asked: Mapping[str, Options]
    others: tuple[Opened, ...]
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    """File that receives what the process prints."""

    def failure(self) -> str | None:
        """Return why the ended process left no analysis; None if there is one."""
        reason = self._reason()
        return None if _load(self.opened, self.asked, self.others) is not None else reason

    def _reason(self) -> str:
        """Return the last message of the process, in one line, and close its output."""
        with self.output:
            self.output.seek(0, os.SEEK_END)
            self.output.seek(max(0, self.output.tell() - _OUTPUT_BYTES))
            words = last_words(self.output.read().decode(errors="replace"))
        code = self.process.returncode
        if code < 0:  # as the system does if memory runs out
            return f"its process was killed by {signal.Signals(-code).name}"
        return words or f"its process ended with exit code {code}"


class Analyses:
    """Computes analyses of snapshots.

    Args:
        at_once: how many at once; each takes a core, and memory for the metrics that it compares.
        command: computes one.
    """

    def __init__(self, at_once: int = 1, command: Sequence[str] = COMMAND) -> None:
        self._at_once, self._command = at_once, tuple(command)
        self._lock = threading.Lock()
        self._running: dict[_Key, _Running] = {}
        self._failures: dict[_Key, str] = {}
        self._closed = False

    def cached(
        self, opened: Opened, asked: Mapping[str, Options] | None = None, others: Sequence[Opened] = ()
    ) -> Analysis:
        """Return the analysis of a sweep's snapshot.

        Args:
            opened: the sweep at a snapshot.
            asked: the options of each statistic by name; the default statistics if it is None.
            others: the further sweeps of statistics that read several.

        Raises:
            RequestError: (404) no result exists; the message says whether it is being computed, or why it failed.
        """
        asked = choose((), {}) if asked is None else asked
        key = _key(opened, asked, others)
        with self._lock:
            self._collect()
            is_running, failure = key in self._running, self._failures.get(key)
        if not is_running:
            is_running = Claim.holder(opened) == _claimed(opened, asked, others)  # of a service that was killed
        analysis = _load(opened, asked, others)  # read last, because it may have appeared just now
        if analysis is not None:
            return analysis
        snapshot = opened.sweep.snapshot
        if is_running:
            raise RequestError(
                404,
                f"the analysis of snapshot {snapshot} is being computed; ask again in a moment",
                {"Retry-After": "2"},
            )
        why = "" if failure is None else f" (the last attempt failed: {failure})"
        here = "compute it in"
        if _may_write(opened):
            here = f"POST /v1/sweeps/{opened.id}/analysis{_query(asked, others)} computes it, or, in"
        raise RequestError(
            404,
            f"there is no analysis of snapshot {snapshot}{why}; {here} the folder that is served: "
            f"{' '.join(['pullback analyze', opened.id, *_with(each.id for each in others), *arguments(asked)])}",
        )

    def start(self, opened: Opened, asked: Mapping[str, Options] | None = None, others: Sequence[Opened] = ()) -> bool:
        """Start computing the analysis of a sweep's snapshot; returns True, and starts nothing, if it exists.

        Args:
            opened: the sweep at a snapshot.
            asked: as for `cached`.
            others: as for `cached`.

        Raises:
            RequestError: (409) it cannot be stored, or there are fewer than two good samples; (503) too many are
                being computed.
        """
        asked = choose((), {}) if asked is None else asked
        if _load(opened, asked, others) is not None:
            return True
        for each in (opened, *others):
            good = each.sweep.status().good
            if good < 2:
                raise RequestError(
                    409, f"{each.id} has {good} good samples at this snapshot; an analysis needs at least 2"
                )
        if not _may_write(opened):
            raise RequestError(409, "the service may not write beside its sweeps; compute analyses elsewhere")
        with self._lock:
            self._collect()
            is_claimed = Claim.holder(opened) == _claimed(opened, asked, others)
            if _key(opened, asked, others) not in self._running and not is_claimed:
                self._start(opened, asked, tuple(others))
        return False

    def close(self) -> None:
        """Stop all running analyses. They can be requested again."""
        with self._lock:
            self._closed = True
            for made in self._running.values():
                made.process.terminate()
            for made in self._running.values():
                try:
                    made.process.wait(_TERMINATE_SECONDS)
                except subprocess.TimeoutExpired:
                    made.process.kill()
                    made.process.wait()
                made.output.close()
            self._running.clear()

    def _start(self, opened: Opened, asked: Mapping[str, Options], others: tuple[Opened, ...]) -> None:
        if self._closed:
            raise RequestError(503, "the service is shutting down; nothing was started. Ask again when it runs")
        if len(self._running) >= self._at_once:
            raise RequestError(
                503,
                "the service computes as many analyses as it may at once; nothing was started. Ask again in a minute",
                {"Retry-After": "60"},
            )
        claim = Claim.take(opened, _claimed(opened, asked, others))
        if claim is None:
            raise RequestError(
                503,
                f"another analysis of {opened.id} is being computed; nothing was started. Ask again in a minute",
                {"Retry-After": "60"},
            )
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        words = ["--snapshot", opened.sweep.snapshot, *_with(map(_pinned, others)), *arguments(asked)]
        try:
            process = subprocess.Popen(
                [*self._command, str(opened.sweep.path), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                pass_fds=claim.descriptors,  # the process holds the lock, even if the service is killed
            )
        except OSError as error:
            output.close()
            raise RequestError(503, f"an analysis could not be started ({error.strerror}); ask again later") from error
        finally:
            claim.close()
        key = _key(opened, asked, others)
        self._failures.pop(key, None)
        self._running[key] = _Running(opened, asked, others, process, output)

    def _collect(self) -> None:
        """Remove processes that have ended, and remember why they failed."""
        for key, made in list(self._running.items()):
            if made.process.poll() is None:
                continue
            del self._running[key]
            failure = made.failure()
            if failure is not None:
                self._failures[key] = failure
            while len(self._failures) > _REMEMBERED_FAILURES:
                del self._failures[next(iter(self._failures))]


def _may_write(opened: Opened) -> bool:
    """Return whether the service may write beside a sweep."""
    return os.access(opened.sweep.path.parent, os.W_OK)


def _load(opened: Opened, asked: Mapping[str, Options], others: Sequence[Opened]) -> Analysis | None:
    return load_analysis(opened.sweep, asked, others=[each.sweep for each in others])


def _pinned(opened: Opened) -> str:
    return f"{opened.sweep.path}@{opened.sweep.snapshot}"


def _with(sweeps: Iterable[str]) -> list[str]:
    return [f"--with={each}" for each in sweeps]


def _key(opened: Opened, asked: Mapping[str, Options], others: Sequence[Opened]) -> _Key:
    return opened.sweep.path, opened.sweep.snapshot, (*_with(map(_pinned, others)), *arguments(asked))


def _claimed(opened: Opened, asked: Mapping[str, Options], others: Sequence[Opened]) -> str:
    """Return how a claim names an analysis: its snapshot, and a digest of its arguments unless it is the default."""
    words = [*_with(map(_pinned, others)), *arguments(asked)]
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    return f"{opened.sweep.snapshot} {digest}" if words else opened.sweep.snapshot


def _query(asked: Mapping[str, Options], others: Sequence[Opened]) -> str:
    """Return the query string that asks for the same analysis."""
    further = [("with", each.id) for each in others]
    pairs = [("statistic", name) for name in asked] if tuple(asked) != DEFAULT_STATISTICS else []
    query = urlencode([*further, *pairs, *given_options(asked).items()])
    return f"?{query}" if query else ""

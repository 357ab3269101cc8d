"""Records every request: one line in the audit log, and counters for /metrics.

Neither contains a token, a body or a query.
"""

import errno
import json
import logging
import math
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from pullback.errors import PullbackError

logger = logging.getLogger(__name__)

_WARN_SECONDS = 60.0
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_SECONDS = (0.005, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Request:
    """An answered request.

    Attributes:
        time: of arrival, UTC.
        token: name of its token; `local` if none is needed, empty if no valid one was given.
        method: as sent.
        path: as sent, without the query.
        status: of the answer; 499 if the client disconnected before it.
        ms: milliseconds from arrival to the last byte of the answer.
    """

    time: str
    token: str
    method: str
    path: str
    status: int
    ms: float


class Observer:
    """Records requests.

    Args:
        audit: the audit log, to which lines are appended; standard error by default.

    Raises:
        PullbackError: the audit log cannot be written.
    """

    def __init__(self, audit: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        self._audit = None if audit is None else _opened(audit)
        self._torn = False
        self._warned = -math.inf
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "pullback_http_requests",
            "Requests that were answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._lost = Counter(
            "pullback_audit_lines_lost", "Requests missing from the audit log.", registry=self._registry
        )
        self._seconds = Histogram(
            "pullback_http_request_seconds",
            "Seconds to the last byte of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )

    def write(self, request: Request, route: str) -> None:
        """Record a request; `route` is the pattern of its route, which keeps the number of labels small."""
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(method, route, str(request.status)).inc()
        self._seconds.labels(route).observe(request.ms / 1000)
        line = json.dumps(asdict(request))
        with self._lock:
            try:
                self._add(line)
            except (OSError, ValueError) as error:  # a full disk or a closed pipe must not hold up answers
                self._lost.inc()
                self._warn(error)

    def _add(self, line: str) -> None:
        if self._audit is None:
            print(line, file=self._file or sys.stderr, flush=True)
            return
        content = (b"\n" if self._torn else b"") + line.encode() + b"\n"
        written = os.write(self._audit, content)
        self._torn = written < len(content)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _warn(self, error: Exception) -> None:
        """Log that lines are lost, at most once a minute."""
        if time.monotonic() - self._warned > _WARN_SECONDS:
            self._warned = time.monotonic()
            with suppress(OSError, ValueError):
                logger.warning("requests are answered, but the audit log cannot be written: %s", error)

    def watch(self, collector: Collector) -> None:
        """Add a collector to `metrics`."""
        self._registry.register(collector)

    def metrics(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Close the audit log."""
        if self._audit is not None:
            os.close(self._audit)
            self._audit = None


def _opened(audit: Path) -> int:
    """Open an audit log for appending. A pipe without a reader is refused; opening never waits."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(audit, flags, 0o666)
    except OSError as error:
        raise PullbackError(
            f"the audit log {audit} cannot be written: {error.strerror}; choose another file"
        ) from error

"""What is written down of every request: a line of the audit log, and the numbers of /metrics.

No token, body or query stands in either.
"""

import json
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from pullback.errors import PullbackError

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_SECONDS = (0.005, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Request:
    """A request that was answered.

    Attributes:
        time: when it came, in UTC.
        token: the name of its token; `local` where none is needed, empty where none that is known was given.
        method: as it was sent.
        path: as it was sent, without the query.
        status: of the answer; 499 where the other side left before it.
        ms: from its coming to the last byte of the answer.
    """

    time: str
    token: str
    method: str
    path: str
    status: int
    ms: float


class Observer:
    """Writes requests down.

    Args:
        audit: the audit log, to which lines are added; standard error by default.

    Raises:
        PullbackError: the audit log cannot be written.
    """

    def __init__(self, audit: Path | None = None) -> None:
        self._lock = threading.Lock()
        try:
            # unbuffered enough: a line is on disk before the next request is answered
            self._file: TextIO | None = None if audit is None else audit.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise PullbackError(f"the audit log {audit} cannot be written: {error.strerror}; name another") from error
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "pullback_http_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "pullback_http_request_seconds",
            "Time to the last byte.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )

    def write(self, request: Request, route: str) -> None:
        """Write one request down; `route` is its route's pattern, so that there are few of them."""
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(method, route, str(request.status)).inc()
        self._seconds.labels(route).observe(request.ms / 1000)
        line = json.dumps(asdict(request))
        with self._lock:
            print(line, file=self._file or sys.stderr, flush=True)

    def watch(self, collector: Collector) -> None:
        """Have a collector's numbers among those of `metrics`."""
        self._registry.register(collector)

    def metrics(self) -> bytes:
        """The numbers, in the text format of Prometheus."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Close the audit log."""
        if self._file is not None:
            self._file.close()

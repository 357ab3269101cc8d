"""Limits of connections, so that idle clients cannot block others.

- The headers of a request must be complete within some seconds of the connection or of the previous answer.
- If the largest number of connections is open, a new one replaces a waiting one of the client with the most
connections.
  If none is waiting, the new one is refused.
- An answer is aborted if the client does not read it for a long time.
"""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 256
"""Largest number of connections; each may hold 64 KiB of headers."""
HEADER_SECONDS = 10.0
STALL_SECONDS = 60.0
"""Longest time for which a client may not read an answer."""
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: 65\r\n\r\n"
    b'{"error": "the service has too many connections; ask again soon"}'
)
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(H11Protocol):
    """A connection of one client."""

    _header_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _since = 0.0
    """Time at which it began to wait for a request."""
    _begun = False
    """Whether a part of that request has arrived."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; if there are too many, close a waiting one."""
        super().connection_made(transport)
        self._await_headers()
        if len(self.connections) > MOST:
            waiting = [each for each in self.connections if isinstance(each, Connection) and each._is_waiting]
            many = Counter(each._peer for each in self.connections if isinstance(each, Connection))
            others = [each for each in waiting if each is not self]
            if others:
                max(others, key=lambda each: (many[each._peer], -each._since))._leave()
            else:
                self._leave(_BUSY)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive data."""
        self._begun = True
        super().data_received(data)
        if not self._is_waiting:
            self._cancel_header_timer()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._await_headers()
        super().on_response_complete()
        if not self._is_waiting:  # it has arrived already
            self._cancel_header_timer()

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer."""
        self._cancel_stall_timer()
        super().resume_writing()

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _is_waiting(self) -> bool:
        """Whether no request is being answered: none came, the last was answered, or its body is incomplete."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    @property
    def _has_headers(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _await_headers(self) -> None:
        self._cancel_header_timer()
        self._since, self._begun = self.loop.time(), False
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._end_silence)

    def _end_silence(self) -> None:
        if not self._has_headers:  # the guard limits the time of a body
            self._leave(_LATE if self._begun else b"")

    def _leave(self, answer: bytes = b"") -> None:
        """Close the connection and release its place at once."""
        self._stop_timers()
        self.connections.discard(self)
        if not self.transport.is_closing():
            if answer:
                self.transport.write(answer)
            self.transport.close()

    def _stop_timers(self) -> None:
        self._cancel_header_timer()
        self._cancel_stall_timer()

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

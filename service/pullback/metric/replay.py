"""How the chunks of a Jacobian are pushed on a GPU: operation by operation, or as one captured CUDA graph.

A chunk of tangents takes some hundreds of small operations, always the same. If launching them takes longer than
computing them, it is faster to capture a graph once and launch it as a whole. `auto` tries both. It uses the graph only
if it is faster and gives the same result.
Elsewhere: what is pushed (`jacobian`), and whether the result is right (`certificate`).
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from pullback.errors import ArgumentError, is_interrupt
from pullback.metric.check_timing import synchronize
from pullback.spec import nearest
from pullback.spec.metric import REPLAYS, Replay

Push = Callable[[Tensor], Tensor]
"""Maps tangents [chunk, batch, n] to derivatives [chunk, batch, m]."""
Capture = Callable[[Push, Tensor], Push]
"""Makes a faster push for chunks of one shape, from a push and a chunk of that shape."""

_AHEAD = 0.95
"""A graph is used if it takes less than this fraction of the time of the operations."""
_AGREES = 1e-5
"""Largest difference between the results of a graph and of the operations, relative to the largest value."""


def check_replay(replay: str, device: torch.device) -> None:
    """Check that a replay exists and that the device supports it.

    Raises:
        ArgumentError: the replay is not one of `REPLAYS`, or it is `graph` and the device is not a GPU.
    """
    if replay not in REPLAYS:
        raise ArgumentError("replay", f"{replay!r} is not one of {', '.join(REPLAYS)}{nearest(replay, REPLAYS)}")
    if replay == "graph" and device.type != "cuda":
        raise ArgumentError("replay", f"graph needs a CUDA device, not {device}; use auto or eager")


def replayed(push: Push, replay: Replay, chunks: int, capture: Capture | None = None) -> Push:
    """A push that may use a captured graph for its full chunks.

    Args:
        push: runs the operations.
        replay: `eager` for the operations; `graph` for the graph if it can be captured; `auto` for the faster one.
        chunks: number of chunks that will be pushed. With fewer than four a graph cannot pay off.
        capture: makes the graph; `cuda_graph` by default.
    """
    if replay == "eager" or (replay == "auto" and chunks < 4):
        return push
    return _Replayed(push, replay, capture or cuda_graph)


class _Replayed:
    """The push of `replayed`. The first chunk runs the operations. The second also tries the graph and decides."""

    def __init__(self, push: Push, replay: Replay, capture: Capture) -> None:
        self._push, self._replay, self._capture = push, replay, capture
        self._shape: torch.Size | None = None
        self._graph: Push | None = None
        self._tried = False

    def __call__(self, tangents: Tensor) -> Tensor:
        if self._shape is None:  # the first chunk serves as the warm-up of the operations
            self._shape = tangents.shape
            return self._push(tangents)
        if tangents.shape != self._shape or (self._tried and self._graph is None):
            return self._push(tangents)
        if self._graph is not None:
            return self._graph(tangents)
        self._tried = True
        taken, made = _timed(self._push, tangents)
        try:
            graph = self._capture(self._push, tangents)
            graph(tangents)
            faster, found = _timed(graph, tangents)
        except Exception as error:  # a failed capture raises errors of many types
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            return made
        same = bool((found - made).abs().amax() <= _AGREES * made.abs().amax())
        if same and (self._replay == "graph" or faster < _AHEAD * taken):
            self._graph = graph
        return made


def cuda_graph(push: Push, tangents: Tensor) -> Push:
    """Capture a push as a CUDA graph.

    Args:
        push: a push without synchronisation and without operations on the CPU.
        tangents: a chunk [chunk, batch, n] on a CUDA device.

    Returns:
        A push for chunks of that shape.

    Raises:
        RuntimeError: the operations cannot be captured, or memory does not suffice for a second set of their results.
    """
    given = tangents.clone()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        push(given)  # a warm-up: algorithms must be chosen before the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = push(given)

    def replay(chunk: Tensor) -> Tensor:
        given.copy_(chunk)
        graph.replay()
        return made.clone()

    return replay


def _timed(push: Push, tangents: Tensor) -> tuple[float, Tensor]:
    """Seconds of a push, and its result."""
    synchronize(tangents.device)
    began = time.perf_counter()
    made = push(tangents)
    synchronize(tangents.device)
    return time.perf_counter() - began, made

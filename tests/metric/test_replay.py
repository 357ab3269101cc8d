"""How chunks are pushed on a GPU: a graph is used only if it gives the same, and faster. Graphs are faked here."""

import time

import pytest
import torch

import pullback
from pullback.errors import SpecError
from pullback.metric.replay import check_replay, replayed
from toy_generators import Linear

MATRIX = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


class Counted:
    """A push by a matrix that counts its calls, and takes its time."""

    def __init__(self, matrix=MATRIX, seconds=0.0):
        self.matrix, self.seconds, self.calls = matrix, seconds, 0

    def __call__(self, tangents):
        self.calls += 1
        time.sleep(self.seconds)
        return tangents @ self.matrix.T


def pushed(replay, operations, graph, chunks=6):
    """Results of chunks of two tangents, and a last one of a single tangent."""
    push = replayed(operations, replay, chunks, capture=lambda push, tangents: graph)
    tangents = torch.randn(2 * chunks - 1, 1, 3, generator=torch.Generator().manual_seed(1))
    return tangents, torch.cat([push(part) for part in tangents.split(2)])


def refuse(tangents):
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("replay", ["eager", "graph", "auto"])
@pytest.mark.parametrize("graph", [Counted(), Counted(2 * MATRIX), refuse], ids=["right", "wrong", "impossible"])
def test_the_result_is_that_of_the_operations_whatever_the_graph_gives(replay, graph):
    tangents, found = pushed(replay, Counted(), graph)
    assert torch.allclose(found, tangents @ MATRIX.T)


def test_a_faster_graph_that_gives_the_same_takes_over_the_full_chunks():
    operations, graph = Counted(seconds=0.02), Counted()
    pushed("auto", operations, graph)
    assert operations.calls == 3  # the first, the compared, and the last smaller chunk
    assert graph.calls == 2 + 3  # warmed up and compared, then used


def test_a_slower_graph_is_used_only_where_it_is_asked_for():
    operations, graph = Counted(), Counted(seconds=0.01)
    pushed("auto", operations, graph)
    assert (operations.calls, graph.calls) == (6, 2)
    pushed("graph", operations, graph)
    assert graph.calls == 2 + 2 + 3


def test_a_wrong_graph_is_never_used():
    operations, graph = Counted(seconds=0.01), Counted(1.001 * MATRIX)
    pushed("graph", operations, graph)
    assert (operations.calls, graph.calls) == (6, 2)


def test_few_chunks_are_not_worth_a_capture():
    operations = Counted()
    assert replayed(operations, "auto", 3) is operations
    assert replayed(operations, "eager", 100) is operations


def test_a_cpu_has_no_graphs_and_auto_is_eager_there():
    with pytest.raises(SpecError, match="needs a CUDA device"):
        check_replay("graph", torch.device("cpu"))
    with pytest.raises(SpecError, match="'graph'"):
        check_replay("grap", torch.device("cpu"))
    generator, distance = Linear(), pullback.load_distance("mse", device="cpu")
    eager, auto = (
        pullback.metric_at(generator, distance, [0.0] * 6, tangents=1, replay=replay) for replay in ("eager", "auto")
    )
    assert torch.equal(eager.matrix, auto.matrix)


def test_a_job_names_its_replay():
    from pullback.spec import ResourcesSpec

    assert ResourcesSpec(replay="auto").replay == "auto"
    assert ResourcesSpec().replay == "eager"

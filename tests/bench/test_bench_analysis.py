"""`pullback bench analysis`: the baseline is the paper's loop, and every measurement runs at small sizes."""

import io
import json

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from pullback.analysis.correlations import correlations
from pullback.bench import analysis, analysis_child
from pullback.bench.analysis import QUICK, AnalysisBench, bench_analysis, paper_loop
from pullback.bench.gpu.pairs import random_metrics
from pullback.cli.bench_tables import analysis_table


class SameProcess:
    """A child that answers in this process."""

    def __init__(self, module, environment=None):
        assert module == "pullback.bench.analysis_child"

    def ask(self, request, **arguments):
        reply = json.loads(json.dumps(getattr(analysis_child, request)(**arguments)))
        assert "error" not in reply, "the protocol takes that for a failure"
        return reply

    def end(self):
        pass


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "Child", SameProcess)
        printed = []
        return bench_analysis(QUICK.model_copy(update={"workers": 1}), printed.append)


def test_the_baseline_is_the_definition():
    values, vectors = random_metrics(5, 8)
    for ours, reference in zip(paper_loop(values, vectors), correlations(values, vectors), strict=True):
        assert ours == pytest.approx(reference, abs=1e-5)


def test_every_number_comes_from_a_measurement(result):
    assert result["full"]["mean_log"] == pytest.approx(result["sampled"]["mean_log"], abs=0.2)
    assert 0 < result["full"]["precision_error"] < 1e-4
    assert result["sampled"]["standard_error_log"] <= QUICK.standard_error
    ratio = result["baseline"]["seconds"] / result["full"]["seconds"]
    assert result["full"]["times_faster"] == pytest.approx(ratio)
    assert result["baseline"]["measured_pairs"] == 36
    assert "from 36 to 576" in result["baseline"]["extrapolated"]
    assert result["shared"]["same_bits"]
    assert result["stream"]["bytes"] == 4 * 60 * 3 * 8
    assert result["stream"]["seconds_mean_metric"] > 0


def test_the_table_has_every_part(result):
    stream = io.StringIO()
    analysis_table(result, Console(file=stream, width=140))
    for part in ("the paper's loop", "all pairs", "sampled pairs", "streaming", "all pairs, times the loop"):
        assert part in stream.getvalue()


def test_goals_stand_beside_what_was_measured(result):
    two = {**result, "shared": {**result["shared"], "workers": 2, "times_faster": 1.7}}
    found = {each["what"]: each for each in analysis.goals(two)}
    assert found["two processes, times one"] == {
        "what": "two processes, times one",
        "goal": 1.8,
        "measured": 1.7,
        "reached": False,
    }
    assert found["streaming, GiB of memory"]["reached"], "at most, not at least"
    assert len(result["goals"]) == 3, "one process has no goal for two"


def test_sizes_are_checked():
    with pytest.raises(ValidationError):
        AnalysisBench(samples=1)


def test_metrics_are_those_of_the_folder(tmp_path):
    values, vectors = random_metrics(5, 8)
    np.save(tmp_path / "eigenvalues.npy", values)
    np.save(tmp_path / "eigenvectors.npy", vectors)
    few = analysis_child._metrics(str(tmp_path), 3)
    assert np.array_equal(few[0], values[:3])
    assert np.array_equal(few[1], vectors[:3])

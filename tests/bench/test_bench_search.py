"""`pullback bench search`: suites whose truth is known, endpoints in closed form, and resuming."""

import json

import numpy as np
import pytest
from scipy.linalg import hadamard as dense_hadamard

from command_line import call
from pullback.bench import search as bench
from pullback.bench.search import SearchBench, bench_search, outcomes_of, read_rows
from pullback.bench.search_arms import ARMS, LARGE, MAIN
from pullback.bench.search_document import document
from pullback.bench.search_statistics import evaluations_to, outcome, so_far
from pullback.bench.search_suites import hadamard, synthetic_suite
from pullback.errors import PullbackError

N = 16


@pytest.fixture(scope="module")
def suite():
    return synthetic_suite(N, N, noises=(0.0, 0.5))


def test_the_transform_is_that_of_the_dense_matrix():
    x = np.random.default_rng(0).standard_normal((3, N))
    np.testing.assert_allclose(hadamard(x), x @ dense_hadamard(N) / N**0.5, atol=1e-12)


def test_the_metric_of_the_synthetic_generator_is_its_closed_form(suite):
    """H = 2 JᵀJ of h = relu(√Λ Uᵀz), averaged over antipodal codes, is exactly U Λ Uᵀ."""
    axes, values = suite.metric.axes, suite.metric.eigenvalues
    np.testing.assert_allclose(axes @ axes.T, np.eye(N), atol=1e-12)
    z = np.random.default_rng(1).standard_normal((5, N))
    mean = np.zeros((N, N))
    for code in (*z, *-z):
        jacobian = np.sqrt(values)[:, None] * axes * (axes @ code > 0)[:, None]
        mean += 2 * jacobian.T @ jacobian / (2 * len(z))
    np.testing.assert_allclose(mean, axes.T @ np.diag(values) @ axes, atol=1e-12)


def test_no_code_beats_the_best_score_and_one_reaches_it(suite):
    score, best = suite.score(3), suite.best(3)
    drawn = suite.feasible.inside(100 * np.random.default_rng(0).standard_normal((500, N)))
    assert score(drawn).max() < best
    # the gradient where all units with positive weights are active
    parts = score(np.concatenate([suite.metric.axes, -suite.metric.axes])).reshape(2, N)
    code = np.maximum(parts[0], 0) @ suite.metric.axes
    assert score(code[None] / np.linalg.norm(code) * suite.feasible.radius)[0] == pytest.approx(best)


def row(arm, unit, best, repeat=0, known=None):
    best = list(map(float, best))
    spent = [10 * (place + 1) for place in range(len(best))]
    named = {"suite": "s", "unit": unit, "repeat": repeat, "arm": arm, "noise": 0.0, "budget": 40}
    return {**named, "evaluations": spent, "best": best, "mean": best, "known": known, "seconds": 1.0}


def test_endpoints_are_those_of_the_curves():
    rows = [row("pycma", "a", [1, 2, 3, 4]), row("pycma", "b", [1, 1, 1, 1]), row("sphere", "a", [4, 5, 4, 4])]
    rows += [row("sphere", "b", [1, 2, 2, 2]), row("random", "a", [0, 0, 0, 0])]  # random has not run on b
    assert evaluations_to(rows[0], 3) == 30
    assert evaluations_to(rows[1], 3) is None
    np.testing.assert_array_equal(so_far(rows[2], np.array([5.0, 10, 25, 40])), [4, 4, 5, 5])
    found = outcome([each for each in rows if each["arm"] != "random"], "s", 0.0, "pycma")
    np.testing.assert_allclose(found.arms["pycma"].last, [4 / 5, 1 / 2])
    np.testing.assert_allclose(found.arms["sphere"].best, [1, 1])
    np.testing.assert_allclose(found.arms["pycma"].evaluations, [40, 40])
    np.testing.assert_allclose(found.arms["sphere"].evaluations, [10, 20])
    np.testing.assert_allclose(found.arms["pycma"].reached, [1, 0])
    compared = found.comparisons["sphere"]
    assert compared.difference[0] == pytest.approx((0 + 0.5) / 2)
    assert compared.ratio[0] == pytest.approx(30 / 80)
    with_random = outcome(rows, "s", 0.0, "pycma")
    assert with_random.units == ["a"]
    assert compared.wilcoxon_p == 1  # the least p of two units


def test_rows_are_not_computed_again_and_the_document_is_written_from_them(suite, tmp_path):
    path, result = tmp_path / "rows.jsonl", []
    settings = SearchBench(2, 1, 400, {suite.name: ("random", "sphere", "metric-sphere-minus", "pycma")})
    pytest.importorskip("cma")
    rows = bench_search([suite], settings, path, result.append)
    assert len(rows) == len(result) == 2 * 2 * 4
    with path.open("a") as file:
        file.write('{"suite": "cut')
    again = bench_search([suite], settings, path, result.append)
    assert len(result) == 16
    assert [each["best"] for each in again] == [each["best"] for each in rows]
    clean, noisy = outcomes_of(again)
    assert (clean.noise, noisy.noise) == (0.0, 0.5)
    assert clean.known
    assert all((arm.best <= 1 + 1e-9).all() for arm in clean.arms.values())
    assert clean.arms["pycma"].last.mean() > clean.arms["random"].last.mean()
    text = document([clean, noisy], ["a.png", "b.png"], "pullback bench search")
    assert text.count("| SphereCMA |") == 2
    assert "2 units" in text
    assert "2 units cannot judge the goal" in text
    assert bench.outcomes_of([]) == []
    path.write_text("nonsense\n")
    with pytest.raises(PullbackError):
        read_rows(path)


def test_every_arm_runs_or_does_not_apply(suite):
    small = SearchBench(1, 1, 80, {suite.name: tuple(ARMS)})
    found = {name: bench.run_arm(ARMS[name], suite, 0, 0, 0.0, small.evaluations) for name in ARMS if name != "pycma"}
    assert [name for name, each in found.items() if each is None] == ["shuffled-cma", "shuffled-axes"]
    assert set(MAIN) | set(LARGE) <= set(ARMS)
    large = synthetic_suite(2048, 16)
    assert ARMS["cma"].made(large, 80, 0) is None
    assert ARMS["metric-cma"].made(large, 80, 0) is None
    assert ARMS["sphere"].made(large, 80, 0) is not None


def test_the_command_prints_json_and_refuses_unknown_arms(tmp_path, monkeypatch):
    from pullback.bench import search_suites

    monkeypatch.setattr(bench, "SYNTHETIC", f"synthetic {N}")
    monkeypatch.setattr(search_suites, "synthetic_suite", lambda: synthetic_suite(N, N))
    options = ("--units", "1", "--repeats", "1", "--synthetic-evaluations", "80", "--rows", tmp_path / "rows.jsonl")
    result = call("bench", "search", "--arms", "sphere,random", *options, "--json", "--document", tmp_path / "d.md")
    assert result.code == 0, result.err
    assert [each["reference"] for each in result.json] == ["sphere", "sphere"]
    assert "SphereCMA" in (tmp_path / "d.md").read_text()
    assert len(list(tmp_path.glob("*.png"))) == 2
    assert len([json.loads(line) for line in (tmp_path / "rows.jsonl").open()]) == 4
    assert call("bench", "search", "--arms", "sphere,metric-spere").code == 2


def test_no_searcher_draws_from_the_stream_of_the_weights(suite):
    """Otherwise the first code of a run would point at the best one."""
    for number in range(3):
        drawn = np.random.default_rng(np.random.SeedSequence(1000 * number, spawn_key=(0,))).standard_normal(N)
        response = suite.score(number)(suite.metric.axes) / np.sqrt(suite.metric.eigenvalues)
        assert abs(np.corrcoef(drawn, response)[0, 1]) < 0.9

"""The benchmark of inversion on a small generator, and its statistics."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from pullback.analysis.side_by_side import holm
from pullback.applications.inverting.solvers import DEFAULT_SOLVER
from pullback.bench import inversion, inversion_tuning
from pullback.bench.inversion import Bench, read_runs, run_inversion_bench
from pullback.bench.inversion_goals import goals
from pullback.bench.inversion_problems import Problems
from pullback.bench.inversion_report import write_report
from pullback.bench.inversion_settings import ARMS, InversionBench
from pullback.bench.inversion_statistics import (
    Outcome,
    compare,
    complete_targets,
    expected_work,
    outcome,
    ratio_of_pairs,
    wilson,
)
from pullback.bench.inversion_tuning import best_configuration, configurations
from pullback.errors import PullbackError, SpecError

SMALL = {
    "generator": "toy_generators:Smooth",
    "distance": "mse",
    "targets": 2,
    "budget": 300.0,
    "local_budget": 200.0,
    "samples": 40,
    "metric_samples": 3,
    "tuning": 0,
}


FEW = ("adam_basis_random", "lbfgs", "levenberg_marquardt", "hybrid")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The settings, folder and rows of a whole run, cut after five rows and gone on."""
    folder = tmp_path_factory.mktemp("bench")
    settings = InversionBench(**SMALL, suites=("S1", "S3", "S4"), arms=FEW)
    result = []

    def cut(line):
        result.append(line)
        if len(result) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inversion_bench(settings, folder, cut)
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"suite": "S1", "tar')  # what a kill leaves
        file.write("\n")
    return settings, folder, run_inversion_bench(settings, folder)


def test_every_arm_has_a_row_for_every_target_and_none_is_computed_twice(done):
    settings, folder, rows = done
    keys = [(row["suite"], row["target"], row["arm"]) for row in rows]
    assert len(keys) == len(set(keys)) == 3 * 2 * len(settings.arms)
    again = run_inversion_bench(settings, folder)
    assert [row["seconds"] for row in again] == [row["seconds"] for row in rows]
    assert all(complete_targets(rows, suite, settings.arms) == [0, 1] for suite in settings.suites)


def test_the_budgets_are_kept_and_the_targets_are_approached(done):
    for row in done[2]:
        limit = 200 if row["suite"] == "S4" else 300
        assert row["work"] <= limit + 200
        assert row["work"] == row["forwards"] + 3 * row["gradients"] + row["columns"]
        first = [each[1] for each in row["reached"]]
        assert first == sorted(first)
    near = [row for row in done[2] if row["suite"] == "S4" and row["arm"] == "levenberg_marquardt"]
    assert all(row["distance"] < 1e-6 and row["code_error"] < 0.05 for row in near)
    assert all(row["code_error"] is None for row in done[2] if row["suite"] == "S3")


def test_the_starts_of_s4_have_the_wanted_distance():
    bench = Problems(InversionBench(**SMALL))
    for number, level in enumerate((0.05, 0.2)):
        problem = bench.problem("S4", number)
        away = bench.distance(bench.generator(problem.starts.float()).detach(), problem.image)
        assert float(away) == pytest.approx(level, rel=0.02)


def test_all_arms_have_the_same_starts_and_other_targets_others():
    bench = Problems(InversionBench(**SMALL))
    one, again, other = bench.problem("S1", 0), bench.problem("S1", 0), bench.problem("S1", 1)
    assert torch.equal(one.starts, again.starts)
    assert one.starts.shape == (4, 6)
    assert not torch.equal(one.code, other.code)


def test_the_controls_have_the_spectrum_or_the_shuffled_weights(tmp_path):
    bench = Bench(InversionBench(**SMALL), tmp_path)
    mean, random, shuffled = (bench.metric(kind) for kind in ("mean", "random", "shuffled"))
    torch.testing.assert_close(torch.linalg.eigvalsh(random), torch.linalg.eigvalsh(mean))
    assert not torch.allclose(random, mean)
    assert not torch.allclose(shuffled, mean)
    torch.testing.assert_close(Bench(InversionBench(**SMALL), tmp_path).metric("mean"), mean, atol=0, rtol=0)
    assert bench.metric(None) is None


def test_a_folder_of_other_settings_is_refused(done):
    with pytest.raises(PullbackError):
        run_inversion_bench(InversionBench(**{**SMALL, "budget": 400.0}), done[1])


@pytest.mark.parametrize(
    "changes", [{"suites": ("S9",)}, {"arms": ("magic",)}, {"arms": ()}, {"targets": 0}, {"budget": 0.0}]
)
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(SpecError):
        InversionBench(**{**SMALL, **changes})


def test_tuning_chooses_the_best_mean_rank(tmp_path, monkeypatch):
    monkeypatch.setattr(inversion_tuning, "CONFIGURATIONS", 2)
    settings = InversionBench(
        **{**SMALL, "tuning": 1, "tuning_budget": 100.0, "targets": 1}, suites=("S4",), arms=("adam",)
    )
    rows = run_inversion_bench(settings, tmp_path)
    tuned = [row for row in rows if row["suite"] == "tuning"]
    assert len(tuned) == 2
    wanted = min(tuned, key=lambda row: row["value"])
    assert best_configuration(rows, "adam") == json.loads(wanted["configuration"])
    assert best_configuration(rows, "lbfgs") == {}


def test_no_arm_has_more_than_sixteen_configurations():
    counts = [len(list(configurations(name))) for name in ARMS]
    assert 1 <= min(counts) <= max(counts) <= 16


def test_the_document_has_a_row_for_every_arm_and_a_figure_for_every_suite(done, tmp_path):
    settings, folder, rows = done
    assert read_runs(folder) == [settings]
    files = write_report([settings], rows, 6, tmp_path / "deep" / "inversion.md")
    assert [file.name for file in files] == ["inversion.md", "inversion-S1.png", "inversion-S3.png", "inversion-S4.png"]
    text = files[0].read_text()
    assert all(text.count(f"| {ARMS[arm].label} |") >= 6 for arm in settings.arms)
    with pytest.raises(PullbackError):
        write_report([settings], [], 6, tmp_path / "none.md")


def outcome_of(distance, recovered):
    zeros = np.zeros(len(distance))
    recovered = np.array(recovered, dtype=bool)
    return Outcome("a", tuple(range(len(distance))), np.array(distance), recovered, *[zeros] * 6)


def test_a_comparison_is_paired():
    two = 10.0 ** np.linspace(-3, 0, 12)
    found = compare(outcome_of(two / 4, [True] * 12), outcome_of(two, [True] * 3 + [False] * 9))
    assert found.ratio == pytest.approx(0.25)
    assert found.ratio_ci95[0] <= 0.25 <= found.ratio_ci95[1]
    assert found.p == pytest.approx(wilcoxon(np.full(12, -1.0)).pvalue)
    assert found.p_success == pytest.approx(2 * 0.5**9)
    same = compare(outcome_of(two, [True] * 12), outcome_of(two, [True] * 12))
    assert (same.ratio, same.p, same.p_success) == (1, 1, 1)


def test_a_ratio_is_bounded_where_only_the_reference_did_not_get_there():
    one, two = np.array([1.0, 2.0, np.inf, 3.0]), np.array([2.0, np.inf, np.inf, 1.0])
    assert ratio_of_pairs(one, two)[0] == 1.75
    assert ratio_of_pairs(one, two, ends=np.array([9.0, 8.0, 9.0, 9.0]))[0] == 0.5
    assert math.isnan(ratio_of_pairs(one[2:3], two[2:3])[0])
    assert math.isinf(ratio_of_pairs(np.array([np.inf]), np.array([1.0]))[0])


def test_holm_and_wilson_agree_with_published_examples():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 0) == (0, 1)


def test_the_expected_work_counts_failures():
    rows = [
        {"suite": "S1", "arm": "a", "target": 0, "work": 90.0, "reached": [[0.1, 30.0, 1.0]]},
        {"suite": "S1", "arm": "a", "target": 1, "work": 100.0, "reached": []},
    ]
    assert expected_work(rows, "S1", "a", [0, 1], 0.1) == 130
    assert math.isinf(expected_work(rows, "S1", "a", [0, 1], 0.01))


def made(suite, arm, target, distance, **more):
    work = 3 * more.get("gradients", 10)
    return {
        "suite": suite,
        "arm": arm,
        "target": target,
        "distance": distance,
        "code_error": 0.01 if distance < 1e-3 else 1.0,
        "held_out": math.nan,
        "seconds": 4.0,
        "work": work,
        "columns": 0,
        "gradients": 10,
        "norm": 1.0,
        "reached": [[each, work, more.get("seconds", 4.0)] for each in (1e-4, 1e-8)] if distance < 1e-8 else [],
        **more,
    }


def test_the_goals_are_judged_by_the_rows():
    rows = []
    for target in range(20):
        rows += [made("S1", DEFAULT_SOLVER, target, 1e-6), made("S1", "lbfgs", target, 1e-6 if target < 8 else 0.1)]
        rows += [made("S1", "adam", target, 0.1), made("S1", "adam_basis", target, 0.1 * 1.01 ** (target % 3 - 1))]
        rows += [made("S1", "adam_basis_random", target, 0.3)]
        rows += [made("S3", DEFAULT_SOLVER, target, 0.1, held_out=0.2), made("S3", "adam", target, 0.1, held_out=0.3)]
        rows += [made("S4", "lbfgs", target, 1e-9, gradients=200, seconds=6.0)]
        rows += [made("S4", "lbfgs_metric", target, 1e-9, gradients=120)]
        rows += [made("S4", "levenberg_marquardt", target, 1e-9, columns=6 * 8, seconds=2.0)]
    found = goals(rows, 6, 10.0)
    assert [each.reached for each in found] == [True, True, False, True, True]
    recovery, near, metric, outside, basis = (each.line for each in found)
    assert "recovers 20 of 20 (100%" in recovery
    assert "8 Jacobians (median)" in near
    assert "Its time over that of L-BFGS is 0.33 (median" in near
    assert "To f ≤ 1e-08, L-BFGS with the metric needs 0.60 (median" in metric
    assert "4 of them cut from a photograph" in outside
    assert "The eigenbasis makes no difference that shows" in basis
    assert "A random basis harms" in basis
    assert goals(rows, 6, None)[0].reached is None
    assert all(each.reached is None for each in goals([], 6, 10.0))


def test_the_last_mark_counts_the_last_step():
    marks = [(4.0, 0.1, 0.5), (40.0, 2.0, 0.2), (90.0, 10.1, 0.01)]
    assert inversion._at_seconds(marks, 10.1, 10.0) == [[1.0, 0.5], [3.0, 0.2], [10.0, 0.01]]
    assert inversion._at_seconds(marks[:2], 2.0, None) == [[1.0, 0.5]]


def test_an_outcome_needs_image_and_code_to_be_recovered():
    base = {"suite": "S1", "arm": "a", "work": 1.0, "seconds": 1.0, "columns": 12, "gradients": 1, "norm": 1.0}
    rows = [
        {**base, "target": 0, "distance": 1e-4, "code_error": 0.01},
        {**base, "target": 1, "distance": 1e-4, "code_error": 0.5},
        {**base, "target": 2, "distance": 1e-2, "code_error": None},
        {**base, "target": 3, "distance": 1e-4, "code_error": None},
    ]
    found = outcome(rows, "S1", "a", [0, 1, 2, 3], 6)
    assert found.recovered.tolist() == [True, False, False, True]
    assert found.jacobians.tolist() == [2, 2, 2, 2]

"""What is claimed of truncated metrics is never beyond what the whole metrics of the same codes say."""

import numpy as np
import pytest
from sample_metrics import FakeSweep, again_of, eigenpairs, random_metrics

from pullback.analysis import analyze
from pullback.analysis.spectra import SHARES
from pullback.analysis.truncation import count_range, rest_of, share_range
from pullback.metric.checks import TRACE_PROBES


def estimated_traces(metrics, kept, seed=2):
    """Traces as iterative methods estimate them: Σ of the kept, and of the rest from random directions."""
    values, vectors = eigenpairs(metrics, kept)
    n = metrics.shape[1]
    traces = []
    for metric, own, rows in zip(metrics, values, vectors, strict=True):
        drawn = np.random.default_rng(seed).standard_normal((TRACE_PROBES, n))
        drawn -= drawn @ rows.T @ rows
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        mean = np.einsum("pi,ij,pj->p", drawn, metric, drawn).mean()
        traces.append(own.sum() + (n - kept) * max(mean, 0.0))
    return np.array(traces)


@pytest.mark.parametrize(("kept", "decay"), [(1, 0.5), (3, 3.0), (10, 6.0), (25, 30.0), (25, 0.5), (1, 30.0)])
@pytest.mark.parametrize("whole", [True, False])
def test_every_count_of_a_truncated_sweep_is_that_of_the_whole_metrics_or_bounds_it(kept, decay, whole):
    for seed in range(2):
        metrics = random_metrics(5, 30, decay=decay, jitter=1.0, seed=seed)
        truth = analyze(FakeSweep(metrics), draws=10).to_json()
        trace = None if whole else estimated_traces(metrics, kept, seed)
        found = analyze(FakeSweep(metrics, kept=kept, whole=whole, trace=trace), draws=10).to_json()
        for part in ("anisotropy", "mean_metric"):
            for share, true in truth[part]["dim"].items():
                claimed = found[part]["dim"][share]
                assert claimed["at_least"] <= true["needed"], (part, share)
                assert claimed["at_most"] is None or claimed["at_most"] >= true["needed"], (part, share)
                assert claimed["needed"] in (None, true["needed"]), (part, share)
                assert claimed["below"] <= true["below"], (part, share)
        low, high = found["anisotropy"]["trace_share_range"]
        values = eigenpairs(metrics)[0]
        assert low <= values[:, :kept].sum() / values.sum() * (1 + 1e-9)
        assert values[:, :kept].sum() / values.sum() <= high * (1 + 1e-9)


def test_a_mean_of_truncated_metrics_is_named_and_none_of_its_numbers_passes_for_the_wholes():
    metrics = random_metrics(4, 30, decay=3.0, jitter=1.0)
    whole = analyze(FakeSweep(metrics), draws=10).to_json()["mean_metric"]
    analysis = analyze(FakeSweep(metrics, kept=5, whole=False), draws=10)
    part = analysis.to_json()["mean_metric"]
    values = eigenpairs(metrics)[0]
    assert (whole["of"], whole["trace_share"], whole["trace_share_range"]) == ("whole metrics", 1.0, [1.0, 1.0])
    assert part["of"] == "kept part"
    assert part["trace_share"] == pytest.approx(values[:, :5].sum() / values.sum())
    assert part["trace_share"] < 0.7
    assert len(part["eigenvalues"]) == 20, "the rank of the sum of four metrics of rank five"
    assert min(part["eigenvalues"]) > 1e-12
    assert (np.array(part["eigenvalues"]) <= np.array(whole["eigenvalues"][:20]) * (1 + 1e-9)).all()
    assert [part["dim"][f"{share:g}"]["needed"] for share in SHARES] == [None] * 4
    assert again_of(analysis).to_json() == analysis.to_json()


def test_a_kept_part_that_is_all_of_the_metric_states_its_counts():
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0][:3]
    metrics = np.array([np.outer(v, v) for v in vectors[[0, 1, 2, 0]]])
    found = analyze(FakeSweep(metrics, kept=1, whole=False), draws=10).to_json()
    assert found["mean_metric"]["trace_share"] == pytest.approx(1)
    assert [found["mean_metric"]["dim"][f"{share:g}"]["needed"] for share in SHARES] == [3] * 4
    assert len(found["mean_metric"]["eigenvalues"]) == 3


def test_bounds_of_an_exact_trace_are_ky_fans():
    rest = rest_of([[4.0, 2.0]], [10.0], 6, estimated=False)
    assert (rest.trace, rest.low, rest.high, rest.ceiling) == (4.0, 4.0, 4.0, 2.0)
    assert share_range(6.0, rest) == (0.6, 0.6)
    # of 10: 4, 2 known, then at most 2 each
    assert count_range(np.array([4.0, 2.0]), 0.5, rest, untouched=2) == (2, 2)
    assert count_range(np.array([4.0, 2.0]), 0.75, rest, untouched=2) == (3, None)
    assert count_range(np.array([4.0, 2.0]), 0.99, rest, untouched=2) == (4, None)
    # the rest may raise the mean's first axes: 4 + 2, 6 + 4
    assert count_range(np.array([4.0, 2.0]), 0.55, rest, untouched=0) == (1, 2)
    assert count_range(np.array([4.0, 2.0]), 0.99, rest, untouched=0) == (2, None)


def test_the_error_of_an_estimated_trace_covers_what_the_probes_do():
    metrics = random_metrics(6, 40, decay=2.0, jitter=1.0)
    true = np.trace(metrics, axis1=1, axis2=2).mean()
    covered = 0
    for seed in range(40):
        rest = rest_of(eigenpairs(metrics, 4)[0], estimated_traces(metrics, 4, seed), 40, estimated=True)
        kept = eigenpairs(metrics, 4)[0].sum(axis=1).mean()
        covered += rest.low <= true - kept <= rest.high
        assert rest.low <= rest.trace <= rest.high
    assert covered >= 38

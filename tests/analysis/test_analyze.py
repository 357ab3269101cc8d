import json
import subprocess
import sys

import numpy as np
import pytest
from pullback.analysis import Analysis, analyze
from pullback.analysis.anisotropy import dim_below
from pullback.analysis.homogeneity import correlations
from pullback.errors import PullbackError
from sample_metrics import FakeSweep, eigenpairs, random_metrics


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(7, 12)


@pytest.fixture(scope="module")
def analysis(metrics):
    return analyze(FakeSweep(metrics), draws=50, seed=3)


def test_the_document_has_exactly_the_agreed_keys(analysis):
    document = analysis.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document) == [
        "name",
        "snapshot",
        "samples",
        "anisotropy",
        "homogeneity",
        "mean_metric",
        "certificate",
        "bootstrap",
    ]
    assert list(document["anisotropy"]) == ["dim", "mean_spectrum", "mean_spectrum_ci95", "band"]
    assert list(document["anisotropy"]["dim"]) == ["0.99", "0.999", "0.9999", "0.99999"]
    assert list(document["anisotropy"]["dim"]["0.99"]) == ["below", "needed", "below_ci95", "needed_ci95"]
    assert list(document["anisotropy"]["band"]) == ["p5", "p95"]
    assert list(document["homogeneity"]) == ["log", "linear", "pairs"]
    assert list(document["homogeneity"]["log"]) == ["mean", "std", "median", "ci95"]
    assert list(document["mean_metric"]) == ["eigenvalues", "ci95"]
    assert document["bootstrap"] == {"draws": 50, "seed": 3}
    assert (document["name"], document["snapshot"], document["samples"]) == ("fake", "S1", 7)
    assert document["homogeneity"]["pairs"] == 42


def test_the_document_holds_the_statistics_of_the_metrics(analysis, metrics):
    document = analysis.to_json()
    values, vectors = eigenpairs(metrics)
    log, linear = correlations(values, vectors)
    off = ~np.eye(7, dtype=bool)
    assert document["homogeneity"]["log"]["mean"] == pytest.approx(log[off].mean(), abs=1e-5)
    assert document["homogeneity"]["linear"]["median"] == pytest.approx(np.median(linear[off]), abs=1e-5)
    assert document["anisotropy"]["mean_spectrum"] == pytest.approx(values.mean(axis=0))
    assert document["anisotropy"]["dim"]["0.99"]["below"] == dim_below(values.mean(axis=0), 0.99)
    assert document["mean_metric"]["eigenvalues"] == pytest.approx(np.linalg.eigvalsh(metrics.mean(axis=0))[::-1])
    assert np.shape(document["mean_metric"]["ci95"]) == (2, 12)


def test_a_certificate_without_numbers_becomes_null(analysis):
    certificate = analysis.to_json()["certificate"]
    assert certificate["probe_error"] == {"max": None, "median": None}
    assert certificate["symmetry_error"] == {"max": 1e-8, "median": pytest.approx(5.5e-9)}
    assert list(certificate) == ["symmetry_error", "negative_eigenvalue", "trace_share", "probe_error"]


def test_a_cut_spectrum_takes_its_shares_from_the_trace(metrics):
    analysis = analyze(FakeSweep(metrics, kept=4), draws=20)
    whole = analyze(FakeSweep(metrics), draws=20).to_json()["anisotropy"]["dim"]
    cut = analysis.to_json()["anisotropy"]["dim"]
    assert analysis.anisotropy.total == pytest.approx(np.trace(metrics.mean(axis=0)))
    assert whole["0.99999"]["needed"] > 4
    assert (cut["0.99999"]["below"], cut["0.99999"]["needed"]) == (4, None)
    assert cut["0.99999"]["needed_ci95"] == [None, None]


@pytest.mark.parametrize("kept", [None, 4])
def test_a_result_survives_its_dataset_form(metrics, kept):
    analysis = analyze(FakeSweep(metrics, kept=kept), draws=20)
    again = Analysis.from_dataset(analysis.to_dataset())
    assert again.to_json() == analysis.to_json()
    assert again.anisotropy.total == analysis.anisotropy.total
    for name in ("log", "linear"):
        assert np.array_equal(getattr(again, name), getattr(analysis, name), equal_nan=True)
    assert np.array_equal(again.mean_metric.eigenvectors, analysis.mean_metric.eigenvectors)
    assert again.certificate.keys() == analysis.certificate.keys()


def test_correlations_that_do_not_exist_survive_as_null():
    analysis = analyze(FakeSweep(np.array([np.eye(3)] * 3)), draws=5)
    assert analysis.to_json()["homogeneity"]["log"] == {
        "mean": None,
        "std": None,
        "median": None,
        "ci95": [None, None],
    }
    again = Analysis.from_dataset(analysis.to_dataset())
    assert np.isnan(again.log_summary.mean)


@pytest.fixture
def derived(monkeypatch):
    """Stand in for the store's module of derived results: a dictionary by path and name."""
    kept = {}
    module = type(sys)("pullback.store.derived")
    module.save_derived = lambda path, name, dataset: kept.__setitem__((path, name), dataset)
    module.load_derived = lambda path, name: kept.get((path, name))
    monkeypatch.setitem(sys.modules, "pullback.store.derived", module)
    return kept


def test_a_kept_result_is_loaded_for_its_own_snapshot_only(metrics, analysis, derived):
    sweep = FakeSweep(metrics)
    assert Analysis.load(sweep) is None
    analysis.save(sweep)
    assert list(derived) == [("sweeps/fake", "analysis")]
    assert Analysis.load(sweep).to_json() == analysis.to_json()
    assert Analysis.load(FakeSweep(metrics, snapshot="S2")) is None


def test_too_few_samples_say_how_many_there_are_and_what_to_do(metrics):
    with pytest.raises(PullbackError, match=r"1 good sample of 5 planned \(4 pending.*pullback run"):
        analyze(FakeSweep(metrics[:1], pending=4))
    with pytest.raises(PullbackError, match=r"0 good samples of 3 .*3 quarantined\).*pullback show"):
        analyze(FakeSweep(metrics[:0], quarantined=3))


def test_metrics_that_are_zero_or_not_finite_are_reported(metrics):
    with pytest.raises(PullbackError, match="is zero"):
        analyze(FakeSweep(np.zeros((3, 4, 4))))
    sweep = FakeSweep(metrics)
    sweep.dataset()["eigenvalue"][2, 0] = np.nan
    with pytest.raises(PullbackError, match="1 of 7 samples"):
        analyze(sweep)


def test_the_same_seed_gives_the_same_result_and_progress_is_reported(metrics):
    calls = []
    first = analyze(FakeSweep(metrics), draws=10, progress=lambda done, total: calls.append((done, total)))
    assert first.to_json() == analyze(FakeSweep(metrics), draws=10).to_json()
    assert calls[-1] == (49, 49)


def test_the_package_imports_neither_a_store_nor_a_cluster():
    code = (
        "import sys, pullback.analysis; "
        "print([m for m in ('ray', 'zarr', 'icechunk', 'xarray', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

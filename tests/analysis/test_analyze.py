import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sample_metrics import FakeSweep, again_of, eigenpairs, random_metrics

from pullback.analysis import analyze
from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.cache import load_analysis, save_analysis
from pullback.analysis.correlations import correlations
from pullback.analysis.spectra import dim_below
from pullback.analysis.statistics import homogeneity
from pullback.errors import PullbackError, SpecError
from pullback.store.creation import create
from pullback.store.reader import open_sweep
from pullback.store.schema import CERTIFICATE, GOOD, QUARANTINED, Layout, Reason, ShardRecord
from pullback.store.shard_writing import write_shard


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
        "zero_metrics",
        "options",
    ]
    truncation = ["ranks", "latent_dim", "trace", "trace_share", "trace_share_range"]
    assert list(document["anisotropy"]) == ["dim", "mean_spectrum", "mean_spectrum_ci95", "band", *truncation]
    assert list(document["anisotropy"]["dim"]) == ["0.99", "0.999", "0.9999", "0.99999"]
    counts = ["below", "needed", "below_ci95", "needed_ci95", "at_least", "at_most"]
    assert list(document["anisotropy"]["dim"]["0.99"]) == counts
    assert list(document["anisotropy"]["band"]) == ["p5", "p95"]
    first = ["log", "linear", "pairs", "points", "ranks", "latent_dim"]
    assert list(document["homogeneity"]) == [*first, "vec", "sampled", "precision_error", "random_axes"]
    errors = ["std_ci95", "median_ci95", "standard_error", "total_error"]
    assert list(document["homogeneity"]["log"]) == ["mean", "std", "median", "ci95", "defined", *errors]
    described = ["of", "trace_share", "trace_share_range"]
    assert list(document["mean_metric"]) == ["eigenvalues", "ci95", "dim", *described]
    shares = np.cumsum(document["mean_metric"]["eigenvalues"]) / np.sum(document["mean_metric"]["eigenvalues"])
    assert document["mean_metric"]["dim"]["0.99"] == {
        "below": int((shares < 0.99).sum()),
        **dict.fromkeys(("needed", "at_least", "at_most"), int((shares < 0.99).sum()) + 1),
    }
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
    assert analysis["anisotropy"].value.total == pytest.approx(np.trace(metrics.mean(axis=0)))
    assert whole["0.99999"]["needed"] > 4
    assert (cut["0.99999"]["below"], cut["0.99999"]["needed"]) == (4, None)
    assert cut["0.99999"]["needed_ci95"] == [None, None]


@pytest.mark.parametrize("kept", [None, 4])
def test_a_result_survives_its_dataset_form(metrics, kept):
    analysis = analyze(FakeSweep(metrics, kept=kept), draws=20)
    again = again_of(analysis)
    assert again.to_json() == analysis.to_json()
    assert again["anisotropy"].value.total == analysis["anisotropy"].value.total
    for name in ("log", "linear"):
        assert np.array_equal(
            getattr(again["homogeneity"].value, name), getattr(analysis["homogeneity"].value, name), equal_nan=True
        )
    assert np.array_equal(again["mean_metric"].value.eigenvectors, analysis["mean_metric"].value.eigenvectors)
    assert again["certificate"].value.keys() == analysis["certificate"].value.keys()


def test_correlations_that_do_not_exist_survive_as_null():
    analysis = analyze(FakeSweep(np.array([np.eye(3)] * 3)), draws=5)
    assert analysis.to_json()["homogeneity"]["log"] == {
        "mean": None,
        "std": None,
        "median": None,
        "ci95": [None, None],
        "defined": 0,
        "std_ci95": [None, None],
        "median_ci95": [None, None],
        "standard_error": None,
        "total_error": None,
    }
    assert analysis.to_json()["homogeneity"]["vec"]["mean"] == 1, "the matrices are the same, axes or not"
    again = again_of(analysis)
    assert np.isnan(again["homogeneity"].value.log_summary.mean)


@pytest.mark.parametrize("kept", [12, 5])
@pytest.mark.parametrize("memory", [2**30, 0], ids=["in memory", "read piece by piece"])
def test_a_sweep_in_progress_is_analysed_over_its_good_samples_alone(metrics, kept, memory, tmp_path, monkeypatch):
    good = np.array([True, True, False, True, True])
    layout = Layout(samples=7, latent_dim=12, components=kept, shard_size=5)
    store = create(tmp_path / "sweep", layout, {"name": "part"})
    assert store.merge(0, write_shard(store.fork(), _record(metrics[:5], kept, good)))
    store.commit("the first shard; the second is pending")
    sweep = open_sweep(tmp_path / "sweep")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=memory))
    analysis = analyze(sweep, draws=20)
    expected = analyze(FakeSweep(metrics[:5][good], kept), draws=20)
    for name in ("anisotropy", "homogeneity", "mean_metric", "bootstrap"):
        _assert_close(analysis.to_json()[name], expected.to_json()[name])
    save_analysis(analysis, sweep)
    assert load_analysis(open_sweep(tmp_path / "sweep"), draws=20).to_json() == analysis.to_json()


def _record(metrics, kept, good):
    points = len(metrics)
    values, vectors = eigenpairs(metrics, kept)
    values[~good] = np.nan
    certificate = {name: np.zeros(points) for name in CERTIFICATE}
    return ShardRecord(
        shard=0,
        latent=np.zeros((points, 12), np.float32),
        condition=np.full(points, -1, np.int32),
        eigenvalue=values,
        eigenvector=vectors.astype(np.float32),
        metric_sum=metrics[good].sum(axis=0),
        trace=np.trace(metrics, axis1=1, axis2=2),
        status=np.where(good, GOOD, QUARANTINED).astype(np.uint8),
        reason=np.where(good, int(Reason.NONE), int(max(Reason))).astype(np.uint8),
        products=np.zeros(points, np.int64),
        seconds=np.ones(points),
        **certificate,
    )


def _assert_close(ours, theirs):
    """Compare numbers up to round-off and everything else exactly, whatever the nesting."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            _assert_close(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            _assert_close(mine, other)
    else:
        assert ours == (theirs if theirs is None else pytest.approx(theirs))


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


def test_of_many_samples_the_bootstrap_is_drawn_piece_by_piece(metrics, monkeypatch):
    whole = []
    monkeypatch.setattr(
        homogeneity, "bootstrap_weights", lambda points, *rest: whole.append(points) or weights(points, *rest)
    )
    weights = bootstrap_weights
    analyze(FakeSweep(metrics), draws=50, points=4)
    assert whole == [4], "the multiplicities of the compared points alone are all in memory"


def test_of_many_samples_some_are_compared_in_pairs_and_all_count_for_the_rest(metrics):
    whole, some = analyze(FakeSweep(metrics), draws=50, seed=3), analyze(FakeSweep(metrics), draws=50, seed=3, points=4)
    few, all_of_them = some["homogeneity"].value, whole["homogeneity"].value
    assert len(set(few.compared)) == 4
    assert list(few.compared) == sorted(few.compared)
    np.testing.assert_array_equal(all_of_them.compared, range(7))
    pairs = np.ix_(few.compared, few.compared)
    np.testing.assert_allclose(few.log, all_of_them.log[pairs], rtol=1e-12)
    np.testing.assert_allclose(few.linear, all_of_them.linear[pairs], rtol=1e-12)
    assert some.to_json()["homogeneity"]["points"] == 4
    assert some.to_json()["homogeneity"]["pairs"] == 12
    assert few.log_summary.mean == pytest.approx(few.log[~np.eye(4, dtype=bool)].mean())
    for name in ("samples", "anisotropy", "mean_metric", "certificate", "bootstrap"):
        assert some.to_json()[name] == whole.to_json()[name], name
    again = analyze(FakeSweep(metrics), draws=50, seed=3, points=4)
    assert again.to_json() == some.to_json()
    other = {
        tuple(analyze(FakeSweep(metrics), draws=5, seed=seed, points=4)["homogeneity"].value.compared)
        for seed in range(6)
    }
    assert len(other) > 1, "the seed chooses"
    back = again_of(some)
    np.testing.assert_array_equal(back["homogeneity"].value.compared, few.compared)
    with pytest.raises(SpecError, match="points"):
        analyze(FakeSweep(metrics), points=1)

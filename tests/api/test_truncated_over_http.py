"""Over HTTP and through the client, a truncated metric differs from the whole one, and zero metrics are named."""

import numpy as np
import pytest
from served_sweeps import serving

from pullback.analysis import analyze
from pullback.analysis.cache import save_analysis
from pullback.api.client import Client
from pullback.store.creation import create
from pullback.store.reader import open_sweep
from pullback.store.schema import Layout
from stored_sweeps import altered, commit, record_of

LAYOUT = Layout(samples=6, latent_dim=16, components=4, shard_size=6)


def stored(path, method):
    """A sweep by a method, whose metrics are known; sample 2 is zero, and so is sample 4, which is quarantined."""
    rng = np.random.default_rng(1)
    matrices = []
    for _ in range(6):
        vectors = np.linalg.qr(rng.standard_normal((16, 16)))[0]
        matrices.append((vectors * np.exp(-0.2 * np.arange(16))) @ vectors.T)
    matrices = np.array(matrices)
    matrices[[2, 4]] = 0
    values, vectors = np.linalg.eigh(matrices)
    values, vectors = values[:, ::-1][:, :4].copy(), vectors.transpose(0, 2, 1)[:, ::-1][:, :4].astype(np.float32)
    parts = np.einsum("ski,sk,skj->sij", vectors, values, vectors)
    summed = matrices if method in (None, "gauss_newton") else parts
    good = np.arange(6) != 4
    record = altered(
        record_of(LAYOUT, 0, quarantined=(4,)),
        eigenvalue=values,
        eigenvector=vectors.copy(),
        trace=np.trace(matrices, axis1=1, axis2=2),
        trace_share=np.where(
            matrices.any(axis=(1, 2)), values.sum(axis=1) / np.maximum(np.trace(matrices, axis1=1, axis2=2), 1e-9), 1.0
        ),
        metric_sum=summed[good].sum(axis=0),
    )
    spec = {"metric": {"precision": "float32"}}
    provenance = {"name": path.name, "generator": "toy", "distance": "mse", "sweep_id": "0", "spec": spec}
    provenance |= {"weights": {}, "versions": {}, "conventions": {}, "created": "now", "classes": []}
    store = create(path, LAYOUT, provenance | ({} if method is None else {"method": method}))
    commit(store, record)
    return matrices[good]


@pytest.mark.parametrize("method", ["gauss_newton", "block_krylov"])
def test_the_client_gets_what_the_whole_metrics_say(tmp_path, method):
    folder = tmp_path / "sweeps"
    folder.mkdir()
    matrices = stored(folder / "mine", method)
    sweep = open_sweep(folder / "mine")
    save_analysis(analyze(sweep), sweep)
    with serving(folder) as (url, _), Client(url) as client:
        details, analysis, report = client.show("mine"), client.analysis("mine"), client.report("mine")
    zeros = {"count": 2, "good": 1, "quarantined": 1, "samples": [2, 4]}
    assert details["zero_metrics"] == analysis["zero_metrics"] == zeros
    assert "2 samples have metrics that are exactly zero (1 good and 1 quarantined): samples 2, 4" in report
    spectra = np.linalg.eigvalsh(matrices)[:, ::-1]
    share = spectra[:, :4].sum() / spectra.sum()
    assert details["trace_share"] == pytest.approx(share)
    assert analysis["anisotropy"]["trace_share"] == pytest.approx(share)
    mean, true = analysis["mean_metric"], np.linalg.eigvalsh(matrices.mean(axis=0))[::-1]
    needed = int(np.sum(np.cumsum(true) < 0.99 * true.sum())) + 1
    if method == "gauss_newton":
        assert (details["whole_metrics"], mean["of"], mean["trace_share"]) == (True, "whole metrics", 1.0)
        assert mean["dim"]["0.99"]["needed"] == needed
        np.testing.assert_allclose(mean["eigenvalues"], true, atol=1e-9)
        assert "kept part" not in report
    else:
        assert (details["whole_metrics"], mean["of"]) == (False, "kept part")
        assert mean["trace_share"] == pytest.approx(share, rel=1e-6)
        assert mean["dim"]["0.99"]["needed"] is None
        assert mean["dim"]["0.99"]["at_least"] <= needed
        assert f"{100 * share:.3g} %" in report


@pytest.mark.parametrize("method", [None, "gauss_newton", "lanczos"])
def test_a_store_that_names_no_method_is_judged_by_the_trace_of_its_sum(tmp_path, method):
    stored(tmp_path / "mine", method)
    assert open_sweep(tmp_path / "mine").whole_metrics == (method != "lanczos")


def test_a_store_without_a_method_whose_sum_is_of_kept_parts_is_not_taken_for_whole(tmp_path, monkeypatch):
    stored(tmp_path / "mine", "lanczos")
    sweep = open_sweep(tmp_path / "mine")
    del sweep.provenance["method"]
    assert not sweep.whole_metrics


def test_a_report_of_a_truncated_sweep_from_before_the_distinction_is_not_served(tmp_path):
    folder = tmp_path / "sweeps"
    folder.mkdir()
    stored(folder / "mine", "block_krylov")
    sweep = open_sweep(folder / "mine")
    save_analysis(analyze(sweep), sweep)
    (folder / "mine.report.html").write_text(f"<p>{sweep.snapshot}: 160 fixed axes</p>")
    with serving(folder) as (url, _), Client(url) as client:
        assert "160 fixed axes" not in client.report("mine")


def test_an_analysis_of_an_earlier_version_is_as_if_it_were_not_there(tmp_path):
    import json

    from pullback.analysis.cache import load_analysis
    from pullback.store.artifacts import load_artifact, save_artifact

    stored(tmp_path / "mine", "block_krylov")
    sweep = open_sweep(tmp_path / "mine")
    save_analysis(analyze(sweep), sweep)
    name = f"analysis-{sweep.snapshot}-anisotropy"
    kept = load_artifact(sweep.path, name)
    frame = {**json.loads(kept.attrs["pullback"]), "format": 1}
    save_artifact(sweep.path, name, kept.assign_attrs(pullback=json.dumps(frame)))
    assert load_analysis(sweep) is None

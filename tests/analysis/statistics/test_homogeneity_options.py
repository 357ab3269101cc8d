"""The options of homogeneity: which pairs, where they are computed, the control; and what each result holds."""

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics

from pullback.analysis import pair_matrix, tile_workers
from pullback.analysis.correlations import correlations
from pullback.analysis.pair_kernel import Spectra
from pullback.analysis.random_axes import random_axes
from pullback.analysis.request import choose, decisive_options
from pullback.analysis.runner import compute_statistics
from pullback.analysis.samples import Samples
from pullback.analysis.statistics import homogeneity
from pullback.analysis.statistics.homogeneity import from_dataset
from pullback.errors import PullbackError, SpecError


@pytest.fixture(scope="module")
def samples():
    return Samples.of_metrics(random_metrics(12, 8))


def analysed(samples, **options):
    asked = choose(["homogeneity"], {"draws": 40, "random_axes": 30, **options})
    return compute_statistics(samples, asked)["homogeneity"]


def test_sampled_pairs_are_those_of_all_pairs_and_survive_their_stored_form(samples):
    every, some = analysed(samples), analysed(samples, pairs=20)
    found = some.value
    i, j = found.sampled.T
    assert found.sampled_values.log == pytest.approx(np.stack([every.value.log[i, j], every.value.log[j, i]]))
    assert (some.json["pairs"], every.json["pairs"], some.json["sampled"]) == (40, 132, True)
    assert 0 < some.json["log"]["standard_error"] < some.json["log"]["std"]
    assert every.json["log"]["standard_error"] == 0
    again = from_dataset(some.dataset)
    assert np.array_equal(again.sampled, found.sampled)
    assert np.array_equal(again.sampled_values.vec, found.sampled_values.vec)
    assert again.log_summary == found.log_summary
    for result in (every, some):
        assert all(len(row) == len(table.columns) for table in result.tables() for row in table.rows)
        assert result.notes()
        assert len(result.figures()) == (4 if result is every else 3)


def test_auto_samples_until_the_standard_error_and_all_pairs_if_it_must(samples):
    assert analysed(samples, pairs="auto", standard_error=1e-6).json["pairs"] == 132
    metrics = random_metrics(40, 4, jitter=0.2)
    found = analysed(Samples.of_metrics(metrics), pairs="auto", standard_error=0.05).json
    assert found["pairs"] < 40 * 39
    assert max(found[name]["standard_error"] for name in ("log", "linear", "vec")) <= 0.05


def test_a_number_of_pairs_above_all_is_all(samples):
    assert analysed(samples, pairs=66).json["sampled"] is False
    assert "homogeneity_vec" in analysed(samples, pairs=1000).dataset


@pytest.mark.parametrize("given", [{"pairs": 0}, {"pairs": "some"}, {"standard_error": 0.0}, {"workers": -1}])
def test_values_out_of_range_are_refused(samples, given):
    with pytest.raises(SpecError):
        analysed(samples, **given)


def test_where_it_is_computed_is_no_part_of_a_result_and_yet_followed(samples, tmp_path, monkeypatch):
    options = choose(["homogeneity"], {"workers": 2, "device": "cpu", "points": 50})["homogeneity"]
    kept = decisive_options("homogeneity", options, 12)
    assert (kept.workers, kept.device, kept.points) == (0, "auto", 12)
    asked = []
    monkeypatch.setattr(tile_workers, "shared", lambda *given, **how: asked.append(how) or pair_matrix.in_turn(*given))
    assert analysed(samples, workers=2).json == analysed(samples).json
    assert asked == [{"workers": 2, "identity": "metrics "}]


def test_a_gpu_that_is_not_there_is_an_error(samples, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(PullbackError, match="device: cpu"):
        analysed(samples, device="cuda")


def test_matrices_that_do_not_fit_are_refused_before_anything_is_computed(samples, monkeypatch):
    monkeypatch.setattr(homogeneity, "SMALL_BYTES", 0)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 3000})())
    with pytest.raises(PullbackError, match="pairs: auto"):
        analysed(samples)


def test_the_control_is_that_of_metrics_with_random_axes():
    """Pairs of one sample with its own metric turned at random, by the reference."""
    n, generator = 6, np.random.default_rng(0)
    metrics = random_metrics(3, n, decay=3.0)
    values, vectors = eigenpairs(metrics)
    found = random_axes(Spectra(values), vectors, 1000, 0, 100)
    slow = []
    for _ in range(500):
        i, j = generator.integers(3, size=2)
        turn = np.linalg.qr(generator.standard_normal((n, n)))[0]
        pair = np.stack([vectors[i] @ turn, vectors[j]])
        log, linear = correlations(values[[i, j]], pair)
        turned = (pair[0].T * values[i]) @ pair[0]
        vec = np.corrcoef(turned.ravel(), metrics[j].ravel())[0, 1]
        slow.append([log[[0, 1], [1, 0]].mean(), linear[[0, 1], [1, 0]].mean(), vec])
    assert found.mean == pytest.approx(np.mean(slow, axis=0), abs=0.09), "four standard errors"
    assert (found.ci95[0] < found.mean).all()
    assert (found.mean < found.ci95[1]).all()
    assert np.nanstd(found.values, axis=1) == pytest.approx(np.std(slow, axis=0), rel=0.2)


def test_the_control_can_be_left_out(samples):
    result = analysed(samples, random_axes=0)
    assert result.json["random_axes"] is None
    assert "random_axes" not in result.dataset
    assert result.value.random is None
    assert result.figures()


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_truncated_metrics_have_all_of_it(kept):
    values, vectors = eigenpairs(random_metrics(6, 8), kept)
    samples = Samples(
        Samples.of_metrics(random_metrics(6, 8)).about,
        {"eigenvalue": values, "eigenvector": vectors, "trace": 2 * values.sum(axis=1)},
    )
    for options in ({}, {"pairs": 9}):
        result = analysed(samples, **options)
        assert (result.json["log"]["mean"] is None) == (kept == 1)
        assert result.json["vec"]["mean"] is not None
        assert all(table.text() for table in result.tables())
        assert result.figures()
        assert result.cautions()

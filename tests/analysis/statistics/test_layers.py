"""Amplification between layers: closed forms, whole matrices, both controls, and what cannot be compared."""

import json

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics

from pullback.analysis.protocol import About
from pullback.analysis.runner import compute
from pullback.analysis.samples import Samples
from pullback.analysis.statistics import layers
from pullback.errors import PullbackError

N, COUNT = 8, 6


def samples_of(metrics, layer, kept=None, numbers=None, name="s"):
    values, vectors = eigenpairs(metrics, kept)
    numbers = np.arange(len(metrics)) if numbers is None else np.asarray(numbers)
    columns = {
        "eigenvalue": values,
        "eigenvector": vectors,
        "trace": np.trace(metrics, axis1=1, axis2=2),
        "latent": numbers[:, None] * np.ones((1, N)),
    }
    distance = {"name": "features", "module": "generator", "layer": layer} if layer else {"name": "mse"}
    provenance = {"spec": {"distance": distance, "generator": {"name": "g"}}, "distance": layer or "mse"}
    about = About(name, f"S-{layer}", len(metrics))
    return Samples(about, columns, numbers=numbers, provenance=provenance)


def compared(*sweeps):
    return compute(sweeps[0], "layers", layers.Options(draws=30), None, sweeps[1:])


@pytest.fixture(scope="module")
def metrics():
    """Metrics of three layers; the second is four times the square of the first, the third has bent axes."""
    first = random_metrics(COUNT, N, decay=5, jitter=2.0, seed=3)
    bends = np.eye(N) + 0.1 * np.random.default_rng(1).standard_normal((COUNT, N, N))
    return first, 4 * first @ first, bends @ first @ bends.transpose(0, 2, 1)


@pytest.fixture(scope="module")
def result(metrics):
    return compared(*(samples_of(each, name) for each, name in zip(metrics, ("main.0", "main.3", None), strict=True)))


def test_a_layer_with_the_squared_metric_has_slope_two_and_the_intercept_of_its_factor(result):
    matrix = result["matrix"].sel(of_axes="main.0", of_metric="main.3")
    np.testing.assert_allclose(
        matrix.sel(number=["log", "slope", "intercept", "c_log", "c_lin"]), [1, 2, np.log10(4), 1, 1]
    )
    back = result["matrix"].sel(of_axes="main.3", of_metric="main.0")
    np.testing.assert_allclose(back.sel(number=["log", "slope", "intercept"]), [1, 0.5, -np.log10(4) / 2])
    itself = result["matrix"].sel(of_axes="main.3", of_metric="main.3")
    np.testing.assert_allclose(itself.sel(number=["linear", "log", "slope"]), 1)


def test_the_numbers_are_those_of_whole_metrics(metrics, result):
    found = []
    for source, target in zip(metrics[0], metrics[2], strict=True):
        values, vectors = (each[0] for each in eigenpairs(source[None]))
        own = eigenpairs(target[None])[0][0]
        rates = np.diag(vectors @ target @ vectors.T)
        slope, intercept = np.polyfit(np.log10(values), np.log10(rates), 1)
        found.append(
            [
                np.corrcoef(rates, values)[0, 1],
                np.corrcoef(np.log10(rates), np.log10(values))[0, 1],
                slope,
                intercept,
                np.corrcoef(rates, own)[0, 1],
                np.corrcoef(np.log10(rates), np.log10(own))[0, 1],
            ]
        )
    np.testing.assert_allclose(
        result["matrix"].sel(of_axes="main.0", of_metric="mse"), np.mean(found, axis=0), rtol=1e-7
    )


def test_means_over_pairs_leave_out_the_diagonal_and_stand_beside_both_controls(result):
    matrix = result["matrix"].sel(number="log").values
    off = matrix[~np.eye(3, dtype=bool)]
    overall = result.json["overall"]
    assert overall["same_code"]["log"]["mean"] == pytest.approx(off.mean())
    low, high = overall["same_code"]["log"]["ci95"]
    assert low <= off.mean() <= high
    for control in ("other_code", "random_axes"):
        assert overall[control]["log"]["mean"] < low
        assert 0 < overall[control]["log"]["p"] <= 1


def test_rates_along_the_axes_of_the_reference_are_multiples_of_the_mean_rate(metrics, result):
    logs = []
    for reference, metric in zip(metrics[2], metrics[0], strict=True):
        axes = eigenpairs(reference[None])[1][0]
        logs.append(np.log10(np.diag(axes @ metric @ axes.T) / (np.trace(metric) / N)))
    np.testing.assert_allclose(result["reference_rate"].sel(of_metric="main.0"), np.mean(logs, axis=0), rtol=1e-7)


def test_tables_sentences_and_figures_name_the_layers(result):
    overall, depth = result.tables()
    assert "6 ordered pairs of layers at 6 codes" in overall.title
    assert [row[0] for row in depth.rows] == ["main.0", "main.3", "mse"]
    assert depth.rows[2][-2:] == ["–", "–"]
    (sentence,) = result.sentences()
    assert f"{result.json['overall']['same_code']['log']['mean']:.3f}" in sentence
    figures = result.figures()
    assert len(figures) == 7
    heat = next(iter(figures.values()))
    heat.canvas.draw()
    assert [tick.get_text() for tick in heat.axes[0].get_xticklabels()] == ["main.0", "main.3", "mse"]
    assert result.cautions() == []
    json.dumps(result.json, allow_nan=False)


def test_only_codes_that_are_good_in_every_sweep_count(metrics):
    numbers = ([0, 1, 2, 4], [0, 2, 3, 4, 5], range(6))
    sweeps = [
        samples_of(each[list(some)], f"l{i}", numbers=list(some))
        for i, (each, some) in enumerate(zip(metrics, numbers, strict=True))
    ]
    found = compared(*sweeps)
    assert found["sample"].values.tolist() == [0, 2, 4]
    assert "3 samples" in found.cautions()[0]
    same = compared(*(samples_of(each[[0, 2, 4]], f"l{i}", numbers=[0, 2, 4]) for i, each in enumerate(metrics)))
    np.testing.assert_array_equal(found["matrix"], same["matrix"])


def test_zero_metrics_and_dropped_eigenpairs(metrics):
    zero = metrics[0].copy()
    zero[1] = 0
    found = compared(samples_of(zero, "a"), samples_of(metrics[1], "b", kept=5), samples_of(metrics[2], "c"))
    counts = found["codes_with"].sel(number="log")
    assert counts.sel(of_axes="a", of_metric="b") == COUNT - 1
    assert counts.sel(of_axes="b", of_metric="c") == COUNT
    assert "8, 5, 8" in found.cautions()[0]
    assert found["reference_rate"].shape == (3, N)


def test_layers_are_named_by_their_distance_or_else_by_their_sweep(metrics):
    one, other = samples_of(metrics[0], "main.0", name="x"), samples_of(metrics[1], "main.0", name="y")
    assert layers.layer_names([one, samples_of(metrics[2], None)]) == ["main.0", "mse"]
    assert layers.layer_names([one, other]) == ["x", "y"]
    assert layers.layer_names([one, one]) == ["x (1)", "x (2)"]


def test_sweeps_without_common_codes_are_refused(metrics):
    with pytest.raises(PullbackError, match="same codes"):
        compared(samples_of(metrics[0], "a"), samples_of(metrics[1], "b", numbers=range(10, 16)))

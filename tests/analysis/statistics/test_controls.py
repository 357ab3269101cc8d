"""A sweep beside its controls: which numbers are apart, with the same codes and with others."""

import json

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics, rotation

from pullback.analysis.protocol import About
from pullback.analysis.runner import compute
from pullback.analysis.samples import Samples
from pullback.analysis.spectra import dim_below
from pullback.analysis.statistics import controls

N, COUNT = 12, 10


def samples_of(metrics, name, control=None, offset=0.0):
    values, vectors = eigenpairs(metrics)
    columns = {
        "eigenvalue": values,
        "eigenvector": vectors,
        "trace": np.trace(metrics, axis1=1, axis2=2),
        "latent": offset + np.arange(len(metrics))[:, None] * np.ones((1, N)),
    }
    spec = {"generator": {"name": "g", **({"control": control} if control else {})}}
    return Samples(About(name, f"S-{name}", len(metrics)), columns, provenance={"spec": spec})


def shown(*sweeps):
    return compute(sweeps[0], "controls", controls.Options(draws=100), None, sweeps[1:])


@pytest.fixture(scope="module")
def trained():
    """Steep spectra on nearly the same axes."""
    return random_metrics(COUNT, N, decay=12, jitter=0.3, seed=1)


@pytest.fixture(scope="module")
def shuffled():
    """Flat spectra on axes that have nothing in common."""
    turns = np.stack([rotation(N, seed) for seed in range(COUNT)])
    spectra = 1 + 0.5 * np.random.default_rng(0).random((COUNT, N))
    return (turns * spectra[:, None, :]) @ turns.transpose(0, 2, 1)


@pytest.fixture(scope="module")
def result(trained, shuffled):
    return shown(samples_of(trained, "trained"), samples_of(shuffled, "shuffled", "shuffled"))


def test_a_trained_sweep_is_apart_from_its_control_and_from_random_axes(trained, result):
    assert result.json["apart"][0]["dim_0.99"] is True
    assert result.json["apart"][0]["c_log"] is True
    assert result.json["apart_from_random_axes"] == {"c_log": True, "c_lin": True}
    dims = [each["dim_0.99"]["value"] for each in result.json["own"]["sweeps"]]
    assert dims[0] == dim_below(np.linalg.eigvalsh(trained)[:, ::-1].mean(axis=0), 0.99)
    assert dims[1] > dims[0]


def test_a_sweep_is_not_apart_from_itself(trained):
    found = shown(samples_of(trained, "one"), samples_of(trained, "other", "random"))
    assert not any(found.json["apart"][0].values())
    assert all("overlap" in sentence for sentence in found.sentences()[:3])
    assert [row[-1] for row in found.tables()[0].rows].count("yes") == 0


def test_random_axes_reproduce_no_spectrum(result):
    low, high = result.json["random_axes"]["c_log"]["ci95"]
    assert low < 0.1
    assert high < result.json["own"]["sweeps"][0]["c_log"]["ci95"][0]


def test_tables_sentences_and_figures_name_every_sweep(result):
    (table,) = result.tables()
    assert table.headings[1::2][:3] == ["trained", "shuffled", "random axes"]
    printed = result.sentences()
    assert len(printed) == 4
    assert "are apart" in printed[0]
    assert "trained: trained weights, 10 samples; shuffled: shuffled weights" in result.notes()[0]
    assert len(result.figures()) == 2
    assert result.cautions() == []
    json.dumps(result.json, allow_nan=False)


def test_several_controls_have_a_column_each_and_all_must_be_apart(trained, shuffled):
    found = shown(samples_of(trained, "t"), samples_of(shuffled, "s", "shuffled"), samples_of(trained, "r", "random"))
    (table,) = found.tables()
    assert len(table.columns) == 1 + 2 * 4 + 1
    verdicts = {row[0]: row[-1] for row in table.rows}
    assert verdicts["homogeneity C_log"] == "no"
    assert len(found.json["apart"]) == 2


def test_other_codes_are_compared_as_independent_sets(trained, shuffled):
    found = shown(samples_of(trained, "t"), samples_of(shuffled[:7], "s", "shuffled", offset=0.5))
    assert found.json["own"]["paired"] is False
    assert found.json["samples"] == [COUNT, 7]
    assert "independent" in found.cautions()[0]


def test_a_sweep_of_trained_weights_is_no_control(trained):
    found = shown(samples_of(trained, "one"), samples_of(trained, "other"))
    assert "None of the other sweeps is a control" in found.cautions()[0]

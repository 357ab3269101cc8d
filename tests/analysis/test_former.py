"""Analyses that version 0.1 stored, as one dataset, are read as results of today's statistics."""

import json

import numpy as np
import pytest
import xarray as xr
from sample_metrics import FakeSweep, random_metrics

from pullback.analysis import analyze
from pullback.analysis.cache import load_analysis
from pullback.analysis.request import choose
from pullback.store.artifacts import artifact_names, save_artifact


def stored_by_0_1(analysis, draws, seed, version=2):
    """The dataset in which version 0.1 stored an analysis."""
    results = {name: analysis[name].dataset for name in analysis}
    own = {name: json.loads(each.attrs.get("scalars", "{}")) for name, each in results.items()}
    anisotropy, homogeneity = own["anisotropy"], own["homogeneity"]
    scalars = {
        "format": version,
        "name": analysis.about.name,
        "snapshot": analysis.about.snapshot,
        "samples": analysis.about.samples,
        **{key: anisotropy[key] for key in ("total", "rest", "dim")},
        "mean_metric": own["mean_metric"],
        "zero_metrics": analysis.about.zero_metrics,
        "homogeneity": {key: homogeneity[key] for key in ("log", "linear", "pairs", "points")},
        "bootstrap": {"draws": draws, "seed": seed},
    }
    return xr.merge([each.drop_attrs() for each in results.values()]).assign_attrs(scalars=json.dumps(scalars))


@pytest.mark.parametrize(
    ("options", "suffix"),
    [({}, ""), ({"draws": 20}, "-20-0-7"), ({"seed": 3}, "-1000-3-7"), ({"points": 4}, "-1000-0-4")],
)
@pytest.mark.parametrize("kept", [None, 4])
def test_an_analysis_of_version_0_1_has_the_results_of_today(tmp_path, options, suffix, kept):
    sweep = FakeSweep(random_metrics(7, 12), kept=kept, whole=kept is None, path=tmp_path / "fake")
    today = analyze(sweep, **options)
    how = {"draws": 1000, "seed": 0, **options}
    save_artifact(sweep.path, f"analysis-S1{suffix}", stored_by_0_1(today, how["draws"], how["seed"]))
    again = load_analysis(sweep, **options)
    read, computed = again.to_json(), today.to_json()
    homogeneity = read.pop("homogeneity"), computed.pop("homogeneity")
    assert read == computed
    added = {key for key in homogeneity[1] if homogeneity[0].get(key) != homogeneity[1][key]}
    assert added == {"vec", "sampled", "precision_error", "random_axes"}, "of a version before these"
    assert np.array_equal(again["homogeneity"].value.log, today["homogeneity"].value.log, equal_nan=True)
    assert artifact_names(sweep.path) == [f"analysis-S1{suffix}"]
    assert load_analysis(sweep, **{**options, "draws": 77}) is None
    sampled = choose(["homogeneity"], {**options, "pairs": "auto"})
    assert load_analysis(sweep, sampled) is None, "all pairs are not what was asked for"


@pytest.mark.parametrize("version", [1, 3, None])
def test_an_analysis_of_another_format_is_computed_again(tmp_path, version):
    sweep = FakeSweep(random_metrics(4, 6), path=tmp_path / "fake")
    save_artifact(sweep.path, "analysis-S1", stored_by_0_1(analyze(sweep), 1000, 0, version))
    assert load_analysis(sweep) is None

"""Analyses beside their sweeps: each is that of one snapshot and one computation, and goes when its snapshot does."""

from datetime import UTC, datetime, timedelta

import pytest
from sample_metrics import FakeSweep, random_metrics

from pullback.analysis import analyze
from pullback.analysis.cache import forget_analyses, load_analysis, save_analysis
from pullback.store.artifacts import artifact_names, save_artifact
from pullback.store.creation import create
from pullback.store.history import history
from pullback.store.reader import open_sweep
from stored_sweeps import LAYOUT, commit, record_of


@pytest.fixture
def sweep(tmp_path):
    return FakeSweep(random_metrics(7, 12), path=tmp_path / "fake")


def test_what_is_kept_is_of_its_own_snapshot(sweep, tmp_path):
    assert load_analysis(sweep) is None
    analysis = analyze(sweep)
    save_analysis(analysis, sweep)
    later = FakeSweep(random_metrics(5, 12), path=tmp_path / "fake", snapshot="S2")
    assert load_analysis(later) is None
    save_analysis(analyze(later), later)
    assert load_analysis(later).about.samples == 5
    assert load_analysis(sweep).to_json() == analysis.to_json()


@pytest.mark.parametrize("how", [{"draws": 20}, {"seed": 1}, {"points": 3}])
def test_what_is_kept_is_of_its_own_computation(sweep, how):
    usual, other = analyze(sweep), analyze(sweep, **how)
    save_analysis(usual, sweep)
    assert load_analysis(sweep, **how) is None
    save_analysis(other, sweep)
    assert load_analysis(sweep, **how).to_json() == other.to_json() != usual.to_json()
    assert load_analysis(sweep).to_json() == usual.to_json()


def test_more_points_than_there_are_samples_are_the_same_computation(sweep):
    save_analysis(analyze(sweep, points=50), sweep)
    assert load_analysis(sweep).to_json() == load_analysis(sweep, points=7).to_json() == analyze(sweep).to_json()
    assert load_analysis(sweep, points=6) is None


def test_what_is_damaged_is_as_if_it_were_not_there_and_is_replaced(sweep, tmp_path, caplog):
    analysis = analyze(sweep)
    save_analysis(analysis, sweep)
    (tmp_path / "fake.analysis-S1-homogeneity.zarr" / "zarr.json").write_text("garbage")
    assert load_analysis(sweep) is None
    assert "damaged" in caplog.text
    save_analysis(analysis, sweep)
    assert load_analysis(sweep).to_json() == analysis.to_json()


def test_analyses_of_snapshots_that_are_gone_are_removed_and_no_others(tmp_path):
    store = create(tmp_path / "mine", LAYOUT, {"name": "mine"})
    for shard in range(3):
        commit(store, record_of(LAYOUT, shard))
    place = tmp_path / "mine"
    last, middle, first, _ = (each.id for each in history(place))
    for snapshot in (first, middle, last):
        sweep = open_sweep(place, snapshot)
        for draws in (10, 1000):
            save_analysis(analyze(sweep, draws=draws), sweep)
    other = analyze(sweep, draws=10)["anisotropy"].dataset
    save_artifact(place, "notes-of-mine", other)
    save_artifact(tmp_path / "mine2", f"analysis-{first}", other)
    # Of each snapshot: two results of three statistics, and the certificate, which has no draws.
    assert len(artifact_names(place)) == 3 * 7 + 1
    assert forget_analyses(place, datetime.now(UTC) - timedelta(days=1)) == 0
    since = history(place)[1].written
    assert forget_analyses(place, since, dry_run=True) == 7
    assert len(artifact_names(place)) == 3 * 7 + 1
    assert forget_analyses(place, since) == 7
    assert {name.split("-")[1] for name in artifact_names(place)} == {last, middle, "of"}
    assert forget_analyses(place, datetime.now(UTC)) == 7
    assert {name.split("-")[1] for name in artifact_names(place)} == {last, "of"}, "the last snapshot always stays"
    assert artifact_names(tmp_path / "mine2") == [f"analysis-{first}"], "another sweep's"

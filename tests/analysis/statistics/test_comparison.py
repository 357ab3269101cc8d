"""The comparison of two sweeps: numbers by code with both controls, each sweep's own, and what cannot be compared."""

import json

import numpy as np
import pytest
from sample_metrics import FakeSweep, eigenpairs, random_metrics, rotation
from scipy.stats import mannwhitneyu, wilcoxon

from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.correlations import correlations
from pullback.analysis.cross_metrics import CrossMetrics, Eigenpairs
from pullback.analysis.figure_files import to_bytes
from pullback.analysis.mean_comparison import draws_for, frames_for
from pullback.analysis.protocol import About
from pullback.analysis.runner import compute, run_statistics
from pullback.analysis.samples import Samples
from pullback.analysis.side_by_side import MEAN_DIMS, QUANTITIES, SAMPLE_DIMS, apart, holm, side_by_side
from pullback.analysis.spectra import SHARES, dim_below, dim_needed
from pullback.analysis.statistics import comparison
from pullback.analysis.statistics.homogeneity import summarize

N, COUNT = 10, 8


def samples_of(metrics, name, numbers=None, kept=None, codes=None, spec=None):
    """Samples of matrices with one code for each sample number."""
    values, vectors = eigenpairs(metrics, kept)
    numbers = np.arange(len(metrics)) if numbers is None else np.asarray(numbers)
    codes = numbers[:, None] * np.ones((1, N), dtype=np.float32) if codes is None else codes
    columns = {
        "eigenvalue": values,
        "eigenvector": vectors.astype(np.float32),
        "trace": np.trace(metrics, axis1=1, axis2=2),
        "latent": codes,
    }
    provenance = {"spec": spec or {}}
    return Samples(About(name, f"S-{name}", len(metrics)), columns, numbers=numbers, provenance=provenance)


def compared(one, other, **options):
    return compute(one, "comparison", comparison.Options(draws=50, **options), None, [other])


@pytest.fixture(scope="module")
def metrics():
    """Metrics of two distances: related axes at each code, other axes at another code."""
    first = random_metrics(COUNT, N, decay=6, jitter=2.0, seed=1)
    generator = np.random.default_rng(2)
    bends = np.eye(N) + 0.08 * generator.standard_normal((COUNT, N, N))
    return first, 5 * bends @ first @ bends.transpose(0, 2, 1)


@pytest.fixture(scope="module")
def result(metrics):
    spec = {"distance": {"name": "lpips", "trunk": "alex"}}
    other = {"distance": {"name": "lpips", "trunk": "vgg"}}
    return compared(samples_of(metrics[0], "alex", spec=spec), samples_of(metrics[1], "vgg", spec=other))


def test_the_numbers_of_the_same_code_are_those_of_its_two_metrics(metrics, result):
    numbers = result.json["same_code"]
    expected = []
    for a, b in zip(*metrics, strict=True):
        values, vectors = eigenpairs(np.stack([a, b]))
        crossed = CrossMetrics(Eigenpairs(values[0], vectors[0]), Eigenpairs(values[1], vectors[1]))
        log = crossed.cross_rates()[0].log
        expected.append([np.corrcoef(a.ravel(), b.ravel())[0, 1], log, crossed.overlaps([5])[0]])
    found = [numbers[name]["mean"] for name in ("h", "a_under_b_log", "overlap_5")]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-6)
    low, high = numbers["h"]["ci95"]
    assert low < numbers["h"]["mean"] < high
    assert {each["samples"] for name, each in numbers.items() if not name.startswith("overlap")} == {COUNT}


def test_both_controls_are_below_the_same_code(result):
    for name in ("h", "log_h", "a_under_b_log", "b_under_a_log", "cosine_1", "overlap_2"):
        same, other, random = (result.json[pairing][name] for pairing in comparison.PAIRINGS)
        assert same["ci95"][0] > max(other["mean"], random["mean"]), name
        assert other["p"] < 0.5, name
    assert result.json["random_axes"]["spectrum_log"]["mean"] is None, "axes do not matter for it"
    assert result.json["other_code"]["log_distance"]["mean"] > result.json["same_code"]["log_distance"]["mean"]


def test_tests_are_paired_over_codes_and_corrected_together(result):
    values = result["value"]
    raw = {
        (pairing, str(name)): wilcoxon(
            values.sel(pairing=pairing, number=name) - values.sel(pairing="same_code", number=name)
        ).pvalue
        for pairing in comparison.PAIRINGS[1:]
        for name in values["number"].values
        if np.isfinite(values.sel(pairing=pairing, number=name)).all()
    }
    smallest = min(raw, key=raw.get)
    p = result["p_control"].sel(pairing=smallest[0], number=smallest[1])
    assert float(p) == pytest.approx(min(1, len(raw) * raw[smallest]))


def test_sentences_and_tables_say_what_was_compared(result):
    sentence, means, dims, homogeneity = result.sentences()
    assert f"{result.json['mean_metrics']['numbers']['overlap_5']['value']:.3f}" in means
    assert f"{result.json['own']['sweeps'][1]['c_log']['value']:.3f} in vgg" in homogeneity
    low, high = result.json["own"]["differences"][0]["dim_0.99"]["ci95"]
    assert ("excludes 0" in dims) == (low > 0 or high < 0)
    assert f"{result.json['same_code']['a_under_b_log']['mean']:.3f}" in sentence
    assert f"over {COUNT} codes" in sentence
    pairs, axes, means, spectra, differing, own = result.tables()
    assert len(means.rows) > 15
    assert len(spectra.rows[0]) == len(spectra.columns)
    assert differing.rows == [["distance.trunk", "alex", "vgg"]]
    assert len(pairs.rows[0]) == len(pairs.columns) == 9
    assert axes.rows[-1][0] == "overlap of the leading 5"
    assert own.headings[:4] == ["", "A", "95 % interval", "B"]
    assert result.cautions() == []
    json.dumps(result.json, allow_nan=False)


def test_every_figure_is_drawn(result):
    figures = result.figures()
    assert len(figures) == 6
    assert to_bytes(next(iter(figures.values())), "png", 50).startswith(b"\x89PNG")
    labels = {figure.axes[0].get_xlabel() for figure in figures.values()}
    assert "size k of the leading subspaces" in labels


def test_the_log_euclidean_numbers_are_given_for_several_regularisations(metrics, result):
    curve = result.json["sensitivity"]["log_h"]
    position = curve["epsilon"].index(1e-4)
    assert curve["mean"][position] == pytest.approx(result.json["same_code"]["log_h"]["mean"])
    assert np.ptp(curve["mean"]) > 0


def test_only_samples_that_are_good_in_both_sweeps_are_compared(metrics):
    one = samples_of(metrics[0][[0, 1, 2, 4, 5]], "one", [0, 1, 2, 4, 5])
    other = samples_of(metrics[1][[1, 2, 3, 5]], "other", [1, 2, 3, 5])
    found = compared(one, other)
    assert found["sample"].values.tolist() == [1, 2, 5]
    assert found.json["left_out"] == {"good_in_one_only": 3, "other_code": 0}
    whole = compared(
        samples_of(metrics[0][[1, 2, 5]], "one", [1, 2, 5]), samples_of(metrics[1][[1, 2, 5]], "o", [1, 2, 5])
    )
    assert found.json["same_code"] == whole.json["same_code"]
    assert found.json["own"] == whole.json["own"]
    assert "3 samples" in found.cautions()[0]


def test_zero_and_deficient_metrics_are_left_out_of_what_they_do_not_have(metrics):
    first, second = (each.copy() for each in metrics)
    first[2] = 0
    values, vectors = np.linalg.eigh(second[3])
    second[3] = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T
    found = compared(samples_of(first, "one"), samples_of(second, "other")).json["same_code"]
    assert found["h"]["samples"] == found["a_under_b_log"]["samples"] == COUNT - 1
    assert found["overlap_2"]["samples"] == COUNT - 1
    assert found["overlap_5"]["samples"] == COUNT - 2


def test_truncated_sweeps_are_compared_in_their_kept_parts(metrics):
    found = compared(samples_of(metrics[0], "one", kept=4), samples_of(metrics[1], "other", kept=6))
    assert found.json["ranks"] == [4, 6]
    assert "4 and 6 of 10" in found.cautions()[0]
    assert max(int(name.rpartition("_")[2]) for name in found.json["same_code"] if name.startswith("overlap")) == 2
    open_dims = found.json["own"]["sweeps"][0]
    assert open_dims["dim_0.99999"]["value"] is None
    assert "dash" in found.cautions()[-1]


def test_sweeps_of_different_codes_are_compared_by_their_own_numbers_only(metrics):
    other_codes = np.full((COUNT, N), 9, dtype=np.float32) + np.arange(COUNT)[:, None]
    other = samples_of(metrics[1], "other", codes=other_codes)
    found = compared(samples_of(metrics[0], "one"), other)
    assert "same_code" not in found.json
    assert [figure.get_label() for figure in found.figures().values()] == ["mean-spectra"]
    assert len(found.sentences()) == 3
    assert "own numbers" in found.cautions()[0]
    assert found.json["own"]["paired"] is False
    p = found["p"].sel(quantity="log_trace").values[0]
    traces = [np.log10(np.trace(each, axis1=1, axis2=2)) for each in metrics]
    raw = mannwhitneyu(*traces).pvalue
    assert raw <= p <= min(1, 5 * raw)
    assert found["tested"].sel(quantity="log_trace").values.tolist() == [2 * COUNT]


def test_the_mean_metrics_are_compared_as_two_metrics_are(metrics, result):
    a, b = (each.mean(axis=0) for each in metrics)
    (own, rows), (values, others) = (np.linalg.eigh(each) for each in (a, b))
    own, values, rows, others = own[::-1], values[::-1], rows.T[::-1], others.T[::-1]
    found = {name: each["value"] for name, each in result.json["mean_metrics"]["numbers"].items()}
    along = np.einsum("ij,jk,ik->i", rows, b, rows)
    expected = {
        "h": np.corrcoef(a.ravel(), b.ravel())[0, 1],
        "spectrum_linear": np.corrcoef(own, values)[0, 1],
        "a_under_b_log": np.corrcoef(np.log(along), np.log(values))[0, 1],
        "cosine_3": abs(rows[2] @ others[2]),
        "overlap_2": np.square(rows[:2] @ others[:2].T).sum() / 2,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    assert result.json["mean_metrics"]["along_the_other"][1] == pytest.approx(along, rel=1e-5)


def test_the_mean_metrics_have_intervals_and_a_control(result):
    for name in ("h", "a_under_b_log", "overlap_2"):
        number = result.json["mean_metrics"]["numbers"][name]
        low, high = number["ci95"]
        assert low < number["value"] < high or number["value"] == high == 1
        assert low > number["random"], name
        assert number["random_range"][0] < number["random"] < number["random_range"][1]
    assert result.json["mean_metrics"]["numbers"]["spectrum_log"]["random"] is None, "axes do not matter for it"


def test_the_mean_of_truncated_sweeps_is_that_of_whole_metrics_where_all_samples_are_compared(metrics):
    kept = [samples_of(each, "s", kept=4) for each in metrics]
    for samples, each in zip(kept, metrics, strict=True):
        samples._mean = each.mean(axis=0)
    found = compared(*kept).json["mean_metrics"]
    assert found["whole"] == [True, True]
    assert found["eigenvalues"][0] == pytest.approx(np.linalg.eigvalsh(metrics[0].mean(axis=0))[::-1], rel=1e-5)
    part = compared(kept[0], samples_of(metrics[1][1:], "few", numbers=range(1, COUNT))).json["mean_metrics"]
    assert part["whole"] == [False, True]


@pytest.mark.parametrize(("latent_dim", "draws", "frames"), [(100, 100, 40), (1024, 23, 15), (4096, 0, 3)])
def test_large_codes_have_fewer_draws_and_random_axes(latent_dim, draws, frames):
    assert (draws_for(1000, latent_dim), frames_for(latent_dim)) == (draws, frames)


def test_it_is_kept_beside_the_first_sweep_and_read_back(metrics, tmp_path):
    one, other = (
        FakeSweep(metrics[0], path=tmp_path / "one"),
        FakeSweep(metrics[1], path=tmp_path / "other", snapshot="S2"),
    )
    asked = {"comparison": comparison.Options(draws=20)}
    first = run_statistics(one, asked, others=[other])["comparison"]
    again = run_statistics(one, asked, lambda *done: pytest.fail("computed again"), others=[other])["comparison"]
    assert again.json == first.json
    assert [table.text() for table in again.tables()] == [table.text() for table in first.tables()]


# Each sweep's own numbers.


def own(one, other, paired=True, **options):
    positions = [np.arange(len(one)), np.arange(len(other))]
    given = {"draws": 200, "seed": 0, "compared": 50, **options}
    return side_by_side([one, other], positions, paired=paired, **given)


def column(name):
    return QUANTITIES.index(name)


def test_own_numbers_are_those_of_anisotropy_and_homogeneity(metrics):
    sweeps = [samples_of(each, "s") for each in metrics]
    found = own(*sweeps)
    for row, samples in enumerate(sweeps):
        spectrum = samples.eigenvalues.mean(axis=0)
        assert found.values[row, : len(SHARES)].tolist() == [dim_below(spectrum, share) for share in SHARES]
        dims = [np.mean([dim_below(values, share) for values in samples.eigenvalues]) for share in SHARES]
        np.testing.assert_allclose(found.values[row, [column(name) for name in SAMPLE_DIMS]], dims)
        logs = correlations(samples.eigenvalues, samples.eigenvectors)[0]
        pairs = summarize(logs, bootstrap_weights(COUNT, 200, 0))
        assert found.values[row, column("c_log")] == pytest.approx(pairs.mean, abs=1e-5)
        assert tuple(found.ci95[:, row, column("c_log")]) == pytest.approx(pairs.ci95, abs=1e-5)


def test_a_difference_of_the_same_codes_has_a_narrower_interval_than_that_of_others(metrics):
    one, other = samples_of(metrics[0], "s"), samples_of(3 * metrics[0], "t")
    change = own(one, other).differences_ci95[:, 0, column("log_trace")]
    np.testing.assert_allclose(change, np.log10(3))
    low, high = own(one, other, paired=False).differences_ci95[:, 0, column("log_trace")]
    assert low < np.log10(3) < high


def test_wilcoxons_test_counts_pairs_and_leaves_out_round_off(metrics):
    one, other = samples_of(metrics[0], "s"), samples_of(3 * metrics[0], "t")
    found = own(one, other)
    assert found.tested[0, column("log_trace")] == COUNT
    p = {name: found.p[0, column(name)] for name in (*SAMPLE_DIMS, "log_trace")}
    assert [p[name] for name in SAMPLE_DIMS] == [1] * len(SHARES), "the factor changes no dimension"
    assert p["log_trace"] == pytest.approx(5 * wilcoxon(np.ones(COUNT)).pvalue)


def test_dimensions_that_the_kept_eigenpairs_leave_open_are_not_stated(metrics):
    whole, kept = samples_of(metrics[0], "s"), samples_of(metrics[0], "t", kept=6)
    found = own(whole, kept)
    for index, share in enumerate(SHARES):
        needed = dim_needed(whole.eigenvalues.mean(axis=0), share)
        reached = needed is not None and needed <= 6
        assert np.isfinite(found.values[1, index]) == reached
        if reached:
            assert found.values[1, index] == found.values[0, index]
    assert np.isnan(found.differences[0, column(MEAN_DIMS[-1])])


def test_zero_metrics_have_no_dimension_and_count_in_no_mean_over_samples(metrics):
    with_zero = metrics[0].copy()
    with_zero[0] = 0
    found = own(samples_of(with_zero, "s"), samples_of(metrics[0], "t"))
    rest = samples_of(metrics[0][1:], "r").eigenvalues
    assert found.values[0, column(SAMPLE_DIMS[0])] == np.mean([dim_below(values, SHARES[0]) for values in rest])
    assert found.tested[0, column("log_trace")] == COUNT - 1


def test_holms_correction_steps_down():
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03, 0.005]), [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm([[0.6], [0.7]]), [[1], [1]])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((0, 1), (2, 3), True), ((2, 3), (0, 1), True), ((0, 2), (1, 3), False), ((0, np.nan), (1, 3), None)],
)
def test_intervals_are_apart_if_they_share_no_number(one, other, expected):
    assert apart(one, other) is expected


def test_a_rotation_of_all_metrics_changes_no_own_number(metrics):
    turn = rotation(N)
    found = own(samples_of(metrics[0], "s"), samples_of(turn @ metrics[0] @ turn.T, "t"))
    np.testing.assert_allclose(found.values[0, :-1], found.values[1, :-1], rtol=1e-5)
    assert QUANTITIES[-1] == "c_vec", "the correlation of entries depends on the basis"

import numpy as np
import pytest
from sample_metrics import random_metrics, rotation
from scalar_samples import result_of, samples_of, shown
from scipy.stats import ortho_group

from pullback.analysis.block_metrics import block_norms, block_pairs, block_spectrum, random_couplings
from pullback.analysis.correlations import correlations
from pullback.analysis.spectra import dim_below
from pullback.errors import PullbackError
from pullback.store.artifacts import load_artifact, save_artifact

BLOCKS = {"noise": [0, 3], "class": [3, 8]}


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(9, 8, decay=4.0)


@pytest.fixture(scope="module")
def result(metrics):
    return result_of("blocks", samples_of(metrics, blocks=BLOCKS))


def test_shares_spectra_and_dimensions_are_those_of_the_sub_blocks(result, metrics):
    for at, (start, stop) in enumerate(BLOCKS.values()):
        part = metrics[:, start:stop, start:stop]
        values = np.linalg.eigvalsh(part)[:, ::-1]
        assert result["mean_spectrum"].values[at, : stop - start] == pytest.approx(values.mean(axis=0), abs=1e-9)
        share = np.trace(part.mean(axis=0)) / np.trace(metrics.mean(axis=0))
        assert result["trace_share"].values[:, at] == pytest.approx([share, share])
        low, high = result["trace_share_ci95"].values[:, at]
        assert low < share < high
        assert result["dim"].values[at, 0] == dim_below(values.mean(axis=0), 0.99)
    assert result["trace_share"].values[0].sum() == pytest.approx(1)


def test_couplings_are_those_of_the_matrices(result, metrics):
    first, second = metrics[:, :3, :3], metrics[:, 3:, 3:]
    wanted = (metrics[:, :3, 3:] ** 2).sum(axis=(1, 2)) / (
        np.linalg.norm(first, axis=(1, 2)) * np.linalg.norm(second, axis=(1, 2))
    )
    assert result["coupling"].values == pytest.approx(np.array([[1, wanted.mean()], [wanted.mean(), 1]]))
    assert "noise" in shown(result)


def test_homogeneity_of_a_block_is_that_of_its_matrices(result, metrics):
    values, columns = np.linalg.eigh(metrics[:, 3:, 3:])
    log, _ = correlations(values[:, ::-1], columns.transpose(0, 2, 1)[:, ::-1])
    wanted = log[~np.eye(9, dtype=bool)]
    assert float(result["homogeneity"].values[1]) == pytest.approx(wanted.mean(), abs=1e-6)
    assert int(result["homogeneity_pairs"].values[1]) == 72


@pytest.mark.parametrize("kept", [2, 8])
def test_the_metric_of_a_block_is_rebuilt_from_kept_eigenpairs(metrics, kept):
    values, columns = np.linalg.eigh(metrics[0])
    values, rows = values[::-1][:kept], columns.T[::-1][:kept]
    part = (rows.T * values) @ rows
    own, vectors = block_pairs(values, rows, (3, 8))
    assert (vectors.T * own) @ vectors == pytest.approx(part[3:, 3:], abs=1e-12)
    assert own == pytest.approx(block_spectrum(values, rows[:, 3:]), abs=1e-12)
    norms = block_norms(values, rows, {"one": (0, 3), "two": (3, 8)})
    assert norms == pytest.approx(
        np.array([[np.sum(part[a, b] ** 2) for b in (slice(3), slice(3, 8))] for a in (slice(3), slice(3, 8))])
    )


def test_independent_blocks_are_not_coupled_and_equal_ones_are_wholly_coupled():
    one = random_metrics(1, 3)[0]
    apart = np.zeros((2, 6, 6))
    apart[:, :3, :3], apart[:, 3:, 3:] = one, 2 * one
    together = np.kron(np.ones((2, 2)), one)
    blocks = {"a": [0, 3], "b": [3, 6]}
    found = [result_of("blocks", samples_of([m] * 3, blocks=blocks)) for m in (apart[0], together)]
    assert found[0]["coupling"].values[0, 1] == pytest.approx(0, abs=1e-12)
    assert found[1]["coupling"].values[0, 1] == pytest.approx(1)
    assert found[0]["trace_share"].values[0] == pytest.approx([1 / 3, 2 / 3])


def test_the_random_coupling_is_that_of_random_bases():
    spectrum = np.array([5.0, 2.0, 1.0, 0.3, 0.1, 0.0])
    turns = ortho_group.rvs(6, size=4000, random_state=0)
    drawn = np.einsum("sik,k,sjk->sij", turns, spectrum, turns)
    cross = (drawn[:, :2, 2:] ** 2).sum(axis=(1, 2)).mean()
    own = (drawn[:, :2, :2] ** 2).sum(axis=(1, 2)).mean() * (drawn[:, 2:, 2:] ** 2).sum(axis=(1, 2)).mean()
    assert random_couplings(spectrum[None], 6, 2, 4)[0] == pytest.approx(cross / np.sqrt(own), rel=0.02)
    assert random_couplings(np.full((1, 6), 2.0), 6, 2, 4)[0] == pytest.approx(0)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kept", [1, 4])
def test_cut_spectra_bound_the_shares_of_whole_ones(result, metrics, kept, whole):
    cut = result_of("blocks", samples_of(metrics, kept=kept, whole=whole, blocks=BLOCKS))
    true = result["trace_share"].values[0]
    low, high = cut["trace_share"].values
    assert (low <= true + 1e-12).all()
    assert (true <= high + 1e-12).all()
    if whole:
        assert low == pytest.approx(true)
        assert high == pytest.approx(true)
    else:
        assert (high - low).min() > 1e-3
    ends = cut["trace_share_ci95"].values
    assert (ends[0] <= result["trace_share_ci95"].values[0] + 1e-12).all()
    assert (ends[1] >= result["trace_share_ci95"].values[1] - 1e-12).all()
    assert f"{kept} of 8" in shown(cut)


def test_blocks_without_effect_and_zero_metrics_have_no_numbers_of_their_own():
    metrics = np.zeros((4, 4, 4))
    metrics[:3, :2, :2] = random_metrics(3, 2)
    found = result_of("blocks", samples_of(metrics, blocks={"a": [0, 2], "b": [2, 4]}))
    assert found["trace_share"].values[0] == pytest.approx([1, 0])
    assert np.isnan(found["dim"].values[1]).all()
    assert np.isnan(found["coupling"].values[0, 1])
    assert int(found["homogeneity_pairs"].values[1]) == 0
    shown(found)


def test_blocks_can_be_named_by_hand(metrics):
    given = {"head": [0, 2], "middle": [2, 5]}
    found = result_of("blocks", samples_of(metrics), blocks=given)
    assert found.json["blocks"] == {"head": [0, 2], "middle": [2, 5]}
    assert "leave out 3 of 8" in shown(found)
    assert "overlap" in shown(result_of("blocks", samples_of(metrics), blocks={"a": [0, 5], "b": [4, 8]}))


@pytest.mark.parametrize("blocks", [{}, {"z": [0, 8]}, {"a": [0, 4], "b": [4, 9]}, {"a": [0, 4], "b": [4, 4]}])
def test_fewer_than_two_blocks_and_blocks_outside_the_code_are_refused(metrics, blocks):
    with pytest.raises(PullbackError):
        result_of("blocks", samples_of(metrics), blocks=blocks)


def test_many_blocks_are_shown_and_stored(tmp_path):
    metrics = random_metrics(5, 12)
    layers = {f"w{at}": [at, at + 1] for at in range(12)}
    turned = rotation(12)
    found = result_of("blocks", samples_of(turned @ metrics @ turned.T, blocks=layers))
    shown(found)
    save_artifact(tmp_path / "sweep", "analysis-1-blocks", found.dataset)
    again = load_artifact(tmp_path / "sweep", "analysis-1-blocks")
    assert again["coupling"].values == pytest.approx(found["coupling"].values)
    assert again.attrs["blocks"] == found.dataset.attrs["blocks"]

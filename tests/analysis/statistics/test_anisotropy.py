from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.spectra import SHARES, dim_below, dim_needed, mean_spectrum
from pullback.analysis.statistics.anisotropy import anisotropy

spectra = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 12)), elements=st.floats(1e-6, 1e3, width=64))


def exact_below(spectrum, share):
    """Count the ranks below the share in rational arithmetic, for whole-numbered eigenvalues."""
    ordered, q = sorted(map(int, spectrum), reverse=True), Fraction(str(share))
    total = sum(ordered)
    return sum(Fraction(sum(ordered[: rank + 1]), total) < q for rank in range(len(ordered)))


def test_the_mean_is_taken_by_rank_of_the_magnitude():
    spectrum = mean_spectrum([[1.0, -4.0, 2.0], [3.0, 0.0, 2.0]])
    assert spectrum.mean.tolist() == [3.5, 2.0, 0.5]


def test_the_band_holds_the_percentiles_over_points():
    values = np.random.default_rng(0).exponential(size=(50, 4))
    ordered = -np.sort(-values, axis=1)
    spectrum = mean_spectrum(values)
    assert spectrum.p5 == pytest.approx(np.quantile(ordered, 0.05, axis=0))
    assert spectrum.p95 == pytest.approx(np.quantile(ordered, 0.95, axis=0))


@pytest.mark.parametrize("broken", [[1.0, 2.0], [[1.0, np.nan]], np.zeros((0, 3)), np.zeros((3, 0))])
def test_eigenvalues_of_another_shape_or_not_finite_are_refused(broken):
    with pytest.raises(ValueError, match="eigenvalues"):
        mean_spectrum(broken)


def test_a_geometric_spectrum_has_its_closed_form_dimension():
    # The share left after r ranks of ratio 1/2 is 2**-r (of an endless series).
    spectrum = 0.5 ** np.arange(60)
    for share in SHARES:
        needed = int(np.ceil(-np.log2(1 - share)))
        assert dim_needed(spectrum, share) == needed
        assert dim_below(spectrum, share) == needed - 1


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(any), st.sampled_from(SHARES))
def test_the_count_below_is_that_of_rational_arithmetic(spectrum, share):
    below = exact_below(spectrum, share)
    assert dim_below(spectrum, share) == below
    assert dim_needed(spectrum, share) == below + 1


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 1e-7])
def test_a_share_that_is_exactly_reached_is_not_below(share, scale):
    remainder = 1 / (1 - share)
    spectrum = scale * np.array([round(remainder) - 1, 1])
    assert (dim_below(spectrum, share), dim_needed(spectrum, share)) == (0, 1)


@given(spectra, st.floats(1e-9, 1e9), st.sampled_from(SHARES))
def test_dimensions_do_not_change_when_every_metric_is_scaled(eigenvalues, scale, share):
    mean = mean_spectrum(eigenvalues).mean
    assert dim_below(mean, share) == dim_below(scale * mean, share)


def test_a_trace_makes_a_cut_spectrum_count_as_the_whole_one_does():
    spectrum = np.exp(-0.2 * np.arange(100))
    kept = spectrum[:30]
    for share in SHARES:
        whole = dim_needed(spectrum, share)
        cut = dim_needed(kept, share, spectrum.sum())
        assert cut == (whole if whole <= 30 else None)
    assert dim_needed(kept, 0.99, spectrum.sum()) == 24
    assert dim_needed(kept, 0.9999, spectrum.sum()) is None
    assert dim_below(kept, 0.9999, spectrum.sum()) == 30


def test_a_trace_short_of_the_sum_by_round_off_does_not_matter():
    assert dim_needed([3.0, 1.0], 0.99999, 4.0 - 1e-9) == 2


@pytest.mark.parametrize(("spectrum", "share"), [([1.0], 1.0), ([1.0], 0.0), ([0.0, 0.0], 0.9), ([np.inf], 0.9)])
def test_shares_that_do_not_exist_are_refused(spectrum, share):
    with pytest.raises(ValueError, match="share"):
        dim_below(spectrum, share)


@settings(max_examples=30)
@given(spectra)
def test_intervals_are_those_of_a_literal_bootstrap(eigenvalues):
    weights = bootstrap_weights(len(eigenvalues), 21, 0)
    result = anisotropy(eigenvalues, weights, shares=[0.9])
    means = [mean_spectrum(np.repeat(eigenvalues, row, axis=0)).mean for row in weights]
    assert result.spectrum_ci95 == pytest.approx(np.quantile(means, [0.025, 0.975], axis=0))
    counts = sorted(dim_below(mean, 0.9) for mean in means)
    (dimension,) = result.dimensions
    assert dimension.below == dim_below(mean_spectrum(eigenvalues).mean, 0.9)
    # The 2.5 % point of 21 draws is the first of them, the 97.5 % point the last.
    assert dimension.below_ci95 == (counts[0], counts[-1])
    assert dimension.needed_ci95 == (counts[0] + 1, counts[-1] + 1)


def test_an_interval_says_where_the_kept_part_does_not_reach_the_share():
    whole = np.array([[8.0, 1.0, 1.0], [2.0, 1.5, 1.0]])
    weights = bootstrap_weights(2, 200, 0)
    (dimension,) = anisotropy(whole[:, :2], weights, whole.sum(axis=1), shares=[0.85]).dimensions
    assert (dimension.below, dimension.needed) == (1, 2)
    assert dimension.below_ci95 == (1, 2)
    assert dimension.needed_ci95 == (2, None)


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="weights"):
        anisotropy(np.ones((3, 2)), bootstrap_weights(2, 5, 0))
    with pytest.raises(ValueError, match="trace"):
        anisotropy(np.ones((3, 2)), bootstrap_weights(3, 5, 0), [1.0])
    with pytest.raises(ValueError, match="no shares"):
        anisotropy(np.zeros((3, 2)), bootstrap_weights(3, 5, 0))

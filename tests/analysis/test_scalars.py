import numpy as np
import pytest
from scipy.stats import pearsonr

from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.scalars import bounded_mean, correlation, shown_range, spread_of

WEIGHTS = bootstrap_weights(8, 200, 1)
VALUES = np.array([3.0, np.nan, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0])
OTHERS = np.array([1.0, 5.0, 0.0, 2.0, 2.5, 4.0, np.nan, 4.5])


def drawn(weights, *arrays):
    """The values of each draw, sample by sample, without the samples that have none."""
    for row in weights:
        picked = np.repeat(np.arange(len(row)), row)
        kept = [each[picked] for each in arrays]
        known = np.isfinite(kept).all(axis=0)
        yield [each[known] for each in kept]


def test_mean_and_deviation_have_the_percentile_intervals_of_literal_resampling():
    spread = spread_of(VALUES, WEIGHTS)
    known = VALUES[np.isfinite(VALUES)]
    means, deviations = zip(*((x.mean(), x.std()) for (x,) in drawn(WEIGHTS, VALUES)), strict=True)
    assert (spread.mean, spread.sd, spread.samples) == (pytest.approx(known.mean()), pytest.approx(known.std()), 7)
    assert spread.mean_ci95 == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert spread.sd_ci95 == pytest.approx(tuple(np.quantile(deviations, [0.025, 0.975])))


def test_a_large_offset_costs_no_digits():
    assert spread_of(VALUES + 1e9, WEIGHTS).sd_ci95 == pytest.approx(spread_of(VALUES, WEIGHTS).sd_ci95, rel=1e-5)


def test_the_correlation_is_scipys_in_each_draw():
    r, ends, count = correlation(VALUES, OTHERS, WEIGHTS)
    both = np.isfinite(VALUES) & np.isfinite(OTHERS)
    assert count == 6
    assert r == pytest.approx(pearsonr(VALUES[both], OTHERS[both])[0])
    rs = [pearsonr(x, y)[0] for x, y in drawn(WEIGHTS, VALUES, OTHERS) if len(set(x)) > 1 and len(set(y)) > 1]
    assert ends == pytest.approx(tuple(np.quantile(rs, [0.025, 0.975])))


@pytest.mark.parametrize("constant", [np.zeros(8), np.full(8, 1e9), np.full(8, np.nan)])
def test_a_constant_has_no_correlation(constant):
    r, ends, _ = correlation(VALUES, constant, WEIGHTS)
    assert np.isnan([r, *ends]).all()


def test_a_single_value_has_a_mean_and_no_interval():
    one = np.full(8, np.nan)
    assert spread_of(one, WEIGHTS).samples == 0
    one[2] = 5.0
    spread = spread_of(one, WEIGHTS)
    assert (spread.mean, spread.sd) == (5.0, 0.0)
    assert np.isnan([*spread.mean_ci95, *spread.sd_ci95]).all()


def test_a_range_of_values_gives_a_range_of_means_and_the_outer_interval():
    means, ends = bounded_mean(VALUES, VALUES + 1, WEIGHTS)
    spread = spread_of(VALUES, WEIGHTS)
    assert means == pytest.approx((spread.mean, spread.mean + 1))
    assert ends == pytest.approx((spread.mean_ci95[0], spread.mean_ci95[1] + 1))
    assert shown_range(means) == f"{means[0]:.3g} to {means[1]:.3g}"
    assert shown_range((2.0, 2.0)) == "2"


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="samples"):
        spread_of(VALUES[:3], WEIGHTS)

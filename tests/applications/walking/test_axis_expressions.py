"""Expressions of axes: ranks, ranges, names and combinations."""

import numpy as np
import pytest

from pullback.applications.walking.basis import Basis
from pullback.applications.walking.expressions import SPECTRUM_AXES, parse_axes
from pullback.errors import PullbackError


def terms(*texts, count=9, names=None):
    return [each.terms for each in parse_axes(texts, count, names)]


def test_ranks_ranges_and_commas_keep_their_order():
    assert terms("3", "5-6, 1") == [((1.0, 3),), ((1.0, 5),), ((1.0, 6),), ((1.0, 1),)]
    assert [each.rank for each in parse_axes([2], 9)] == [2]


def test_combinations_add_up_and_a_minus_sign_counts():
    assert terms("2*1-0.5*3") == [((2.0, 1), (-0.5, 3))]
    assert terms("-1") == [((-1.0, 1),)]
    assert terms("1+1 + .5*2") == [((2.0, 1), (0.5, 2))]


def test_names_stand_for_their_axes_alone_and_in_combinations():
    names = {"smile": 3, "big nose": "2*1-4"}
    assert terms("smile", "big nose", names=names) == [((1.0, 3),), ((2.0, 1), (-1.0, 4))]
    assert terms("2*smile-0.5*big nose", names=names) == [((2.0, 3), (-1.0, 1), (0.5, 4))]
    assert parse_axes(["smile"], 9, names)[0].name == "smile"


def test_all_and_spectrum_cover_the_ranks():
    assert len(terms("all")) == 9
    ranks = [each.rank for each in parse_axes(["spectrum"], 500)]
    assert (ranks[0], ranks[-1]) == (1, 500)
    assert len(ranks) <= SPECTRUM_AXES
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize(
    "text", ["0", "10", "3-12", "6-2", "1-1-", "2**3", "1*1-1", "smil", "", "1 2", "9" * 400, "*", "1;2", "__import__"]
)
def test_what_names_no_axis_is_refused_in_one_sentence(text):
    with pytest.raises(PullbackError) as refused:
        parse_axes([text], 9, {"smile": 2})
    assert "\n" not in str(refused.value)
    assert "Nothing was computed" in str(refused.value)


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(PullbackError, match="did you mean 'smile'"):
        parse_axes(["smil"], 9, {"smile": 2})


def test_combined_vectors_have_unit_length_and_opposites_cancel():
    basis = Basis(np.eye(3), "axes")
    (vector,) = basis.combine(parse_axes(["3*1-4*2"], 3))
    np.testing.assert_allclose(vector, [0.6, -0.8, 0])
    same = Basis(np.array([[1.0, 0], [1.0, 0]]), "directions of a file")
    with pytest.raises(PullbackError, match="cancel"):
        same.combine(parse_axes(["1-1*2"], 2))

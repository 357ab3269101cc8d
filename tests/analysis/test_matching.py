"""Which samples of several sweeps have the same codes."""

import numpy as np
import pytest

from pullback.analysis.matching import differing_keys, match
from pullback.analysis.protocol import About
from pullback.analysis.samples import Samples


def samples_of(numbers, latent=None, n=3, condition=None, spec=None):
    numbers = np.asarray(numbers)
    count = len(numbers)
    columns = {"eigenvalue": np.ones((count, 2)), "eigenvector": np.zeros((count, 2, n)), "trace": np.ones(count)}
    if latent is not False:
        codes = numbers[:, None] + np.arange(n) / 10 if latent is None else np.asarray(latent)
        columns["latent"] = codes.astype(np.float32)
    if condition is not None:
        columns["condition"] = np.asarray(condition, dtype=np.float32)
    return Samples(About("s", "S", count), columns, numbers=numbers, provenance={"spec": spec or {}})


def test_samples_that_are_good_in_both_sweeps_are_paired_by_number():
    found = match([samples_of([0, 2, 3, 5]), samples_of([1, 2, 4, 5, 6])])
    assert found.numbers.tolist() == [2, 5]
    assert [each.tolist() for each in found.positions] == [[1, 3], [1, 3]]
    assert (found.only_in_some, found.other_codes, found.reason) == (5, 0, "")


def test_several_sweeps_have_in_common_what_all_of_them_have():
    found = match([samples_of(range(6)), samples_of([1, 3, 5]), samples_of([3, 4, 5])])
    assert found.numbers.tolist() == [3, 5]
    assert [each.tolist() for each in found.positions] == [[3, 5], [1, 2], [0, 2]]


def test_a_sample_with_another_code_is_left_out():
    one = samples_of(range(4))
    codes = one.column("latent").copy()
    codes[1] += 1e-3
    codes[2] *= 1 + 1e-7
    found = match([one, samples_of(range(4), codes)])
    assert found.numbers.tolist() == [0, 2, 3]
    assert found.other_codes == 1


@pytest.mark.parametrize(
    "other",
    [
        samples_of(range(4), np.zeros((4, 3))),
        samples_of(range(4), n=4),
        samples_of(range(10, 14)),
        samples_of(range(4), condition=[[1], [1], [2], [3]]),
        samples_of(range(4), latent=False),
    ],
    ids=["codes", "size", "numbers", "classes", "no codes"],
)
def test_sweeps_without_common_codes_say_why(other):
    one = samples_of(range(4), condition=np.zeros((4, 1))) if "condition" in other else samples_of(range(4))
    found = match([one, other])
    assert len(found) == 0
    assert found.reason


def test_jobs_differ_in_the_keys_that_decide_metrics():
    one = samples_of(
        [0], spec={"name": "a", "distance": {"name": "lpips", "trunk": "alex"}, "resources": {"workers": 1}}
    )
    other = samples_of([0], spec={"name": "b", "distance": {"name": "lpips", "trunk": "vgg"}, "metric": {"rank": 4}})
    assert differing_keys(one, other) == [("distance.trunk", "alex", "vgg"), ("metric.rank", None, 4)]

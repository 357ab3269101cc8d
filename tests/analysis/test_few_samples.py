"""Statistics of pairs refuse a single sample in a sentence; the others have their numbers without an interval."""

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics

from pullback.analysis.protocol import About
from pullback.analysis.samples import Samples
from pullback.errors import PullbackError
from pullback.plugins import STATISTICS


def single(n=4, kept=None):
    metrics = random_metrics(1, n)
    values, vectors = eigenpairs(metrics, kept)
    columns = {"eigenvalue": values, "eigenvector": vectors, "trace": np.trace(metrics, axis1=1, axis2=2)}
    return Samples(About("one", "S", 1), {**columns, "latent": np.ones((1, n))}, mean=metrics[0])


def computed(name, samples, **options):
    module = STATISTICS.module(name)
    return module.compute(samples, module.Options(draws=20, **options), lambda *done: None)


@pytest.mark.parametrize("name", ["dependence", "distortion", "path_length", "subspaces"])
def test_pairs_need_two_samples(name):
    with pytest.raises(PullbackError, match="at least 2 samples, and 1 of 'one'"):
        computed(name, single())


@pytest.mark.parametrize("kept", [None, 1])
def test_a_single_sample_has_its_own_numbers(kept):
    volume = computed("volume", single(kept=kept))
    assert np.isfinite(volume["volume"].values).all()
    assert np.isnan(volume["volume_mean_ci95"].values).all()
    assert np.isfinite(computed("path_length", single(kept=kept), path="spherical")["path_length"].values).all()

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pullback.spec import SamplesSpec
from pullback.sweep.latents import sample_latents

SPECS = st.builds(
    SamplesSpec, count=st.just(100), seed=st.integers(0, 2**63), scale=st.floats(1e-3, 1e3, allow_subnormal=False)
)
INDICES = st.lists(st.integers(0, 10_000_000), min_size=1, max_size=6)


@settings(max_examples=50)
@given(SPECS, INDICES, st.integers(1, 20))
def test_a_code_is_that_of_its_index_whatever_is_asked_with_it(spec, indices, n):
    together = sample_latents(spec, indices, n)
    assert together.shape == (len(indices), n)
    assert together.dtype == np.float32
    for index, code in zip(indices, together, strict=True):
        np.testing.assert_array_equal(sample_latents(spec, [index], n)[0], code)


@settings(max_examples=50)
@given(SPECS, INDICES)
def test_the_order_of_asking_is_the_order_of_the_answer(spec, indices):
    np.testing.assert_array_equal(sample_latents(spec, indices[::-1], 5), sample_latents(spec, indices, 5)[::-1])


@settings(max_examples=50)
@given(SPECS, st.integers(0, 10_000_000), st.integers(1, 20))
def test_codes_are_those_that_numpy_alone_draws(spec, index, n):
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy=spec.seed, spawn_key=(index,))))
    wanted = np.float32(spec.scale * stream.standard_normal(n))
    np.testing.assert_array_equal(sample_latents(spec, [index], n)[0], wanted)


def test_the_codes_of_a_seed_never_change():
    """Written down once: another value here means that stored sweeps cannot be gone on with."""
    codes = sample_latents(SamplesSpec(count=3, seed=5), [0, 2], 3)
    np.testing.assert_array_equal(
        codes,
        np.array([[-0.157612339, 0.0274010524, 0.271498471], [-0.162320182, -0.468225867, -0.243539512]], np.float32),
    )


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_another_seed_gives_other_codes(one, other):
    same = np.array_equal(
        sample_latents(SamplesSpec(count=1, seed=one), [3], 8), sample_latents(SamplesSpec(count=1, seed=other), [3], 8)
    )
    assert same == (one == other)


def test_another_index_gives_another_code():
    codes = sample_latents(SamplesSpec(count=500), range(500), 4)
    assert len(np.unique(codes, axis=0)) == 500


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_coordinates_are_normal_with_the_scale_as_their_deviation(scale):
    codes = sample_latents(SamplesSpec(count=4000, seed=1, scale=scale), range(4000), 25).astype(np.float64)
    deviation_of_mean = scale / np.sqrt(codes.size)
    assert abs(codes.mean()) < 4 * deviation_of_mean
    assert codes.std() == pytest.approx(scale, rel=4 / np.sqrt(2 * codes.size))
    kurtosis = np.mean(codes**4) / np.mean(codes**2) ** 2
    assert kurtosis == pytest.approx(3, abs=4 * np.sqrt(24 / codes.size))
    correlation = np.corrcoef(codes, rowvar=False) - np.eye(25)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_no_indices_give_no_codes():
    assert sample_latents(SamplesSpec(count=1), [], 7).shape == (0, 7)

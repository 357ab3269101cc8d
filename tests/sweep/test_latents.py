import os
import re

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from pullback.errors import SpecError
from pullback.spec import SamplesSpec
from pullback.sweep.latents import LatentCodes, sample_latents

SPECS = st.builds(
    SamplesSpec, count=st.just(100), seed=st.integers(0, 2**63 - 1), scale=st.floats(1e-3, 1e3, allow_subnormal=False)
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


class Mapped(nn.Module):
    """Codes of 5 numbers, mapped from inputs of 3."""

    latent_dim, z_dim = 5, 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), requires_grad=False)

    def map(self, z):
        return torch.tanh(z @ self.weight.T)


class Plain(nn.Module):
    latent_dim = 3


def codes_of(generator, indices, **options):
    return LatentCodes(SamplesSpec(**{"count": max(indices) + 1, **options}), generator).at(indices)


def test_a_truncated_normal_is_cut_at_its_bound_and_has_its_distribution():
    codes = codes_of(Plain(), range(4000), distribution="truncated_normal", bound=1.5, scale=0.6).astype(float) / 0.6
    assert np.abs(codes).max() <= 1.5 + 1e-6
    assert stats.kstest(codes.ravel(), stats.truncnorm(-1.5, 1.5).cdf).pvalue > 1e-3


def test_a_uniform_code_fills_its_cube():
    codes = codes_of(Plain(), range(4000), distribution="uniform", scale=2.0).astype(float)
    assert stats.kstest(codes.ravel(), stats.uniform(-2, 4).cdf).pvalue > 1e-3


def test_codes_on_spheres_take_the_norms_in_turn_and_share_directions():
    norms = (1.0, 3.0, 6.0)
    codes = codes_of(Plain(), range(9), distribution="sphere", norms=norms, each=3)
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), norms * 3, rtol=1e-6)
    directions = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    np.testing.assert_allclose(directions[0], directions[2], atol=1e-6)
    assert np.abs(directions[2] - directions[3]).max() > 1e-2
    np.testing.assert_allclose(
        np.linalg.norm(codes_of(Plain(), [0, 1], distribution="sphere"), axis=1), 3**0.5, rtol=1e-6
    )


def test_drawn_codes_pass_the_mapping_one_by_one():
    generator = Mapped()
    z = torch.from_numpy(sample_latents(SamplesSpec(count=6), range(6), 3))
    together, alone = (
        codes_of(generator, range(6)),
        np.concatenate([codes_of(generator, [i], count=6) for i in range(6)]),
    )
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(together, generator.map(z).numpy(), atol=1e-6)
    np.testing.assert_array_equal(
        codes_of(generator, range(6), map=False), sample_latents(SamplesSpec(count=6), range(6), 5)
    )


@pytest.fixture
def given_codes(tmp_path):
    codes = np.random.default_rng(1).standard_normal((4, 3))
    np.save(tmp_path / "codes.npy", codes)
    np.savez(tmp_path / "codes.npz", a=codes, b=codes[:, :2])
    zarr.save_array(str(tmp_path / "codes.zarr"), codes)
    return tmp_path, codes


@pytest.mark.parametrize(("name", "key"), [("codes.npy", None), ("codes.npz", "a"), ("codes.zarr", None)])
def test_given_codes_are_the_rows_of_their_file_in_any_format(given_codes, name, key):
    folder, codes = given_codes
    options = {"distribution": "codes", "codes": str(folder / name), "key": key}
    np.testing.assert_array_equal(codes_of(Plain(), [2, 0], count=4, **options), codes[[2, 0]].astype(np.float32))
    np.testing.assert_array_equal(codes_of(Plain(), [0], first=3, **options), codes[[3]].astype(np.float32))
    held = LatentCodes(SamplesSpec(count=4, **options), Plain()).hashes
    assert (
        held == LatentCodes(SamplesSpec(count=4, distribution="codes", codes=str(folder / "codes.npy")), Plain()).hashes
    )


def test_given_codes_pass_the_mapping_only_on_request(given_codes):
    folder, codes = given_codes
    options = {"distribution": "codes", "codes": str(folder / "codes.npy")}
    wanted = Mapped().map(torch.tensor(codes, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(codes_of(Mapped(), range(4), map=True, **options), wanted, atol=1e-6)
    with pytest.raises(SpecError, match="have 3 numbers; codes of Mapped have 5"):
        codes_of(Mapped(), range(4), **options)


def test_clouds_segments_and_lines_start_from_given_codes(given_codes):
    folder, codes = given_codes
    path = str(folder / "codes.npy")
    cloud = codes_of(Plain(), range(4), distribution="around", codes=path, each=2, scale=0.1)
    noise = sample_latents(SamplesSpec(count=4, scale=0.1), range(4), 3)
    np.testing.assert_allclose(cloud, codes[[0, 0, 1, 1]] + noise, atol=1e-6)
    between = codes_of(Plain(), range(6), distribution="between", codes=path, steps=3)
    wanted = [codes[0], (codes[0] + codes[1]) / 2, codes[1], codes[1], (codes[1] + codes[2]) / 2, codes[2]]
    np.testing.assert_allclose(between, wanted, atol=1e-6)
    arc = codes_of(Plain(), range(3), distribution="between", codes=path, steps=3, interpolation="spherical")
    np.testing.assert_allclose(arc[[0, 2]], codes[:2], atol=1e-6)
    lengths = np.linalg.norm(codes[:2], axis=1)
    assert np.linalg.norm(arc[1]) == pytest.approx(lengths.mean(), rel=1e-5)
    assert np.linalg.matrix_rank(np.stack([codes[0], codes[1], arc[1]]), tol=1e-5) == 2
    line = codes_of(Plain(), range(3), distribution="line", codes=path, directions=path, steps=3, extent=2.0)
    np.testing.assert_allclose(line, [codes[0] - 2 * codes[0], codes[0], codes[0] + 2 * codes[0]], atol=1e-6)


def test_codes_that_cannot_be_used_are_refused_with_what_to_do(given_codes):
    folder, _ = given_codes
    with pytest.raises(SpecError, match="nearest valid value is 4"):
        codes_of(Plain(), range(5), distribution="codes", codes=str(folder / "codes.npy"))
    with pytest.raises(SpecError, match=r"samples\.key"):
        codes_of(Plain(), range(2), distribution="codes", codes=str(folder / "codes.npz"))
    np.save(folder / "nan.npy", np.full((2, 3), np.nan))
    np.save(folder / "objects.npy", np.array([[{}, {}, {}]], dtype=object), allow_pickle=True)
    (folder / "text.npy").write_text("x")
    os.mkfifo(folder / "pipe.npy")
    for name in ("nan.npy", "objects.npy", "text.npy", "pipe.npy", "missing.npy"):
        with pytest.raises(SpecError, match=re.escape(name)):
            codes_of(Plain(), [0], distribution="codes", codes=str(folder / name))
    for options in ({"distribution": "codes"}, {"norms": (1.0,)}, {"distribution": "uniform", "steps": 3}):
        with pytest.raises(ValueError, match=r"samples\.distribution|changes nothing"):
            SamplesSpec(count=1, **options)

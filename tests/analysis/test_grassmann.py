import numpy as np
import pytest
import scipy.linalg
from sample_metrics import rotation

from pullback.analysis.grassmann import (
    chordal_mean,
    geodesic_distance,
    karcher_mean,
    orthonormal,
    overlap,
    principal_angles,
    principal_cosines,
    random_frames,
)


@pytest.fixture
def frames():
    return random_frames(12, 3, 8, np.random.default_rng(0))


def test_principal_angles_are_scipys(frames):
    found = principal_angles(frames[:6], frames[6:])
    wanted = [np.sort(scipy.linalg.subspace_angles(a.T, b.T)) for a, b in zip(frames[:6], frames[6:], strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(np.cos(found), principal_cosines(frames[:6], frames[6:]), atol=1e-12)


@pytest.mark.parametrize("angle", [1e-12, 1e-6, 0.3, np.pi / 2 - 1e-9])
def test_a_known_angle_is_found_however_small(angle):
    one = np.eye(5)[:2]
    other = np.array([np.eye(5)[0], np.cos(angle) * np.eye(5)[1] + np.sin(angle) * np.eye(5)[3]])
    np.testing.assert_allclose(principal_angles(one, rotation(2) @ other), [0, angle], rtol=1e-7, atol=1e-15)
    assert geodesic_distance(one, other) == pytest.approx(angle)


def test_the_frame_of_a_subspace_does_not_matter(frames):
    turned = rotation(3) @ frames
    np.testing.assert_allclose(principal_angles(frames, turned), 0, atol=1e-12)
    np.testing.assert_allclose(overlap(frames, turned[::-1]), overlap(frames, frames[::-1]), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_random_frames_are_orthonormal_and_have_no_preferred_direction(dtype):
    frames = random_frames(3000, 2, 3, np.random.default_rng(0), dtype)
    assert frames.dtype == dtype
    assert frames[0] @ frames[0].T == pytest.approx(np.eye(2), abs=1e-6)
    assert frames.mean(axis=0) == pytest.approx(np.zeros((2, 3)), abs=0.05)
    assert np.einsum("ski,skj->kij", frames, frames) / 3000 == pytest.approx(np.stack([np.eye(3) / 3] * 2), abs=0.03)


def test_random_subspaces_overlap_by_k_over_n():
    drawn = random_frames(4000, 2, 7, np.random.default_rng(1))
    found = overlap(drawn[:2000], drawn[2000:])
    assert found.mean() == pytest.approx(2 / 7, abs=4 * found.std() / 2000**0.5)


def test_subspaces_of_different_size_have_no_list_of_angles(frames):
    with pytest.raises(ValueError, match="frames"):
        principal_angles(frames[0], frames[1][:2])


def test_the_mean_of_two_subspaces_is_half_way():
    one, angles = np.eye(6)[:2], np.array([0.4, 1.0])
    other = np.cos(angles)[:, None] * np.eye(6)[:2] + np.sin(angles)[:, None] * np.eye(6)[2:4]
    half = np.cos(angles / 2)[:, None] * np.eye(6)[:2] + np.sin(angles / 2)[:, None] * np.eye(6)[2:4]
    np.testing.assert_allclose(principal_angles(karcher_mean([one, other]), half), 0, atol=1e-8)
    third = np.cos(angles / 4)[:, None] * np.eye(6)[:2] + np.sin(angles / 4)[:, None] * np.eye(6)[2:4]
    np.testing.assert_allclose(principal_angles(karcher_mean([one, other], [3, 1]), third), 0, atol=1e-8)


def test_the_mean_of_lines_in_a_plane_is_that_of_their_angles():
    angles = np.array([0.1, 0.2, 0.5, -0.3, 0.4])
    lines = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None]
    mean = karcher_mean(lines)[0]
    assert np.arctan(mean[1] / mean[0]) == pytest.approx(angles.mean(), abs=1e-9)


def test_no_subspace_nearby_has_a_smaller_sum_of_squared_distances():
    generator = np.random.default_rng(3)
    centre = random_frames(1, 2, 6, generator)[0]
    spread = orthonormal(centre + 0.3 * generator.standard_normal((9, 2, 6)))
    mean = karcher_mean(spread)

    def cost(frame):
        return float(np.sum(geodesic_distance(frame, spread) ** 2))

    for _ in range(30):
        assert cost(mean) <= cost(orthonormal(mean + 1e-3 * generator.standard_normal((2, 6)))) + 1e-12
    assert cost(mean) < cost(chordal_mean(spread))
    assert overlap(chordal_mean(spread), spread).mean() > overlap(mean, spread).mean()


def test_copies_count_like_weights(frames):
    near = orthonormal(frames[0] + 0.2 * frames[:5])
    repeated = karcher_mean(np.repeat(near, [2, 0, 1, 3, 1], axis=0))
    np.testing.assert_allclose(principal_angles(repeated, karcher_mean(near, [2, 0, 1, 3, 1])), 0, atol=1e-8)


def test_no_subspaces_have_no_mean(frames):
    with pytest.raises(ValueError, match="at least one"):
        karcher_mean(frames[:0])
    with pytest.raises(ValueError, match="weights"):
        karcher_mean(frames, np.zeros(12))

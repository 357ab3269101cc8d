"""Hints of meaning on images of which the change is known."""

import numpy as np
import pytest
import torch

import moving_blobs
from moving_blobs import BRIGHTER, CLOCKWISE, LARGER, REDDER, RIGHT, Blobs
from pullback.applications.walking.hints import EFFECTS, effects_of, regions_of

NAMES = [effect.name for effect in EFFECTS]


def effects(axis, t=1.0):
    z = torch.zeros(3, 6)
    z[0, axis], z[2, axis] = -t, t
    with torch.no_grad():
        images = Blobs(48)(z).permute(0, 2, 3, 1).numpy()
    return dict(zip(NAMES, effects_of(images[:1], images[1:2], images[2:])[0], strict=True))


def test_a_brighter_image_is_only_brighter():
    found = effects(BRIGHTER)
    assert found["brightness"] == pytest.approx(moving_blobs.GAINS[BRIGHTER], rel=0.01)
    assert abs(found["shift_x"]) < 0.05
    assert abs(found["zoom"]) < 0.1
    assert abs(found["rotation"]) < 0.1


def test_a_shift_is_measured_in_per_cent_of_the_width():
    found = effects(RIGHT)
    # A coordinate shifts by 0.05 of the half width to each side: 0.1 of it between both ends, 5 % of the width.
    assert found["shift_x"] == pytest.approx(5.0, rel=0.1)
    assert abs(found["shift_y"]) < 0.3
    assert abs(found["rotation"]) < 0.5


def test_zoom_and_rotation_have_their_sizes_and_signs():
    assert effects(LARGER)["zoom"] == pytest.approx(18.0, rel=0.15)
    assert effects(CLOCKWISE)["rotation"] == pytest.approx(np.degrees(0.24), rel=0.15)
    assert effects(CLOCKWISE, -1.0)["rotation"] == pytest.approx(-np.degrees(0.24), rel=0.15)


def test_a_colour_is_its_opponent_channel():
    found = effects(REDDER)
    assert found["red_green"] == pytest.approx(2 * 6 * moving_blobs.GAINS[REDDER], rel=0.01)
    assert abs(found["brightness"]) < 0.01


def test_a_mirrored_half_makes_an_image_asymmetric():
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    even, odd = np.exp(-4 * (x**2 + y**2)), np.exp(-4 * ((x - 0.5) ** 2 + y**2))
    low, high = (np.repeat(image[..., None], 3, axis=2).astype(np.float32)[None] for image in (even, odd))
    found = dict(zip(NAMES, effects_of(low, low, high)[0], strict=True))
    assert found["asymmetry"] > 0.5


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (slice(0, 3), slice(0, 3), "top left"),
        (slice(6, 9), slice(None), "bottom"),
        (slice(None), slice(6, 9), "right"),
        (slice(3, 6), slice(3, 6), "middle centre"),
        (slice(None), slice(None), "everywhere"),
        (slice(0, 0), slice(0, 0), "nowhere"),
    ],
)
def test_the_region_of_change_is_named(rows, columns, words):
    change = np.zeros((1, 9, 9))
    change[0, rows, columns] = 1.0
    assert regions_of(change) == [words]


def test_images_without_structure_have_no_movement():
    flat = np.full((1, 16, 16, 3), 0.5, np.float32)
    found = dict(zip(NAMES, effects_of(flat, flat, flat + 0.1)[0], strict=True))
    assert found["brightness"] == pytest.approx(0.1, rel=1e-3)
    assert found["shift_x"] == found["zoom"] == found["rotation"] == 0

"""Masks: what they weigh, that complementary ones add up, and what is no mask."""

import hashlib
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_distances import net, some_images, tiny_lpips
from torch import nn

from pullback.distances import FeatureDistance, GeneratorLayer, Mask, load_distance
from pullback.distances.mse import Mse
from pullback.distances.ssim import Ssim
from pullback.errors import SpecError
from pullback.metric import metric_at
from toy_generators import Smooth

SIDES = st.integers(1, 12)
SEEDS = st.integers(0, 2**31)
MASKED = {
    "mse": lambda mask: Mse(mask=mask),
    "mse resized": lambda mask: Mse(size=5, mask=mask),
    "lpips": lambda mask: tiny_lpips(mask=mask),
    "ssim": lambda mask: Ssim(size=16, mask=mask),
    "features": lambda mask: FeatureDistance(net(), "blocks.2", mask=mask),
}


def some_mask(seed, height=6, width=6):
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
@settings(deadline=None, max_examples=20)
@given(SEEDS, SIDES, SIDES)
@example(0, 3, 1)
def test_the_distances_under_complementary_masks_add_up_to_the_whole(make, seed, height, width):
    mask = some_mask(seed, height, width)
    mask[0, 0] = 0.5  # neither mask is empty
    x, y = some_images(seed), some_images(seed + 1)
    inside, outside = (make(Mask.of_array(part))(x, y) for part in (mask, 1 - mask))
    assert bool((inside > 0).all())
    assert bool((outside > 0).all())
    assert torch.allclose(inside + outside, make(None)(x, y), rtol=1e-5)


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
@settings(deadline=None, max_examples=20)
@given(SEEDS, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_the_distances_of_boxes_that_tile_the_image_add_up_to_the_whole(make, seed, row, column):
    boxes = [(0, 0, row, 1), (row, 0, 1, column), (row, column, 1, 1)]
    x, y = some_images(seed), some_images(seed + 1)
    parts = [make(Mask.of_box(*box))(x, y) for box in boxes]
    assert torch.allclose(sum(parts), make(None)(x, y), rtol=1e-5)


@pytest.mark.parametrize("make", [MASKED["mse"], MASKED["lpips"]], ids=["mse", "lpips"])
def test_the_metrics_under_complementary_masks_add_up_to_the_whole_metric(make):
    mask = some_mask(4, 8, 8)
    z = torch.randn(6, generator=torch.Generator().manual_seed(1))
    inside, outside, whole = (
        metric_at(Smooth(), make(part), z).matrix for part in (Mask.of_array(mask), Mask.of_array(1 - mask), None)
    )
    assert float(inside.diagonal().min()) > 0
    assert torch.allclose(inside + outside, whole, rtol=1e-5, atol=1e-5 * float(whole.max()))


def test_a_mask_weighs_each_pixels_square():
    mask, x, y = some_mask(1), some_images(1), some_images(2)
    expected = (mask * (x - y) ** 2).mean(dim=(1, 2, 3))
    assert torch.allclose(Mse(mask=Mask.of_array(mask))(x, y), expected)


def test_what_lies_outside_a_mask_does_not_count():
    mask = torch.zeros(6, 6)
    mask[:3] = 1
    distance = Mse(mask=Mask.of_array(mask))
    x, y = some_images(1), some_images(1)
    y[..., 3:, :] = some_images(2)[..., 3:, :]
    assert distance(x, y).tolist() == [0, 0]
    y[..., 0, 0] += 0.1
    assert float(distance(x, y)[0]) == pytest.approx(0.01 / 36, rel=1e-3)


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
def test_a_mask_of_ones_and_a_box_of_everything_change_nothing(make):
    x, y = some_images(1), some_images(2)
    for mask in (Mask.of_array(torch.ones(5, 7)), Mask.of_box(0, 0, 1, 1)):
        assert torch.allclose(make(mask)(x, y), make(None)(x, y), rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(SEEDS, SIDES, SIDES, SIDES, SIDES)
def test_averaging_over_areas_keeps_the_mean_and_the_bounds(seed, height, width, rows, columns):
    mask = some_mask(seed, height, width)
    layer = Mask.of_array(mask).at(rows, columns)
    assert layer.shape == (rows, columns)
    assert float(layer.mean()) == pytest.approx(float(mask.double().mean()))
    assert float(layer.min()) >= float(mask.min()) - 1e-12
    assert float(layer.max()) <= float(mask.max()) + 1e-12


@settings(deadline=None, max_examples=50)
@given(SEEDS, SIDES, SIDES)
def test_at_its_own_resolution_a_mask_is_itself(seed, height, width):
    mask = some_mask(seed, height, width)
    assert torch.allclose(Mask.of_array(mask).at(height, width), mask.double(), atol=1e-14)


def test_a_layer_takes_the_average_over_the_area_of_each_place():
    mask = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]])
    assert torch.allclose(Mask.of_array(mask).at(2, 2), torch.tensor([[0.5, 0], [0, 0.5]], dtype=torch.float64))
    third = torch.tensor([[1.0, 0, 0]])  # two places over three pixels: each has one and a half of them
    assert torch.allclose(Mask.of_array(third).at(1, 2), torch.tensor([[2 / 3, 0]], dtype=torch.float64))


def test_a_box_covers_parts_of_pixels():
    expected = torch.tensor([[0.0, 0, 0, 0], [0, 0.25, 0.5, 0.5], [0, 0.5, 1, 1], [0, 0.5, 1, 1]], dtype=torch.float64)
    assert torch.allclose(Mask.of_box(0.375, 0.375, 1, 1).at(4, 4), expected)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 0.99), st.floats(0.001, 1), SIDES)
def test_the_mean_of_a_box_is_its_area(start, length, side):
    end = min(1.0, start + length)
    assert float(Mask.of_box(start, start, end, end).at(side, side).mean()) == pytest.approx((end - start) ** 2)


def test_the_border_of_an_image_counts_under_ssim():
    border = Ssim(mask=Mask.of_box(0, 0, 0.1, 1))  # outside the centres of all windows
    assert float(border(some_images(1, 1, 16), some_images(2, 1, 16))) > 0


def test_a_masks_hash_is_of_its_float32_bytes_and_its_shape():
    array = np.array([[0.0, 0.25, 1.0], [0.5, 0.5, 0.5]])
    content = struct.pack("<2q", 2, 3) + struct.pack("<6f", *array.ravel())
    expected = hashlib.sha256(content).hexdigest()
    for same in (array, array.astype(np.float32), torch.tensor(array), np.asfortranarray(array), array.astype(">f8")):
        assert Mask.of_array(same).sha256 == expected
        assert load_distance("mse", mask=same, device="cpu").weights == {"mask": expected}
    assert Mask.of_array(array.reshape(3, 2)).sha256 != expected


def test_a_mask_is_read_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = some_mask(1)
    np.save("mask.npy", mask.numpy())
    x, y = some_images(1), some_images(2)
    same = load_distance("mse", mask=mask, device="cpu")
    for path in ("mask.npy", tmp_path / "mask.npy"):
        distance = load_distance("mse", mask=path, device="cpu")
        assert distance.weights == same.weights
        assert torch.equal(distance(x, y), same(x, y))


def test_a_box_of_a_job_needs_no_hash():
    distance = load_distance("mse", mask=[0, 0, 0.5, 1], device="cpu")
    assert distance.weights == {}
    assert torch.allclose(distance.mask.at(2, 2), torch.tensor([[1.0, 1], [0, 0]], dtype=torch.float64))


def test_a_mask_that_is_already_made_is_taken_as_it_is():
    made = Mask.of_box(0, 0, 0.5, 1)
    assert load_distance("mse", mask=made, device="cpu").mask is made
    with pytest.raises(SpecError, match=r"mask: "):
        load_distance("small_distances:brightness", mask=made, device="cpu")


@pytest.mark.parametrize(
    "edges",
    [
        (0.5, 0, 0.5, 1),
        (0.6, 0, 0.5, 1),
        (0, 1, 1, 1),
        (0, 0, 2, 1),
        (-0.1, 0, 1, 1),
        (0, 0, 1, float("inf")),
        (float("nan"), 0, 1, 1),
    ],
)
def test_a_box_without_an_area_or_outside_the_image_is_refused(edges):
    with pytest.raises(SpecError, match=r"mask: a box is .* top < bottom and left < right; this one is \["):
        Mask.of_box(*edges)


def test_a_box_far_smaller_than_a_pixel_still_has_its_area():
    assert float(Mask.of_box(0.5, 0.5, 0.5 + 1e-6, 1).at(4, 4).sum()) == pytest.approx(16 * 0.5e-6)


@pytest.mark.weights
def test_a_masks_hash_stands_beside_those_of_the_weights(lpips_alex):
    distance = load_distance("lpips", mask=np.eye(4), device="cpu")
    assert distance.weights == {**lpips_alex.weights, "mask": Mask.of_array(np.eye(4)).sha256}


WRONG_ARRAYS = {
    "zeros": (np.zeros((3, 3)), "every weight is zero, so that nothing would be measured"),
    "above one": (np.full((3, 3), 1.5), "weights in [0, 1] are needed, not in [1.5, 1.5]"),
    "below zero": (np.array([[0.5, -0.1]]), "weights in [0, 1] are needed, not in [-0.1, 0.5]"),
    "of 8 bits": (np.full((3, 3), 255, dtype=np.uint8), "weights in [0, 1] are needed, not in [255, 255]"),
    "no number": (np.array([[0.5, np.nan]]), "weights in [0, 1] are needed, not in [nan, nan]"),
    "infinite": (np.array([[0.5, np.inf]]), "weights in [0, 1] are needed, not in [0.5, inf]"),
    "text": (np.array([["a"]]), "numbers in [0, 1] are needed, not <U1"),
    "complex": (np.array([[1j]]), "numbers in [0, 1] are needed, not complex128"),
    "colours": (np.ones((3, 4, 4)), "an array [height, width] is needed, not [3, 4, 4]"),
    "a box as an array": (np.array([0, 0, 1, 1.0]), "an array [height, width] is needed, not [4]"),
    "beyond single precision": (np.array([[0.5, 1e300]]), "weights in [0, 1] are needed, not in [0.5, inf]"),
    "nothing": (np.ones((0, 3)), "an array [height, width] is needed, not [0, 3]"),
    "a number": (np.array(0.5), "an array [height, width] is needed, not []"),
}


@pytest.mark.parametrize(("array", "problem"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS)
@pytest.mark.parametrize("in_file", [True, False])
def test_an_array_that_is_no_mask_is_refused(tmp_path, monkeypatch, array, problem, in_file):
    monkeypatch.chdir(tmp_path)
    np.save("wrong.npy", array)
    with pytest.raises(SpecError) as caught:
        load_distance("mse", mask="wrong.npy" if in_file else array, device="cpu")
    (found,) = caught.value.problems
    assert found.startswith(f"mask: {problem}" if "needed" in problem else "mask: ")
    assert problem in found.replace(" (in wrong.npy)", "")
    assert ("(in wrong.npy)" in found) == in_file
    assert str(caught.value).startswith("load_distance('mse'): 1 problem")


def test_a_box_in_an_array_is_reported_how_to_be_written():
    with pytest.raises(SpecError, match=r"not \[4\]; a box is a list of four numbers"):
        load_distance("mse", mask=torch.tensor([0.0, 0, 1, 1]), device="cpu")


def test_truth_values_whole_numbers_and_short_floats_are_weights():
    for values in (np.eye(3, dtype=bool), np.eye(3, dtype=np.uint8), torch.eye(3).bfloat16(), torch.eye(3).bool()):
        assert torch.allclose(Mask.of_array(values).at(3, 3), torch.eye(3, dtype=torch.float64))


class _Mark:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


WRONG_FILES = {
    "missing": (None, "there is no file mask.npy (from "),
    "empty": (b"", "mask.npy cannot be read as an array that numpy.save wrote: "),
    "text": (b"hello, this is text", "mask.npy cannot be read as an array"),
    "an archive": (b"PK\x03\x04" + b"\0" * 30, "mask.npy cannot be read as an array"),
    "cut off": (b"\x93NUMPY\x01\x00v\x00", "mask.npy cannot be read as an array"),
}


@pytest.mark.parametrize(("content", "problem"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_holds_no_array_is_refused(tmp_path, monkeypatch, content, problem):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "mask.npy").write_bytes(content)
    with pytest.raises(SpecError, match=re.escape(f"mask: {problem}")):
        load_distance("mse", mask="mask.npy", device="cpu")


def test_code_in_a_masks_file_is_not_run(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([[_Mark(tmp_path / "mark")]]), allow_pickle=True)
    with pytest.raises(SpecError, match=r"cannot be read as an array.*allow_pickle"):
        Mask.of_file(tmp_path / "mask.npy")
    assert not (tmp_path / "mark").exists()


FLAT = {
    "of a module": lambda mask: FeatureDistance(net(), "head", mask=mask)(some_images(1), some_images(2)),
    "of a generator": lambda mask: GeneratorLayer("0", mask=mask).residual_at(
        nn.Sequential(nn.Linear(4, 5)), torch.zeros(2, 4)
    ),
}


@pytest.mark.parametrize("measure", FLAT.values(), ids=FLAT)
def test_a_layer_without_height_and_width_takes_no_mask(measure):
    message = r"a mask needs an activation \[batch, channels, height, width\], the layer '\w+' gives \[2, \d\]"
    with pytest.raises(ValueError, match=message):
        measure(Mask.of_box(0, 0, 0.5, 1))


def test_the_mask_of_a_generators_layer_weighs_its_places():
    generator = nn.Sequential(nn.Linear(4, 3 * 4 * 4), nn.Unflatten(1, (3, 4, 4)))
    z = torch.randn(2, 4)
    left, right, whole = (
        GeneratorLayer("1", mask=mask).squared_at(generator, z[:1], z[1:])
        for mask in (Mask.of_box(0, 0, 1, 0.3), Mask.of_box(0, 0.3, 1, 1), None)
    )
    assert float(left.detach()) > 0
    assert torch.allclose(left + right, whole)


def test_a_function_of_ones_own_takes_no_mask():
    with pytest.raises(SpecError, match=r"mask: "):
        load_distance("small_distances:brightness", mask=np.eye(3), device="cpu")
    with pytest.raises(SpecError, match=r"mask: "):
        load_distance("small_distances:brightness", mask=[0, 0, 1, 1], device="cpu")

"""What holds of every distance, the mean squared difference, and distances by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_distances import DISTANCES, RESIDUAL, some_images

from pullback.distances import (
    Distance,
    FeatureDistance,
    GeneratorLayer,
    ResidualDistance,
    ScalarDistance,
    build_distance,
    load_distance,
)
from pullback.distances.custom import ResidualFunction, ScalarFunction
from pullback.distances.mse import Mse
from pullback.distances.ssim import Ssim
from pullback.errors import SpecError
from pullback.spec import DistanceOptions, JobSpec
from toy_generators import Classes, Smooth

SEEDS = st.integers(0, 2**31)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
@settings(deadline=None, max_examples=25)
@given(SEEDS, SEEDS)
def test_a_distance_is_symmetric_never_negative_and_zero_of_the_same_image(distance, one, other):
    x, y = some_images(one), some_images(other)
    assert torch.equal(distance(x, x), torch.zeros(2))
    assert torch.equal(distance(x, y), distance(y, x))
    assert bool((distance(x, y) >= 0).all())
    if one != other:
        assert bool((distance(x, y) > 0).all())


@pytest.mark.parametrize("distance", RESIDUAL.values(), ids=RESIDUAL)
@settings(deadline=None, max_examples=25)
@given(SEEDS, SEEDS, SEEDS)
def test_the_root_of_a_distance_keeps_the_triangle_inequality(distance, a, b, c):
    x, y, z = (some_images(seed) for seed in (a, b, c))
    assert bool((distance(x, z).sqrt() <= distance(x, y).sqrt() + distance(y, z).sqrt() + 1e-5).all())


@pytest.mark.parametrize("distance", RESIDUAL.values(), ids=RESIDUAL)
def test_a_distance_is_the_squared_norm_of_the_residuals_difference(distance):
    x, y = some_images(1), some_images(2)
    expected = torch.linalg.vector_norm(distance.residual(x).double() - distance.residual(y).double(), dim=1) ** 2
    assert torch.allclose(distance(x, y).double(), expected, rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_images_are_measured_one_by_one_and_one_against_many(distance):
    x, y = some_images(1, batch=1), some_images(2, batch=3)
    alone = torch.cat([distance(x, y[i : i + 1]) for i in range(3)])
    assert distance(x, y).shape == (3,)
    assert torch.allclose(distance(x, y), alone, rtol=1e-5)
    assert torch.allclose(distance(y, x), alone, rtol=1e-5)


def test_numbers_of_images_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match=r"\b2\b.*\b3\b"):
        Mse()(some_images(1, batch=2), some_images(2, batch=3))


@pytest.mark.parametrize("swapped", [False, True])
def test_an_image_without_its_batch_is_refused(swapped):
    pair = (some_images(1)[0], some_images(2)[0])
    with pytest.raises(ValueError, match=r"\[3, 6, 6\].*images\[None\]"):
        Mse()(*pair)
    with pytest.raises(ValueError, match=r"\[batch, 3, height, width\].*\[3, 6, 6\]"):
        Mse()(*((some_images(1), pair[1]) if swapped else (pair[0], some_images(2))))


@pytest.mark.parametrize("distance", [Mse(), Ssim()])
def test_images_of_different_sizes_are_compared_only_where_they_are_resized(distance):
    x, y = some_images(1, size=16), some_images(2, size=12)
    with pytest.raises(ValueError, match=r"\[3, 16, 16\].*\[3, 12, 12\]"):
        distance(x, y)
    assert bool((type(distance)(size=16)(x, y) > 0).all())


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
@pytest.mark.parametrize(
    ("generator", "condition"),
    [(Smooth().requires_grad_(False), None), (Classes().requires_grad_(False), torch.tensor([0, 2]))],
)
def test_a_distance_at_codes_is_that_of_their_images(distance, generator, condition):
    stream = torch.Generator().manual_seed(3)
    reference, z = torch.randn(2, 6, generator=stream), torch.randn(2, 6, generator=stream)
    images = [generator(code) if condition is None else generator(code, condition) for code in (reference, z)]
    expected = distance(*images)
    assert float(expected.min()) > 0
    assert torch.allclose(distance.squared_at(generator, reference, z, condition), expected)
    if isinstance(distance, ResidualDistance):
        assert torch.equal(distance.residual_at(generator, z, condition), distance.residual(images[1]))


@settings(deadline=None, max_examples=50)
@given(SEEDS, SEEDS, st.integers(1, 9))
def test_mse_is_the_mean_squared_difference_of_pixels(one, other, size):
    x, y = some_images(one, size=size), some_images(other, size=size)
    expected = ((x.double() - y.double()) ** 2).mean(dim=(1, 2, 3))
    assert torch.allclose(Mse()(x, y).double(), expected, rtol=1e-5)


def test_mse_of_black_and_white_is_one():
    assert float(Mse()(torch.zeros(1, 3, 5, 7), torch.ones(1, 3, 5, 7))) == pytest.approx(1)


def test_clamping_takes_the_derivative_of_saturated_pixels():
    x = torch.full((1, 3, 2, 2), 0.5)
    x[..., 0, 0], x[..., 0, 1] = 1.1, -0.1
    x.requires_grad_()
    gradients = [torch.autograd.grad(Mse(clamp=clamp).residual(x).sum(), x)[0][0, 0] for clamp in (True, False)]
    share = 12**-0.5
    assert torch.allclose(gradients[0], share * torch.tensor([[0.0, 0], [1, 1]]))
    assert torch.allclose(gradients[1], share * torch.ones(2, 2))


def test_clamping_measures_what_lies_outside_as_the_edge():
    x, edge = torch.full((1, 3, 2, 2), 1.2), torch.ones(1, 3, 2, 2)
    assert float(Mse(clamp=True)(x, edge)) == 0
    assert float(Mse()(x, edge)) == pytest.approx(0.04, rel=1e-5)


def test_a_size_resizes_bilinearly_before_measuring():
    x, y = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    x[..., ::2, ::2] = 1  # each 2 × 2 block has the mean 1/4, which is what halving gives
    assert float(Mse()(x, y)) == pytest.approx(1 / 4)
    assert float(Mse(size=2)(x, y)) == pytest.approx(1 / 16)
    assert Mse(size=2).residual(x).shape == (1, 12)


def test_images_of_the_set_size_are_left_as_they_are():
    x = some_images(1, size=6)
    assert torch.equal(Mse(size=6).residual(x), Mse().residual(x))


def test_clamping_comes_before_resizing():
    x = torch.zeros(1, 3, 4, 4)
    x[..., ::2, ::2] = 1.2
    assert float(Mse(clamp=True, size=2)(x, torch.zeros(1, 3, 4, 4))) == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (2 * some_images(1) - 1, r"\[-0\.9\d*, 0\.9"),
        (255 * some_images(1), r"\[.*, 25\d"),
        (torch.full((1, 3, 4, 4), -0.3), r"\[-0\.3, -0\.3\]"),
        (torch.full((1, 3, 4, 4), 1.3), r"\[1\.3, 1\.3\]"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_images_far_outside_the_range_are_refused(images, found, swapped):
    good = torch.zeros(1, 3, *images.shape[-2:])
    pair = (good, images) if swapped else (images, good)
    with pytest.raises(ValueError, match=rf"images in \[0, 1\] are needed, not in {found}"):
        Mse()(*pair)


def test_images_a_little_outside_the_range_are_measured():
    assert float(Mse()(torch.full((1, 3, 2, 2), 1.2), torch.full((1, 3, 2, 2), -0.2))) == pytest.approx(1.4**2)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_a_distance_works_under_vmap(distance):
    x, y = some_images(1, batch=3), some_images(2, batch=3)
    mapped = torch.func.vmap(lambda a, b: distance(a[None], b[None])[0])(x, y)
    assert torch.allclose(mapped, distance(x, y), rtol=1e-4)


def test_a_distance_without_features_says_so():
    with pytest.raises(NotImplementedError, match=r"features\(images\)"):
        ResidualDistance().residual(some_images(1))


def test_a_scalar_distance_without_its_function_says_so():
    with pytest.raises(NotImplementedError, match=r"between\(x, y\)"):
        ScalarDistance()(some_images(1), some_images(2))


def test_a_distance_of_neither_form_says_so():
    with pytest.raises(NotImplementedError, match="Distance is neither a ResidualDistance nor a ScalarDistance"):
        Distance()(some_images(1), some_images(2))


def test_a_scalar_distance_is_given_clamped_and_resized_images_as_many_of_both():
    shapes = []

    class Seen(ScalarDistance):
        def between(self, x, y):
            shapes.append((x.shape, y.shape))
            return (x.amax(dim=(1, 2, 3)) - y.amax(dim=(1, 2, 3))) ** 2

    x, y = torch.full((3, 3, 8, 8), 1.2), torch.zeros(1, 3, 4, 4)
    assert Seen(clamp=True, size=2)(x, y).tolist() == [1, 1, 1]
    assert shapes == [((3, 3, 2, 2), (3, 3, 2, 2))]


def test_distances_are_loaded_by_name_with_their_options():
    distance = load_distance("mse", clamp=True, size=32, device="cpu")
    assert isinstance(distance, Mse)
    assert (distance.name, distance.clamp, distance.size) == ("mse", True, 32)


KINDS = {
    "mse": ({}, Mse),
    "ssim": ({}, Ssim),
    "features": ({"module": "small_distances:net", "layer": "blocks.2"}, FeatureDistance),
    "features ": ({"module": "generator", "layer": "head"}, GeneratorLayer),
    "small_distances:brightness": ({}, ResidualFunction),
    "small_distances:logarithmic": ({}, ScalarFunction),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_distance_is_called_in_tables_as_its_job_calls_it(name):
    options, kind = KINDS[name]
    name = name.strip()
    distance = load_distance(name, device="cpu", **options)
    job = {"name": "x", "generator": "g", "distance": {"name": name, **options}, "samples": {"count": 1}}
    spec = JobSpec.model_validate(job).distance
    assert type(distance) is type(build_distance(spec, "cpu")) is kind
    assert distance.name == spec.label


@pytest.mark.parametrize("name", KINDS)
def test_a_loaded_distance_is_in_evaluation_mode_and_frozen(name):
    distance = load_distance(name.strip(), device="cpu", **KINDS[name][0])
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert not any(module.training for module in distance.children())


@pytest.mark.weights
@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_is_loaded_by_name_with_its_options(request, trunk):
    request.getfixturevalue(f"lpips_{trunk}")  # skips where the weights are not here
    distance = load_distance("lpips", trunk=trunk, input_range="paper", clamp=True, size=64, device="cpu")
    assert (distance.name, distance.input_range, distance.clamp, distance.size) == (f"lpips-{trunk}", "paper", True, 64)


def test_the_distance_of_a_job_is_built():
    distance = build_distance(DistanceOptions(name="mse", clamp=True), "cpu")
    assert isinstance(distance, Mse)
    assert distance.clamp


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (
            "lpip",
            {},
            "name: 'lpip' is not one of features, lpips, mse, ssim, module:function; did you mean 'lpips'?",
        ),
        ("sim", {}, "name: 'sim' is not one of features, lpips, mse, ssim, module:function; did you mean 'ssim'?"),
        ("psnr", {}, "name: 'psnr' is not one of features, lpips, mse, ssim, module:function"),
        ("lpips", {"trunc": "alex"}, "trunc: unknown key; did you mean 'trunk'?"),
        (
            "lpips",
            {"trunk": "alexnet"},
            "trunk: 'alexnet' is not one of alex, vgg, squeeze; did you mean 'alex'?",
        ),
        ("lpips", {"input_range": "papers"}, "input_range: 'papers' is not one of standard, paper; did you"),
        ("mse", {"trunk": "alex"}, "trunk: unknown key; allowed here are name, clamp, size, mask"),
        ("mse", {"size": 8}, "size: must be at least 16, not 8; the nearest valid value is 16"),
        ("mse", {"size": "64"}, "size: a whole number is needed, not the text '64'"),
        ("mse", {"clamp": 1}, "clamp: true or false is needed, not 1"),
    ],
)
def test_a_wrong_distance_is_refused_with_the_nearest_valid_value(name, options, problem):
    with pytest.raises(SpecError) as caught:
        load_distance(name, device="cpu", **options)
    (found,) = caught.value.problems
    assert found.startswith(problem)
    assert str(caught.value).startswith(f"load_distance({name!r}): 1 problem")


def test_every_wrong_option_is_reported_at_once():
    with pytest.raises(SpecError) as caught:
        load_distance("lpips", trunk="x", size=1, clamp=None, extra=1)
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {"trunk", "size", "clamp", "extra"}


def test_an_unknown_device_is_refused():
    with pytest.raises(SpecError, match=r"'cuad'.*'cuda'"):
        load_distance("mse", device="cuad")

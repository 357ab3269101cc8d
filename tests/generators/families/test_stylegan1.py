"""StyleGAN: images of every layout of checkpoint against the originals', what a job must give, and the metric."""

import numpy as np
import pytest
import torch
from style_files import DATA, expected, image_error, metric_error, zoo_file
from torch.nn import functional as F

import pullback
from pullback.errors import PullbackError
from pullback.generators.families import stylegan1
from pullback.generators.style.resampling import widened

ROSINALITY = DATA / "rosinality_stylegan1" / "g_running_only.model"
GENFORCE = DATA / "genforce" / "stylegan16.pth"


@pytest.mark.parametrize("size", [{"resolution": 32}, {"step": 3}])
@pytest.mark.parametrize(("case", "options"), [("alpha0.4", {"alpha": 0.4}), ("trunc0.7", {"truncation": 0.7})])
def test_rosinality_images_are_those_of_the_original(case, options, size):
    arrays = expected("rosinality_stylegan1/stylegan1")
    average = tuple(arrays["mean_style"].ravel().tolist())
    wanted = arrays[f"step3__img64__zeronoise_{case}"]
    for dtype, near in ((np.float64, 1e-9), (np.float32, 1e-5)):
        error = image_error(
            ROSINALITY, arrays["step3__z"], wanted.astype(dtype), noise="none", w_avg=average, **options, **size
        )
        assert error < near


@pytest.mark.parametrize("key", ["g_running", "module"])
def test_a_training_checkpoint_gives_its_running_average(tmp_path, key):
    arrays, state = expected("rosinality_stylegan1/stylegan1"), torch.load(ROSINALITY, weights_only=True)
    path = tmp_path / "train_step-6.model"
    if key == "module":
        content = {f"module.{name}": tensor for name, tensor in state.items()}
    else:
        content = {"generator": {name: tensor + 1 for name, tensor in state.items()}, "g_running": state}
        content |= {"discriminator": {}, "g_optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, path)
    error = image_error(
        path, arrays["step3__z"], arrays["step3__img64__zeronoise_alpha0.4"], noise="none", alpha=0.4, resolution=32
    )
    assert error < 1e-9


@pytest.mark.parametrize("options", [{}, {"resolution": 64}, {"resolution": 32, "step": 2}])
def test_the_resolution_that_no_file_holds_must_be_given_and_fit(options):
    with pytest.raises(PullbackError, match=r"resolution|step"):
        pullback.load_generator(str(ROSINALITY), device="cpu", **options)


@pytest.mark.parametrize(
    ("case", "options"),
    [("psi0.7_3layers", {"truncation": 0.7, "truncation_cutoff": 3}), ("lod0.4", {"lod": 0.4})],
)
def test_genforce_images_are_those_of_the_original(case, options):
    arrays = expected("genforce/stylegan")
    wanted = arrays[f"img64__{case}"]
    assert image_error(GENFORCE, arrays["z"], wanted, **options) < 1e-9
    assert image_error(GENFORCE, arrays["z"], wanted.astype(np.float32), **options) < 1e-5


@pytest.mark.parametrize("legacy", [False, True])
def test_zoo_images_have_the_truncation_that_its_networks_always_apply(tmp_path, monkeypatch, legacy):
    arrays = expected("facebook_gan_zoo/stylegan")
    path = zoo_file(tmp_path / "stylegan.pth", "stylegan", monkeypatch, legacy)

    def set_noise(generator):
        for index in range(6):
            generator.register_buffer(f"noise{index}", torch.from_numpy(arrays[f"noise_{index}"]))

    assert image_error(path, arrays["z"], arrays["img64__avgG_zeronoise"], noise="none") < 1e-9
    assert image_error(path, arrays["z"], arrays["img64__avgG_givennoise"], prepare=set_noise) < 1e-9
    whole, same = (
        pullback.load_generator(str(path), device="cpu", phi_truncation=phi, truncation=psi)
        for phi, psi in ((1.0, 0.5), (0.3, 0.5))
    )
    z = torch.from_numpy(arrays["z"])
    assert torch.equal(whole(z), same(z))


def test_mixing_two_codes_is_a_code_of_w_plus():
    generator = pullback.load_generator(str(GENFORCE), device="cpu", space="w+")
    z = torch.randn(2, 12)
    one, two = generator.map(z)
    assert generator.latent_dim == 6 * 14
    mixed = torch.cat([one[: 2 * 14], two[2 * 14 :]])
    images = generator(torch.stack([one, two, mixed]))
    assert all(float((images[2] - images[index]).abs().max()) > 1e-3 for index in (0, 1))


def test_a_fused_upsampling_is_doubling_and_a_convolution():
    weight, x = torch.randn(2, 3, 3, 3, dtype=torch.float64), torch.randn(1, 2, 5, 5, dtype=torch.float64)
    made = F.conv_transpose2d(x, widened(weight), stride=2, padding=1)
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    assert torch.allclose(made, F.conv2d(doubled, weight.transpose(0, 1).flip(2, 3), padding=1))


def test_a_fused_layer_is_read_by_its_names():
    shape = {"weight": (6, 5, 3, 3), "bias": (5,)}
    state = {f"generator.{name}": tensor for name, tensor in _rosinality_block(4, 6, 5, shape).items()}
    content = pullback.weights.content.Content(
        None, state={**torch.load(ROSINALITY, weights_only=True), **state}, key="g_running"
    )
    found = stylegan1.read(content)
    assert found.options["fused_from"] == 64
    assert found.options["channels"][-1] == 5


def _rosinality_block(number, into, out, fused):
    names = {f"conv1.0.{name}": torch.zeros(shape) for name, shape in fused.items()}
    names |= {"conv2.conv.weight_orig": torch.zeros(out, out, 3, 3), "conv2.conv.bias": torch.zeros(out)}
    for index in (1, 2):
        names |= {
            f"noise{index}.weight_orig": torch.zeros(1, out, 1, 1),
            f"adain{index}.style.linear.weight_orig": torch.zeros(2 * out, 12),
            f"adain{index}.style.linear.bias": torch.zeros(2 * out),
        }
    return {f"progression.{number}.{name}": tensor for name, tensor in names.items()}


@pytest.mark.parametrize("space", ["z", "w"])
def test_the_metric_is_that_of_double_backpropagation_and_every_operation_has_a_rule(monkeypatch, space):
    generator = pullback.load_generator(str(GENFORCE), device="cpu", space=space)
    error, without_rule = metric_error(generator, monkeypatch)
    assert error < 1e-5
    assert without_rule == []


def test_the_metric_of_a_network_with_blur_and_blending_has_rules_too(monkeypatch):
    generator = pullback.load_generator(str(ROSINALITY), device="cpu", resolution=16, alpha=0.3)
    error, without_rule = metric_error(generator, monkeypatch)
    assert error < 1e-5
    assert without_rule == []

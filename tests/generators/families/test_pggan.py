"""PGGAN: images of every layout of checkpoint against the originals', labels in the code, and the metric."""

import numpy as np
import pytest
import torch
from style_files import DATA, expected, image_error, metric_error, zoo_file
from torch.nn import functional as F

import pullback
from pullback.errors import PullbackError
from pullback.generators.families import pggan

GENFORCE = DATA / "genforce" / "pggan16.pth"


@pytest.mark.parametrize(("case", "options"), [("default", {}), ("lod0.4", {"lod": 0.4})])
def test_genforce_images_are_those_of_the_original(case, options):
    arrays = expected("genforce/pggan")
    wanted = arrays[f"img64__{case}"]
    assert image_error(GENFORCE, arrays["z"], wanted, **options) < 1e-9
    assert image_error(GENFORCE, arrays["z"], wanted.astype(np.float32), **options) < 1e-5


@pytest.mark.parametrize("legacy", [False, True])
def test_zoo_images_are_those_of_the_original_for_codes_that_end_with_labels(tmp_path, monkeypatch, legacy):
    arrays = expected("facebook_gan_zoo/pgan_labels")
    path = zoo_file(tmp_path / "pgan.pth", "pgan_labels", monkeypatch, legacy)
    assert image_error(path, arrays["z"], arrays["img64__avgG"]) < 1e-9
    assert image_error(path, arrays["z"], arrays["img64__avgG"].astype(np.float32)) < 1e-5


def test_a_class_index_is_a_one_hot_vector_for_each_attribute(tmp_path, monkeypatch):
    path = zoo_file(tmp_path / "pgan.pth", "pgan_labels", monkeypatch)
    whole, noise = (pullback.load_generator(str(path), device="cpu", space=space) for space in ("z", "noise"))
    assert noise.classes == ("M, a", "M, b", "M, c", "W, a", "W, b", "W, c")
    assert whole.blocks == {"z": (0, 14), "class": (14, 19)}
    z, chosen = torch.randn(3, 14), torch.tensor([0, 4, 5])
    labels = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]])
    assert torch.equal(whole.map(z, chosen), torch.cat([z, labels], 1))
    assert torch.equal(whole(torch.cat([z, labels], 1)), noise(z, chosen))
    assert torch.equal(noise(z, labels), noise(z, chosen))


def test_a_network_saved_while_it_grew_blends_its_last_two_images(tmp_path, monkeypatch):
    path = zoo_file(tmp_path / "pgan.pth", "pgan_labels", monkeypatch, alpha=0.35)
    z = torch.randn(2, 19)
    grown, before, mixed = (
        pullback.load_generator(str(path), device="cpu", **options).native(z)
        for options in ({"alpha": 0.0}, {"alpha": 1.0}, {})
    )
    assert torch.allclose(mixed, 0.65 * grown + 0.35 * before, atol=1e-6)


@pytest.mark.parametrize(("loss", "tanh"), [("MSE", True), ("WGANGP", False), ("DCGAN", True), ("Logistic", False)])
def test_the_loss_of_the_training_decides_whether_the_image_passes_a_tanh(tmp_path, monkeypatch, loss, tanh):
    path = zoo_file(tmp_path / "pgan.pth", "pgan_labels", monkeypatch, lossCriterion=loss)
    z = torch.randn(2, 19)
    plain = pullback.load_generator(str(path), device="cpu", final_tanh=False).native(z)
    made = pullback.load_generator(str(path), device="cpu").native(z)
    assert torch.equal(made, plain.tanh() if tanh else plain)


def test_fused_layers_are_read_by_their_shapes_and_equal_doubling_and_a_convolution(tmp_path):
    state = torch.load(GENFORCE, weights_only=True)["generator_smooth"]
    fused = dict(state)
    for layer in (2, 4):
        fused[f"layer{layer}.weight"] = state[f"layer{layer}.weight"].transpose(0, 1).flip(2, 3)
    torch.save({"generator_smooth": fused}, tmp_path / "fused.pth")
    arrays = expected("genforce/pggan")
    assert image_error(tmp_path / "fused.pth", arrays["z"], arrays["img64__default"]) < 1e-9


def test_labels_that_genforces_files_do_not_show_are_given_by_the_job():
    generator = pullback.load_generator(str(GENFORCE), device="cpu", label_size=2)
    z, labels = torch.randn(3, 10), torch.eye(2)[[0, 1, 1]]
    assert generator.latent_dim == 10
    code = torch.cat([F.normalize(z, dim=1) * 10**0.5, labels], 1)
    plain = pullback.load_generator(str(GENFORCE), device="cpu").double()
    first = plain.first(code.double() / code.double().square().mean(1, keepdim=True).sqrt())
    assert first.shape == (3, 256)
    within = pullback.load_generator(str(GENFORCE), device="cpu", label_size=2, space="z+class")
    assert torch.equal(generator(z, torch.tensor([0, 1, 1])), within(torch.cat([z, labels], 1)))
    with pytest.raises(PullbackError, match="label_size"):
        pullback.load_generator(str(GENFORCE), device="cpu", label_size=12)


def test_another_familys_network_is_not_read():
    assert pggan.read(pullback.weights.content.Content(None, state={"main.0.weight": torch.ones(2, 3, 4, 4)})) is None


@pytest.mark.parametrize("options", [{}, {"lod": 0.4}])
def test_the_metric_is_that_of_double_backpropagation_and_every_operation_has_a_rule(monkeypatch, options):
    error, without_rule = metric_error(pullback.load_generator(str(GENFORCE), device="cpu", **options), monkeypatch)
    assert error < 1e-5
    assert without_rule == []


def test_the_metric_of_labels_in_the_code_has_rules_too(tmp_path, monkeypatch):
    path = zoo_file(tmp_path / "pgan.pth", "pgan_labels", monkeypatch)
    error, without_rule = metric_error(pullback.load_generator(str(path), device="cpu"), monkeypatch)
    assert error < 1e-5
    assert without_rule == []

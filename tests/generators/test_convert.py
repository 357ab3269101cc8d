"""A converted checkpoint is one safetensors file that gives the same images, options and notes."""

import pytest
import torch
from safetensors.torch import save_file

from command_line import call
from dcgan_files import save_faces, small_discriminator, small_generator
from pullback.errors import SpecError, WeightsError
from pullback.generators import load_generator
from pullback.generators.checkpoint import PORTABLE, convert, load_checkpoint
from pullback.generators.checks import notes_of


def test_a_converted_file_gives_the_same_images_and_options(tmp_path):
    save_faces(tmp_path / "faces.tar")
    done = call("weights", "convert", str(tmp_path / "faces.tar"), str(tmp_path / "faces.safetensors"), "--json")
    assert done.code == 0
    assert done.json["family"] == "dcgan"
    one, two = (load_generator(tmp_path / name, device="cpu") for name in ("faces.tar", "faces.safetensors"))
    z = torch.randn(2, one.latent_dim)
    assert torch.equal(one(z), two(z))
    assert one.options == two.options
    assert torch.equal(one.native(z), two.native(z))


def test_a_conversion_keeps_class_names_and_says_which_network_was_taken(tmp_path):
    torch.save({"g": small_generator(1), "d": small_discriminator(), "g_ema": small_generator(2)}, tmp_path / "all.pt")
    convert(tmp_path / "all.pt", tmp_path / "one.safetensors", options={"classes": ("a", "b")})
    found = load_generator(tmp_path / "one.safetensors", device="cpu")
    assert found.classes == ("a", "b")
    assert any("g_ema" in note for note in notes_of(found))
    z = torch.randn(2, found.latent_dim)
    expected = load_checkpoint(tmp_path / "all.pt", options={"classes": ("a", "b")})
    assert torch.equal(found(z, torch.tensor([0, 1])), expected(z, torch.tensor([0, 1])))


def test_a_conversion_overwrites_nothing_and_leaves_nothing_half(tmp_path):
    save_faces(tmp_path / "faces.tar")
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    with pytest.raises(WeightsError):
        convert(tmp_path / "faces.tar", tmp_path / "there.safetensors")
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
    with pytest.raises(SpecError):
        convert(tmp_path / "faces.tar", tmp_path / "faces.pt")
    with pytest.raises(WeightsError):
        convert(tmp_path / "faces.tar", tmp_path / "no folder" / "faces.safetensors")
    with pytest.raises(SpecError):
        convert(tmp_path / "faces.tar", tmp_path / "x.safetensors", options={"sises": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces.tar", "there.safetensors"]


def test_a_description_that_is_damaged_is_an_error(tmp_path):
    for index, text in enumerate(("x", "{}", '{"family": "dcgan", "options": 3}', '{"family": "none", "options": {}}')):
        path = tmp_path / f"{index}.safetensors"
        save_file(small_generator(1), path, metadata={PORTABLE: text})
        with pytest.raises((WeightsError, SpecError)):
            load_generator(path, device="cpu")


def test_another_family_than_the_converted_one_is_refused(tmp_path):
    save_faces(tmp_path / "faces.tar")
    convert(tmp_path / "faces.tar", tmp_path / "faces.safetensors")
    with pytest.raises(SpecError):
        load_generator(tmp_path / "faces.safetensors", family="biggan", device="cpu")

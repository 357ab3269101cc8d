"""Decoders of diffusers: the original's images, what the file decides, spatial norms, and the metric."""

import json

import pytest
import torch
from family_checks import DATA, FILE_LAYOUTS, assert_fast_and_exact, expected, furthest, saved, state_of
from torch.nn import functional as F

from pullback import load_generator
from pullback.errors import PullbackError, WeightsError
from pullback.generators.autoencoder_layers import Decoder, SpatialNorm
from pullback.generators.checkpoint import load_checkpoint
from pullback.generators.families import autoencoder

CASES = {"autoencoder_kl": "decode", "vqmodel": "not_quantized", "autoencoder_tiny": "decode"}
FILE = "diffusion_pytorch_model.safetensors"


def folder_of(case):
    return DATA / "diffusers" / case


def state_in(case):
    return state_of(f"diffusers/{case}/{FILE}")


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
def test_images_are_the_originals_for_latent_images_and_for_flat_codes(case):
    held, name = expected(f"diffusers/{case}"), CASES[case]
    generator = load_generator(folder_of(case), latent_size=4, device="cpu")
    assert furthest(generator.native(held["z"]), held[f"img64__{name}"]) < 1e-5
    generator = generator.double()
    assert furthest(generator.native(held["z"].double()), held[f"img64__{name}"]) < 1e-9
    assert furthest(generator.native(held["z"].double().flatten(1)), held[f"img64__{name}"]) < 1e-9
    assert furthest(generator(held["z"].double().flatten(1)), (held[f"img64__{name}"] + 1) / 2) < 1e-9


def test_a_codebook_is_used_on_request_and_has_no_derivative():
    held = expected("diffusers/vqmodel")
    generator = load_checkpoint(folder_of("vqmodel"), options={"force_not_quantize": False}).double()
    assert furthest(generator.native(held["z"].double()), held["img64__quantized"]) < 1e-9
    with pytest.raises(PullbackError, match="derivative"):
        load_generator(folder_of("vqmodel"), force_not_quantize=False, device="cpu")


@pytest.mark.parametrize("case", CASES)
def test_it_runs_on_the_fast_path(case):
    generator = load_generator(folder_of(case), latent_size=3, device="cpu")
    assert_fast_and_exact(generator, drawn(generator.latent_dim))


def test_the_size_of_the_latent_image_is_the_configs_or_the_jobs():
    assert load_generator(folder_of("autoencoder_kl"), device="cpu").latent_dim == 4 * 4 * 4
    assert load_generator(folder_of("autoencoder_kl"), latent_size=5, device="cpu").latent_dim == 4 * 5 * 5
    assert load_generator(folder_of("autoencoder_tiny"), latent_size=5, device="cpu").latent_dim == 3 * 5 * 5


def test_latent_images_of_a_pipeline_are_unscaled_first(tmp_path):
    config = json.loads((folder_of("autoencoder_kl") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.5, "shift_factor": 0.25}))
    (tmp_path / FILE).write_bytes((folder_of("autoencoder_kl") / FILE).read_bytes())
    z = drawn(2, 4, 4, 4)
    scaled, plain = (load_generator(tmp_path, latents=kind, device="cpu") for kind in ("pipeline", "decode"))
    assert furthest(scaled.native(z), plain.native(z / 0.5 + 0.25)) < 1e-6


@pytest.mark.parametrize("form", ["linear", "1x1 convolution"])
def test_old_names_of_the_attention_are_read(form, tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in state_in("autoencoder_kl").items():
        for new, before in old.items():
            if f".{new}." in name:
                name = name.replace(new, before)
                tensor = tensor[:, :, None, None] if form != "linear" and name.endswith("weight") else tensor
        state[name] = tensor
    state["encoder.conv_in.weight"] = torch.zeros(8, 3, 3, 3)
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder_of("autoencoder_kl") / "config.json").read_text())
    z = drawn(1, 64)
    wanted = load_generator(folder_of("autoencoder_kl"), device="cpu")(z)
    assert torch.equal(load_generator(tmp_path, device="cpu")(z), wanted)


@pytest.mark.parametrize("layout", FILE_LAYOUTS)
@pytest.mark.parametrize("case", ["vqmodel", "autoencoder_tiny"])
def test_a_checkpoint_is_read_in_every_layout(case, layout, tmp_path):
    path = saved(tmp_path, state_in(case), layout, "diffusion_pytorch_model")
    (tmp_path / "config.json").write_text((folder_of(case) / "config.json").read_text())
    made, wanted = (load_generator(at, latent_size=4, device="cpu") for at in (path, folder_of(case)))
    z = drawn(1, wanted.latent_dim)
    assert torch.equal(made(z), wanted(z))


def test_a_spatial_norm_takes_its_gain_and_shift_from_the_latent_image():
    norm, x, latent = SpatialNorm(64, 3), drawn(2, 64, 8, 8), drawn(2, 3, 4, 4, seed=2)
    wide = latent.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = F.group_norm(x, 32, norm.norm_layer.weight, norm.norm_layer.bias, 1e-6) * norm.conv_y(wide)
    assert furthest(norm(x, latent), (wanted + norm.conv_b(wide)).detach()) < 1e-5


def test_a_decoder_with_spatial_norms_is_recognised_and_runs_on_the_fast_path():
    decoder = Decoder(3, (32, 32), (1, 1), (True, False), True, 3, 32, F.silu, 3)
    state = {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    state |= {"post_quant_conv.weight": drawn(3, 3, 1, 1), "post_quant_conv.bias": drawn(3)}
    state["quantize.embedding.weight"] = drawn(8, 3)
    found = autoencoder.read_state(state, {"_class_name": "VQModel", "sample_size": 4})
    assert (found.options["norm_type"], found.options["latent_size"]) == ("spatial", 2)
    generator = autoencoder.build(autoencoder.Options(**found.options), found.state).eval().requires_grad_(False)
    assert_fast_and_exact(generator, drawn(generator.latent_dim, seed=4))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"_class_name": "AutoencoderKL"}, "AutoencoderKL"), ({"lookup_from_codebook": True}, "indices")],
)
def test_a_config_that_contradicts_the_tensors_is_refused(change, message, tmp_path):
    config = json.loads((folder_of("vqmodel") / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / FILE).write_bytes((folder_of("vqmodel") / FILE).read_bytes())
    with pytest.raises(WeightsError, match=message):
        load_generator(tmp_path, device="cpu")

"""Generators of the paper's shapes with random weights: the same ones for a seed, lively, and of the true sizes."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from pullback.generators import load_generator, random_weights
from pullback.generators.checks import check_generator
from pullback.generators.families.biggan_deep import Norm, SelfAttention

TINY = {"biggan-deep-tiny": random_weights.biggan_deep_tiny, "fc6-tiny": random_weights.fc6_tiny}
SEEDS = st.integers(0, 2**63 - 1)


def drawn(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def codes(generator, count, seed=1, dtype=torch.float32):
    return drawn(count, generator.latent_dim, seed=seed, dtype=dtype)


@pytest.mark.parametrize(("name", "latent_dim"), [("biggan-deep-tiny", 16), ("fc6-tiny", 64)])
def test_a_tiny_generator_has_the_sizes_that_it_documents(name, latent_dim):
    generator = TINY[name]()
    assert generator.latent_dim == latent_dim
    assert generator(codes(generator, 2)).shape == (2, 3, 32, 32)
    assert generator.name == f"{name}-random-0"
    assert TINY[name](seed=7).name == f"{name}-random-7"


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
@settings(deadline=None, max_examples=5)
@given(SEEDS)
def test_one_seed_gives_one_generator_whatever_torchs_own_random_state(make, seed):
    torch.manual_seed(1)
    one = make(seed).state_dict()
    torch.manual_seed(2)
    torch.rand(3)
    other = make(seed).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
def test_another_seed_gives_another_generator(make):
    one, other = make(0).state_dict(), make(1).state_dict()
    weights = [name for name, tensor in one.items() if tensor.dim() > 1]
    assert len(weights) > 5
    assert not any(torch.allclose(one[name], other[name], atol=1e-3) for name in weights)


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
def test_the_random_state_of_torch_is_left_as_it_was(make):
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    make()
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
@settings(deadline=None, max_examples=25)
@given(SEEDS)
@example(1074)  # some of whose codes of fc6-tiny are far from the others
def test_images_of_any_seed_are_lively_and_differ_from_code_to_code(make, seed):
    generator = make(seed)
    images = generator(codes(generator, 16, seed=5))
    assert float(images.min()) > -0.25
    assert float(images.max()) < 1.25
    assert 0.02 < float(images.std()) < 0.35
    assert float(torch.pdist(images.flatten(1)).min()) / images[0].numel() ** 0.5 > 0.004


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
def test_a_generator_is_frozen_and_in_evaluation_mode_and_no_hook_is_left(make):
    generator = make()
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert not any(module.training for module in generator.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in generator.modules())


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
def test_an_image_depends_on_its_own_code_alone(make):
    generator = make()
    check_generator(generator, "tiny")
    z = codes(generator, 4)
    together = generator(z)
    assert torch.allclose(torch.cat([generator(code[None]) for code in z]), together, atol=1e-5)
    assert torch.allclose(generator(z.flip(0)).flip(0), together, atol=1e-5)


@pytest.mark.parametrize("make", TINY.values(), ids=TINY)
def test_forward_mode_is_the_limit_of_differences(make):
    generator = make().double()
    z, tangents = codes(generator, 2, dtype=torch.float64), drawn(3, 2, generator.latent_dim, dtype=torch.float64)
    pushed = torch.func.vmap(lambda tangent: torch.func.jvp(generator, (z,), (tangent,))[1])(tangents)
    step = 1e-6
    for found, tangent in zip(pushed, tangents, strict=True):
        difference = (generator(z + step * tangent) - generator(z - step * tangent)) / (2 * step)
        assert float(difference.norm()) > 0.1
        assert float((found - difference).norm() / difference.norm()) < 1e-6


@pytest.mark.parametrize("name", ["biggan_deep_tiny", "fc6_tiny"])
def test_a_job_takes_one_by_its_name(name):
    generator = load_generator(f"pullback.generators.random_weights:{name}", device="cpu")
    same = getattr(random_weights, name)()
    assert generator.name == same.name
    assert list(generator.weights) == ["pullback.generators.random_weights (source)"]
    z = codes(generator, 2)
    assert torch.equal(generator(z), same(z))


def test_attention_has_its_part_in_the_image():
    generator = random_weights.biggan_deep_tiny()
    (attention,) = [layer for layer in generator.layers if isinstance(layer, SelfAttention)]
    z = codes(generator, 4)
    images = generator(z)
    assert float(attention.gamma) == 1
    attention.gamma.zero_()
    assert float((generator(z) - images).abs().mean()) > 0.01


def test_attention_is_of_moderate_sharpness():
    generator = random_weights.biggan_deep_tiny()
    (attention,) = [layer for layer in generator.layers if isinstance(layer, SelfAttention)]
    made = []
    for part in (attention.snconv1x1_theta, attention.snconv1x1_phi):
        part.register_forward_hook(lambda layer, inputs, output: made.append(output.flatten(2)))
    generator(codes(generator, 16))
    logits = torch.einsum("bcp,bcq->bpq", *made)
    assert 0.3 < float(logits.std()) < 3


def test_every_weight_of_a_biggan_has_the_spectral_norm_of_a_trained_one():
    generator = random_weights.biggan_deep_tiny()
    scaled = ("snconv1x1_theta", "snconv1x1_phi", "conv_to_rgb")  # by the sharpness of attention, and by the contrast
    norms = {
        name: float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2))
        for name, layer in generator.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and not name.endswith(scaled)
    }
    assert len(norms) > 30
    assert norms == pytest.approx(dict.fromkeys(norms, 1.0), rel=1e-4)


def test_the_norms_of_a_biggan_normalise_at_every_truncation():
    generator = random_weights.biggan_deep_tiny()
    norms = [layer for layer in generator.modules() if isinstance(layer, Norm)]
    found = {}

    def measure(norm, inputs, output):
        mean, variance = (part[0][:, None, None] for part in (norm.running_means, norm.running_vars))
        # over codes, the median: in a network with few channels the last codes of many are far from the others
        each = ((inputs[0] - mean) / variance.sqrt()).flatten(1)
        found[norm] = float(each.mean(dim=1).median()), float(each.std(dim=1).median())

    hooks = [norm.register_forward_hook(measure) for norm in norms]
    generator(codes(generator, 64, seed=9))
    for hook in hooks:
        hook.remove()
    assert len(found) == len(norms) == 13
    assert all(abs(mean) < 0.4 and 0.5 < std < 1.6 for mean, std in found.values()), found.values()
    for norm in norms:
        for statistics in (norm.running_means, norm.running_vars):
            assert torch.equal(statistics, statistics[:1].expand_as(statistics))


def test_both_blocks_of_a_biggans_code_change_the_image():
    generator = random_weights.biggan_deep_tiny()
    assert generator.blocks == {"noise": (0, 8), "class": (8, 16)}
    z = codes(generator, 4)
    for start, stop in generator.blocks.values():
        changed = z.clone()
        changed[:, start:stop] = drawn(4, stop - start, seed=6)
        assert float((generator(changed) - generator(z)).abs().mean()) > 0.02


@pytest.mark.parametrize(
    ("make", "latent_dim", "size", "blocks"),
    [
        (random_weights.biggan_deep_128, 256, 128, {"noise": (0, 128), "class": (128, 256)}),
        (random_weights.fc6, 4096, 256, {"z": (0, 4096)}),
    ],
)
def test_a_full_generator_is_lively_and_of_its_papers_size(make, latent_dim, size, blocks):
    generator = make()
    check_generator(generator, generator.name)
    assert (generator.latent_dim, generator.blocks) == (latent_dim, blocks)
    images = generator(codes(generator, 2))
    assert images.shape == (2, 3, size, size)
    assert 0.03 < float(images.std()) < 0.35
    assert float((images[0] - images[1]).abs().mean()) > 0.02

"""ResNet GANs of StudioGAN: the original's images, its kinds of conditions, and the metric."""

import pytest
import torch
from family_checks import DATA, FILE_LAYOUTS, assert_fast_and_exact, expected, furthest, saved, state_of, thinned

from pullback import load_generator
from pullback.errors import WeightsError
from pullback.generators.families import studiogan

FILE = "studiogan_big_resnet/big_resnet.safetensors"


def loaded(**more):
    return load_generator(DATA / FILE, device="cpu", **more)


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_images_are_the_originals_for_classes_and_for_class_embeddings():
    held, generator = expected("studiogan_big_resnet/big_resnet"), loaded()
    for name, condition in (("labels", held["labels"]), ("shared", held["shared_label"])):
        wanted = held[f"img64__{name}"]
        assert furthest(thinned(generator.float().native(held["z"], condition)), wanted) < 1e-5
        double = condition.double() if condition.is_floating_point() else condition
        assert furthest(thinned(generator.double().native(held["z"].double(), double)), wanted) < 1e-9


def test_options_follow_from_the_tensors():
    options = loaded().options
    assert (options["resolution"], options["dim_z"], options["n_classes"]) == (32, 12, 10)
    assert (options["shared_dim"], options["hier"], options["attention"]) == (8, True, (1,))


@pytest.mark.parametrize("space", ["z", "z+class"])
def test_every_space_runs_on_the_fast_path(space):
    generator = loaded(space=space)
    assert_fast_and_exact(generator, drawn(generator.latent_dim), torch.tensor([2]))


@pytest.mark.parametrize("layout", FILE_LAYOUTS)
def test_a_checkpoint_is_read_in_every_layout(layout, tmp_path):
    path = saved(tmp_path, state_of(FILE), layout, "model=G_ema-best-weights-step=1000")
    z, labels = drawn(1, 12), torch.tensor([3])
    assert torch.equal(load_generator(path, device="cpu")(z, labels), loaded()(z, labels))


def plain_norms(state):
    """The state of a network without conditions (`g_cond_mtd: W/O`)."""
    made = {}
    for name, tensor in state.items():
        if ".bn1." in name or ".bn2." in name:
            if ".bn." in name:
                made[name.replace(".bn.", ".")] = tensor
            elif name.endswith("gain.weight_orig"):
                made[name.replace(".gain.weight_orig", ".weight")] = tensor[:, 0]
            elif name.endswith("bias.weight_orig"):
                made[name.replace(".bias.weight_orig", ".bias")] = tensor[:, 1]
        elif not name.startswith("shared."):
            made[name] = tensor
    return made


def test_a_network_without_conditions_has_plain_norms():
    state = plain_norms(state_of(FILE))
    found = studiogan.read_state(state, {})
    generator = studiogan.build(studiogan.Options(**found.options), found.state).eval()
    assert (generator.classes, generator.latent_dim) == ((), 3)
    chunked = studiogan.read_state(state, {"z_dim": 12})
    whole = studiogan.build(studiogan.Options(**chunked.options), chunked.state).eval()
    z = drawn(2, 12)
    assert whole.latent_dim == 12
    assert torch.equal(whole(z), generator(z[:, :3]))  # only the first chunk of the noise is used
    norm, x = generator.layers[0].bn1, drawn(2, 16, 4, 4)
    parts = [state[f"blocks.0.0.bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    assert furthest(norm(x), torch.nn.functional.batch_norm(x, *parts, eps=1e-4)) < 1e-5


def test_a_resnet_without_shared_embedding_takes_the_labels_themselves():
    state = {name: tensor for name, tensor in state_of(FILE).items() if not name.startswith("shared.")}
    found = studiogan.read_state(state, {})
    assert (found.options["n_classes"], found.options["shared_dim"], found.options["hier"]) == (11, 0, False)
    generator = studiogan.build(studiogan.Options(**found.options), found.state).eval()
    z, labels = drawn(2, 3), torch.tensor([10, 4])
    assert furthest(generator(z, labels), generator(z, torch.nn.functional.one_hot(labels, 11).float())) < 1e-6


def test_tables_of_gains_become_weights():
    state = plain_norms(state_of(FILE))
    for name in [
        name for name in state if name.startswith("blocks.") and ".bn" in name and name.endswith((".weight", ".bias"))
    ]:
        norm, _, part = name.rpartition(".")
        state[f"{norm}.embed{int(part == 'bias')}.weight"] = drawn(7, len(state.pop(name)))
    assert sum(".embed" in name for name in state) == 12
    state = {name.replace(".running_", ".bn.running_") if "blocks" in name else name: t for name, t in state.items()}
    found = studiogan.read_state(state, {})
    generator = studiogan.build(studiogan.Options(**found.options), found.state).eval()
    assert len(generator.classes) == 7
    norm, label = generator.layers[1].bn2, torch.eye(7)[3:4]
    assert furthest(norm.gain(label)[0], state["blocks.1.0.bn2.embed0.weight"][3]) < 1e-6
    assert furthest(norm.bias(label)[0], state["blocks.1.0.bn2.embed1.weight"][3]) < 1e-6


def test_the_activation_is_the_jobs_where_it_is_not_the_usual_one():
    z, labels = drawn(1, 12), torch.tensor([3])
    assert furthest(loaded(g_act_fn="ELU")(z, labels), loaded()(z, labels)) > 1e-3


def test_a_deep_network_of_studiogan_is_refused_by_name(tmp_path):
    state = state_of(FILE) | {"blocks.0.0.conv2d4.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "G.pth")
    with pytest.raises(WeightsError, match="big_resnet_deep"):
        load_generator(tmp_path / "G.pth", device="cpu")

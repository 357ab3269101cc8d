"""Which network of a checkpoint is taken: a generator, averages before raw weights. Ambiguous files are refused."""

import pytest
import torch
from safetensors.torch import save_file

from dcgan_files import FACES_WIDTHS, network, small_discriminator, small_generator, state_dict_of
from pullback.errors import SpecError, WeightsError
from pullback.generators import load_generator
from pullback.generators.checks import notes_of
from pullback.generators.families import dcgan
from pullback.weights.content import Content
from pullback.weights.networks import Misfit, choose, networks_in

G, RAW, OTHER, D = small_generator(1), small_generator(2), small_generator(3), small_discriminator()
FIRST = "main.0.weight"


def dcgan_of(network):
    """A DCGAN built from one network, as `choose` needs it."""
    found = dcgan.read(Content({}).at(network))
    if found is None:
        raise Misfit(f"is not a DCGAN's: it has {', '.join(network.state)}")
    return dcgan.build(dcgan.Options(**found.options), found.state)


def prefixed(prefix, state):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def parameters(state):
    return {key: tensor for key, tensor in state.items() if "running" not in key and "num_batches" not in key}


def optimizer():
    return {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}


# content -> the key of the network that is meant, whose first weights are those of G
TAKEN = {
    "netD before netG": ({"netD": D, "netG": G}, "netG"),
    "netG before netD": ({"netG": G, "netD": D}, "netG"),
    "with epochs and optimizers": (
        {"epoch": 3, "netD_state_dict": D, "netG_state_dict": G, "optimizerG_state_dict": optimizer()},
        "netG_state_dict",
    ),
    "discriminator and generator": ({"discriminator": D, "generator": G}, "generator"),
    "D and G": ({"D": D, "G": G}, "G"),
    "g, d and g_ema": ({"g": RAW, "d": D, "g_ema": G, "g_optim": optimizer()}, "g_ema"),
    "g_ema before g": ({"g_ema": G, "g": RAW, "d": D}, "g_ema"),
    "G, D and G_ema": ({"G": RAW, "D": D, "G_ema": G}, "G_ema"),
    "StyleGAN's G, D and Gs": ({"G": RAW, "D": D, "Gs": G}, "Gs"),
    "g_running": ({"generator": RAW, "discriminator": D, "g_running": G}, "g_running"),
    "ema beside a generator": ({"generator": RAW, "ema": G}, "ema"),
    "params_ema": ({"params": RAW, "params_ema": G}, "params_ema"),
    "averages in a mapping": ({"ema": {"G": G, "D": D}, "raw": {"G": RAW, "D": D}}, "ema.G"),
    "a shadow": ({"model": RAW, "ema": {"decay": 0.999, "shadow": G}}, "ema.shadow"),
    "a network by its shapes alone": ({"first": D, "second": G}, "second"),
    "two equal generators": ({"G": G, "generator": dict(G)}, "G"),
    "one state dict": ({"state_dict": G}, "state_dict"),
    "deeper": ({"checkpoint": {"models": {"netD": D, "netG": {"state_dict": G}}}}, "checkpoint.models.netG.state_dict"),
    "lightning": (
        {"state_dict": {**prefixed("discriminator.", D), **prefixed("generator.", G), "loss.weight": torch.ones(2)}},
        "state_dict.generator",
    ),
    "lightning with an average": (
        {"state_dict": {**prefixed("gen.", RAW), **prefixed("disc.", D), **prefixed("gen_ema.", G)}},
        "state_dict.gen_ema",
    ),
    "prefixes in one file": ({**prefixed("netD.", D), **prefixed("netG.", G)}, "netG"),
    "an average of ema-pytorch": (
        {
            **prefixed("online_model.", RAW),
            **prefixed("ema_model.", G),
            "initted": torch.tensor(True),
            "step": torch.tensor(3),
        },
        "ema_model",
    ),
    "an averaged model of torch": ({**prefixed("module.", G), "n_averaged": torch.tensor(7)}, "module"),
    "wrappers in wrappers": (prefixed("module._orig_mod.netG.module.", G), "module._orig_mod.netG.module"),
    "G.": (prefixed("G.", G), "G"),
    "model.generator.": ({**prefixed("model.generator.", G), **prefixed("model.discriminator.", D)}, "model.generator"),
    "a list": ([D, G], "1"),
    "a list in a mapping": ({"epoch": 3, "models": [G, D]}, "models.0"),
    "both kinds of one generator": ({"generator": {"model": RAW, "ema": G}, "discriminator": D}, "generator.ema"),
    "timm's": ({"state_dict": RAW, "state_dict_ema": G}, "state_dict_ema"),
    "deepspeed's": ({"module": G, "optimizer": optimizer(), "lr_scheduler": {"step": 3}}, "module"),
    "LitEma's": (
        {
            "state_dict": {**prefixed("gen.", RAW), "model_ema.decay": torch.tensor(0.9)}
            | {f"model_ema.{key.replace('.', '')}": value for key, value in parameters(G).items()}
        },
        "state_dict.model_ema",
    ),
    "a plain state dict": (G, ""),
    "a sequence without a name": ({key.removeprefix("main."): tensor for key, tensor in G.items()}, ""),
    "a sequence of another name": ({key.replace("main", "layers"): tensor for key, tensor in G.items()}, ""),
}


@pytest.mark.parametrize(("content", "key"), TAKEN.values(), ids=TAKEN)
def test_the_generator_is_taken_and_an_average_before_it(content, key, tmp_path):
    chosen = choose(content, dcgan_of, tmp_path)
    assert chosen.network.key == key
    assert torch.equal(chosen.built.main[0].weight, G[FIRST])


BUFFERLESS = {
    "names without the norms' statistics": {"ema": {"decay": 0.9, "shadow": parameters(G)}},
    "names without dots": {"ema": {key.replace(".", ""): tensor for key, tensor in parameters(G).items()}},
    "a list of torch_ema": {"ema": {"decay": 0.9, "num_updates": 5, "shadow_params": list(parameters(G).values())}},
    "a list alone": {"ema_params": list(parameters(G).values())},
}


@pytest.mark.parametrize("average", BUFFERLESS.values(), ids=BUFFERLESS)
def test_an_average_of_the_parameters_alone_has_the_raw_networks_statistics(average, tmp_path):
    content = {"netG": RAW, "netD": D, "optimizer": optimizer(), **average}
    chosen = choose(content, dcgan_of, tmp_path)
    assert chosen.network.is_average
    assert chosen.network.completed_from == "netG"
    state = chosen.built.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in parameters(G).items())
    assert torch.equal(state["main.1.running_var"], RAW["main.1.running_var"])
    assert "netG" in chosen.note


def test_an_average_of_another_network_is_not_completed(tmp_path):
    content = {"netG": G, "ema_params": [torch.zeros(3)], "d_ema": list(parameters(D).values())}
    chosen = choose(content, dcgan_of, tmp_path)
    assert chosen.network.key == "netG"
    assert "ema_params" in chosen.note  # which a reader must know was not used


AMBIGUOUS = {
    "two directions": ({"netG_A": G, "netG_B": RAW}, ["netG_A", "netG_B"]),
    "two averages": ({"G": RAW, "G_ema": G, "G_swa": OTHER}, ["G_ema", "G_swa"]),
    "no names": ({"first": G, "second": RAW}, ["first", "second"]),
}


@pytest.mark.parametrize(("content", "keys"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_is_ambiguous_is_refused_with_the_keys_to_choose_from(content, keys, tmp_path):
    with pytest.raises(WeightsError, match="`network`") as caught:
        choose(content, dcgan_of, tmp_path)
    for key in keys:
        assert key in str(caught.value)
        assert torch.equal(choose(content, dcgan_of, tmp_path, key).built.main[0].weight, content[key][FIRST])


def test_a_network_can_be_chosen_by_its_key_or_the_last_part_of_it(tmp_path):
    content = {"state_dict": {**prefixed("generator.", RAW), **prefixed("generator_ema.", G)}}
    for wanted in ("state_dict.generator", "generator"):
        assert torch.equal(choose(content, dcgan_of, tmp_path, wanted).built.main[0].weight, RAW[FIRST])


def test_a_generator_that_is_called_a_discriminator_is_taken_only_on_request(tmp_path):
    with pytest.raises(WeightsError, match=r"`network` to discriminator"):
        choose({"discriminator": G}, dcgan_of, tmp_path)
    assert choose({"discriminator": G}, dcgan_of, tmp_path, "discriminator").network.key == "discriminator"


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(SpecError, match=r"'g_ema'.*g, d, g_ema"):
        choose({"g": RAW, "d": D, "g_ema": G}, dcgan_of, tmp_path, "g_em")
    with pytest.raises(SpecError, match=r"^network: "):
        choose(G, dcgan_of, tmp_path, "g_ema")


def test_a_discriminator_alone_is_called_one(tmp_path):
    for content in (D, {"netD": D}):
        with pytest.raises(WeightsError, match="discriminator"):
            choose(content, dcgan_of, tmp_path)


def test_an_optimizers_state_is_called_one(tmp_path):
    with pytest.raises(WeightsError, match="optimizer"):
        choose(optimizer(), dcgan_of, tmp_path)


def test_a_file_without_a_network_shows_what_is_inside(tmp_path):
    with pytest.raises(WeightsError, match=r"epoch, config \(lr, name\)"):
        choose({"epoch": 3, "config": {"lr": 0.1, "name": "x"}}, dcgan_of, tmp_path)


def test_a_file_of_other_networks_shows_their_keys_and_tensors(tmp_path):
    content = {"g": {"style.1.weight": torch.zeros(4, 4), "input.input": torch.zeros(1, 4, 4, 4)}, "d": D}
    with pytest.raises(WeightsError, match=r"(?s)'g'.*g: 2 tensors: style.1.weight \[4, 4\]"):
        choose(content, dcgan_of, tmp_path)


ARCHITECTURES = {
    "rosinality": ({"style.1.weight": 1, "convs.0.conv.modulation.weight": 1}, "rosinality"),
    "nvidia": ({"mapping.fc0.weight": 1, "synthesis.b4.const": 1}, "NVIDIA"),
    "autoencoder": ({"decoder.conv_in.weight": 1, "post_quant_conv.bias": 1}, "autoencoder"),
    "classifier": ({"features.0.weight": 1, "classifier.1.weight": 1}, "classifier"),
    "lora": ({"unet.lora_down.weight": 1}, "LoRA"),
}


@pytest.mark.parametrize(("names", "what"), ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("prefix", ["", "module.generator."])
def test_a_known_network_of_another_kind_is_called_by_its_name_with_what_to_do(tmp_path, names, what, prefix):
    path = tmp_path / "other.pth"
    torch.save({"g_ema": {f"{prefix}{name}": torch.zeros(2, 2) for name in names}}, path)
    with pytest.raises(WeightsError, match=f"(?s)seems to be .*{what}.*mine:function") as caught:
        load_generator(str(path), device="cpu")
    assert "state dict alone" not in str(caught.value)


def test_a_state_dict_is_given_whole_and_in_parts():
    content = {"embeddings.weight": torch.zeros(2, 2), **prefixed("generator.", G)}
    assert [found.key for found in networks_in(content)] == ["", "generator"]

    def whole(network):
        if "embeddings.weight" not in network.state:
            raise Misfit("has no embeddings")
        return len(network.state)

    assert choose(content, whole, "x").built == len(G) + 1


def test_other_parts_of_a_network_are_not_left_out_in_silence(tmp_path):
    with pytest.raises(WeightsError, match=r"head\.weight"):
        choose({**G, "head.weight": torch.zeros(2, 2)}, dcgan_of, tmp_path)


@pytest.mark.parametrize("name", ["several.pth", "several.safetensors"])
def test_what_was_taken_is_noted_with_what_was_not(tmp_path, name):
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save({"g": RAW, "d": D, "g_ema": G}, path)
    else:
        save_file({**prefixed("g.", RAW), **prefixed("d.", D), **prefixed("g_ema.", G)}, path)
    taken = load_generator(str(path), device="cpu")
    (note,) = notes_of(taken)
    assert "averaged weights of the network 'g_ema'" in note
    assert "the file also holds" in note
    raw = load_generator(str(path), network="g", device="cpu")
    assert torch.equal(raw.main[0].weight, RAW[FIRST])
    assert "'g'" in notes_of(raw)[0]


def test_a_file_of_one_network_needs_no_note(tmp_path):
    torch.save({"state_dict": state_dict_of(network(FACES_WIDTHS))}, tmp_path / "one.pth")
    assert notes_of(load_generator(str(tmp_path / "one.pth"), device="cpu")) == ()


def test_a_factory_takes_no_network():
    with pytest.raises(SpecError, match=r"^network: "):
        load_generator("toy_generators:linear", network="g", device="cpu")

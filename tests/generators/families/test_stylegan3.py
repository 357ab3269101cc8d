"""StyleGAN3: images of every layout of checkpoint against the originals', its schedule, and its metric."""

import numpy as np
import pytest
import torch
from style_files import by_rule, expected, image_error, metric_error, nvidia_pickle, nvidia_state

import pullback
from pullback.errors import PullbackError
from pullback.generators.families import stylegan3

R = "nvlabs_stylegan3_repo/sg3_r"
T_COND = "nvlabs_stylegan3_repo/sg3_t_cond"
ALONE = 5e-9
"""The original divides styles by their mean over the batch, which only an epsilon beside it notices. Of the batch whose
images are stored for R, the first is here."""


@pytest.mark.parametrize(
    ("name", "codes", "case", "options"),
    [
        (R, "z", "psi0.7", {"truncation": 0.7}),
        (T_COND, "z", "psi0.7", {"truncation": 0.7}),
        (T_COND, "wplus", "wplus", {"space": "w+"}),
    ],
)
def test_images_are_those_of_the_original(tmp_path, name, codes, case, options):
    path, arrays = nvidia_pickle(tmp_path, name), expected(name)
    condition = arrays.get("c") if codes == "z" else None
    wanted = arrays[f"img64__{case}"]
    assert image_error(path, arrays[codes], wanted, condition, **options) < (ALONE if name == R else 1e-9)
    assert image_error(path, arrays[codes], wanted.astype(np.float32), condition, **options) < 1e-5


def test_a_bare_state_dict_loads_with_the_usual_schedule(tmp_path):
    arrays, path = expected(R), tmp_path / "state.pt"
    torch.save({f"module.{name}": tensor for name, tensor in nvidia_state(R).items()}, path)
    assert image_error(path, arrays["z"], arrays["img64__psi0.7"], truncation=0.7) < ALONE


def hammer_file(path, **kwargs):
    """The conditional network as a Hammer checkpoint, with the grid that Hammer stores."""
    made = {}
    parts = {"weight": "conv.weight", "affine.weight": "conv.style.weight", "affine.bias": "conv.style.bias",
             "bias": "filter.bias", "up_filter": "filter.up_filter", "down_filter": "filter.down_filter",
             "magnitude_ema": "magnitude_ema"}  # fmt: skip
    for name, tensor in nvidia_state(T_COND).items():
        head, _, rest = name.partition(".")
        layer, _, tail = rest.partition(".")
        if name == "mapping.w_avg":
            made["w_avg"] = tensor
        elif head == "mapping":
            new = layer.replace("fc", "dense").replace("embed", "embedding")
            made[f"mapping.{new}.{tail}"] = tensor
        elif layer == "input":
            new = tail.replace("freqs", "frequency").replace("phases", "phase")
            made[f"synthesis.early_layer.{new}"] = tensor
        else:
            made[f"synthesis.layer{layer[1:].partition('_')[0]}.{parts[tail]}"] = tensor
    line = (2 * torch.arange(36) - 35) / 32
    made["synthesis.early_layer.grid"] = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)[None].float()
    own = {"model_type": "StyleGAN3Generator", "resolution": 16, "kernel_size": 3, "num_layers": 6, "label_dim": 4}
    content = {"models": {"generator_smooth": made}, "model_kwargs_init": {"generator_smooth": {**own, **kwargs}}}
    torch.save(content, path)
    return path


def test_the_same_network_as_a_hammer_checkpoint_gives_the_same_images(tmp_path):
    path, arrays = hammer_file(tmp_path / "network.pth"), expected(T_COND)
    assert image_error(path, arrays["z"], arrays["img64__psi0.7"], arrays["c"], truncation=0.7) < 1e-9


def test_arguments_that_are_not_supported_are_refused(tmp_path):
    with pytest.raises(PullbackError, match="normalize_z"):
        pullback.load_generator(str(hammer_file(tmp_path / "network.pth", normalize_z=False)), device="cpu")


def test_a_schedule_that_does_not_give_the_files_sizes_is_an_error(tmp_path):
    path = tmp_path / "state.pt"
    torch.save(nvidia_state(R), path)
    with pytest.raises(PullbackError, match="margin_size"):
        pullback.load_generator(str(path), device="cpu", margin_size=8)


def test_the_published_schedule_has_the_sizes_of_the_published_network():
    options = stylegan3.Options(
        resolution=256, channels=(*[512] * 9, 431, 256, 181, 128, 128, 3), kernel=3, z_dim=512, w_dim=512, mapping=()
    )
    sizes = [layer.size for layer in stylegan3.schedule(options).layers]
    assert sizes == [36, 36, 36, 52, 52, 84, 84, 148, 148, 148, 276, 276, 276, 256, 256]


def small(kernel):
    """A StyleGAN3 of few and thin layers, with weights by a rule: T with kernel 3, R with kernel 1."""
    options = stylegan3.Options(
        resolution=16, channels=(4, 4, 4, 4, 3), kernel=kernel, z_dim=4, w_dim=4, mapping=(4,), margin_size=4
    )
    shapes = {name: tensor.shape for name, tensor in stylegan3.StyleGan3(options).state_dict().items()}
    state = by_rule(shapes, 1, 1.0)
    for name, tensor in state.items():
        if name.endswith("_filter"):
            line = torch.hann_window(len(tensor) + 2)[1:-1]
            state[name] = line / line.sum()
            if kernel == 1 and "down" in name:
                state[name] = torch.outer(state[name], state[name])
        elif name.endswith("magnitude_ema"):
            state[name] = tensor.abs() + 0.5
    return stylegan3.build(options, state).eval().requires_grad_(False)


@pytest.mark.parametrize("kernel", [1, 3], ids=["R", "T"])
def test_the_metric_is_that_of_double_backpropagation_and_every_operation_has_a_rule(monkeypatch, kernel):
    error, without_rule = metric_error(small(kernel), monkeypatch)
    assert error < 1e-5
    assert without_rule == []

"""Style-based checkpoints with a tensor too many, too few, or of another shape: each is an error that names it."""

import pytest
import torch
from style_files import DATA, nvidia_state

import pullback
from pullback.errors import PullbackError


def changed(state, fault):
    """A state dict with a fault in a convolution's tensors, and the part of the name that its error must hold."""
    name = max(name for name in state if name.endswith(("weight", "weight_orig")) and state[name].dim() > 3)
    state = dict(state)
    if fault == "unexpected":
        state[f"{name}.twice"] = torch.ones(2)
        return state, f"{name}.twice"
    if fault == "missing":
        biases = [key for key in sorted(state) if key.endswith("bias") and "rgb" not in key.lower()]
        del state[biases[-1]]
        return state, "lacks"
    state[name] = torch.ones(*state[name].shape[:-1], 5)
    return state, "misshapen"


def stored(name):
    content = torch.load(DATA / name, weights_only=True)
    return content.get("generator_smooth", content.get("g_ema", content))


@pytest.mark.parametrize("fault", ["unexpected", "missing", "misshapen"])
@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("nvidia", {"conv_clamp": None}),
        ("nvidia3", {}),
        ("rosinality_stylegan2/converted.pt", {}),
        ("rosinality_stylegan1/g_running_only.model", {"resolution": 32}),
        ("genforce/stylegan16.pth", {}),
        ("genforce/pggan16.pth", {}),
        ("facebook_gan_zoo/stylegan.avgG.pth", {}),
        ("facebook_gan_zoo/pgan_labels.avgG.pth", {}),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, layout, options, fault):
    if layout.startswith("nvidia"):
        state = nvidia_state(f"nvlabs_stylegan3_repo/{'sg3_r' if layout == 'nvidia3' else 'sg2_resnet'}")
    else:
        state = stored(layout)
    made, named = changed(state, fault)
    path = tmp_path / "network.pt"
    torch.save(made, path)
    with pytest.raises(PullbackError) as raised:
        pullback.load_generator(str(path), device="cpu", **options)
    assert named in str(raised.value)

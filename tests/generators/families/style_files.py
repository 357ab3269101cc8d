"""Reference checkpoints of the style-based families, and helpers that compare images and metrics with references."""

import json
import sys
import types
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import load_file

import nvidia_pickles
import pullback
from pullback.metric.backprop import backprop_metric
from pullback.metric.forward import rules
from pullback.metric.precision import in_double

DATA = Path(__file__).parents[2] / "data" / "generators"

NVIDIA = {
    "nvlabs_stylegan3_repo/sg2_resnet": {
        "z_dim": 10, "w_dim": 10, "c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 96,
        "channel_max": 12, "architecture": "resnet", "mapping_kwargs": {"num_layers": 2},
    },
    "nvlabs_stylegan2_ada/ada_cond": {
        "z_dim": 10, "w_dim": 10, "c_dim": 4, "img_resolution": 16, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": {"channel_base": 96, "channel_max": 12},
    },
    "nvlabs_stylegan3_repo/sg3_r": {
        "z_dim": 12, "w_dim": 16, "c_dim": 0, "img_resolution": 32, "img_channels": 3, "channel_base": 256,
        "channel_max": 16, "num_layers": 8, "magnitude_ema_beta": 0.9988915792636801, "conv_kernel": 1,
        "use_radial_filters": True, "mapping_kwargs": {},
    },
    "nvlabs_stylegan3_repo/sg3_t_cond": {
        "z_dim": 8, "w_dim": 12, "c_dim": 4, "img_resolution": 16, "img_channels": 3, "channel_base": 64,
        "channel_max": 12, "num_layers": 6, "mapping_kwargs": {},
    },
}  # fmt: skip
"""Constructor arguments of NVIDIA's networks, by their file."""
_BUFFERS = ("filter", "noise_const", "w_avg", "magnitude_ema", "freqs", "phases", "transform")


def expected(name):
    """The arrays of a reference file."""
    return dict(np.load(DATA / f"{name}.expected.npz"))


def nvidia_state(name):
    return load_file(DATA / f"{name}.state.safetensors")


def nvidia_pickle(folder, name, state=None, **kwargs):
    """Write a network as NVIDIA's code pickles it, and return the file."""
    state = nvidia_state(name) if state is None else state
    buffers = [key for key in state if key.endswith(_BUFFERS)]
    network = nvidia_pickles.network(state=state, init_kwargs={**NVIDIA[name], **kwargs}, buffers=buffers)
    path = folder / "network.pkl"
    nvidia_pickles.write(path, {"G": None, "D": None, "G_ema": network})
    return path


def image_error(path, codes, wanted, condition=None, prepare=None, **options):
    """The largest difference of a generator's native images from the reference's, computed in the reference's dtype."""
    generator = pullback.load_generator(str(path), device="cpu", **options)
    wanted = torch.from_numpy(wanted)
    generator = generator.to(wanted.dtype)
    if prepare is not None:
        prepare(generator)
    given = None if condition is None else torch.from_numpy(condition).to(wanted.dtype)
    return float((generator.native(torch.from_numpy(codes).to(wanted.dtype), given) - wanted).abs().max())


def metric_error(generator, monkeypatch, condition=None):
    """The relative difference of a metric from double backpropagation, and the operations without a rule."""
    without_rule = []
    by_torch = rules._by_jvp

    def noted(tape, func, *rest):
        without_rule.append(func.__name__)
        return by_torch(tape, func, *rest)

    monkeypatch.setattr(rules, "_by_jvp", noted)
    distance = pullback.load_distance("mse", device="cpu")
    codes = torch.randn(1, generator.latent_dim, generator=torch.Generator().manual_seed(2))
    found = pullback.metric_at(generator, distance, codes, condition=condition)
    assert found.note == ""
    assert found.route == "forward"
    chosen = () if condition is None else (torch.tensor([condition]),)
    exact = backprop_metric(in_double(generator), in_double(distance), codes[0].double(), *chosen)
    return float((found.matrix[0] - exact).norm() / exact.norm()), without_rule


def by_rule(shapes, seed, scale=0.3):
    """Tensors by the rule that the README of the references states."""

    def values(key, shape):
        stream = np.random.RandomState((crc32(key.encode()) + seed) % 2**32)
        return torch.from_numpy(np.asarray(scale * stream.standard_normal(tuple(shape)), dtype=np.float32))

    return {key: values(key, shape) for key, shape in shapes.items()}


def lucidrains_file(folder, name, config):
    """Write a checkpoint of lucidrains/stylegan2-pytorch with weights by the rule, and return it."""
    shapes = json.loads(str(expected("lucidrains_stylegan2/rule")[f"{name}__shapes"]))
    state = {}
    for prefix, seed in (("GE.", 1), ("SE.", 2)):
        own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        state |= {f"{prefix}{key}": tensor for key, tensor in by_rule(own, seed).items()}
        state |= {f"{prefix[0]}.{key}": tensor + 1 for key, tensor in by_rule(own, seed).items()}  # the live networks
    state["D.blocks.0.conv_res.weight"] = torch.ones(2, 3, 1, 1)
    path = folder / "model_3.pt"
    torch.save({"GAN": state, "version": "1.9.0"}, path)
    (folder / ".config.json").write_text(json.dumps(config))
    return path


class ZooConfig:
    """Stands for the config class of pytorch_GAN_zoo, whose name the pickle holds."""

    def __init__(self, **values):
        self.__dict__.update(values)


def zoo_file(path, name, monkeypatch, legacy=False, **changes):
    """Write a checkpoint of pytorch_GAN_zoo: a config object, the live network and the averaged one."""
    module = types.ModuleType("models.utils.config")
    module.BaseConfig = type("BaseConfig", (ZooConfig,), {"__module__": "models.utils.config"})
    average = torch.load(DATA / "facebook_gan_zoo" / f"{name}.avgG.pth", weights_only=True)
    config = json.loads((DATA / "facebook_gan_zoo" / f"{name}.config.json").read_text())
    with monkeypatch.context() as patch:
        for parent in ("models", "models.utils"):
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        patch.setitem(sys.modules, "models.utils.config", module)
        content = {
            "config": module.BaseConfig(**{**config, **changes}),
            "netG": {key: tensor + 1 for key, tensor in average.items()},
            "netD": {"fromRGBLayers.0.module.weight": torch.ones(2, 3, 1, 1)},
            "avgG": average,
        }
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path

"""BigBiGAN generators (Donahue and Simonyan, "Large Scale Adversarial Representation Learning", NeurIPS 2019).

The supported files are those of the torch port `BigGANsAreWatching` (Voynov and Babenko): a state dict of
BigGAN-PyTorch's hierarchical BigGAN. The network is unconditional. The port repeats its one class embedding for every
class, and uses class 0.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pullback.generators.biggan_layers import with_iterated_sigma
from pullback.generators.biggan_network import BigGan, NetworkOptions
from pullback.generators.families import biggan
from pullback.generators.family import Found, load_state
from pullback.weights.content import Content

SUMMARY = "BigBiGAN as ported to torch by BigGANsAreWatching"
READS = ("BigBiGAN_x1.pth: a bare state dict",)

_LAST_EPS = 1e-5
"""Epsilon of the last norm; BN_eps does not change it."""


class Options(NetworkOptions):
    """Options of the generator of a BigBiGAN."""

    BN_eps: float = 1e-4
    """Added to a variance before its root is taken, except in the last norm. The port's code sets 1e-4."""
    SN_eps: float = 1e-4
    """Lower bound of the norms in the power iteration of the spectral norm. The port's code sets 1e-4."""
    fixed_class: int = 0
    """The class whose embedding every image has."""


def read(content: Content) -> Found | None:
    """Recognise the port's state dict; see `checkpoint`."""
    if content.asked is None and not biggan.seems_bigbigan(content.state, content.path):
        return None
    return read_state(content.state, content.config)


def read_state(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Found | None:
    """Recognise the port's state dict, and read its epsilons from the configuration if there is one."""
    found = biggan.read_state(state, config)
    if found is None or "shared.weight" not in state:
        return None
    options = {name: value for name, value in found.options.items() if name in Options.model_fields}
    options |= {name: float(config[name]) for name in ("BN_eps", "SN_eps") if name in config}
    if not config:
        options = {name: value for name, value in options.items() if not name.endswith("_eps")}
    return Found(options, found.state)


def build(options: Options, state: Mapping[str, Tensor]) -> BigGan:
    """Build the generator with these options and tensors.

    Raises:
        Misfit: the tensors do not fit the options.
    """
    generator = BigGan(options, deep=False, eps=options.BN_eps, last_eps=_LAST_EPS, fixed_class=options.fixed_class)
    load_state(generator, with_iterated_sigma(state, options.SN_eps))
    return generator

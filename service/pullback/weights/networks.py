"""The networks inside a checkpoint: find them, interpret their names, and choose one.

Each training code names its networks differently: `{"netD": ..., "netG": ...}`, `{"g": ..., "g_ema": ...}`,
`{"state_dict": {"generator.main.0.weight": ...}}`. Keys have wrappers such as `module.`, and averages of the weights
lie beside the raw ones, some of them as lists without names. This module finds all of them. The generator family
(`dcgan`) determines which of them it can build.

The rules of the choice: networks that the family cannot build are excluded, and so are names that contain
discriminator, encoder or optimizer. Averaged weights are preferred to raw ones, and names that contain generator to
neutral ones. If two different networks remain, an error lists their keys, for the option `network`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pullback.errors import ArgumentError, WeightsError
from pullback.spec import nearest
from pullback.spec.messages import enumerated
from pullback.weights.file_kinds import architecture_of

Built = TypeVar("Built")

_GENERATOR = {"g", "gen", "generator", "generators", "netg", "gs", "dec", "decoder"}
_DISCRIMINATOR = {"d", "dis", "disc", "discriminator", "discriminators", "netd", "ds", "critic"}
_OTHER = {
    "e",
    "enc",
    "encoder",
    "opt",
    "optim",
    "optims",
    "optimizer",
    "optimizers",
    "sched",
    "scheduler",
    "schedulers",
}
_OTHER |= {"scaler", "lpips", "vgg", "perceptual", "loss", "losses", "classifier", "inception"}
_AVERAGE = {
    "ema",
    "avg",
    "average",
    "averaged",
    "averaging",
    "shadow",
    "swa",
    "polyak",
    "running",
    "smooth",
    "smoothed",
}
_AVERAGE |= {"gs"}
_WRAPPERS = {
    "module",
    "_orig_mod",
    "model",
    "net",
    "network",
    "online_model",
    "_forward_module",
    "_fsdp_wrapped_module",
}
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers of a norm layer. Averages that cover only the parameters lack them."""
_DEEPEST = 8
_MOST_IN_LIST = 64
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Misfit(Exception):  # noqa: N818 - the failure of one candidate, which is expected
    """A family cannot build a generator from a state dict; the message continues "the weight file ..."."""


@dataclass(frozen=True)
class Network:
    """One state dict of a checkpoint.

    Attributes:
        key: its place in the file: the keys of the mappings and the prefixes of the state dict, joined by dots; empty
            at the top level.
        state: its tensors by name, without the prefixes in `key`.
        completed_from: the key of the raw network that supplied missing buffers or names of an average.
    """

    key: str
    state: Mapping[str, Tensor]
    completed_from: str | None = None

    @property
    def role(self) -> str | None:
        """`generator`, `discriminator` or `other`, from the innermost name that contains a role; else None."""
        for part in reversed(self.key.split(".")):
            words = _words(part)
            for role, known in (("other", _OTHER), ("discriminator", _DISCRIMINATOR), ("generator", _GENERATOR)):
                if words & known:
                    return role
        return None

    @property
    def is_average(self) -> bool:
        """Whether a part of the key marks the weights as averages over the training steps."""
        return bool(_words(self.key) & _AVERAGE)

    @property
    def what(self) -> str:
        """A short description of the network, for messages."""
        names = enumerated([f"{name} {list(tensor.shape)}" for name, tensor in self.state.items()], 3)
        count = "1 tensor" if len(self.state) == 1 else f"{len(self.state)} tensors"
        return f"{self.key or '(top)'}: {count}: {names}"


@dataclass(frozen=True)
class Chosen(Generic[Built]):
    """The result of `choose`.

    Attributes:
        built: the generator that the family built.
        network: the network that it was built from.
        passed_over: the keys of the other networks in the file.
    """

    built: Built
    network: Network
    passed_over: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """A sentence on the choice, for the plan and the record; None if the file holds only one network."""
        if not self.passed_over and self.network.completed_from is None:
            return None
        kind = "averaged weights" if self.network.is_average else "the weights"
        lacks = self.network.completed_from
        more = "" if lacks is None else f", completed with what only {lacks!r} holds (norm statistics or names)"
        rest = f"; the file also holds {enumerated(self.passed_over, 6)}" if self.passed_over else ""
        return f"{kind} of the network {self.network.key!r}{more}{rest}"


def networks_in(content: Any) -> list[Network]:
    """Return every network in a checkpoint's content, in the order of the file.

    Averages that lack the buffers of the norms, or all names (the lists of `torch_ema` and diffusers), are completed
    from the raw network that matches them. A state dict with several networks by the first parts of its names
    (`generator.`, `discriminator.`) is returned as a whole and in parts.
    """
    found: list[Network] = []
    lists: list[tuple[str, list[Tensor]]] = []
    _walk(content, (), found, lists)
    found = [_completed(network, found) for network in found]
    for key, tensors in lists:
        unnamed = {str(index): tensor for index, tensor in enumerate(tensors)}, None
        state, raw = _named(tensors, [network for network in found if network.role in (None, "generator")]) or unnamed
        found.append(Network(key, state, raw))
    return found


def choose(
    content: Any,
    build: Callable[[Network], Built],
    path: Path,
    wanted: str | None = None,
    advice: str = "",
) -> Chosen[Built]:
    """Choose a network of a checkpoint by the module's rules, and build a generator from it.

    Args:
        content: from `read_checkpoint`.
        build: makes a generator from a network; raises `Misfit` if it cannot.
        path: the file, for messages.
        wanted: the key of the network to choose (the option `network`), or a part of it.
        advice: sentences that advise users whose file holds other networks.

    Raises:
        WeightsError: no network can be built, or the choice is ambiguous.
        SpecError: no network has the wanted key.
    """
    networks = networks_in(content)
    if not networks:
        raise WeightsError(f"the weight file {path} holds no network: {_contents(content)}")
    usable: dict[str, tuple[Network, Built]] = {}
    misfits: dict[str, str] = {}
    for network in networks if wanted is None else _wanted(networks, wanted, path):
        try:
            usable.setdefault(network.key, (network, build(network)))
        except Misfit as error:
            misfits.setdefault(network.key, str(error))
    if not usable:
        raise WeightsError(_no_fit(networks, misfits, path) + (advice and f"\n{advice}"))
    allowed = [pair for pair in usable.values() if wanted is not None or pair[0].role in (None, "generator")]
    if not allowed:
        raise WeightsError(
            f"the weight file {path} holds no generator by its names: {enumerated([*usable], 6)} could be built, but "
            f"the name says something else. To use it nevertheless, set the option `network` to {next(iter(usable))}"
        )
    best = max(_rank(network) for network, _ in allowed)
    top = _different([pair for pair in allowed if _rank(pair[0]) == best])
    if len(top) > 1:
        keys = [network.key for network, _ in top]
        raise WeightsError(
            f"the weight file {path} holds {len(top)} networks that match: {enumerated(keys, 12)}. Choose one with the "
            f"option `network`, such as {keys[0]}"
        )
    network, built = top[0]
    others = [other.key for other in networks if not _within(network.key, other.key)]
    return Chosen(built, network, tuple(dict.fromkeys(key for key in others if not _within(key, network.key))))


def _within(inner: str, outer: str) -> bool:
    """Return whether the inner key equals the outer one or lies below it."""
    return not outer or inner == outer or inner.startswith(f"{outer}.")


def _walk(node: Any, path: tuple[str, ...], found: list[Network], lists: list[tuple[str, list[Tensor]]]) -> None:
    if len(path) > _DEEPEST:  # also stops at cycles
        return
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        tensors = [value for value in node if isinstance(value, Tensor)]
        if tensors and len(tensors) == len(node) and _words(".".join(path)) & _AVERAGE:
            lists.append((".".join(path), tensors))
        elif len(node) <= _MOST_IN_LIST:
            for index, value in enumerate(node):
                _walk(value, (*path, str(index)), found, lists)
        return
    if not isinstance(node, Mapping) or {"state", "param_groups"} <= {*map(str, node)}:
        return  # the last condition matches an optimizer's state
    tensors_here = {str(key): value for key, value in node.items() if isinstance(value, Tensor)}
    if any(tensor.dim() for tensor in tensors_here.values()):
        found += _split(tensors_here, path)
    for key, value in node.items():
        if not isinstance(value, Tensor):
            _walk(value, (*path, str(key)), found, lists)


def _split(state: Mapping[str, Tensor], path: tuple[str, ...]) -> Iterator[Network]:
    """Yield the networks of one state dict: the whole without wrappers, and its parts by the first part of names."""
    heads: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        head, dot, rest = name.partition(".")
        if dot:
            heads.setdefault(head, {})[rest] = tensor
    loose = [tensor for name, tensor in state.items() if "." not in name and tensor.dim()]
    if len(heads) == 1 and not loose and len(path) <= 2 * _DEEPEST:  # ignore scalars (`n_averaged`, `step`)
        ((head, inner),) = heads.items()
        if _splits(head):
            yield from _split(inner, (*path, head))
            return
    yield Network(".".join(path), state)
    if len(path) <= 2 * _DEEPEST and any(_words(head) & (_GENERATOR | _DISCRIMINATOR | _AVERAGE) for head in heads):
        for head, inner in heads.items():
            if _splits(head):
                yield from _split(inner, (*path, head))


def _splits(head: str) -> bool:
    return head in _WRAPPERS or bool(_words(head) & (_GENERATOR | _DISCRIMINATOR | _AVERAGE))


def _words(name: str) -> set[str]:
    """Split a key into words: `netG_state_dict` -> net, g, state, dict."""
    return {word.lower() for word in _WORD.findall(name)}


def _rank(network: Network) -> tuple[bool, bool]:
    return network.is_average, network.role == "generator"


def _different(pairs: list[tuple[Network, Built]]) -> list[tuple[Network, Built]]:
    """Return one network of each set whose tensors are all equal; a choice among equal ones does not matter."""
    kept: list[tuple[Network, Built]] = []
    for network, built in pairs:
        if not any(_equal(network.state, other.state) for other, _ in kept):
            kept.append((network, built))
    return kept


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _completed(network: Network, networks: Sequence[Network]) -> Network:
    """Add the raw network's buffers to an average of its parameters; return any other network unchanged."""
    if not network.is_average:
        return network
    fits = []
    for raw in networks:
        if raw is network or raw.is_average or raw.role == "discriminator":
            continue
        own = _with_dots(network.state, raw.state)
        missing = raw.state.keys() - own.keys()
        if own.keys() <= raw.state.keys() and (missing or own.keys() != network.state.keys()):
            alike = all(own[name].shape == raw.state[name].shape for name in own)
            if own and alike and all(name.endswith(_BUFFERS) for name in missing):
                fits.append(Network(network.key, {n: own.get(n, raw.state[n]) for n in raw.state}, raw.key))
    return fits[0] if len(fits) == 1 else network


def _with_dots(average: Mapping[str, Tensor], raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give an average the names of the raw network: buffer names cannot contain dots, so some codes remove them."""
    if any("." in name for name in average):
        return dict(average)
    dotted = {name.replace(".", ""): name for name in raw}
    return {dotted.get(name, name): tensor for name, tensor in average.items() if name in dotted or tensor.dim()}


def _named(tensors: list[Tensor], raws: Sequence[Network]) -> tuple[dict[str, Tensor], str] | None:
    """Name the averaged parameters in a list after the only raw network whose parameters have the same shapes."""
    fits = []
    for raw in raws:
        names = [name for name in raw.state if not name.endswith(_BUFFERS)]
        if not raw.is_average and [raw.state[n].shape for n in names] == [tensor.shape for tensor in tensors]:
            fits.append(({**raw.state, **dict(zip(names, tensors, strict=True))}, raw.key))
    return fits[0] if len(fits) == 1 else None


def _wanted(networks: Sequence[Network], wanted: str, path: Path) -> list[Network]:
    """Return the networks whose key equals `wanted`, else those whose key contains it."""
    exact = [network for network in networks if network.key == wanted]
    found = exact or [network for network in networks if f".{wanted}." in f".{network.key}."]
    if not found:
        keys = [network.key for network in networks if network.key]
        have = f"it has {enumerated(keys, 12)}" if keys else "it holds one network, without a key: omit `network`"
        raise ArgumentError("network", f"{path} has no network {wanted!r}{nearest(wanted, keys) or ';'} {have}")
    return found


def _no_fit(networks: Sequence[Network], misfits: Mapping[str, str], path: Path) -> str:
    likely = [network for network in networks if network.key in misfits]
    likely.sort(key=lambda network: network.role in ("discriminator", "other"))
    first = likely[0]
    seems = architecture_of(name for network in likely for name in network.state)
    looks = f"\nIt seems to be {seems}." if seems else ""
    inside = f" (its network {first.key!r})" if first.key and len(networks) > 1 else ""
    listed = "\n".join(f"    {network.what}" for network in networks[:8])
    more = f"\n    and {len(networks) - 8} more" if len(networks) > 8 else ""
    return f"the weight file {path}{inside} {misfits[first.key]}{looks}\nIt holds:\n{listed}{more}"


def _contents(content: Any) -> str:
    """Describe the top level of a checkpoint and the contents of its entries."""
    if not isinstance(content, Mapping):
        return f"it is {type(content).__name__}"
    if {"state", "param_groups"} <= {*map(str, content)}:
        return "it is the state of an optimizer, which has no weights of a network. Use the file of the network"
    inner = [
        f"{key} ({enumerated([*map(str, value)], 3)})" if isinstance(value, Mapping) and value else str(key)
        for key, value in content.items()
    ]
    return f"at its top are {enumerated(inner, 8) or 'no keys'}"

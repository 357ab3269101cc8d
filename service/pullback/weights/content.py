"""The content of a checkpoint as plain data: containers, tensors, numbers, and the JSON config that lies beside it.

`read` takes a file or a folder. The generator families interpret the tensors.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pullback.errors import WeightsError
from pullback.regular_files import TooLongError, read_regular
from pullback.spec.messages import enumerated
from pullback.weights.checkpoints import metadata_of, read_checkpoint, read_with_modules
from pullback.weights.file_kinds import kind_of
from pullback.weights.networks import Network
from pullback.weights.pickled_networks import Constructed, Modules

CONFIG_NAMES = ("config.json", ".config.json", "generator_kwargs.json")
"""Names of JSON configs that training code writes into the folder of its checkpoints."""
_FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.safetensors",
    "pytorch_model.bin",
    "G_ema.pth",
)
"""Names of weight files in a folder, in order of preference."""
_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".model"}
_MOST_JSON = 16 * 2**20


@dataclass(frozen=True)
class Content:
    """Content of a checkpoint, with one of its networks selected.

    Attributes:
        root: the whole content of the file: mappings, lists, tensors, numbers and text.
        config: the JSON config beside the file, or the one inside a converted file; empty if there is none.
        path: the weight file.
        metadata: the metadata of a safetensors file, text by name.
        files: every file that was read, by file name.
        state: the tensors of the selected network, without wrappers such as `module.` in their names.
        key: the key of the selected network in the file, such as `g_ema`; empty at the top level.
        arguments: the keyword arguments of the network's constructor, if the file holds them.
        modules: the parts of a pickled network by their paths; the network itself has the path "".
        pickled: the parts of every pickled network in the file, by the network's key.
        asked: the family that the job names; None if it has to be recognised.
    """

    root: Any
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    modules: Mapping[str, Constructed] = field(default_factory=dict)
    pickled: Modules = field(default_factory=dict, repr=False)
    asked: str | None = None

    def at(self, network: Network) -> "Content":
        """Return the same content with another network selected."""
        modules = self.pickled.get(network.key, {})
        arguments = modules[""].arguments if "" in modules else {}
        return replace(self, state=network.state, key=network.key, modules=modules, arguments=arguments)

    def sibling(self, name: str) -> Any:
        """Return the content of another checkpoint in the same folder; None if it is missing or unreadable."""
        if self.path is None:
            return None
        try:
            return read_checkpoint(self.path.parent / name)
        except WeightsError:
            return None


def read(path: Path) -> Content:
    """Read a checkpoint: a file, or a folder with a weight file and a `config.json`.

    Raises:
        WeightsError: it is missing, damaged, of an unknown format or too large, or needs code to be read.
    """
    file = _weight_file(path) if path.is_dir() else path
    root, pickled = read_with_modules(file)
    config_file = next((each for each in _config_files(file) if each.is_file()), None)
    config = {} if config_file is None else _json(config_file)
    files = {file.name: file} | ({config_file.name: config_file} if config_file is not None and config else {})
    return Content(root, config, metadata_of(file), file, files, pickled=pickled)


def _weight_file(folder: Path) -> Path:
    named = [folder / name for name in _FOLDER_FILES if (folder / name).is_file()]
    if named:
        return named[0]
    others = sorted(each for each in folder.iterdir() if each.suffix in _SUFFIXES and each.is_file())
    has_config = any((folder / name).is_file() for name in CONFIG_NAMES)
    if len(others) == 1 and has_config:
        return others[0]
    kind = kind_of(folder)
    if others:
        listed = enumerated([each.name for each in others], 6)
        raise WeightsError(f"{folder} is a folder with {len(others)} weight files. Name one of them: {listed}")
    raise WeightsError(f"{folder} is {kind[0] if kind else 'a folder'}, not a weight file. Name the weight file.")


def _config_files(file: Path) -> Iterator[Path]:
    for suffix in (".config.json", ".json"):
        yield file.with_name(file.stem + suffix)
        yield file.with_name(file.name + suffix)
    for name in CONFIG_NAMES:
        yield file.with_name(name)


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON config; empty if the file is not a JSON object."""
    try:
        content = json.loads(read_regular(path, _MOST_JSON))
    except (OSError, TooLongError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


__all__ = ["Constructed", "Content", "read"]

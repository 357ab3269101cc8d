"""Guess the kind of a weight file that cannot be read, and advise its owner.

The guess uses only the first bytes, the names inside an archive and the class names inside a pickle. Nothing is
unpickled, so no code in the file runs.
"""

import io
import json
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from pullback.regular_files import open_regular
from pullback.spec.messages import enumerated

FACTORY = (
    "Write a Python file with a function that builds the network and loads this file, and name it in the job as "
    "`generator: mine:function` if the file is mine.py (README, Your own generator)"
)
_STATE = "torch.save(network.state_dict(), 'state.pth')"
_TRUST = "Loading it runs the code that it holds, so do that only if you trust its source"
_MOST_OPCODES = 200_000
_MOST_PICKLES = 4
"""A file of torch's older format begins with three short pickles; the fourth is the content."""
_MOST_JSON = 32 * 2**20
_MOST_PICKLE = 64 * 2**20
"""Number of bytes of a pickle to scan. Names come before the numbers; the limit guards against lines without an end."""
_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
_PLAIN = {"torch", "collections", "numpy", "argparse", "pathlib", "builtins", "_codecs", "copyreg", "typing", "types"}
"""Packages whose classes in a pickle do not identify a network."""

_MAGIC = (
    (b"\x89HDF", "an HDF5 file, as Keras saves weights", FACTORY),
    (b"\x89PNG", "an image (PNG)", "Name the weight file instead"),
    (b"\xff\xd8\xff", "an image (JPEG)", "Name the weight file instead"),
    (b"%PDF", "a PDF document", "Name the weight file instead"),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it (gunzip, or tar -xzf) and name the weight file inside"),
    (b"BZh", "compressed with bzip2", "Unpack it and name the weight file inside"),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it and name the weight file inside"),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it and name the weight file inside"),
    (b"Rar!", "a RAR archive", "Unpack it and name the weight file inside"),
    (b"\x93NUMPY", "one numpy array", FACTORY),
    (b"GGUF", "a GGUF file of quantised weights", FACTORY),
)


def kind_of(path: Path) -> tuple[str, str] | None:
    """Return the likely kind of a file that cannot be read as a checkpoint, and advice; None if it is not recognised.

    Returns:
        The predicate of a sentence "the weight file ... is ...", and advice as a sentence without its full stop.
    """
    try:
        if path.is_dir():
            return _folder(path)
        with open_regular(path) as file:
            start = file.read(1024)
            if not start:
                return "empty", "Its download or copy was interrupted: get it again"
            return _by_start(path, file, start)
    except OSError:
        return None


def _by_start(path: Path, file: IO[bytes], start: bytes) -> tuple[str, str] | None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return (
            "a pointer of git-lfs, which stands for a file that was not downloaded",
            "Run `git lfs pull` in its repository, or download the file itself",
        )
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            "a web page, which a server sent in place of the file",
            "Download it again by the link of the file itself (with `raw` on GitHub, `resolve` on Hugging Face)",
        )
    for magic, what, advice in _MAGIC:
        if start.startswith(magic):
            return what, advice
    if start[257:262] == b"ustar":
        return "a tar archive", "Unpack it (tar -xf) and name the weight file inside"
    if start.startswith(b"PK"):
        return _archive(path)
    if start[:2] in {bytes((128, protocol)) for protocol in range(2, 6)}:
        file.seek(0)
        return _pickled(list(_classes(file.read(_MOST_PICKLE))))
    if path.suffix == ".onnx":
        return "an ONNX graph, which torch cannot differentiate", FACTORY
    if path.suffix == ".pb" or path.name.startswith("events.out"):
        return "a file of TensorFlow", FACTORY
    if text.startswith((b"{", b"[")):
        return _json(path)
    if _is_text(start):
        return (
            f"a text file, which begins with {start[:40].decode('utf-8', 'replace')!r}",
            "Name the weight file instead",
        )
    return None


def _folder(path: Path) -> tuple[str, str]:
    names = sorted(entry.name for entry in path.iterdir())
    weights = [name for name in names if name.endswith(_WEIGHT_SUFFIXES) and not name.startswith(("optim", "random_"))]
    if "model_index.json" in names:
        return "the folder of a diffusers pipeline", _pretrained(path, "the class of its decoder")
    if "config.json" in names:
        config = _config(path / "config.json")
        made_by = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
        if made_by:
            library = "diffusers" if "_diffusers_version" in config else "transformers"
            return f"the folder of a {made_by} of {library}", _pretrained(path, f"{library}.{made_by}")
    if "saved_model.pb" in names or "checkpoint" in names:
        return "a folder of TensorFlow", FACTORY
    if weights:
        return "a folder", f"Name one of its weight files: {enumerated(weights, 6)}"
    return "a folder without weight files", "Name the weight file"


def _pretrained(path: Path, what: str) -> str:
    return (
        f"Write a Python file with a function that loads it (`{what}.from_pretrained({str(path)!r})`) and returns a "
        "module of codes [batch, latent_dim] to images in [0, 1], and name it in the job as "
        "`generator: mine:function` if the file is mine.py"
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = json.loads(file.read(_MOST_JSON))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _archive(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.endswith("data.pkl")]
            if any("/code/" in name for name in names) and pickles:
                return (
                    "a TorchScript archive, which holds compiled code",
                    "Save its weights alone, torch.save(torch.jit.load(path).state_dict(), 'state.pth'); use that file",
                )
            if pickles:
                with archive.open(pickles[0]) as content:
                    return _pickled(list(_classes(content.read(_MOST_PICKLE))))
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        return "damaged: its archive is cut off or altered", "Download or copy it again"
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays (.npz)", FACTORY
    if any(name.endswith((".weights.h5", "model.h5")) for name in names):
        return "a Keras archive", FACTORY
    inside = [name for name in names if name.endswith(_WEIGHT_SUFFIXES)]
    listed = f"unpack it and name the weight file inside: {enumerated(inside, 4)}" if inside else "unpack it"
    return f"a zip archive of {len(names)} other files ({enumerated(names, 3)})", listed[0].upper() + listed[1:]


def _pickled(classes: list[str]) -> tuple[str, str] | None:
    own = [name for name in dict.fromkeys(classes) if name.partition(".")[0] not in _PLAIN]
    layers = [name for name in dict.fromkeys(classes) if name.startswith(("torch.nn.modules", "torch.nn.parallel"))]
    if any(name.startswith(("dnnlib", "torch_utils", "training.networks")) for name in own):
        return (
            "a pickle of NVIDIA's StyleGAN code that holds more than networks as data",
            "Get it from its publisher again; or, if you trust it, write a Python file with a function that loads it"
            " with NVIDIA's repository on the path (legacy.load_network_pkl(file)['G_ema']) and returns a module"
            " that maps codes to (G(z, None, noise_mode='const') + 1) / 2, with latent_dim = G.z_dim, and name it in"
            " the job as `generator: mine:function` if the file is mine.py",
        )
    if layers:
        whole = enumerated(own, 3)
        return (
            f"a whole pickled module ({whole}), not a state dict",
            "In the code that made it, load it with torch.load(path, weights_only=False) and save its state dict "
            f"alone, {_STATE}; use that file. {_TRUST}",
        )
    if any(name.startswith(("jax", "flax", "haiku", "chex")) for name in own):
        return f"a pickle of JAX arrays ({enumerated(own, 3)})", FACTORY
    if own:
        return (
            f"a pickle that holds more than tensors ({enumerated(own, 3)})",
            "Where those classes can be imported, load it with torch.load(path, weights_only=False) and save its state "
            f"dict alone, {_STATE}; use that file. {_TRUST}",
        )
    if classes and not any(name.startswith("torch") for name in classes):
        return "a pickle without tensors of torch", FACTORY
    return None


def _classes(content: bytes) -> Iterator[str]:
    """Yield the dotted names of all classes and functions in a pickle, by parsing its opcodes without any import.

    A file of torch's older format is several consecutive pickles.
    """
    file = io.BytesIO(content)
    texts: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    try:
        for _ in range(_MOST_PICKLES):
            for count, (opcode, argument, _position) in enumerate(pickletools.genops(file)):
                if count > _MOST_OPCODES:
                    return
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
                    yield f"{texts[-2]}.{texts[-1]}"
                elif opcode.name == "MEMOIZE":
                    memo[len(memo)] = last
                elif opcode.name in ("BINPUT", "LONG_BINPUT"):
                    memo[int(argument or 0)] = last
                elif opcode.name not in ("PROTO", "FRAME"):
                    last = str(argument) if "UNICODE" in opcode.name else ""
                    if opcode.name in ("BINGET", "LONG_BINGET"):
                        last = memo.get(int(argument or 0), "")
                    texts = [*texts[-1:], last] if last else texts
            memo.clear()
    except Exception:  # a damaged pickle raises nearly anything; keep the names found so far
        return


def _json(path: Path) -> tuple[str, str]:
    shards = sorted({str(value) for value in _config(path).get("weight_map", {}).values()})
    if shards:
        return (
            f"the index of weights in {len(shards)} files ({enumerated(shards, 3)})",
            "Load them together in your own code. " + FACTORY,
        )
    return "a JSON file without weights", "Name the weight file instead"


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in (9, 10, 13) for byte in start[:256]) and b"\x00" not in start


_ARCHITECTURES = (
    (("lora_",), "an adapter (LoRA), which holds changes of another network's weights"),
    (("first_stage_model.", "diffusion_model."), "Stable Diffusion as a whole"),
    (("post_quant_conv.", "decoder.conv_in."), "an autoencoder of diffusers or Stable Diffusion"),
    (("time_embed",), "the UNet of a diffusion model"),
    (("mapping.fc0.", "synthesis."), "a StyleGAN2 or StyleGAN3 of NVIDIA's code"),
    (("style.1.", "modulation."), "a StyleGAN2 of rosinality's code"),
    (("gen_z.",), "a BigGAN-deep of pytorch-pretrained-biggan"),
    (("shared.", "blocks.0.0.conv1."), "a BigGAN of BigGAN-PyTorch"),
    (("lm_head.",), "a language model"),
    (("layer1.0.conv1.", "fc."), "a ResNet, which classifies images"),
    (("features.0.", "classifier."), "a classifier of images"),
    (("const", "synthesis"), "a StyleGAN"),
)
"""Known networks, each with parts of tensor names; a network matches if it has all of them."""


def architecture_of(names: Iterable[str]) -> str | None:
    """Return the network that the tensor names of a state dict suggest; None if they are unknown."""
    text = "\n".join(names)
    return next((what for parts, what in _ARCHITECTURES if all(part in text for part in parts)), None)

"""Description of a loaded generator in plain values, for people and other programs."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pullback.generators.attributes import class_names, latent_blocks, latent_size, name_of
from pullback.generators.base import any_condition, generate, reference_tensor
from pullback.generators.checks import notes_of
from pullback.generators.family import FamilyGenerator
from pullback.generators.user_code import declared_weights
from pullback.weights.checkpoints import read_checkpoint
from pullback.weights.networks import networks_in


def described(generator: nn.Module, file: Path | None = None) -> dict[str, Any]:
    """Return a generator's sizes and origin, ready for JSON.

    Args:
        generator: from `load_generator`.
        file: the checkpoint that it was loaded from. Its networks are listed; a missing file is ignored.

    Returns:
        `name`, `latent_dim`, `image` [channels, height, width], `classes`, `blocks`, `weights` (SHA-256 by name),
        `notes` (how it was loaded and adapted); `networks`: each network of the file with its key and first tensors.
        For a known family also `family`, `space` and `options`.
    """
    n = latent_size(generator)
    z = torch.zeros(1, n).to(reference_tensor(generator))
    with torch.no_grad():
        image = generate(generator, z, any_condition(generator, 1, z.device))
    networks = networks_in(read_checkpoint(file)) if file is not None and file.is_file() else []
    return {
        "name": name_of(generator),
        "latent_dim": n,
        "image": list(image.shape[1:]),
        "classes": list(class_names(generator)),
        "blocks": {name: list(bounds) for name, bounds in latent_blocks(generator).items()},
        "weights": declared_weights(generator),
        "notes": list(notes_of(generator)),
        "networks": [network.what for network in networks],
        "family": getattr(generator, "family", None),
        "space": getattr(generator, "space", None),
        "options": dict(generator.options) if isinstance(generator, FamilyGenerator) else {},
    }

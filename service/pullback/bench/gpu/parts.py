"""The parts of the GPU check, most important first, and the process that runs one part.

`python -m pullback.bench.gpu.parts NAME DEVICE FILE [quick]` measures one part and writes its rows to a file.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from pullback.bench.gpu.rows import RowFile


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        name: name in the table.
        what: what the part measures, for progress messages.
        function: `module:function` in this package, called with a `RowFile`, a device and whether sizes are small.
        limit: seconds after which the part is killed.
        least: seconds that must remain to start the part.
    """

    name: str
    what: str
    function: str
    limit: float
    least: float = 15.0


PARTS = (
    Part("rates", "the card's matrix rates and bandwidth", "rates:measure", 40),
    Part("correct", "every method and precision against float64", "correctness:measure", 75),
    Part("biggan-256", "BigGAN-deep-256 shape, LPIPS-alex", "metrics:biggan_256", 100, 40),
    Part("stylegan2-256", "StyleGAN2-256 shape, LPIPS-alex and -vgg", "metrics:stylegan2_256", 90, 30),
    Part("dcgans", "dcgan-faces and dcgan-eyes, LPIPS-alex", "metrics:dcgans", 60),
    Part("profile", "what bounds the replay: kernels, gaps, copies", "replay:profile", 45),
    Part("variants", "ways to replay the tape", "replay:variants", 90, 30),
    Part("top-k", "top 20 of n = 4096 against ARPACK", "krylov:measure", 60, 25),
    Part("memory", "predicted and measured peaks; a run out of memory", "memory:measure", 60),
    Part("homogeneity", "pairs of 1,000 points at n = 256", "pairs:measure", 40),
    Part("many", "many codes at once", "metrics:many_codes", 40),
    Part("biggan-128", "BigGAN-deep-128 shape, LPIPS-alex", "metrics:biggan_128", 60, 30),
)


def main(name: str, device: str, path: str, size: str = "full") -> None:
    """Measure one part.

    Args:
        name: name of the part.
        device: a torch device.
        path: path of the file for the part's rows.
        size: `quick` for small sizes.
    """
    part = next(part for part in PARTS if part.name == name)
    module, function = part.function.split(":")
    measure = getattr(importlib.import_module(f"pullback.bench.gpu.{module}"), function)
    torch.manual_seed(0)
    if size == "quick":
        torch.set_num_threads(1)  # on a busy machine, threads would wait for each other at every operation
    measure(RowFile(Path(path), name), torch.device(device), size == "quick")


if __name__ == "__main__":
    main(*sys.argv[1:])

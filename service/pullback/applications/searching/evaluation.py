"""Images and scores of codes, in batches on the generator's device."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pullback.applications.searching.objective import Floats, Objective
from pullback.errors import PullbackError
from pullback.generators.base import class_indices, generate, reference_tensor


@dataclass(frozen=True)
class Evaluation:
    """A generator with an objective.

    Attributes:
        generator: G.
        objective: the score of an image.
        condition: class name or index of a generator with classes.
        batch: codes of one pass.
    """

    generator: nn.Module
    objective: Objective
    condition: Any = None
    batch: int = 64

    @torch.no_grad()
    def images(self, codes: Floats) -> Tensor:
        """Return images [batch, channels, height, width] of codes [batch, n], clamped to [0, 1].

        Raises:
            SpecError: the class is missing or unknown, or there are no classes.
            PullbackError: an image is not finite.
        """
        held = reference_tensor(self.generator)
        condition = class_indices(self.generator, self.condition, range(len(codes)))
        made = generate(
            self.generator,
            torch.as_tensor(codes).to(held),
            None if condition is None else condition.to(held.device),
        )
        if not torch.isfinite(made).all():
            raise PullbackError("the generator gave an image that is not finite. The search is kept up to there")
        return made.clamp(0, 1)

    @torch.no_grad()
    def scores(self, codes: Floats) -> Floats:
        """Return scores [population] of codes [population, n], without noise."""
        parts = [codes[first : first + self.batch] for first in range(0, len(codes), self.batch)]
        return np.concatenate([self.objective(self.images(part)) for part in parts])

    def picture(self, code: Floats) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the image [channels, height, width] of one code [n] in [0, 1]."""
        return self.images(code[None])[0].float().cpu().numpy()

"""The damping μ of a Gauss-Newton step, by Nielsen's rule.

The ratio ϱ of the true to the predicted decrease multiplies μ by max(1/3, 1 − (2ϱ − 1)³), at most 2. A step that
increases f is refused, and raises μ by a factor that doubles with each refusal (Nielsen, Damping parameter in
Marquardt's method, IMM-REP-1999-05).
"""

import torch
from torch import Tensor


class Damping:
    """μ of each row.

    Args:
        rows: number of rows.
        device: of the codes.

    Attributes:
        values: μ [rows], float64; zero at first.
        raised: the factor [rows] by which the next refusal multiplies μ.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.values = torch.zeros(rows, dtype=torch.float64, device=device)
        self.raised = torch.full_like(self.values, 2.0)

    def update(self, rows: Tensor, better: Tensor, gain: Tensor) -> None:
        """Change μ after a step.

        Args:
            rows: indices of the rows that took the step.
            better: which of these decreased f.
            gain: ϱ of each of them.
        """
        accepted, refused = rows[better], rows[~better]
        self.values[accepted] *= (1 - (2 * gain[better] - 1) ** 3).clamp(1 / 3, 2)
        self.raised[accepted] = 2.0
        self.values[refused] *= self.raised[refused]
        self.raised[refused] *= 2

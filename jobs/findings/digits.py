"""A small variational autoencoder of digits, trained from the fonts that matplotlib ships.

    python jobs/findings/digits.py digits.safetensors

The images are 32 × 32 and grey: a digit in one of twelve DejaVu faces, turned, scaled and shifted at random, in light
grey on a dark one. The decoder has smooth activations and no normalisation layers, unlike the DCGANs.
"""

import math
import sys
import time
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LATENT_DIM = 32
SIZE = 32
STEPS = 2500
BATCH = 48
SEED = 1
NOISE = 0.15
"""Standard deviation of the decoder's likelihood, for pixel values from 0 to 1."""
DRAWN = 192
"""Height in pixels at which a glyph is drawn before it is turned, scaled and shifted."""
CHARACTERS = "0123456789"
STYLES = [
    f"DejaVu{face}{style}.ttf"
    for face, styles in (
        ("Sans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("SansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Serif", ("", "-Bold", "-Italic", "-BoldItalic")),
    )
    for style in styles
]


class Decoder(nn.Module):
    """Codes [batch, 32] to images [batch, 1, 32, 32] in [0, 1]."""

    latent_dim = LATENT_DIM

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(LATENT_DIM, 64 * 4 * 4)
        widths = (64, 48, 32, 16)
        self.blocks = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Return the images."""
        x = functional.silu(self.start(z)).reshape(-1, 64, 4, 4)
        for block in self.blocks:
            x = functional.silu(block(functional.interpolate(x, scale_factor=2, mode="nearest")))
        return torch.sigmoid(self.last(x))


class Encoder(nn.Module):
    """Images [batch, 1, 32, 32] to the mean and the log-variance [batch, 32] of their codes."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 48, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 2 * 2, 2 * LATENT_DIM))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance."""
        mean, log_variance = self.layers(2 * images - 1).chunk(2, dim=1)
        return mean, log_variance


def decoder(weights: str | None = None) -> Decoder:
    """Make the decoder of a trained autoencoder: a generator for Pullback.

    Args:
        weights: the safetensors file that this script writes.
    """
    from safetensors.torch import load_file

    made = Decoder()
    if weights is not None:
        made.load_state_dict(load_file(weights))
    return made.eval()


@lru_cache(maxsize=1)
def glyphs() -> Tensor:
    """Return the masks [glyphs, 1, 64, 64] of all digits in all styles; 1 is ink."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    masks = []
    for style in STYLES:
        font = FT2Font(str(fonts / style))
        font.set_size(DRAWN * 0.75, 72)
        for character in CHARACTERS:
            font.set_text(character)
            font.draw_glyphs_to_bitmap(antialiased=True)
            ink = np.asarray(font.get_image(), dtype=np.float32) / 255
            page = np.zeros((DRAWN, DRAWN), dtype=np.float32)
            height, width = (min(side, DRAWN) for side in ink.shape)
            top, left = (DRAWN - height) // 2, (DRAWN - width) // 2
            page[top : top + height, left : left + width] = ink[:height, :width]
            masks.append(page)
    return functional.interpolate(torch.from_numpy(np.stack(masks))[:, None], size=(64, 64), mode="area")


def draw(count: int, random: torch.Generator) -> Tensor:
    """Draw random images [count, 1, 32, 32] in [0, 1]."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random)

    masks = glyphs()[torch.randint(len(glyphs()), (count,), generator=random)]
    angle, scale = uniform(-math.pi / 9, math.pi / 9, count), uniform(0.8, 1.3, count)
    shift = uniform(-0.15, 0.15, count, 2)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    affine = torch.stack(
        [torch.stack([cosine, -sine, shift[:, 0]], dim=1), torch.stack([sine, cosine, shift[:, 1]], dim=1)], dim=1
    )
    places = functional.affine_grid(affine, [count, 1, SIZE, SIZE], align_corners=False)
    ink = functional.grid_sample(masks, places, align_corners=False)
    return ink * uniform(0.6, 1, count, 1, 1, 1) + (1 - ink) * uniform(0.05, 0.4, count, 1, 1, 1)


def train(steps: int = STEPS, seed: int = SEED) -> tuple[Decoder, list[float]]:
    """Train the autoencoder; return its decoder and the loss in nats an image, averaged over each 100 steps."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    encoder, made = Encoder(), Decoder()
    parameters = [*encoder.parameters(), *made.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses, begun = [], time.monotonic()
    for step in range(steps):
        images = draw(BATCH, random)
        mean, log_variance = encoder(images)
        codes = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=random)
        misfit = (made(codes) - images).square().sum(dim=(1, 2, 3)).mean() / (2 * NOISE**2)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean() / 2
        loss = misfit + min(1.0, step / (steps / 4)) * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            mean_loss = sum(losses[-100:]) / 100
            seconds = time.monotonic() - begun
            print(f"step {step + 1} of {steps}: {mean_loss:.1f} nats, {seconds:.0f} s", file=sys.stderr)
    return made, [sum(losses[start : start + 100]) / 100 for start in range(0, steps, 100)]


if __name__ == "__main__":
    from safetensors.torch import save_file

    trained, _ = train()
    save_file(trained.state_dict(), sys.argv[1])

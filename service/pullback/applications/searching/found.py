"""`pullback.search`: the application from Python, with a score that may be any callable."""

import base64
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.protocol import About
from pullback.applications.protocol import Checkpoint, Progress, Subject
from pullback.applications.result_files import write_files
from pullback.applications.results import ApplicationResult
from pullback.applications.search import Options, figure, found_by, images, metric_of, sentences, to_json
from pullback.applications.searching.coordinates import Metric
from pullback.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from pullback.store.reader import Sweep

_NAME = "search"


class Found:
    """What a search found.

    Attributes:
        result: the application's result, with tables, sentences and figures.
    """

    def __init__(self, result: ApplicationResult) -> None:
        self.result = result

    @property
    def score(self) -> float:
        """The best score, without noise."""
        return float(self.result["best_score"])

    @property
    def code(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """The code [n] of the best score."""
        return np.asarray(self.result["best_code"].values)

    @property
    def image(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Its image [channels, height, width] in [0, 1]."""
        return np.asarray(self.result["best_image"].values)

    @property
    def json(self) -> dict[str, Any]:
        """Scores by generation, the best code and how it was found."""
        return to_json(self.result)

    def figure(self) -> Any:
        """Return the matplotlib figure of scores by evaluations."""
        return next(iter(figure(self.result).values()))

    def save(self, folder: Path | str) -> list[Path]:
        """Write figures and the best image as PNG, and the numbers as `search.npz`; return the paths.

        Raises:
            PullbackError: the folder cannot be written to.
        """
        paths = write_files(self.result, Path(folder))
        numbers = Path(folder) / "search.npz"
        names = ("evaluations", "best", "best_so_far", "mean", "norm", "best_code", "best_score", "best_image")
        np.savez(numbers, allow_pickle=False, **{name: self.result[name].values for name in names})
        return [*paths, numbers]

    def __repr__(self) -> str:
        return f"<Found score {self.score:.4g} after {int(self.result['evaluations'][-1])} evaluations>"

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences(self.result))
        return f"{words}<img alt='the best image' style='min-width:128px' src='{self._best_png()}'>"

    def _best_png(self) -> str:
        from PIL import Image

        held = io.BytesIO()
        Image.fromarray(images(self.result)["search-best"]).save(held, format="png")
        return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def search(
    subject: "Sweep | nn.Module | str | Path",
    score: Callable[[Any], Any] | str | None = None,
    *,
    unit: str | None = None,
    metric: Any = None,
    folder: Path | str | None = None,
    device: str = "auto",
    **options: Any,
) -> Found:
    """Search for the code of the highest score, without gradients.

    Args:
        subject: a sweep (open, or its address), whose generator and mean metric are used; or a generator.
        score: maps images [batch, 3, height, width] in [0, 1] to scores [batch]; a function, or `module:function`.
        unit: a unit of a feature network in place of `score`: `trunk:layer:channel`, such as `alex:conv3:17`.
        metric: H [n, n] for searchers with a metric; by default the mean metric of the sweep.
        folder: keeps the state after each generation, so that the same call goes on after an interruption. It is
            emptied at the end.
        device: where the networks of a sweep compute.
        options: those of `pullback search`, such as `searcher="metric-sphere"`, `evaluations=1000`, `noise=0.2`.

    Raises:
        ArgumentError: an option is wrong.
        PullbackError: the score fails, or the searcher needs a metric and there is none.
    """
    from pydantic import ValidationError
    from torch import nn

    from pullback.store.reader import open_sweep

    named = {"unit": unit, "score": None if unit is not None else "a:function", **options}
    if (unit is None) == (score is None):
        raise ArgumentError("score", "give either `score`, or `unit`, such as alex:conv3:17")
    try:
        given = Options.model_validate(named)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArgumentError(".".join(map(str, first["loc"])) or "options", str(first["msg"])) from None
    if isinstance(subject, nn.Module):
        generator, about, own = subject, About(getattr(subject, "name", "generator"), "", 0), None
    else:
        sweep = open_sweep(subject) if isinstance(subject, str | Path) else subject
        read = Subject(sweep, None, device)
        generator, about = read.generator, About(sweep.name, sweep.snapshot, int(sweep.status().good))
        own = None if metric is not None else metric_of(read, given)
    if metric is not None:
        matrix = np.asarray(metric, dtype=np.float64)
        n = int(generator.latent_dim)  # type: ignore[arg-type]
        if matrix.shape != (n, n) or not np.isfinite(matrix).all():
            raise ArgumentError("metric", f"a matrix [{n}, {n}] of finite numbers is needed, not {list(matrix.shape)}")
        own = Metric.of_matrix((matrix + matrix.T) / 2)
    checkpoint = _Nowhere() if folder is None else Checkpoint(Path(folder))
    dataset = found_by(generator, given, own, Progress(checkpoint), score=score)
    checkpoint.clear()
    return Found(ApplicationResult(_NAME, given, dataset, about))


class _Nowhere(Checkpoint):
    """A checkpoint that keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path())

    def save(self, **arrays: Any) -> None:
        """Keep nothing."""

    def load(self) -> None:
        """Return None."""
        return

    def clear(self) -> None:
        """Do nothing."""

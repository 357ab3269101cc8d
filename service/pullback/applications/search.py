"""Gradient-free search for the code whose image has the highest score, with and without a mean metric.

The score is a black box: a unit of a feature network, or a function of images, maybe with noise. The searchers are in
`searching.searchers`: CMA-ES and SphereCMA, their combinations with the axes and eigenvalues of a sweep's mean metric,
the genetic algorithm of XDream, and random codes. `pullback bench search` compares them; jobs/benchmarks/search.md has
what it found. The state is saved after each generation.
"""

import json
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from pullback.analysis.protocol import Table, strict
from pullback.analysis.scalars import variable
from pullback.applications.protocol import Progress, Subject
from pullback.applications.results import ApplicationResult
from pullback.applications.searching.coordinates import Metric
from pullback.applications.searching.evaluation import Evaluation
from pullback.applications.searching.feasible import feasible_set
from pullback.applications.searching.objective import Noise, objective_of, read_unit
from pullback.applications.searching.searchers import KINDS, Name, coordinates_of, make_searcher
from pullback.applications.searching.trace import Trace, run_search
from pullback.errors import PullbackError
from pullback.generators.base import reference_tensor
from pullback.spec import options

if TYPE_CHECKING:
    import xarray as xr

    from pullback.analysis.drawing import Figure

SUMMARY = "search for the code of the highest score, such as a network's unit, without gradients"
NEEDS = ("generator",)

_FRAMES = 6
"""Images of the result: the best of generations that are evenly spaced."""


class Options(options.Options):
    """Options of a search."""

    unit: str | None = None
    """The unit to excite: `trunk:layer:channel`, such as `alex:conv3:17`; trunks are `alex`, `vgg` and `squeeze`."""
    score: Annotated[str | None, options.Local()] = None
    """A score of your own: `module:function`, from images [batch, 3, height, width] in [0, 1] to scores [batch]."""
    centre: bool = False
    """Take the unit's activation at the centre of its map, in place of the mean over the map."""
    size: int | None = Field(default=None, ge=1, le=4096)
    """Height and width to which images are resized before they are scored."""
    condition: str | int | None = None
    """Class name or index, for a generator with classes."""
    searcher: Name = "cma"
    """The algorithm. Those with `metric` or `axes` in their names need a sweep."""
    evaluations: int = Field(default=3000, ge=1, le=100_000_000)
    """Images to score; the last generation ends at or before this number."""
    seconds: float | None = Field(default=None, gt=0)
    """Time limit, checked after each generation."""
    sphere: bool = False
    """Keep ‖z‖ = √n, in place of ‖z‖ ≤ 1.25 √n."""
    radius: float | None = Field(default=None, gt=0, le=100)
    """The largest norm of a code, or the norm on the sphere, in units of √n."""
    exponent: float = Field(default=0.25, ge=-2, le=2)
    """p of the steps λ^−p along the axes of the mean metric."""
    axes: int | None = Field(default=None, ge=1)
    """Search along this many leading axes only; by default all."""
    population: int | None = Field(default=None, ge=4, le=100_000)
    """Codes of a generation; by default 40, and 4 + ⌊3 ln n⌋ for CMA-ES."""
    sigma: float | None = Field(default=None, gt=0, le=100)
    """First standard deviation of a code's coordinates; by default 1."""
    noise: float = Field(default=0.0, ge=0, le=100)
    """Level of multiplicative noise in the scores that the search sees."""
    batch: int = Field(default=64, ge=1, le=100_000)
    """Images that are made at a time."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all random numbers."""

    @model_validator(mode="after")
    def _has_one_score(self) -> "Options":
        if (self.unit is None) == (self.score is None):
            raise ValueError("give either `unit`, such as alex:conv3:17, or `score`, such as my_module:function")
        if self.unit is not None:
            try:
                read_unit(self.unit)
            except PullbackError as error:
                raise ValueError(str(error)) from None
        return self


def run(subject: Subject, given: Options, progress: Progress) -> "xr.Dataset":
    """Return the best code and image, and scores by generation.

    Raises:
        PullbackError: the score fails, the searcher needs a metric and there is none, or the budget is too small.
    """
    return found_by(
        subject.generator,
        Options.model_validate(given),
        metric_of(subject, given),
        progress,
        score=given.score,
    )


def metric_of(subject: Subject, given: Options) -> Metric | None:
    """Return the mean metric of the sweep, if the searcher uses one and there is a sweep.

    Raises:
        PullbackError: the sweep has no good sample, or its codes have another size than the generator's.
    """
    if not KINDS[given.searcher].metric or subject.sweep is None:
        return None
    n, own = subject.sweep.layout.latent_dim, feasible_set(subject.generator).n if subject.spec else None
    if own is not None and own != n:
        raise PullbackError(
            f"the sweep's metrics are of codes of {n} coordinates, and the generator's codes have {own}: it is a sweep "
            "of another generator or space. Nothing was computed. Name a sweep of this generator"
        )
    return Metric.of_matrix(subject.sweep.mean_metric(kept=True))


def found_by(generator: Any, given: Options, metric: Metric | None, progress: Progress, *, score: Any) -> "xr.Dataset":
    """Search, and return the result's dataset; `score` is the function or its name, in place of the option."""
    device = reference_tensor(generator).device
    objective = objective_of(given.unit, None if given.unit else score, device, given.centre, given.size)
    feasible = feasible_set(generator, given.sphere, given.radius)
    coordinates = coordinates_of(given.searcher, feasible.n, metric, given.exponent, given.axes)
    searcher = make_searcher(
        given.searcher,
        feasible,
        coordinates,
        evaluations=given.evaluations,
        seed=given.seed,
        population=given.population,
        sigma=given.sigma,
    )
    evaluation = Evaluation(generator, objective, given.condition, given.batch)
    total = given.evaluations // searcher.population

    def save(state: dict[str, Any], trace: Trace) -> None:
        progress.checkpoint.save(**state)
        progress(len(trace.best), total)

    trace = run_search(
        searcher,
        evaluation,
        Noise(given.noise, given.seed),
        given.evaluations,
        seconds=given.seconds,
        state=progress.checkpoint.load(),
        after_generation=save,
    )
    about = {
        "objective": objective.name,
        "source": dict(objective.source),
        "searcher": given.searcher,
        "words": KINDS[given.searcher].words,
        "feasible": feasible.words,
        "measured": feasible.measured,
        "latent_dim": feasible.n,
        "axes": coordinates.k,
        "population": searcher.population,
        "generations": len(trace.best),
        "planned": total,
        "noise": given.noise,
        "seconds": trace.seconds,
    }
    return _dataset(evaluation, trace, feasible.centre, about)


def _dataset(evaluation: Evaluation, trace: Trace, centre: Any, about: dict[str, Any]) -> "xr.Dataset":
    import xarray as xr

    assert trace.best_code is not None
    count = len(trace.best)
    shown = np.unique(np.linspace(0, count - 1, min(_FRAMES, count)).round().astype(int))
    frames = np.stack([evaluation.picture(trace.codes[place]) for place in shown])
    units = "score"
    best = np.asarray(trace.best)
    found: xr.Dataset = xr.Dataset(
        {
            "evaluations": variable(("generation",), trace.evaluations, "evaluations so far", "1"),
            "best": variable(("generation",), best, "best score of the generation, without noise", units),
            "best_so_far": variable(("generation",), np.maximum.accumulate(best), "best score so far", units),
            "mean": variable(("generation",), trace.mean, "mean score of the generation, without noise", units),
            "norm": variable(("generation",), trace.norm, "mean norm of the codes, in usual coordinates", "1"),
            "best_score": variable((), trace.best_score, "best score, without noise", units),
            "best_code": variable(("latent_dim",), trace.best_code, "code of the best score", "latent units"),
            "best_norm": variable(
                (), float(np.linalg.norm(trace.best_code - centre)), "its distance from the centre", "latent units"
            ),
            "best_image": variable(
                ("channel", "height", "width"), evaluation.picture(trace.best_code), "image of the best code", "1"
            ),
            "frame_generation": variable(("frame",), shown + 1, "generation of each frame", "1"),
            "frame_score": variable(
                ("frame",),
                evaluation.scores(np.stack([trace.codes[place] for place in shown])),
                "score of each frame, without noise",
                units,
            ),
            "frame_image": variable(
                ("frame", "channel", "height", "width"), frames, "best image of generations, as the search saw it", "1"
            ),
        }
    )
    return found.assign_attrs(scalars=json.dumps(strict(about), allow_nan=False))


def about_of(data: "xr.Dataset") -> dict[str, Any]:
    """Return how a result was made."""
    about: dict[str, Any] = json.loads(data.attrs["scalars"])
    return about


def summary(result: ApplicationResult) -> Table:
    """Return the score at some numbers of evaluations."""
    data, about = result.dataset, about_of(result.dataset)
    count = data.sizes["generation"]
    places = np.unique(np.geomspace(1, count, min(8, count)).round().astype(int)) - 1
    rows = [
        [int(at["evaluations"]), float(at["best_so_far"]), float(at["mean"]), float(at["norm"])]
        for at in (data.isel(generation=place) for place in places)
    ]
    columns = (">evaluations", ">best so far", ">mean of the generation", ">mean norm")
    return Table(columns, rows, f"Search for {about['objective']} by {about['searcher']}")


def sentences(result: ApplicationResult) -> list[str]:
    """Return what was found, at which cost."""
    data, about = result.dataset, about_of(result.dataset)
    first, best = float(data["best"][0]), float(data["best_score"])
    spent = int(data["evaluations"][-1])
    return [
        f"The best code has the score {best:.4g} ({about['objective']}), after {spent} evaluations by "
        f"{about['searcher']} ({about['words']}); the best of the first generation has {first:.4g}.",
        f"The search is among {about['feasible']}; the best code is {float(data['best_norm']):.3g} away.",
    ]


def notes(result: ApplicationResult) -> list[str]:
    """Return how to read scores with noise, and what the feasible set is where codes are mapped."""
    about, words = about_of(result.dataset), []
    if about["noise"]:
        words.append(
            f"The search saw scores with multiplicative noise of {about['noise']:.3g}; the table and the figure have "
            "the scores without it."
        )
    if about["measured"]:
        words.append(
            "Codes of this space come from a mapping network. The feasible set is around the mean of 512 mapped codes, "
            "with their root mean square distance in place of √n."
        )
    return words


def cautions(result: ApplicationResult) -> list[str]:
    """Return whether the time limit ended the search."""
    about = about_of(result.dataset)
    if about["generations"] >= about["planned"]:
        return []
    return [
        f"The time limit ended the search after {about['generations']} of {about['planned']} generations, so another "
        "run may end elsewhere."
    ]


def to_json(result: ApplicationResult) -> dict[str, Any]:
    """Return scores by generation, the best code and how it was found; no images."""
    data = result.dataset
    left_out = ("best_image", "frame_image")
    return {**about_of(data), **{str(name): data[name].values for name in data.data_vars if name not in left_out}}


def figure(result: ApplicationResult) -> "dict[str, Figure]":
    """Draw the score by evaluations, and the best images."""
    from pullback.applications.searching.figures import image_figure, score_figure

    about = about_of(result.dataset)
    return {
        f"Score of {about['objective']} by number of evaluations: the best so far, and best and mean of each "
        "generation, without noise.": score_figure(result.dataset),
        "The best image of the search, and the best images of some generations with their scores.": image_figure(
            result.dataset
        ),
    }


def images(result: ApplicationResult) -> "dict[str, Any]":
    """Return the best image, for files."""
    from pullback.applications.searching.figures import pixels

    return {"search-best": pixels(result["best_image"].values)}


def arrays(result: ApplicationResult) -> dict[str, Any]:
    """Return the best code [1, n], for a file that `pullback axes --code-file` reads."""
    return {"search-code": result["best_code"].values[None]}

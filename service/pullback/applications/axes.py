"""Walks along latent axes: images at steps of equal image change, where they change, and scores without labels.

An axis is an eigenvector of the mean metric, of a block, or of one sample's metric, a direction of a file, or a
combination of these. Steps are steps of equal change: frame by frame the image distance D from the unmoved image has
the same values on every axis and code (`walking.equal_steps`). The scores say whether an axis does one thing, and the
same thing for every code (`walking.scores`); hints say what it might be (`walking.hints`). Random directions are the
null of both, and a sweep of shuffled weights is a control.

Names of axes are in the file `SWEEP.axes.yaml` beside the sweep (`interchange.axis_names`).
"""

from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from pullback.analysis.bootstrap import BootstrapOptions, Floats
from pullback.analysis.eigenbasis import rates_along
from pullback.analysis.runner import run_statistics
from pullback.analysis.samples import Samples
from pullback.analysis.statistics import stability
from pullback.applications.direction_sets import random_directions
from pullback.applications.protocol import Progress, Subject
from pullback.applications.walking.axes_dataset import Measured, axes_dataset
from pullback.applications.walking.basis import Basis, basis_of
from pullback.applications.walking.expressions import Expression, parse_axes
from pullback.applications.walking.motion import Path, tangents
from pullback.applications.walking.records import Records
from pullback.applications.walking.renderer import Renderer
from pullback.applications.walking.responses import Response, Responses, stacked
from pullback.applications.walking.scores import SCORES, Score, metric_scores, response_scores, stability_score
from pullback.applications.walking.walks import Walks, codes_of, typical_distance, walk
from pullback.applications.walking.words import cautions, figure, notes, sentences, summary, to_json
from pullback.errors import PullbackError
from pullback.interchange.axis_names import read_names
from pullback.spec.options import Local, OtherSweep
from pullback.store.location import split_snapshot
from pullback.store.reader import open_sweep

if TYPE_CHECKING:
    import xarray as xr

    from pullback.store.reader import Sweep

__all__ = ["NEEDS", "SUMMARY", "Options", "cautions", "figure", "notes", "run", "sentences", "summary", "to_json"]

SUMMARY = "images along axes in steps of equal change, where they change, what the change is like, and scores"
NEEDS = ("sweep",)

_LARGEST_STEP = 0.6
"""Largest step of the scores, relative to the mean norm of the codes."""


class Options(BootstrapOptions):
    """Options of the axes."""

    axis: tuple[str | int, ...] = ("1-6",)
    """Axes: ranks from 1, ranges, names, tags and combinations, as `3`, `1-6`, `smile`, `tag:mouth`, `2*1-0.5*3`;
    `all` or `spectrum`."""
    sample: int | None = Field(default=None, ge=0)
    """Walk along the eigenvectors of this sample's own metric instead of the mean metric's."""
    block: str | None = None
    """A block of the code: the axes of the mean metric within it, or the block of the file's directions."""
    file: Annotated[str | None, Local()] = None
    """A file of directions to walk along: `.npy`, `.npz` or named edits of GANSpace, `.pt` of encoder4editing."""
    names: Annotated[str | None, Local()] = None
    """The file of names that `axis` uses; on the command line the one beside the sweep."""
    codes: tuple[int, ...] | None = None
    """Numbers of the samples whose codes are walked, or of rows of `code_file`; by default the first ones."""
    count: int = Field(default=3, ge=1, le=1000)
    """Number of codes if `codes` names none."""
    code_seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    """Draw `count` new codes with this seed instead of taking the sweep's."""
    code_file: Annotated[str | None, Local()] = None
    """Walk the codes of this `.npy` file, such as `codes.npy` of `pullback invert`, instead of the sweep's."""
    condition: str | int | None = None
    """Class name or index of new codes and of those of a file, for a generator with classes."""
    path: Path = "linear"
    """`linear`: z + tv; `sphere`: the norm of the code is kept."""
    steps: Literal["equal", "fixed"] = "equal"
    """`equal`: steps of equal image distance; `fixed`: of equal latent length."""
    reach: float | None = Field(default=None, gt=0)
    """The last step: image distance D (equal), or latent units (fixed). By default half the median distance of the
    images of two codes; 0.45 times the mean norm of the codes."""
    frames: int = Field(default=7, ge=2, le=1001)
    """Images of a walk, from one end to the other; the middle one of an odd number is unmoved."""
    width: int = Field(default=256, ge=8, le=4096)
    """Images are stored with this width and height at most, in pixels."""
    scored: int = Field(default=16, ge=0, le=10_000)
    """Codes behind the scores and hints; 0 leaves them out."""
    random: int = Field(default=20, ge=0, le=10_000)
    """Random directions that are scored beside the axes."""
    control: Annotated[str | None, OtherSweep()] = None
    """A sweep of the same generator with shuffled weights, whose own axes are scored in the same way."""

    @field_validator("axis", "codes", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) else value


def run(subject: Subject, given: Options, progress: Progress) -> "xr.Dataset":
    """Return the images of walks, their steps and distances, maps of change, scores and hints.

    Raises:
        PullbackError: an axis, a code, a block or a file does not exist or does not fit; no sample is good; or the
            networks cannot be loaded.
    """
    sweep = subject.sweep
    assert sweep is not None
    basis, expressions = chosen_axes(sweep, given)
    vectors = basis.combine(expressions)
    samples = Samples.of_sweep(sweep)
    codes, classes, numbers = codes_of(
        sweep, subject, given.codes, given.count, given.code_seed, given.code_file, given.condition
    )
    control = None if given.control is None or not given.scored else _opened(given.control)
    directions = len(vectors) * (1 if control is None else 2) + given.random if given.scored else 0
    total = len(vectors) + directions
    renderer = Renderer(subject)
    typical = typical_distance(renderer, sweep, given.seed)
    reach = given.reach
    if reach is None:
        norm = float(np.linalg.norm(codes, axis=1).mean())
        reach = 0.5 * typical if given.steps == "equal" else 0.45 * norm
    if not reach > 0:
        raise PullbackError(
            "the images of different codes are equal, so no step changes them. Nothing was computed; give `reach`."
        )
    walked: list[Walks] = []
    equal = given.steps == "equal"
    records = Records(progress.checkpoint)
    for place, vector in enumerate(vectors):
        each = records.get(f"walk-{place}", Walks)
        if each is None:
            each = walk(renderer, codes, classes, vector[None], given.path, equal, reach, given.frames, given.width)
            records.put(f"walk-{place}", each)
        walked.append(each)
        progress(place + 1, total)
    found = Measured()
    if given.scored:
        aim = reach if equal and given.reach is not None else 0.5 * typical
        scored = _Scored(given, aim, progress, records, len(vectors), total)
        found = scored.of(sweep, renderer, samples, basis, expressions)
        if control is not None:
            found.control.update(_control(subject, control, given, scored))
    walks = Walks.joined(walked)
    return axes_dataset(sweep, given, basis, expressions, vectors, samples, walks, numbers, classes, found, reach)


def chosen_axes(sweep: "Sweep", given: Options) -> tuple[Basis, list[Expression]]:
    """Return the basis that options choose, and the axes in it.

    Raises:
        PullbackError: one of them does not exist.
    """
    basis = basis_of(sweep, given.sample, given.block, given.file)
    known: dict[str, str | int] = {name: rank for rank, name in enumerate(basis.names, 1) if name}
    tags: dict[str, list[str]] = {}
    if given.names is not None and basis.mean:
        if not FilePath(given.names).exists():
            raise PullbackError(f"there is no file of names {given.names}. Nothing was computed.")
        entries = read_names(FilePath(given.names))
        known = {each.name: each.axis for each in entries}
        for each in entries:
            for tag in each.tags:
                tags.setdefault(tag, []).append(each.name)
    return basis, parse_axes(given.axis, len(basis.vectors), known, f"the {basis.what}", tags)


class _Scored:
    """Scores axes, and reports each direction.

    Args:
        given: the options.
        distance: D that the steps aim at.
        progress: of the application.
        records: responses that an earlier run measured, and those of this one.
        done: steps that are done.
        total: all steps.
    """

    def __init__(
        self, given: Options, distance: float, progress: Progress, records: Records, done: int, total: int
    ) -> None:
        self._given, self._distance, self._records = given, distance, records
        self._progress, self._done, self._total = progress, done, total

    def of(
        self, sweep: "Sweep", renderer: Renderer, samples: Samples, basis: Basis, expressions: list[Expression],
        random: int | None = None,
    ) -> Measured:  # fmt: skip
        """Return scores, effects and maps of axes; `random` overrides the number of random directions."""
        given, vectors = self._given, basis.combine(expressions)
        chosen = samples.choose(given.scored, given.seed)
        codes = samples.column("latent")[chosen].astype(np.float64)
        classes = samples.column("condition")[chosen].astype(np.int64)
        count, k = given.random if random is None else random, len(vectors)
        extra = random_directions(samples.latent_dim, max(count, 1), given.seed).vectors[:count]
        directions = np.concatenate([vectors, extra])
        rates = np.einsum("ij,jk,ik->i", directions, samples.mean_metric(), directions)
        largest = _LARGEST_STEP * float(np.linalg.norm(codes, axis=1).mean())
        steps = np.minimum(self._distance * np.sqrt(2 / np.maximum(rates, 1e-300)), largest)
        responses = Responses(renderer, codes, classes, given.path)
        found: list[Response] = []
        for direction, step in zip(directions, steps, strict=True):
            name = f"response-{self._done}"
            response = self._records.get(name, Response)
            if response is None:
                response = responses.of(direction, float(step))
                self._records.put(name, response)
            found.append(response)
            self._done += 1
            self._progress(self._done, self._total)
        own = rates_along(directions, samples.eigenvalues[chosen], np.asarray(samples.eigenvectors)[chosen]).T
        every = stacked(found)
        axes, chance = every[:k], every[k:]
        scores = response_scores(axes, chance, own[:k], own[k:], steps[:k], steps[k:], given.draws, given.seed)
        scores |= metric_scores(samples, vectors, given.draws, given.seed)
        scores["stability"] = _stability(sweep, samples, expressions, basis)
        maps = renderer.change_maps(codes, tangents(codes, vectors, given.path), classes)
        return Measured(
            {name: scores[name] for name in SCORES},
            axes.effects,
            chance.effects,
            {},
            np.sqrt(np.mean(np.square(maps), axis=1)),
            steps[:k],
        )


def _stability(sweep: "Sweep", samples: Samples, expressions: list[Expression], basis: Basis) -> Score:
    ranks = [each.rank if basis.mean else None for each in expressions]
    known = [rank for rank in ranks if rank is not None]
    if not known or len(samples) < 4:
        return Score.missing(len(ranks))
    default = stability.Options()
    options = stability.Options(ranks=max(default.ranks, min(max(known), 1000)))
    data = run_statistics(sweep, {"stability": options}, samples=lambda: samples)["stability"].dataset
    return stability_score(ranks, data["cosine"].values, data["cosine_ci95"].values, float(data["random_cosine"]))


def _opened(text: str) -> "Sweep":
    place, snapshot = split_snapshot(text)
    return open_sweep(place, snapshot)


def _control(subject: Subject, control: "Sweep", given: Options, scored: _Scored) -> dict[str, Floats]:
    """Return the scores of the control's own axes of the same ranks, on the control's own images."""
    own, n = Subject(control, None, subject.device_name), control.layout.latent_dim
    assert subject.sweep is not None
    if n != subject.sweep.layout.latent_dim:
        raise PullbackError(
            f"the control {control.name!r} has codes of {n} coordinates, and the sweep of "
            f"{subject.sweep.layout.latent_dim}: it is the sweep of another generator. Nothing was kept."
        )
    basis, expressions = chosen_axes(control, given.model_copy(update={"file": None, "sample": None}))
    found = scored.of(control, Renderer(own), Samples.of_sweep(control), basis, expressions, random=0)
    return {name: score.values for name, score in found.scores.items()}

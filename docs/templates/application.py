"""Image change along the axes of the mean metric, as an example. Say here what the application does, and its source.

TEMPLATE: copy to service/pullback/applications/NAME.py. The file's name is the application's name in jobs.

For a code z and the eigenvectors u_k of the mean metric, it measures D²(G(z), G(z + t u_k)) for one step t.
"""

from typing import Any

import numpy as np
import torch
import xarray as xr
from pydantic import Field

from pullback.analysis.protocol import Table
from pullback.applications.protocol import Progress, Subject
from pullback.applications.results import ApplicationResult
from pullback.generators import generate, reference_tensor
from pullback.spec import options

SUMMARY = "image change for one step along each leading axis of the mean metric"  # TEMPLATE: one line, for tables
NEEDS = ("sweep",)  # TEMPLATE: of "sweep" and "generator"; a sweep brings its own generator and distance


class Options(options.Options):
    """Options of this application: the keys under `application:` in a job, besides `name`."""

    # TEMPLATE: a type, a default and a docstring for each. The docstring is the help text; bounds go into Field.
    # A sequence is a tuple. A field that names a file or code: Annotated[str | None, options.Local()].
    axes: int = Field(default=5, ge=1)
    """Number of axes, those of the largest eigenvalues first."""
    step: float = Field(default=0.5, gt=0)
    """Length of the step, in latent units."""


def run(subject: Subject, given: Options, progress: Progress) -> xr.Dataset:
    """Return D² [axes] of the first good sample's image and the images one step further along each axis."""
    sweep = subject.sweep
    assert sweep is not None
    _, vectors = np.linalg.eigh(sweep.mean_metric(kept=True))
    axes = vectors.T[::-1][: given.axes]
    code = sweep.dataset()["latent"].values[:1]
    # TEMPLATE: resume. `load` returns what an interrupted run saved last, or None.
    state = progress.checkpoint.load()
    change = [] if state is None else list(state["change"])
    with torch.no_grad():
        for axis in axes[len(change) :]:
            moved = torch.as_tensor(np.concatenate([code, code + given.step * axis]))
            images = generate(subject.generator, moved.to(reference_tensor(subject.generator)), None)
            change.append(float(subject.distance(images[:1], images[1:])))
            progress.checkpoint.save(change=change)  # TEMPLATE: save first, then report: a report may end the run
            progress(len(change), len(axes))
    return xr.Dataset({"change": (("axis",), change, {"long_name": "D² for one step", "units": "squared distance"})})


def summary(result: ApplicationResult) -> Table:
    """Return the rows of a table."""
    rows = [[rank + 1, float(value)] for rank, value in enumerate(result.dataset["change"].values)]
    return Table([">axis", ">D² for one step"], rows)


def figure(result: ApplicationResult) -> Any:
    """Return a matplotlib figure for the report, or None."""
    # TEMPLATE: import matplotlib here and not above. Label axes with units; choose colours that are readable in grey.
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(4, 3), layout="constrained")
    axes = drawn.subplots()
    axes.semilogy(1 + np.arange(result.dataset.sizes["axis"]), result.dataset["change"].values, "k.-")
    axes.set(xlabel="axis of the mean metric", ylabel="D² for one step")
    return drawn

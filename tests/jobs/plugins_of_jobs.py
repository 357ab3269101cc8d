"""A statistic and an application as third parties would write them, and a small sweep for them."""

from plugin_files import write_distribution

TALLY = '''
"""The number of samples."""
import xarray as xr
from pydantic import Field
from pullback.analysis.protocol import Table
from pullback.spec.options import Options as Base
SUMMARY = "counts samples"
class Options(Base):
    times: int = Field(default=1, ge=1)
    "What the count is multiplied by."
    broken: bool = False
    "Raise an error."
def compute(samples, options, progress):
    if options.broken:
        raise ZeroDivisionError("nothing to divide")
    progress(1, 1)
    return xr.Dataset({"count": ((), samples.about.samples * options.times)})
def summary(result):
    return Table(["", ">count"], [["samples", int(result.dataset["count"])]])
def figure(result):
    return None
'''
STROLL = '''
"""Steps along the first axis of the mean metric."""
from typing import Annotated, Literal
import numpy as np
import xarray as xr
from pydantic import Field
from pullback.analysis.protocol import Table
from pullback.spec.options import Local, Options as Base
SUMMARY = "steps along the first axis"
class Options(Base):
    steps: int = Field(default=3, ge=1, le=100)
    "Number of steps."
    sizes: tuple[float, ...] = (1.0,)
    "Sizes of the steps."
    path: Literal["linear", "sphere"] = "linear"
    "How the steps are laid."
    fails_at: int | None = None
    "The step that raises an error."
    directions: Annotated[str | None, Local()] = None
    "A file of directions."
    fast: bool = True
    "Take large steps."
def run(subject, options, progress):
    state = progress.checkpoint.load()
    values = [] if state is None else list(state["values"])
    begun = len(values)
    trace = float(np.trace(subject.sweep.mean_metric()))
    while len(values) < options.steps:
        if len(values) == options.fails_at and not begun:
            raise RuntimeError("the path ends here")
        values.append(trace * (len(values) + 1))
        progress.checkpoint.save(values=values)
        progress(len(values), options.steps)
    return xr.Dataset({"value": ("step", values), "begun": ((), begun)})
def summary(result):
    rows = [[step + 1, float(value)] for step, value in enumerate(result.dataset["value"].values)]
    return Table([">step", ">value"], rows, "Stroll")
def figure(result):
    from matplotlib.figure import Figure
    drawn = Figure()
    drawn.subplots().plot(result.dataset["value"].values)
    return {"The value of each step": drawn}
'''
IMAGE = '''
"""The mean colour of a generator's image of the code of ones."""
import torch
import xarray as xr
from pullback.analysis.protocol import Table
from pullback.spec.options import Options as Base
SUMMARY = "the mean colour of the code of ones"
NEEDS = ("generator",)
class Options(Base):
    pass
def run(subject, options, progress):
    generator = subject.generator
    with torch.no_grad():
        image = generator(torch.ones(1, generator.latent_dim, device=subject.device))
    return xr.Dataset({"mean": ((), float(image.mean()))})
def summary(result):
    return Table([">mean"], [[float(result.dataset["mean"])]])
def figure(result):
    return None
'''


def write_plugins(folder):
    """Write the distributions of all of them into a folder, which then goes on the import path."""
    folder.mkdir()
    write_distribution(folder, "pullback.statistics", {"tally": TALLY}, name="one")
    write_distribution(folder, "pullback.applications", {"stroll": STROLL, "colour": IMAGE}, name="two")
    return folder

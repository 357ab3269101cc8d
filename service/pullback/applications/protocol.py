"""The protocol of an application: the exports of its module, its input, and its progress and checkpoint.

An application is one module in `pullback.applications`, or one that an entry point of the group
`pullback.applications` names. Its name is the module's (the entry point's) name. It exports:

- `SUMMARY`: one line that says what the application does.
- `Options`: a subclass of `pullback.spec.options.Options`. A field that names a file or code is marked with `Local`.
- `run(subject, options, progress) -> xarray.Dataset`: the result. `subject` is a `Subject`, `progress` a `Progress`.
- `summary(result) -> Table | list[Table]`: the rows that the command line and the report print.
- `figure(result) -> Figure | dict[caption, Figure] | None`: for the report. Import matplotlib inside the function.

It may also export:

- `NEEDS: tuple[str, ...]` (default `("sweep",)`): the inputs that the job must name: `sweep`, `generator` or both. An
  application that needs only a `generator` uses the sweep's generator if the job has a sweep.
- `to_json`, `sentences`, `cautions`, `from_dataset`, `VERSION`: as in a statistic (`pullback.analysis.protocol`).

Everything else (jobs, the command line, HTTP and its OpenAPI, the cache, the report) follows from these.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pullback.atomic_files import replacing
from pullback.errors import PullbackError
from pullback.generators import load_for
from pullback.generators.registry import resolve_device
from pullback.spec import GeneratorSpec
from pullback.sweep.identity import stored_job
from pullback.sweep.inputs import changes, inputs_of, stored_inputs
from pullback.sweep.parts import load_parts

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pullback.distances import Distance
    from pullback.store.reader import Sweep

NEEDS = ("sweep",)
"""Default inputs of an application."""


class Stopped(BaseException):
    """Raised by `Progress` if the application was asked to stop. The application must not catch it."""


@dataclass(frozen=True)
class Subject:
    """The input of an application. Networks are loaded when they are first used.

    Attributes:
        sweep: the sweep, open at a snapshot; None if the job has none.
        spec: the generator that the job names; None means the sweep's generator.
        device_name: `auto`, `cpu`, `cuda` or one GPU, such as `cuda:1`.
        workers: processes over which an application may spread its work; most applications use one.
    """

    sweep: "Sweep | None"
    spec: GeneratorSpec | None = None
    device_name: str = "auto"
    workers: int = 1

    @cached_property
    def device(self) -> "torch.device":
        """The device of the networks; raises SpecError if this machine has no such device."""
        return resolve_device(self.device_name)

    @cached_property
    def generator(self) -> "nn.Module":
        """The generator, in evaluation mode.

        Raises:
            PullbackError: it cannot be loaded, or it differs from the generator that computed the sweep.
        """
        if self.spec is None:
            return self._of_sweep[0]
        return load_for(self.spec, self.device)

    @cached_property
    def distance(self) -> "Distance":
        """The sweep's distance.

        Raises:
            PullbackError: there is no sweep, or its distance cannot be loaded or has changed.
        """
        return self._of_sweep[1]

    @cached_property
    def _of_sweep(self) -> "tuple[nn.Module, Distance]":
        if self.sweep is None:
            raise PullbackError("this application needs the generator or the distance of a sweep, and the job has none")
        provenance = self.sweep.provenance
        job = stored_job(provenance, "application")
        generator, distance = load_parts(job, self.device)
        changed = changes(stored_inputs(provenance), inputs_of(generator, distance))
        if changed:
            raise PullbackError(
                f"the sweep was computed with other inputs: {'; '.join(changed)}. Nothing was computed. Restore them, "
                "or run the sweep's job again with another `store`"
            )
        return generator, distance


class Checkpoint:
    """The state of an interrupted application: named arrays in a folder that lasts until the result is kept.

    Args:
        folder: created by the first save. An application may store its own files in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, **arrays: npt.ArrayLike) -> None:
        """Replace the state atomically. If the disk is full, the earlier state is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "state.npz") as new, new.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})

    def load(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays that were saved last; None if there are none that can be read."""
        state = self.folder / "state.npz"
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(state, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
        return None

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Progress:
    """Progress reports, stop requests and the checkpoint of a running application.

    Attributes:
        checkpoint: the state of this run, or of an earlier, interrupted one.
        report: called with the number of finished steps and the total.
        stopped: returns whether the application has to stop.
    """

    checkpoint: Checkpoint
    report: Callable[[int, int], None] = field(default=lambda done, total: None)
    stopped: Callable[[], bool] = field(default=lambda: False)

    def __call__(self, done: int, total: int) -> None:
        """Report `done` of `total` steps. Save the checkpoint before this call.

        Raises:
            Stopped: the application was asked to stop.
        """
        self.report(done, total)
        if self.stopped():
            raise Stopped


def needs_of(module: Any) -> tuple[str, ...]:
    """Return the inputs that an application's module needs: `sweep`, `generator` or both."""
    return tuple(getattr(module, "NEEDS", NEEDS))


def options_json(options: Any) -> str:
    """Return options as canonical JSON: equal options give equal text. Options with default values are left out."""
    return json.dumps(options.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))

"""The inversion of several pictures, one group after the other or in several processes, with a checkpoint."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from pullback.analysis.bootstrap import Integers
from pullback.applications.inverting.assembly import inverter_of
from pullback.applications.inverting.datasets import dataset_of, joined
from pullback.applications.inverting.inverter import Inverted, Inverter, stacked
from pullback.applications.inverting.pictures import Picture, PictureError
from pullback.applications.protocol import Progress, Subject
from pullback.applications.worker_processes import CONTEXT, process_count, worker_processes
from pullback.errors import PullbackError
from pullback.spec import GeneratorSpec
from pullback.store.reader import open_sweep

if TYPE_CHECKING:
    import xarray as xr

    from pullback.applications.inversion import Options

Group = tuple[Tensor, int]
"""Images [pictures, 3, height, width] that are inverted at once, and the number of the first one."""
Invert = Callable[[Iterable[Group]], Iterator[list[Inverted]]]
"""Inverts groups, and yields what was found in their order."""
_ASKED_EVERY = 0.5
"""Seconds between two looks at whether to stop."""


def in_this_process(inverter: Inverter, progress: Progress) -> Invert:
    """Return the function that inverts groups here, one after the other."""
    return lambda groups: (inverter.invert(each, first=first, stopped=progress.stopped) for each, first in groups)


@contextmanager
def in_processes(subject: Subject, given: "Options", inverter: Inverter, progress: Progress) -> Iterator[Invert]:
    """Yield the function that inverts groups in as many processes as the job asks for, or here if that is one.

    The number of processes changes no result, unless CPU seconds are limited.

    Args:
        subject: the input of the application.
        given: its options.
        inverter: for one process; it has made the library of starts that all processes read.
        progress: tells whether to stop.

    Raises:
        PullbackError: a process died.
    """
    if process_count(subject) == 1:
        yield in_this_process(inverter, progress)
        return
    sweep, stop = subject.sweep, CONTEXT.Event()
    place = None if sweep is None else (str(sweep.location), sweep.snapshot)

    with worker_processes(subject, start_worker, (place, subject.spec, given, stop)) as pool:

        def invert(groups: Iterable[Group]) -> Iterator[list[Inverted]]:
            try:
                for future in [pool.submit(invert_here, *group) for group in groups]:
                    while not wait([future], _ASKED_EVERY).done:
                        if progress.stopped():
                            stop.set()
                    yield future.result()
            except BrokenProcessPool as error:
                raise PullbackError(
                    "a process that inverted pictures died, perhaps because memory ran out. Finished pictures are "
                    "kept. Run the job again with fewer workers"
                ) from error

        try:
            yield invert
        finally:
            stop.set()


_inverters: list[tuple[Inverter, Any]] = []
"""The inverter of a worker process, and the event that stops it."""


def start_worker(
    device: str, place: tuple[str, str] | None, spec: GeneratorSpec | None, given: "Options", stop: Any
) -> None:
    """Load the networks of a worker process."""
    sweep = None if place is None else open_sweep(*place)
    _inverters[:] = [(inverter_of(Subject(sweep, spec, device), given), stop)]


def invert_here(images: Tensor, first: int) -> list[Inverted]:
    """Invert a group with the networks of this worker process."""
    inverter, stop = _inverters[0]
    return inverter.invert(images, first=first, stopped=stop.is_set)


def invert_pictures(
    inverter: Inverter,
    pictures: Sequence[Picture | PictureError],
    together: int,
    progress: Progress,
    invert: Invert,
) -> "xr.Dataset":
    """Invert what the checkpoint does not have, and return the application's dataset.

    Args:
        inverter: has the generator and the solver.
        pictures: the pictures, or why a file is none.
        together: pictures of a group.
        progress: has the checkpoint; called after each group.
        invert: inverts groups.
    """
    state = progress.checkpoint.load()
    held: dict[str, Any] = {} if state is None or "done" not in state else dict(state)
    done: Integers = held.pop("done", np.zeros(0, dtype=np.int64))
    good = [row for row, picture in enumerate(pictures) if isinstance(picture, Picture)]
    progress(len(done), len(good))
    left = [row for row in good if row not in set(done.tolist())]
    groups = [left[start : start + together] for start in range(0, len(left), together)]
    images = ((torch.stack([cast(Picture, pictures[row]).image for row in rows]), rows[0]) for rows in groups)
    for rows, found in zip(groups, invert(images), strict=True):
        progress(len(done), len(good))  # raises if it was stopped: what a solver had then is no result
        held = joined(held, stacked(found))
        done = np.concatenate([done, rows])
        progress.checkpoint.save(done=done, **held)
        progress(len(done), len(good))
    return dataset_of(inverter, pictures, done, held)

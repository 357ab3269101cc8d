"""Run an analysis or an application with the same kind of lock, record and journal as a sweep.

Each result is saved as soon as it is computed, so an interrupted job continues with the next one. An application
continues from its checkpoint.
"""

import shutil
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xarray as xr

from pullback.analysis.protocol import About
from pullback.analysis.request import reads_several
from pullback.analysis.runner import run_statistics
from pullback.analysis.samples import Samples
from pullback.applications.protocol import Checkpoint, Progress, Stopped, Subject
from pullback.applications.results import ApplicationResult, save_result
from pullback.driving.background import write_job
from pullback.driving.session import Driver, driver_session
from pullback.driving.sidecar_files import sidecar_path
from pullback.errors import PluginError, PullbackError, StoreError, is_interrupt
from pullback.jobs.plan import ResultPlan, checked, whole_job
from pullback.plugins import APPLICATIONS
from pullback.spec import ApplicationJob
from pullback.spec.resources import DeviceSpec
from pullback.store.lock import driver_lock
from pullback.store.reader import Sweep

Report = Callable[[str, int, int], None]
"""Called with the name of the current result, the number of finished steps, and the total."""


@dataclass(frozen=True)
class ResultOutcome:
    """How a run ended.

    Attributes:
        planned: number of results of the job.
        computed: number of results that this run computed and saved.
        finished: number of results that are saved now.
        cancelled: whether a cancel request stopped the run.
    """

    planned: int
    computed: int
    finished: int
    cancelled: bool = False

    @property
    def exit_code(self) -> int:
        """0 done, 130 cancelled."""
        return 0 if self.finished == self.planned else 130


def run_results(
    plan: ResultPlan,
    report: Report = lambda name, done, total: None,
    echo: Callable[[str], None] = lambda line: None,
) -> ResultOutcome:
    """Compute the missing results of a job and save them.

    Args:
        plan: the job's plan.
        report: called with the progress of each result.
        echo: called with each line of the journal.

    Raises:
        StoreError: another driver runs this job, or a result cannot be saved.
        PullbackError: the results cannot be computed from this sweep.
    """
    parts = plan.parts
    missing = [part.name for part in parts if not part.finished]
    if not missing:
        return ResultOutcome(len(parts), 0, len(parts))
    checked(plan)
    place = plan.place
    with driver_lock(place), driver_session(place, len(parts), echo) as driver:
        with suppress(OSError):  # if the disk is full, run the job anyway
            write_job(place, whole_job(plan))
        driver.log("run", job_id=plan.job_id, snapshot=plan.snapshot, pending=len(missing))
        driver.update(life="running", snapshot=plan.snapshots)
        work = _Work(plan, driver, report)
        computed = 0
        try:
            for name in missing:
                started = time.monotonic()
                work.compute(name)
                computed += 1
                driver.log("computed", result=name, seconds=round(time.monotonic() - started, 3))
        except Stopped:
            driver.log("cancelled")
            driver.update(life="cancelled", message="")
            return ResultOutcome(len(parts), computed, len(parts) - len(missing) + computed, cancelled=True)
        driver.log("done")
        driver.update(life="done", message="", snapshot=plan.snapshots)
        return ResultOutcome(len(parts), computed, len(parts))


class _Work:
    """Computes the results of a plan one by one."""

    def __init__(self, plan: ResultPlan, driver: Driver, report: Report) -> None:
        self._plan, self._driver, self._report = plan, driver, report
        job = plan.job
        generator = job.generator if isinstance(job, ApplicationJob) else None
        resources = job.resources if isinstance(job, ApplicationJob) else DeviceSpec()
        self._subject = Subject(plan.sweep, generator, resources.device, resources.workers)

    @cached_property
    def _samples(self) -> Samples:
        """The sweep's good samples, read once for all statistics of the job."""
        assert self._plan.sweep is not None
        return Samples.of_sweep(self._plan.sweep)

    def compute(self, name: str) -> None:
        """Compute one result and save it.

        Raises:
            Stopped: the job was asked to stop.
            StoreError: the result cannot be saved.
            PullbackError: the plug-in fails.
        """
        self._driver.update(message=name)
        if self._driver.cancelled():
            raise Stopped
        try:
            if isinstance(self._plan.job, ApplicationJob):
                self._apply(name)
            else:
                self._analyze(name)
        except PluginError:
            self._driver.log("raised", result=name, traceback=traceback.format_exc())
            raise
        except PullbackError:
            raise
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            self._driver.log("raised", result=name, traceback=traceback.format_exc())
            why = " ".join(str(error).split()) or "no message"
            raise PullbackError(
                f"{self._plan.job.kind} {name!r} failed with {type(error).__name__}: {why}. Earlier results are kept. "
                f"The journal has the traceback: pullback logs {self._plan.place}"
            ) from error

    def _analyze(self, name: str) -> None:
        assert self._plan.sweep is not None

        def unsaved(error: StoreError) -> None:
            raise error

        asked = {name: self._plan.options[name]}
        run_statistics(
            self._plan.sweep,
            asked,
            self._progress,
            unsaved=unsaved,
            samples=lambda: self._samples,
            others=self._others(name),
        )

    def _others(self, name: str) -> tuple[Sweep, ...]:
        return self._plan.others if reads_several(name) else ()

    def _apply(self, name: str) -> None:
        plan, module = self._plan, APPLICATIONS.module(name)
        checkpoints = sidecar_path(plan.place, "checkpoint")
        checkpoint = Checkpoint(checkpoints / (plan.snapshot or "latest"))
        progress = Progress(checkpoint, lambda done, total: self._show(name, done, total), self._driver.cancelled)
        options = plan.options[name]
        dataset: Any = module.run(self._subject, options, progress)
        if not isinstance(dataset, xr.Dataset):
            raise TypeError(f"`run` gave {type(dataset).__name__}, not an xarray.Dataset")
        save_result(plan.base, plan.key(name), ApplicationResult(name, options, dataset, self._about()))
        shutil.rmtree(checkpoints, ignore_errors=True)  # includes those of earlier snapshots

    def _about(self) -> About:
        sweep = self._plan.sweep
        if sweep is None:
            return About(self._plan.job.name, "", 0)
        return About(sweep.name, sweep.snapshot, sweep.status().good)

    def _progress(self, name: str, done: int, total: int) -> None:
        self._show(name, done, total)
        if self._driver.cancelled():
            raise Stopped

    def _show(self, name: str, done: int, total: int) -> None:
        self._driver.update(message=f"{name}: {done} of {total}")
        self._report(name, done, total)

"""The entrypoint of an analysis or an application on a Ray cluster: `python -m pullback.jobs.driver`.

The job comes from environment variables. It runs in this process, which Ray starts on a machine with the GPU that the
job asks for. The exit codes are those of `pullback run`.
"""

import json
import os
from pathlib import Path

from pullback.cluster.driver import say
from pullback.cluster.submission import FOLDER_VARIABLE, JOB_VARIABLE
from pullback.errors import PullbackError, SpecError
from pullback.jobs.plan import ResultPlan, plan_results
from pullback.jobs.run import run_results
from pullback.process_exit import skip_finalization
from pullback.signals import end_on_signals, leave
from pullback.spec import JobSpec, job_of
from pullback.standard_streams import open_closed_streams

_SOURCE = "pullback.jobs.driver"


def main() -> int:
    """Run the job that the environment variables define, and return the exit code."""
    open_closed_streams()
    try:
        end_on_signals()
        folder = Path(os.environ.get(FOLDER_VARIABLE, "."))
        if folder.is_dir():  # resolve a job's relative paths in the submitter's folder
            os.chdir(folder)
        outcome = run_results(_planned(), echo=say)
    except PullbackError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; finished results and the checkpoint are kept")
        return 130
    say(f"{outcome.finished} of {outcome.planned} results are kept")
    return outcome.exit_code


def _planned() -> ResultPlan:
    text = os.environ.get(JOB_VARIABLE)
    if text is None:
        raise SpecError([f"the variable {JOB_VARIABLE} is needed"], _SOURCE)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise SpecError([f"{JOB_VARIABLE} holds no job: {error}"], _SOURCE) from None
    job = job_of(content, _SOURCE)
    if isinstance(job, JobSpec):
        raise SpecError(["kind: an analysis or an application is needed"], _SOURCE)
    return plan_results(job, source=_SOURCE)


if __name__ == "__main__":
    skip_finalization()
    leave(main())

"""The paths of a job for errors of functions that the job calls.

Generators, distances and metrics raise `ArgumentError`, which names an argument. Code that takes the arguments from a
job uses this module, so that its user reads the path of the key to change.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pullback.errors import ArgumentError, PullbackError, SpecError

_RESOURCES = ("device", "batch", "tangents", "replay")
"""Arguments that stand in the section `resources` of a job, whichever function takes them."""


def job_problems(error: PullbackError, section: str) -> list[str]:
    """Return an error as sentences that begin with the path of a key in a job.

    Args:
        error: raised by a function that was called with the values of a section.
        section: that section, such as `generator`.
    """
    if isinstance(error, ArgumentError):
        return [f"{path_of(name, section)}: {problem}" for name, problem in error.each]
    return error.problems if isinstance(error, SpecError) else [f"{section}: {error}"]


def path_of(argument: str, section: str) -> str:
    """Return the path in a job of an argument that comes from a section, unless it is one of the resources."""
    return f"{'resources' if argument in _RESOURCES else section}.{argument}"


@contextmanager
def arguments_of(section: str) -> Iterator[None]:
    """Name keys of a job instead of arguments in errors of the enclosed calls.

    Args:
        section: the section of the job that the arguments come from.

    Raises:
        SpecError: in place of an `ArgumentError`; every other error passes unchanged.
    """
    try:
        yield
    except ArgumentError as error:
        raise SpecError(job_problems(error, section)) from error

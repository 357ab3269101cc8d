"""What a statistic is: the exports of its module, the samples it reads, and the result it makes.

A statistic is one module in `pullback.analysis.statistics`, or one that an entry point of the group
`pullback.statistics` names. Its name is the module's (the entry point's) name. It exports:

- `SUMMARY`: one line that says what the statistic measures: a phrase without a full stop.
- `Options`: a subclass of `pullback.spec.options.Options`.
- `compute(samples, options, progress) -> xarray.Dataset`: the numbers, with intervals. `samples` is a `Samples`;
  `progress(done, total)` may be called as often as wanted. A statistic of several sweeps (`SWEEPS`) has
  `compute(samples, others, options, progress)` instead: `others` is a tuple of the `Samples` of the other sweeps, as
  they were named.
- `summary(result)`: a `Table`, a list of them, or the rows of a table with two columns, such as `[("mean", 3.2)]`. The
  command line and the report print it.
- `figure(result) -> Figure | dict[caption, Figure] | None`: for the report. Import matplotlib inside the function, from
  `pullback.analysis.drawing`.

It may also export:

- `SWEEPS: int | str` (default 1): how many sweeps it reads, as `SWEEPS = 2`, or `SWEEPS = "several"` for two or more.
  The user names the others with `--with`, the job's `with`, or the query parameter `with`. The result is kept beside
  the first sweep, and its key holds the snapshot of each. `Result.sweeps` describes all of them.
- `to_json(result) -> dict`: in place of `default_json`, which takes scalars and small arrays of the dataset.
- `sentences(result) -> list[str]`: what the numbers mean, above the tables of the report.
- `notes(result) -> list[str]`: how to read the tables and figures, in the statistic's section of the report.
- `cautions(result) -> list[str]`: what limits the numbers, below the tables of the command line and in the report.
- `from_dataset(dataset) -> object`: the dataset as a typed value, `Result.value`.
- `decisive(options, samples) -> Options`: the options that decide the result for this number of samples, so that two
  requests with the same answer share one cached result.
- `VERSION: int` (default 1): raise it when results of the earlier code must be computed again.

Everything else (jobs, the command line, HTTP and its OpenAPI, the cache, the report) follows from these.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.errors import PluginError, PullbackError, is_interrupt
from pullback.plugins import STATISTICS
from pullback.spec.options import Options

if TYPE_CHECKING:
    import xarray as xr

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""

SEVERAL = "several"
"""The `SWEEPS` of a statistic that reads two sweeps or more."""

_LARGEST_IN_JSON = 4096
"""Values of an array beyond which `default_json` gives only its shape."""


@dataclass(frozen=True)
class Table:
    """Rows for tables.

    Attributes:
        columns: one heading a column; a heading that starts with `>` is of numbers, aligned to the right.
        rows: the cells of each row. Text is shown as it is, numbers with 4 significant digits, None as a dash.
        title: the line above; the statistic's name by default.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]
    title: str = ""

    @property
    def headings(self) -> list[str]:
        """The column headings without their marks."""
        return [column.removeprefix(">") for column in self.columns]

    def text(self) -> list[list[str]]:
        """Return every cell as it is shown."""
        return [[_shown(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class About:
    """Which samples a result is computed from.

    Attributes:
        name: the sweep's name.
        snapshot: the version of the sweep's store.
        samples: number of good samples.
        method: how the metrics were computed; None if that is not recorded.
        precision: the arithmetic of derivatives; None if that is not recorded.
        zero_metrics: the samples of the sweep whose metric is exactly zero: `count`, `good` of them (part of every
            number), `quarantined` of them (part of none), and `samples`, their numbers.
        latent_dim: n, the size of a latent code; None if that is not known.
    """

    name: str
    snapshot: str
    samples: int
    method: str | None = None
    precision: str | None = None
    zero_metrics: Mapping[str, Any] = field(
        default_factory=lambda: {"count": 0, "good": 0, "quarantined": 0, "samples": []}
    )
    latent_dim: int | None = None

    @classmethod
    def of_sweep(cls, sweep: Any, zero_metrics: Mapping[str, Any] | None = None) -> "About":
        """Describe an open sweep; `zero_metrics`, if they are known, are not looked for again."""
        provenance = getattr(sweep, "provenance", {})
        zeros = sweep.zero_metrics().as_dict() if zero_metrics is None else zero_metrics
        method, precision = _text(provenance, "method"), _text(provenance, "spec", "metric", "precision")
        latent_dim = getattr(getattr(sweep, "layout", None), "latent_dim", None)
        return cls(sweep.name, sweep.snapshot, int(sweep.status().good), method, precision, zeros, latent_dim)


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one statistic over the good samples of one sweep at one snapshot.

    Attributes:
        statistic: the statistic's name.
        options: with which it was computed.
        dataset: what `compute` returned, in memory.
        about: which samples.
        others: the results of the same analysis by name, this one included. A summary may refer to them where they are
            present, and must not depend on them.
        further: the samples of the other sweeps, for a statistic of several.
    """

    statistic: str
    options: Options
    dataset: "xr.Dataset"
    about: About
    others: Mapping[str, "Result"] = field(default_factory=dict, repr=False)
    further: tuple[About, ...] = ()

    @property
    def sweeps(self) -> tuple[About, ...]:
        """The samples of every sweep that the statistic reads, the first included."""
        return (self.about, *self.further)

    def __getitem__(self, name: str) -> "xr.DataArray":
        """Return a variable of the dataset."""
        return self.dataset[name]

    @cached_property
    def value(self) -> Any:
        """The dataset as the statistic's own type, or the dataset itself where the statistic has none."""
        convert = getattr(self._module, "from_dataset", None)
        with self.guard("from_dataset"):
            return self.dataset if convert is None else convert(self.dataset)

    @cached_property
    def json(self) -> dict[str, Any]:
        """The result for `json.dumps(..., allow_nan=False)`: null stands for a number that does not exist."""
        with self.guard("to_json"):
            convert = getattr(self._module, "to_json", default_json)
            return dict(strict(convert(self)))

    def tables(self) -> list[Table]:
        """Return the statistic's tables; raises PluginError if its `summary` fails."""
        with self.guard("summary"):
            made = self._module.summary(self)
            entries: list[Any] = [made] if isinstance(made, Table) else list(made)
            if not all(isinstance(entry, Table) for entry in entries):
                entries = [Table(("", ">value"), [(str(name), value) for name, value in entries])]
            for table in entries:
                if any(len(row) != len(table.columns) for row in table.rows):
                    raise ValueError(f"each row of a table needs {len(table.columns)} cells")
            return entries

    def figures(self) -> dict[str, Any]:
        """Return the statistic's matplotlib figures by caption, maybe none; raises PluginError if `figure` fails."""
        with self.guard("figure"):
            made = self._module.figure(self)
            if made is None:
                return {}
            return dict(made) if isinstance(made, Mapping) else {"": made}

    def sentences(self) -> list[str]:
        """Return what the numbers mean, in words."""
        return self._said("sentences")

    def notes(self) -> list[str]:
        """Return how to read the tables and figures, in words."""
        return self._said("notes")

    def cautions(self) -> list[str]:
        """Return what limits the numbers, in words."""
        return self._said("cautions")

    @property
    def title(self) -> str:
        """The statistic's name as a heading, with the names of the other sweeps."""
        named = f" with {', '.join(about.name for about in self.further)}" if self.further else ""
        return self.statistic.replace("_", " ").capitalize() + named

    @property
    def line(self) -> str:
        """What the statistic measures: its `SUMMARY` as a sentence."""
        text = str(self._module.SUMMARY).rstrip(".")
        return f"{text[:1].upper()}{text[1:]}."

    @property
    def _module(self) -> Any:
        return STATISTICS.module(self.statistic)

    def _said(self, export: str) -> list[str]:
        say = getattr(self._module, export, None)
        with self.guard(export):
            return [] if say is None else list(map(str, say(self)))

    @contextmanager
    def guard(self, export: str) -> Iterator[None]:
        """Raise PluginError for an error that an export of a third party's statistic raises by mistake."""
        with guarded(self._module, self.statistic, export):
            yield


@contextmanager
def guarded(module: Any, name: str, export: str) -> Iterator[None]:
    """Raise PluginError, with the cause, for an error that a function of a third party's plug-in raises by mistake."""
    try:
        yield
    except PullbackError:
        raise
    except Exception as error:
        if str(module.__name__).startswith("pullback.") or is_interrupt(error):
            raise
        text = " ".join(str(error).split())
        raise PluginError(
            f"{export} of {name!r} ({module.__name__}) failed with {type(error).__name__}: {text}. Nothing else is "
            "affected. Report it to the authors of that plug-in."
        ) from error


def sweeps_of(module: Any) -> tuple[int, int | None]:
    """Return the least and the greatest number of sweeps that a statistic reads; None for no limit.

    Raises:
        PluginError: its `SWEEPS` is neither a positive number nor "several".
    """
    declared = getattr(module, "SWEEPS", 1)
    if declared == SEVERAL:
        return 2, None
    if not isinstance(declared, int) or isinstance(declared, bool) or declared < 1:
        raise PluginError(f"SWEEPS of {module.__name__} must be a number of sweeps or {SEVERAL!r}, not {declared!r}")
    return declared, declared


def default_json(result: Result) -> dict[str, Any]:
    """Return every scalar and small array of a result's dataset by name; larger arrays give `{"shape": [...]}`."""
    content: dict[str, Any] = {}
    for name, variable in (*result.dataset.coords.items(), *result.dataset.data_vars.items()):
        small = variable.size <= _LARGEST_IN_JSON
        content[str(name)] = np.asarray(variable.values) if small else {"shape": list(variable.shape)}
    return content


def strict(value: Any) -> Any:
    """Return plain Python values, with None for each number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): strict(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return strict(value.tolist())
    if isinstance(value, np.generic):
        return strict(value.item())
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _text(content: Any, *keys: str) -> str | None:
    """An entry of nested mappings, or None where it is missing or no text."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, str) else None


def _shown(cell: str | float | int | None) -> str:
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)

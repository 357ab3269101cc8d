"""Figures one by one, for papers: those of a statistic or an application, image strips, and those of several sweeps."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pullback.analysis import Analysis, Result
from pullback.analysis.drawing import Figure
from pullback.analysis.figure_files import FigureTable, Format, figure_tables, to_bytes
from pullback.analysis.request import loadable_statistics, reads_several
from pullback.applications.results import load_results
from pullback.atomic_files import replace_file
from pullback.errors import PullbackError, SpecError
from pullback.plugins import APPLICATIONS, STATISTICS
from pullback.report.strip_figure import strips_caption, strips_figure
from pullback.report.strips import image_strips
from pullback.report.sweep_figures import SWEEP_FIGURES, named
from pullback.spec.messages import nearest
from pullback.store.reader import Sweep

STRIPS = "strips"
"""The name of the figure of image strips."""

Analyze = Callable[[Sweep, Sequence[str], Sequence[Sweep]], Analysis]
"""Returns the results of the named statistics of a sweep, given the further sweeps that they read."""


@dataclass(frozen=True)
class NamedFigure:
    """A figure with the stem of its files and its caption.

    Attributes:
        stem: the names of its files without their endings.
        caption: what it shows.
        figure: the drawing.
        tables: its numbers; None for those that are drawn.
    """

    stem: str
    caption: str
    figure: Figure
    tables: Sequence[FigureTable] | None = None

    def write(self, folder: Path, formats: Sequence[Format], data: bool, dpi: float) -> list[Path]:
        """Write the figure in each format, and its numbers as CSV, into a folder that is made if it is missing.

        Raises:
            PullbackError: a file cannot be written.
        """
        contents = {f"{self.stem}.{kind}": to_bytes(self.figure, kind, dpi) for kind in formats}
        tables = figure_tables(self.figure) if self.tables is None else self.tables
        for table in tables if data else ():
            name = f"{self.stem}.{table.name}.csv" if table.name else f"{self.stem}.csv"
            contents[name] = table.csv().encode("utf-8")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                replace_file(folder / name, content)
        except OSError as error:
            raise PullbackError(
                f"the figure cannot be written to {folder}: {error.strerror}; choose another --output"
            ) from error
        return [folder / name for name in contents]


def figure_names() -> dict[str, str]:
    """Return every name of `figures_of` with one line that says what is drawn."""
    names = {name: figure.summary for name, figure in SWEEP_FIGURES.items()}
    names[STRIPS] = "images along axes of the mean metric; needs the generator"
    for name in loadable_statistics():
        names.setdefault(name, str(STATISTICS.module(name).SUMMARY))
    for name in APPLICATIONS.names():
        names.setdefault(name, "figures of the application's cached results")
    return names


def figures_of(name: str, sweeps: Sequence[Sweep], analyze: Analyze) -> list[NamedFigure]:
    """Return the figures of a name.

    A figure of several sweeps has them on one axis. A statistic that compares sweeps compares the first with the
    others. Every other figure is drawn of each sweep.

    Args:
        name: one of `figure_names`.
        sweeps: at least one.
        analyze: computes statistics, or reads them from the cache.

    Raises:
        SpecError: the name does not exist, or the statistic reads another number of sweeps.
        PullbackError: an error of the analysis, or the application has no cached result.
    """
    if name not in (known := figure_names()):
        hint = nearest(name, known) or ";"
        raise SpecError(
            [f"no figure is called {name!r}{hint} known are {', '.join(sorted(known))}"], "the command line"
        )
    if name in SWEEP_FIGURES:
        figure = SWEEP_FIGURES[name]
        entries = named([(sweep, analyze(sweep, figure.statistics, ())) for sweep in sweeps])
        stem = sweeps[0].name if len(sweeps) == 1 else f"{sweeps[0].name}-and-{_others(sweeps)}"
        return _numbered(f"{stem}.{name}", figure.draw(entries))
    if name in STATISTICS.names() and reads_several(name):
        result = analyze(sweeps[0], (name,), sweeps[1:])[name]
        return _of_result(f"{sweeps[0].name}-and-{_others(sweeps)}", result)
    return [figure for sweep in sweeps for figure in _of_one(name, sweep, analyze)]


def _of_one(name: str, sweep: Sweep, analyze: Analyze) -> list[NamedFigure]:
    if name == STRIPS:
        analysis = analyze(sweep, ("mean_metric",), ())
        strips = image_strips(sweep, analysis["mean_metric"].value)
        caption, drawn = strips_caption(strips, analysis), strips_figure(strips)
        return [NamedFigure(f"{sweep.name}.{STRIPS}", caption, drawn, [strips.table()])]
    if name in STATISTICS.names():
        # The axes are drawn against the spectrum.
        names = (name, "anisotropy") if name == "mean_metric" else (name,)
        return _of_result(sweep.name, analyze(sweep, names, ())[name])
    results = [result for result in load_results(sweep.path, sweep.snapshot) if result.statistic == name]
    if not results:
        raise PullbackError(f"sweep {sweep.name!r} has no result of {name}; `pullback apply {name}` computes one")
    return [figure for result in results for figure in _of_result(sweep.name, result)]


def _of_result(stem: str, result: Result) -> list[NamedFigure]:
    return _numbered(f"{stem}.{result.statistic}", result.figures())


def _numbered(stem: str, drawn: Mapping[str, Figure]) -> list[NamedFigure]:
    """Return figures with the stems of their files: the name of each, or its number, after the common stem."""
    last = stem.rpartition(".")[2]
    found, stems = [], set()
    for number, (caption, figure) in enumerate(drawn.items(), 1):
        label = re.sub(r"[^\w-]+", "-", str(figure.get_label()))
        label = "" if label == last else label or (str(number) if len(drawn) > 1 else "")
        own = f"{stem}.{label}" if label else stem
        own = f"{own}-{number}" if own in stems else own
        stems.add(own)
        found.append(NamedFigure(own, caption, figure))
    return found


def _others(sweeps: Sequence[Sweep]) -> str:
    return sweeps[1].name if len(sweeps) == 2 else f"{len(sweeps) - 1}-more"

"""A result of `axes` that shows itself: files of pictures, a page, figures and directions for other tools."""

import html
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from pullback.analysis.bootstrap import Floats
from pullback.analysis.protocol import About
from pullback.applications import axes as application
from pullback.applications.protocol import Checkpoint, Progress, Subject
from pullback.applications.results import ApplicationResult, Key, load_result, save_result
from pullback.applications.walking.expressions import TAG, parse_axes
from pullback.applications.walking.labels import (
    code_labels,
    distance_labels,
    labels,
    name_variables,
    named_ranges,
    scalars_of,
    step_labels,
    tags_of,
)
from pullback.applications.walking.pictures import (
    FORMATS,
    MOVING,
    STILL,
    Sheet,
    heat_map,
    png_of,
    write_moving,
    write_still,
)
from pullback.atomic_files import replacing
from pullback.errors import ArgumentError, PullbackError, StoreError
from pullback.interchange.axes import axes_along
from pullback.interchange.axis_names import (
    AxisName,
    entries_of,
    fingerprint,
    named_axis,
    names_path,
    read_names,
    write_name,
)
from pullback.interchange.exports import export_axes
from pullback.store.reader import Sweep, open_sweep

if TYPE_CHECKING:
    import xarray as xr

    from pullback.analysis.drawing import Figure

_ROWS = 12
"""Rows of a sheet; more go on the next page."""


class AxisGallery:
    """Walks along axes, with their images, steps, scores and names.

    Attributes:
        result: the result of the application; its methods give tables and figures.
        names: the names in the sweep's file of names.
    """

    def __init__(self, result: ApplicationResult, names: Sequence[AxisName] = ()) -> None:
        self.names = tuple(names)
        self.result = _renamed(result, self.names)

    @property
    def dataset(self) -> "xr.Dataset":
        """Everything that was measured; each variable has a long name and units."""
        return self.result.dataset

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """Images `[axes, codes, frames, height, width, 3]`."""
        images: npt.NDArray[np.uint8] = self.dataset["image"].values
        return images

    @property
    def vectors(self) -> Floats:
        """The unit vectors of the axes `[axes, n]`."""
        vectors: Floats = self.dataset["vector"].values
        return vectors

    @property
    def steps(self) -> Floats:
        """Steps t `[axes, codes, frames]`, latent units."""
        steps: Floats = self.dataset["t"].values
        return steps

    @property
    def distances(self) -> Floats:
        """Image distance D from the unmoved image `[axes, codes, frames]`."""
        distances: Floats = self.dataset["distance"].values
        return distances

    @property
    def labels(self) -> list[str]:
        """The label of each axis: its name, or its rank or expression."""
        return labels(self.dataset)

    @property
    def hints(self) -> list[list[str]]:
        """Hints of the meaning of each axis, the clearest first."""
        hints: list[list[str]] = scalars_of(self.dataset)["hints"]
        return hints

    def figure(self, name: str = "walks") -> "Figure":
        """Return a matplotlib figure: `walks`, `changes`, `curves` or `scores`.

        Raises:
            ArgumentError: there is no such figure, as without scores.
        """
        drawn = {str(each.get_label()).removeprefix("axis-"): each for each in application.figure(self.result).values()}
        if name not in drawn:
            raise ArgumentError("name", f"there is no figure {name!r}; there are {', '.join(drawn)}")
        found: Figure = drawn[name]
        return found

    def sheets(self) -> Iterator[tuple[str, Sheet]]:
        """Yield every sheet with the name of its file: many axes on one code, one axis on many codes, and changes."""
        data, heads = self.dataset, self.labels
        codes, steps = code_labels(data), step_labels(data)
        images, under = data["image"].values, distance_labels(data)
        bracketed = any("(" in text for axis in under for code in axis for text in code)
        note = "; (D): the name does not hold" if bracketed else ""
        for code, title in enumerate(codes):
            for page, rows in _pages(len(heads)):
                yield (
                    f"code-{_file_name(title)}{page}",
                    Sheet(
                        images[rows, code],
                        heads[rows],
                        steps,
                        [axis[code] for axis in under[rows]],
                        f"{title}: many axes{note}",
                    ),
                )
        for axis, label in enumerate(heads) if len(codes) > 1 else ():
            for page, rows in _pages(len(codes)):
                yield (
                    f"axis-{_file_name(label)}{page}",
                    Sheet(images[axis, rows], codes[rows], steps, under[axis][rows], f"{label}: many codes{note}"),
                )
        middle = images[0, :, data.sizes["frame"] // 2]
        maps = np.array([[heat_map(each) for each in row] for row in data["change"].values]).swapaxes(0, 1)
        title = "where images change: |Jv| of each pixel, each axis in its own scale"
        for page, columns in _pages(len(heads)):
            cells = np.concatenate([middle[:, None], maps[:, columns]], axis=1)
            yield f"changes{page}", Sheet(cells, codes, ["image", *heads[columns]], None, title)

    def animations(self) -> Iterator[tuple[str, list[Sheet]]]:
        """Yield, for each axis, the sheets of its frames: all codes beside each other."""
        data = self.dataset
        codes, steps = code_labels(data), step_labels(data)
        width = max(len(step) for step in steps)
        for axis, label in enumerate(self.labels):
            frames = data["image"].values[axis].swapaxes(0, 1)
            yield (
                f"axis-{_file_name(label)}",
                [
                    Sheet(frame[None], [""], codes, None, f"{label}  {step:<{width}}")
                    for frame, step in zip(frames, steps, strict=True)
                ],
            )

    def save(self, folder: Path | str, formats: Sequence[str] = ("png",)) -> list[Path]:
        """Write pictures, the tables as CSV, and the directions, into a folder; return the files.

        Args:
            folder: made if it is missing; files of the same names are replaced.
            formats: of `png`, `svg`, `gif`, `webp` and `mp4`.

        Raises:
            ArgumentError: a format is unknown.
            PullbackError: the folder cannot be written, or MP4 is asked for and there is no ffmpeg. Files that were
                written before stay.
        """
        from pullback.interchange.tables import write_tables

        unknown = [each for each in formats if each not in FORMATS]
        if unknown or not formats:
            raise ArgumentError(
                "format", f"{unknown[0] if unknown else 'none'} is no format; choose {', '.join(FORMATS)}"
            )
        place, files = Path(folder), []
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name, sheet in self.sheets():
                for ending in (each for each in STILL if each in formats):
                    write_still(sheet, path := place / f"{name}.{ending}")
                    files.append(path)
            files.append(self.export(place / "directions.npz"))
            with suppress(StoreError):  # an earlier folder of tables is kept
                files += [Path(each) for each in write_tables({"axes": self.result}, place / "tables")]
            for name, frames in self.animations() if set(MOVING) & set(formats) else ():
                for ending in (each for each in MOVING if each in formats):
                    write_moving(frames, path := place / f"{name}.{ending}")
                    files.append(path)
        except OSError as error:
            raise PullbackError(f"{error.filename or place} cannot be written: {error.strerror or error}") from error
        return files

    def export(self, path: Path | str) -> Path:
        """Write the axes as an `.npz` that numpy and `pullback axes --file` read; return its path.

        It holds `axes` `[k, n]`, `eigenvalues` (rates of the mean metric) `[k]`, `names` and `tags` `[k]`, `ranges`
        `[k, 2]` (D within which a name holds, else NaN), and `sweep` and `snapshot`.

        Raises:
            OSError: it cannot be written.
        """
        target, about = Path(path), self.result.about
        names, texts = self.dataset["name"].values.tolist(), self.dataset["text"].values.tolist()
        with replacing(target) as new, new.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                axes=self.vectors,
                eigenvalues=self.dataset["rate"].values,
                names=np.array(
                    [name or ("" if text.isdigit() else text) for name, text in zip(names, texts, strict=True)]
                ),
                tags=np.array(tags_of(self.dataset)),
                ranges=named_ranges(self.dataset).T,
                sweep=np.array(about.name),
                snapshot=np.array(about.snapshot),
            )
        return target

    def _repr_html_(self) -> str:
        """Return the first sheet and the tables, for notebooks."""
        import base64

        _, sheet = next(self.sheets())
        picture = base64.b64encode(png_of(np.asarray(sheet.drawn()))).decode()
        parts = [f'<img alt="{html.escape(sheet.title)}" src="data:image/png;base64,{picture}">']
        for table in self.result.tables():
            head = "".join(f"<th>{html.escape(name.removeprefix('>'))}</th>" for name in table.columns)
            rows = "".join(
                f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.text()
            )
            parts.append(f"<table><caption>{html.escape(table.title)}</caption><tr>{head}</tr>{rows}</table>")
        return "\n".join(parts)

    def __repr__(self) -> str:
        sizes = self.dataset.sizes
        return f"<{sizes['axis']} axes on {sizes['code']} codes, {sizes['frame']} frames: {', '.join(self.labels)}>"


def axes(sweep: Sweep | Path | str, axis: str | int | Sequence[str | int] = "1-6", **options: Any) -> AxisGallery:
    """Walk along axes of a sweep; the result is kept beside the sweep, and read from there the next time.

    Args:
        sweep: an open sweep, or its folder or address.
        axis: ranks from 1, ranges, names and combinations: `3`, `"1-6"`, `"smile"`, `"2*1-0.5*3"`.
        options: of the application `axes`, such as `codes`, `path`, `frames`, `reach` and `control`; and `device`.

    Returns:
        The walks. `figure()`, `save(folder)`, `images`, `steps`, `distances`, `labels` and `hints` show them.

    Raises:
        ArgumentError: an option does not exist, or has a wrong value.
        PullbackError: an axis or a code does not exist, or the networks cannot be loaded.

    Example:
        walks = pullback.axes("sweeps/quickstart", "1-3", count=4)
        walks.save("pictures", formats=["png", "gif"])
    """
    opened = sweep if isinstance(sweep, Sweep) else open_sweep(sweep)
    device = options.pop("device", "auto")
    given = with_names(opened, options_of({"axis": axis, **options}))
    key = Key("axes", given, opened.snapshot)
    result = load_result(opened.location, key)
    if result is None:
        with TemporaryDirectory() as folder:
            dataset = application.run(
                Subject(opened, None, device), given, Progress(Checkpoint(Path(folder) / "state"))
            )
        result = ApplicationResult("axes", given, dataset, About(opened.name, opened.snapshot, opened.status().good))
        with suppress(StoreError):  # a sweep in a folder that cannot be written to can still be walked
            save_result(opened.location, key, result)
    return AxisGallery(result, read_names(names_path(opened.location)))


def export_directions(sweep: Sweep, given: application.Options, path: Path | str) -> str:
    """Write the axes that options choose as a file of directions, without walking along them.

    Args:
        sweep: an open sweep.
        given: options of the application; `axis`, `sample`, `block`, `file` and `names` count.
        path: `.npy`, `.npz`, `.pt` (encoder4editing) or `.json` (named edits).

    Returns:
        How to open it, in Python.

    Raises:
        PullbackError: an axis does not exist, or the file cannot be written.
    """
    basis, expressions = application.chosen_axes(sweep, given)
    vectors, mean = basis.combine(expressions), sweep.mean_metric(kept=True)
    rates = np.einsum("ij,jk,ik->i", vectors, mean, vectors)
    texts = [basis.name_of(each.rank) or each.text for each in expressions]
    entries = entries_of(read_names(names_path(sweep.location)) if basis.mean else (), texts)
    return export_axes(axes_along(sweep, vectors, rates, float(np.trace(mean)), texts, entries), path)


def options_of(values: "dict[str, Any]") -> application.Options:
    """Return options of the application.

    Raises:
        ArgumentError: one does not exist, or has a wrong value.
    """
    plain = {key: list(value) if isinstance(value, range | np.ndarray) else value for key, value in values.items()}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}
    try:
        return application.Options.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "options"
        known = ", ".join(application.Options.model_fields)
        words = f"unknown; known are {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise ArgumentError(key, f"{words}. Nothing was computed") from None


def with_names(sweep: Sweep, given: application.Options) -> application.Options:
    """Return options that point to the sweep's file of names, if an axis is asked for by name."""
    path = names_path(sweep.location)
    if given.names is not None or not path.exists():
        return given
    asked = " ".join(map(str, given.axis))
    if TAG in asked or any(each.name in asked for each in read_names(path)):
        return given.model_copy(update={"names": str(path)})
    return given


def set_name(sweep: Sweep, assignment: str) -> AxisName:
    """Name an axis of the mean metric: `3=smile` or `2*1-0.5*3=smile`. Returns the entry that was written.

    Raises:
        PullbackError: the text has no `=`, the axis does not exist, or the name is no name.
    """
    from pullback.applications.walking.basis import basis_of

    text, equals, name = (part.strip() for part in assignment.partition("="))
    if not (text and equals and name):
        raise PullbackError(f"{assignment!r} names no axis; write AXIS=NAME, such as 3=smile. Nothing was written.")
    basis = basis_of(sweep)
    found = parse_axes([text], len(basis.vectors), what="the axes of the mean metric")
    if len(found) != 1:
        raise PullbackError(f"{text!r} is {len(found)} axes, and a name is that of one. Nothing was written.")
    path = names_path(sweep.location)
    named = named_axis(name, found[0].rank or text, basis.combine(found)[0])
    try:
        write_name(path, named)
    except OSError as error:
        raise PullbackError(f"{path} cannot be written: {error.strerror}. Nothing was written.") from error
    return named


def _renamed(result: ApplicationResult, names: Sequence[AxisName]) -> ApplicationResult:
    """Return the result with the names of now: it may have been computed before they were given."""
    data = result.dataset
    if not scalars_of(data)["of_mean"]:
        return result
    by_vector = {each.vector: each for each in names if each.vector}
    texts, vectors = data["text"].values.tolist(), data["vector"].values
    entries = [
        by_vector.get(fingerprint(vector)) or entry
        for vector, entry in zip(vectors, entries_of(names, texts), strict=True)
    ]
    changed = data.assign(name_variables(["" if each is None else each.name for each in entries], entries))
    return ApplicationResult("axes", result.options, changed, result.about)


def _pages(count: int) -> list[tuple[str, slice]]:
    """Return the end of the name and the rows of each page."""
    if count <= _ROWS:
        return [("", slice(0, count))]
    return [
        (f"-page-{1 + start // _ROWS}", slice(start, min(start + _ROWS, count))) for start in range(0, count, _ROWS)
    ]


def _file_name(label: str) -> str:
    kept = "".join(
        each if each.isalnum() else "-"
        for each in label.removeprefix("axis ").removeprefix("sample ").removeprefix("code ")
    )
    return "-".join(part for part in kept.split("-") if part)[:60] or "combination"

"""Exports of a sweep in the layouts of other tools, chosen by the name of the layout and the ending of the file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pullback.errors import StoreError
from pullback.interchange.axes import WRITERS, Axes, axes_of
from pullback.interchange.imported_sweeps import export_metrics
from pullback.spec.messages import nearest
from pullback.store.folders import local_path, whole_file

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

LAYOUTS = ("axes", "ganspace", "e4e", "edits", "magnet", "paper", "paper-early")
"""Layouts of other tools: axes of the mean metric in four layouts, singular values, and metrics."""
_BY_ENDING = {".npy": "axes", ".npz": "axes", ".pt": "e4e", ".json": "edits"}
"""The layout of a file whose layout is not named."""
_OPENED_BY = {
    ".npy": "numpy.load({!r})",
    ".npz": "numpy.load({!r})",
    ".pt": "torch.load({!r})",
    ".json": "json.load(open({!r}))",
}


def layout_of(out: Path | str) -> str | None:
    """Return the layout that the ending of a file names; None if it is a format of whole sweeps."""
    return _BY_ENDING.get(Path(out).suffix.lower())


def export_as(sweep: "Sweep", out: Path | str, layout: str, components: int | None = None) -> str:
    """Write a sweep in the layout of another tool.

    Args:
        sweep: an open sweep.
        out: the file; for `paper` and `paper-early` the folder of the files.
        layout: one of `LAYOUTS`.
        components: number of axes or of singular values; all by default.

    Returns:
        How to open it, in Python.

    Raises:
        StoreError: the layout does not exist or has another ending; the sweep lacks what it needs; the path is taken or
            not writable. Nothing is left there.
    """
    path = local_path(out)
    ending = path.suffix.lower()
    if layout in ("paper", "paper-early"):
        if components is not None:
            raise StoreError(
                f"the layout {layout} has all kept eigenpairs; leave --components out. Nothing was written."
            )
        count = export_metrics(sweep, path, layout == "paper-early")
        return f"numpy.load of each of its {count} files"
    if layout == "magnet":
        if ending != ".npz":
            raise _other_ending(out, layout, [".npz"])
        _write_magnet(sweep, path, components)
    elif layout in LAYOUTS:
        return export_axes(axes_of(sweep, components), out, layout)
    else:
        hint = nearest(layout, LAYOUTS) or ";"
        raise StoreError(f"there is no layout {layout!r}{hint} known are {', '.join(LAYOUTS)}. Nothing was written.")
    return _OPENED_BY[ending].format(str(out))


def export_axes(axes: Axes, out: Path | str, layout: str | None = None) -> str:
    """Write axes as a file of directions; return how to open it, in Python.

    Args:
        axes: of `axes_of`, or along any directions.
        out: the file.
        layout: `axes`, `ganspace`, `e4e` or `edits`; by default the ending decides.

    Raises:
        StoreError: the layout has another ending, or none has this one; the path is taken or not writable.
    """
    path = local_path(out)
    ending = path.suffix.lower()
    chosen = layout or _BY_ENDING.get(ending, "axes")
    if (chosen, ending) not in WRITERS:
        endings = [end for name, end in WRITERS if name == layout] if layout else list(_BY_ENDING)
        raise _other_ending(out, chosen, endings)
    with whole_file(path) as temporary:
        WRITERS[chosen, ending](axes, temporary)
    return _OPENED_BY[ending].format(str(out))


def _write_magnet(sweep: "Sweep", path: Path, components: int | None) -> None:
    """Write `latents` `[N, n]` and `svds` `[N, k]`, descending, as MaGNET's samplers read them (Humayun et al., 2022).

    Its singular values are those of the Jacobian J of the image. Here H = 2 JᵀJ, with J the Jacobian of the distance's
    residual, so they are √(λ / 2).
    """
    data = sweep.dataset()
    if data.sizes["sample"] == 0:
        raise StoreError(
            f"{sweep.location} has no good sample yet, so there is nothing to export; nothing was written."
        )
    kept = sweep.layout.components
    if components is not None and not 1 <= components <= kept:
        raise StoreError(f"{sweep.location} keeps {kept} eigenvalues, not {components}; nothing was written.")
    values = data["eigenvalue"].values[:, :components]
    singular = np.sqrt(np.maximum(values, 0.0) / 2)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, svds=singular, latents=data["latent"].values)


def _other_ending(out: Path | str, layout: str, endings: list[str]) -> StoreError:
    return StoreError(
        f"{out} does not end in {' or '.join(endings)}, as files of the layout {layout} do; nothing was written."
    )

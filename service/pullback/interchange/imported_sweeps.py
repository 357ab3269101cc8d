"""Sweeps made of the paper's files, and files of sweeps.

An imported sweep has a sample for each file, in the natural order of their names, and everything that a file proves:
eigenpairs, the sum of the metrics, and the parts of the certificate that follow from them. The other parts of the
certificate are absent, as in sweeps of earlier versions. Its record names the files with their hashes. It has no job,
so what needs the generator needs one to be named.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.errors import StoreError
from pullback.interchange.paper_files import PaperMetric, class_of, natural_order, read_paper_metric, write_paper_metric
from pullback.metric.checks import MEASURES
from pullback.store.creation import create
from pullback.store.folders import local_path, whole_folder
from pullback.store.repository import SweepStore
from pullback.store.schema import GOOD, Layout, Reason, ShardRecord
from pullback.store.shard_writing import write_shard
from pullback.sweep.identity import IMPORTED

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

_SHARD = 64
"""Most samples of a shard."""
_SHARD_BYTES = 64 * 2**20
"""Most bytes of a shard's eigenvectors."""
_ORDER = "natural order of the file names: numbers in them by value"


def import_metrics(
    files: Sequence[Path | str],
    into: Path | str,
    *,
    generator: str = "unknown generator",
    distance: str = "unknown distance",
    space: str = "z",
    block: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Make a sweep of metrics in the layouts of the paper.

    Args:
        files: `.npz` files, or folders of them, one file for each metric.
        into: the folder of the new sweep.
        generator: what the sweep's record says of the generator, such as `biggan-deep-256`.
        distance: what it says of the distance, such as `lpips (squeeze)`.
        space: the name of the latent space.
        block: `noise` or `class` for one block of a BigGAN's code.
        progress: called with the number of files done and their total.

    Raises:
        StoreError: there are no files, a file cannot be imported, two files differ in shape, or the folder is taken or
            not writable. Nothing is left there.
    """
    path = local_path(into)
    paths = natural_order(_listed(files))
    first = read_paper_metric(paths[0], block)
    n, k = len(first.code), len(first.eigenvalues)
    most = max(1, min(_SHARD, _SHARD_BYTES // (4 * n * k)))
    layout = Layout(len(paths), n, k, min(most, len(paths)))
    classes = [class_of(each) for each in paths]
    described = _Description(path.name, generator, distance, space, block, classes)
    with whole_folder(path) as temporary:
        store = create(temporary, layout, described.provenance(paths, first))
        fork = store.fork()
        for shard in range(layout.shards):
            metrics = []
            for sample in layout.samples_of(shard):
                metrics.append(_alike(paths[sample], read_paper_metric(paths[sample], block), first, paths[0]))
                progress(sample + 1, len(paths))
            record = _record(shard, metrics, [classes[sample] for sample in layout.samples_of(shard)])
            store.merge(shard, write_shard(fork, record))
        _commit(store)


def _commit(store: SweepStore) -> None:
    store.commit("import")
    if store.pending_shards():
        raise StoreError("the imported sweep is not complete; nothing was written. Try again, or report it.")


def export_metrics(sweep: "Sweep", folder: Path | str, early: bool = False) -> int:
    """Write the metric of each good sample as a file of the paper, `Hess_BP_<sample>.npz`, into a new folder.

    H of a file is made of the kept eigenpairs. Samples with a class are named `Hess_cls<class>_<sample>.npz`, and codes
    with the blocks noise and class get BigGAN's layout.

    Args:
        sweep: an open sweep.
        folder: a folder that does not exist, or is empty.
        early: use the names `eigvals`, `eigvects`, `H` and `vect`.

    Returns:
        The number of files.

    Raises:
        StoreError: the sweep has no good sample, or the folder is taken or not writable. Nothing is left there.
    """
    numbers = np.flatnonzero(sweep.sample_status() == GOOD)
    if len(numbers) == 0:
        raise StoreError(
            f"{sweep.location} has no good sample yet, so there is nothing to export; nothing was written."
        )
    stored = sweep.provenance.get("blocks") or {}
    blocks = {name: (int(ends[0]), int(ends[1])) for name, ends in stored.items()}
    paired = blocks if {*blocks} == {"noise", "class"} else None
    with whole_folder(local_path(folder)) as temporary:
        for number in numbers.tolist():
            row = slice(number, number + 1)
            code, values, vectors = (sweep.values(name, row)[0] for name in ("latent", "eigenvalue", "eigenvector"))
            condition = int(sweep.values("condition", row)[0])
            name = f"Hess_BP_{number:05d}.npz" if condition < 0 else f"Hess_cls{condition}_{number:05d}.npz"
            rows = vectors.astype(np.float64)
            part = len(values) < len(code)
            trace = float(sweep.values("trace", row)[0]) if part else None
            write_paper_metric(temporary / name, code, values, rows, early, None if part else paired, trace)
    return len(numbers)


class _Description:
    """What the record of an imported sweep says."""

    def __init__(
        self, name: str, generator: str, distance: str, space: str, block: str | None, classes: list[int | None]
    ) -> None:
        self.name, self.generator, self.distance, self.space, self.block = name, generator, distance, space, block
        known = [each for each in classes if each is not None]
        self.classes = [str(index) for index in range(max(known) + 1)] if len(known) == len(classes) else []

    def provenance(self, paths: list[Path], first: PaperMetric) -> dict[str, Any]:
        """Return the record, ready for JSON."""
        hashes = [{"name": path.name, "sha256": _hash(path)} for path in paths]
        whole = len(first.eigenvalues) == len(first.code) or first.metric is not None
        about = {"layout": "paper", "order": _ORDER, "block": self.block, "files": hashes}
        text = json.dumps([about, self.generator, self.distance], sort_keys=True)
        return {
            "name": self.name,
            "sweep_id": hashlib.sha256(text.encode()).hexdigest()[:16],
            "generator": self.generator,
            "distance": self.distance,
            "method": "backprop" if whole else "lanczos",
            "classes": self.classes,
            "family": None,
            "space": self.space,
            "blocks": {name: list(ends) for name, ends in first.blocks.items()},
            "notes": [f"imported from {len(paths)} files, {paths[0].name} to {paths[-1].name}", *self._caution(first)],
            "spec": {IMPORTED: {"files": len(paths), "first": paths[0].name, "last": paths[-1].name, "order": _ORDER}},
            "weights": {},
            "conventions": {
                "metric": "H = d²/dz² D²(G(z0), G(z)) at z = z0, with no factor of 1/2, as the files hold it",
                "distance": "as in the scripts that made the files, which give images in [0, 1] to LPIPS as they are",
            },
            IMPORTED: about,
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("pullback", "numpy", "zarr", "icechunk")},
            },
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    @staticmethod
    def _caution(first: PaperMetric) -> list[str]:
        """Return a sentence if H of the files may be no more than their k < n eigenpairs."""
        kept, k, n = float(first.eigenvalues.sum()), len(first.eigenvalues), len(first.code)
        if k == n or first.metric is None or abs(first.trace - kept) > 1e-5 * abs(first.trace):
            return []
        return [f"H of the files is no more than their {k} of {n} eigenpairs; what these left out is not known"]


def _listed(files: Sequence[Path | str]) -> list[Path]:
    """Return the files, with folders replaced by the `.npz` files in them."""
    found: list[Path] = []
    for each in map(Path, files):
        found += sorted(each.glob("*.npz")) if each.is_dir() else [each]
    doubles = {path.resolve() for path in found}
    if not found:
        raise StoreError("there are no .npz files to import; nothing was written.")
    if len(doubles) != len(found):
        raise StoreError("a file is named twice; nothing was written.")
    return found


def _alike(path: Path, found: PaperMetric, first: PaperMetric, named: Path) -> PaperMetric:
    mine, other = (
        (len(each.code), len(each.eigenvalues), each.metric is not None, dict(each.blocks)) for each in (found, first)
    )
    for what, own, theirs in zip(("numbers in its code", "eigenvalues"), mine[:2], other[:2], strict=True):
        if own != theirs:
            raise StoreError(f"{path} has {own} {what}, and {named} has {theirs}; nothing was written.")
    if mine[2:] != other[2:]:
        raise StoreError(f"{path} has another layout than {named}; nothing was written. Import each layout by itself.")
    return found


def _record(shard: int, metrics: list[PaperMetric], classes: list[int | None]) -> ShardRecord:
    count, n = len(metrics), len(metrics[0].code)
    values = np.stack([each.eigenvalues for each in metrics])
    vectors = np.stack([each.eigenvectors for each in metrics])
    total = np.zeros((n, n))
    traces = np.empty(count)
    for place, each in enumerate(metrics):
        rows = each.eigenvectors
        matrix = rows.T @ (each.eigenvalues[:, None] * rows) if each.metric is None else each.metric
        total += matrix
        traces[place] = each.trace
    unknown = {name: np.full(count, np.nan) for name in MEASURES}
    return ShardRecord(
        shard=shard,
        latent=np.stack([each.code for each in metrics]).astype(np.float32),
        condition=np.array([-1 if each is None else each for each in classes], dtype=np.int32),
        eigenvalue=values,
        eigenvector=vectors.astype(np.float32),
        metric_sum=total,
        trace=traces,
        status=np.full(count, GOOD, dtype=np.uint8),
        reason=np.full(count, int(Reason.NONE), dtype=np.uint8),
        products=np.zeros(count, dtype=np.int64),
        seconds=np.zeros(count),
        **{**unknown, **_measured(metrics, traces)},
    )


def _measured(metrics: list[PaperMetric], traces: "np.ndarray[Any, np.dtype[np.float64]]") -> Mapping[str, Any]:
    """Return the parts of the certificate that follow from the files."""
    largest = np.array([float(np.abs(each.eigenvalues).max()) for each in metrics])
    safe = np.where(largest > 0, largest, 1.0)
    lowest = np.array([float(each.eigenvalues[-1]) for each in metrics])
    sums = np.array([float(each.eigenvalues.sum()) for each in metrics])
    return {
        "symmetry_error": np.array([each.symmetry_error for each in metrics]),
        "negative_eigenvalue": np.maximum(-lowest, 0.0) / safe,
        "eigen_residual": np.array([each.residual for each in metrics]),
        "orthogonality_error": np.array([each.orthogonality_error for each in metrics]),
        "trace_share": np.where(traces != 0, sums / np.where(traces != 0, traces, 1.0), 1.0),
    }


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error}); nothing was written.") from error
    return digest.hexdigest()

"""The metric restricted to named blocks of the code, such as noise and class of BigGAN or the layers of w+.

A block is a range of coordinates. Its metric H_bb is a sub-block of H, so no metric is computed twice: with the kept
eigenpairs H_ab = Σ λ_m u_m,a u_m,bᵀ, where u_m,a is the part of an eigenvector in block a. For each block:

- its share of the trace, tr H_bb / tr H, of the mean metric;
- its mean spectrum, and dim(q) of it (the rule of Wang & Ponce, ICLR 2021, as in `anisotropy`);
- its homogeneity, C_log of the sub-blocks over pairs of sampled metrics (as in `homogeneity`).

For each pair of blocks, the coupling ‖H_ab‖² / (‖H_aa‖ ‖H_bb‖) in Frobenius norms, which is the RV coefficient
(Escoufier, 1973) of the image changes of the two blocks. It is 0 if they change the image in orthogonal directions, and
1 if they change it in the same directions with the same strengths. The control is the coupling in a random basis with
the same spectra.

If only k < n eigenpairs are kept, a block's trace is known as a range. The part that is not kept adds at most its own
trace, and at most the smallest kept eigenvalue for each dimension of the block outside the span of the kept
eigenvectors. Spectra, homogeneity and coupling are then those of the kept part.

Invariants: a coupling lies in [0, 1] for positive semi-definite metrics. A factor for all metrics changes no share.
"""

import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, field_validator

from pullback.analysis.block_metrics import Blocks, block_norms, block_pairs, block_spectrum, random_couplings
from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, Floats, bootstrap_weights, interval, weighted_means
from pullback.analysis.correlations import WORKSPACE, correlations
from pullback.analysis.pair_summary import PairSummary, summarize
from pullback.analysis.protocol import Progress, Result, Table, default_json
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import shown, shown_interval, shown_range, variable, within
from pullback.analysis.spectra import SHARES
from pullback.analysis.statements import percent
from pullback.analysis.statistics.anisotropy import anisotropy
from pullback.analysis.truncation import rests_of
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "metric of each named block of the code (noise, class, layers of w+), and the coupling of blocks"

_RATE = "squared image distance per squared latent length"
_FLOOR = 1e-7
"""Eigenvalues of a block below this share of its largest one are round-off, as eigenvectors are stored in float32."""
_SHOWN_BLOCKS = 24
"""Largest number of blocks for which tables and figures show all pairs."""


class Options(BootstrapOptions):
    """Options of the block metrics."""

    blocks: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Named ranges of coordinates, such as `{noise: [0, 128], class: [128, 256]}`; by default those that the sweep
    records for its generator."""
    compared: int = Field(default=60, ge=2, le=10_000)
    """Largest number of samples whose blocks are compared in pairs, drawn at random."""

    @field_validator("blocks", mode="before")
    @classmethod
    def _lists_of_bounds_become_tuples(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {name: tuple(bounds) if isinstance(bounds, list) else bounds for name, bounds in given.items()}


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return shares, spectra, dimensions, homogeneity and couplings of blocks; names and bounds are in `attrs`.

    Raises:
        PullbackError: there are fewer than 2 blocks, or a block lies outside the code.
    """
    import xarray as xr

    blocks = chosen_blocks(samples, options)
    weights = samples.bootstrap(options.draws, options.seed)
    sizes = [stop - start for start, stop in blocks.values()]
    traces, dims, spectra, coupling, null = _by_sample(samples, blocks, progress)
    share, share_ends = _shares(samples, traces, dims, sizes, blocks, weights)
    pairs = _homogeneities(samples, blocks, options)
    counts = [_dimensions(values, weights) for values in spectra]
    widest = max(len(values[0]) for values in spectra)
    mean_spectra, spectra_ends = np.full((len(blocks), widest), np.nan), np.full((2, len(blocks), widest), np.nan)
    for at, values in enumerate(spectra):
        ends = np.stack(interval(weighted_means(weights, values)))
        mean_spectra[at, : values.shape[1]], spectra_ends[:, at, : values.shape[1]] = values.mean(axis=0), ends
    mean_coupling, coupling_ends = _known_means(coupling, weights)
    mean_null, null_ends = _known_means(null, weights)
    trace = np.maximum(samples.trace, samples.eigenvalues.sum(axis=1)).sum()
    kept = float(samples.eigenvalues.sum() / trace) if samples.truncated and trace > 0 else 1.0
    square = ("block", "other_block")
    return xr.Dataset(
        {
            "size": variable(("block",), sizes, "coordinates of the block", "1"),
            "trace_share": variable(("bound", "block"), share, "share of the trace, least and greatest", "1"),
            "trace_share_ci95": variable(("end", "block"), share_ends, "95 % bootstrap interval", "1"),
            "isotropic_share": variable(
                ("block",), np.array(sizes) / samples.latent_dim, "share if all directions were alike", "1"
            ),
            "block_trace": variable(("sample", "block"), traces, "trace of the block, kept part", _RATE),
            "mean_spectrum": variable(("block", "rank"), mean_spectra, "mean eigenvalue of the block by rank", _RATE),
            "mean_spectrum_ci95": variable(("end", "block", "rank"), spectra_ends, "95 % bootstrap interval", _RATE),
            "dim": variable(
                ("block", "share"), [each[0] for each in counts], "ranks below the share of the trace", "1"
            ),
            "dim_ci95": variable(
                ("end", "block", "share"),
                np.array([each[1] for each in counts]).transpose(1, 0, 2),
                "95 % bootstrap interval",
                "1",
            ),
            "homogeneity": variable(("block",), [each.mean for each in pairs], "mean C_log over pairs", "1"),
            "homogeneity_ci95": variable(
                ("end", "block"), np.array([each.ci95 for each in pairs]).T, "95 % bootstrap interval", "1"
            ),
            "homogeneity_pairs": variable(("block",), [each.defined or 0 for each in pairs], "pairs with C_log", "1"),
            "coupling": variable(square, mean_coupling, "mean coupling of two blocks", "1"),
            "coupling_ci95": variable(("end", *square), coupling_ends, "95 % bootstrap interval", "1"),
            "random_coupling": variable(square, mean_null, "mean coupling in a random basis", "1"),
            "random_coupling_ci95": variable(("end", *square), null_ends, "95 % bootstrap interval", "1"),
            "kept_ranks": variable((), samples.eigenvalues.shape[1], "eigenpairs kept of each metric", "1"),
            "latent_dim": variable((), samples.latent_dim, "size of a latent code", "1"),
            "kept_trace": variable((), kept, "share of the trace in the kept eigenpairs", "1"),
        },
        coords={"sample": samples.numbers, "share": list(SHARES)},
        attrs={"blocks": json.dumps({name: list(bounds) for name, bounds in blocks.items()})},
    )


def decisive(options: Options, samples: int) -> Options:
    """Return the options with no more compared samples than there are: a larger limit changes nothing."""
    return options.model_copy(update={"compared": min(options.compared, samples)})


def chosen_blocks(samples: Samples, options: Options) -> Blocks:
    """Return the blocks that are asked for, or those of the sweep's generator.

    Raises:
        PullbackError: there are fewer than 2, or one lies outside the code or is empty.
    """
    blocks = dict(options.blocks) or samples.blocks
    n = samples.latent_dim
    if len(blocks) < 2:
        raise PullbackError(
            f"the codes of sweep {samples.about.name!r} have {'one block' if blocks else 'no named blocks'}, so there "
            "are no blocks to compare. Nothing is lost. Name ranges of coordinates with the option `blocks`, such as "
            f"{{first: [0, {max(n // 2, 1)}], second: [{max(n // 2, 1)}, {n}]}}"
        )
    for name, (start, stop) in blocks.items():
        if not 0 <= start < stop <= n:
            raise PullbackError(
                f"block {name!r} has the coordinates {start} to {stop}, which lie outside 0 to {n} or are none. "
                "Nothing is lost. Give start and stop with 0 ≤ start < stop ≤ the size of a code."
            )
    return blocks


def names(result: Result) -> list[str]:
    """Return the names of the blocks in order."""
    return list(json.loads(result.dataset.attrs["blocks"]))


def to_json(result: Result) -> dict[str, Any]:
    """Return every number by name, with the names and bounds of the blocks; traces of single samples are left out."""
    content = {name: value for name, value in default_json(result).items() if name not in ("block_trace", "sample")}
    return {"blocks": json.loads(result.dataset.attrs["blocks"]), **content}


def summary(result: Result) -> list[Table]:
    """Return a row for each block, and a row for each pair of blocks."""
    found, labels = result.dataset, names(result)
    shares, ends = found["trace_share"].values, found["trace_share_ci95"].values
    rows = []
    for at, name in enumerate(labels):
        dim = found["dim"].values[at, 0]
        rows.append(
            [
                name,
                str(int(found["size"].values[at])),
                shown_range(100 * shares[:, at]),
                shown_interval(100 * ends[:, at]),
                shown(100 * float(found["isotropic_share"].values[at])),
                f"{dim:.0f}" if np.isfinite(dim) else "–",
                shown_interval(found["dim_ci95"].values[:, at, 0]),
                shown(float(found["homogeneity"].values[at])),
                shown_interval(found["homogeneity_ci95"].values[:, at]),
            ]
        )
    columns = (
        *("block", ">size", ">% of trace", ">95 % interval", ">% if alike"),
        *(">dim(.99)", ">95 % interval", ">C_log", ">95 % interval"),
    )
    return [Table(columns, rows, "Blocks of the code"), *_coupling_table(found, labels)]


def sentences(result: Result) -> list[str]:
    """Return the share of each of the leading blocks, and how strongly blocks are coupled."""
    found, labels = result.dataset, names(result)
    shares, ends = found["trace_share"].values, found["trace_share_ci95"].values
    lines = []
    if np.isfinite(shares).all():
        order = np.argsort(-shares[0], kind="stable")[:4]
        stated = [
            f"{labels[at]} {shown_range(100 * shares[:, at])} %{within(100 * ends[:, at])}, with "
            f"{percent(float(found['isotropic_share'].values[at]))} of the coordinates"
            for at in order
        ]
        most = "" if len(labels) <= len(order) else " (the largest are listed)"
        lines.append(f"Shares of the image change (the trace) by block{most}: {'; '.join(stated)}.")
    mean, null = found["coupling"].values, found["random_coupling"].values
    first, second = np.triu_indices(len(labels), 1)
    known = np.isfinite(mean[first, second])
    if known.any():
        at = int(np.nanargmax(mean[first, second]))
        i, j = first[at], second[at]
        lines.append(
            f"The most strongly coupled blocks are {labels[i]} and {labels[j]}: {mean[i, j]:.3g}"
            f"{within(found['coupling_ci95'].values[:, i, j])}, against {null[i, j]:.3g} in a random basis (0: they "
            "change the image in orthogonal ways; 1: in the same ways)."
        )
    return lines


def notes(result: Result) -> list[str]:
    """Return what the numbers of blocks are, and where the intervals come from."""
    options = result.options.model_dump()
    return [
        "A block's metric is a part of the stored metric: nothing is computed anew. The share is that of the mean "
        "metric's trace; dim(.99) counts the ranks of the block's mean spectrum below 99 % of its sum.",
        "The coupling is the RV coefficient ‖H_ab‖² / (‖H_aa‖ ‖H_bb‖), averaged over samples. The random basis has the "
        "same spectra.",
        f"C_log compares the blocks of at most {options['compared']} samples in pairs (seed {options['seed']}). "
        f"Intervals are percentiles of {options['draws']} bootstrap draws of the samples.",
    ]


def cautions(result: Result) -> list[str]:
    """Return how truncated spectra, and blocks that overlap or leave coordinates out, affect the numbers."""
    found, lines = result.dataset, []
    kept, n = int(found["kept_ranks"]), int(found["latent_dim"])
    if kept < n:
        lines.append(
            f"{kept} of {n} eigenpairs are kept, with {percent(float(found['kept_trace']))} of the trace. Where these "
            "do not determine a share, it is given as a range. Spectra, dim, C_log and couplings are of the kept part."
        )
    narrow = [name for name, size in zip(names(result), found["size"].values, strict=True) if min(size, kept) <= 2]
    if narrow:
        lines.append(f"C_log over two ranks is 1 or -1, and over one it does not exist: blocks {', '.join(narrow)}.")
    if len(names(result)) > 2:
        lines.append(
            "The most strongly coupled blocks are chosen among all pairs, and their intervals are not widened for it."
        )
    ranges = sorted(json.loads(found.attrs["blocks"]).values())
    if any(second[0] < first[1] for first, second in itertools.pairwise(ranges)):
        lines.append("Blocks overlap, so their shares sum to more than they cover together.")
    elif sum(stop - start for start, stop in ranges) < n:
        lines.append(f"The blocks leave out {n - sum(stop - start for start, stop in ranges)} of {n} coordinates.")
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw the shares of blocks, their couplings, and their spectra."""
    from pullback.analysis.block_figures import coupling_figure, shares_figure, spectra_figure

    found, labels = result.dataset, names(result)
    figures = {
        "Share of the trace of each block with its 95 % interval (bars), and the share of its coordinates "
        "(crosses).": shares_figure(found, labels),
        "Mean spectrum of each block with its 95 % interval.": spectra_figure(found, labels),
    }
    if len(labels) > 2:  # the coupling of two blocks is one number, which the table has
        caption = "Coupling of blocks: 0 if they change the image in orthogonal ways, 1 if in the same ways."
        figures[caption] = coupling_figure(found, labels)
    return figures


def _by_sample(
    samples: Samples, blocks: Blocks, progress: Progress
) -> tuple[Floats, Floats, list[Floats], Floats, Floats]:
    """Return traces and left dimensions `[N, blocks]`, spectra `[N, m]` by block, couplings, and the random ones."""
    stack, count, n = samples.eigenvectors, len(samples), samples.latent_dim
    kept, sizes = samples.eigenvalues.shape[1], [stop - start for start, stop in blocks.values()]
    traces, left = np.empty((count, len(blocks))), np.empty((count, len(blocks)))
    spectra = [np.empty((count, min(kept, size))) for size in sizes]
    coupling = np.empty((count, len(blocks), len(blocks)))
    null = np.empty_like(coupling)
    read = max(1, WORKSPACE // (8 * kept * n))
    for at in range(count):
        if at % read == 0:
            loaded = np.asarray(stack[at : at + read], dtype=np.float64)
        vectors, values = loaded[at % read], samples.eigenvalues[at]
        for index, (start, stop) in enumerate(blocks.values()):
            part = vectors[:, start:stop]
            squares = np.einsum("kd,kd->k", part, part)
            traces[at, index], left[at, index] = values @ squares, max(stop - start - float(squares.sum()), 0.0)
            spectra[index][at] = block_spectrum(values, part)
        norms = block_norms(values, vectors, blocks)
        own = np.sqrt(np.diag(norms))
        product = np.outer(own, own)
        coupling[at] = np.divide(norms, product, out=np.full_like(norms, np.nan), where=product > 0)
        progress(at + 1, count)
    for (i, first), (j, second) in itertools.product(enumerate(sizes), repeat=2):
        null[:, i, j] = 1.0 if i == j else random_couplings(samples.eigenvalues, n, first, second)
    return traces, left, spectra, coupling, null


def _shares(
    samples: Samples, traces: Floats, left: Floats, sizes: list[int], blocks: Blocks, weights: Bootstrap
) -> tuple[Floats, Floats]:
    """Return the range `[2, blocks]` of each block's share of the mean trace, and its 95 % interval."""
    count, total = len(traces), samples.eigenvalues.sum(axis=1)
    low = high = ceiling = np.zeros(count)
    if samples.truncated:
        rests = rests_of(samples.eigenvalues, samples.trace, samples.latent_dim, samples.estimated)
        low, high, ceiling = np.array([(rest.low, rest.high, rest.ceiling) for rest in rests]).T
    room = ceiling[:, None] * left

    def ends(means: Floats) -> Floats:
        """Both ends `[2, ..., blocks]` from means of total, low, high, traces and room along the last axis."""
        sums, lower, upper = (means[..., at, None] for at in range(3))
        kept, most = means[..., 3 : 3 + len(sizes)], means[..., 3 + len(sizes) :]
        with np.errstate(invalid="ignore", divide="ignore"):  # all metrics of a draw may be zero
            added = np.clip(most, lower, upper)
            return np.stack([kept / (sums + upper), (kept + np.minimum(added, most)) / (sums + added)])

    columns = np.column_stack([total, low, high, traces, room])
    share, drawn = ends(columns.mean(axis=0)), ends(weighted_means(weights, columns))
    if samples.truncated and samples.whole:
        diagonal = np.diag(samples.mean_metric())
        exact = [float(diagonal[start:stop].sum() / diagonal.sum()) for start, stop in blocks.values()]
        share = np.array([exact, exact])
    return share, np.stack([interval(drawn[0])[0], interval(drawn[1])[1]])


def _homogeneities(samples: Samples, blocks: Blocks, options: Options) -> list[PairSummary]:
    chosen = samples.choose(options.compared, options.seed)
    vectors = samples.load_eigenvectors(chosen)
    weights = bootstrap_weights(len(chosen), options.draws, options.seed)
    found = []
    for bounds in blocks.values():
        pairs = [
            block_pairs(samples.eigenvalues[sample], np.asarray(vectors[at : at + 1], dtype=np.float64)[0], bounds)
            for at, sample in enumerate(chosen)
        ]
        values, rows = np.array([each[0] for each in pairs]), np.array([each[1] for each in pairs])
        found.append(summarize(correlations(values, rows, floor=_FLOOR)[0], weights))
    return found


def _dimensions(spectra: Floats, weights: Bootstrap) -> tuple[Floats, Floats]:
    """Return dim(q) of a block `[shares]` and its 95 % interval `[2, shares]`; NaN for a block that changes nothing."""
    if not spectra.any():
        return np.full(len(SHARES), np.nan), np.full((2, len(SHARES)), np.nan)
    found = anisotropy(spectra, weights).dimensions
    return (
        np.array([float(each.below) for each in found]),
        np.array([each.below_ci95 for each in found], dtype=np.float64).T,
    )


def _known_means(values: Floats, weights: Bootstrap) -> tuple[Floats, Floats]:
    """Return the mean over samples that have a value, `[...]`, and its 95 % interval `[2, ...]`."""
    known = np.isfinite(values)
    drawn = weighted_means(weights, np.stack([np.where(known, values, 0.0), known], axis=1))
    counts = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw, or all samples, may have none
        means, ends = np.where(known, values, 0.0).sum(axis=0) / counts, drawn[:, 0] / drawn[:, 1]
    return means, np.stack(interval(ends))


def _coupling_table(found: "xr.Dataset", labels: list[str]) -> list[Table]:
    if len(labels) > _SHOWN_BLOCKS:
        return []
    mean, ends, null = (found[name].values for name in ("coupling", "coupling_ci95", "random_coupling"))
    null_ends = found["random_coupling_ci95"].values
    first, second = np.triu_indices(len(labels), 1)
    order = np.argsort(-np.nan_to_num(mean[first, second]), kind="stable")[:10]
    rows = [
        [
            f"{labels[i]}, {labels[j]}",
            shown(mean[i, j]),
            shown_interval(ends[:, i, j]),
            shown(null[i, j]),
            shown_interval(null_ends[:, i, j]),
        ]
        for i, j in zip(first[order], second[order], strict=True)
    ]
    title = "Coupling of blocks" + ("" if len(first) <= len(rows) else f", {len(rows)} strongest of {len(first)} pairs")
    return [Table(("blocks", ">coupling", ">95 % interval", ">random basis", ">95 % interval"), rows, title)]

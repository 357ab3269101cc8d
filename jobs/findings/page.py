"""Write docs/findings.md from the results of the sweeps: tables, figures, and sentences computed from the numbers."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path

import pullback
from pullback.analysis import Analysis, choose, run_statistics
from pullback.analysis.figure_files import DPI
from pullback.report.figure_set import figures_of
from pullback.store.reader import Sweep, open_sweep

CONTROLS = ("shuffled", "random")
GENERATORS = {
    "faces": "`dcgan-faces`: a DCGAN of faces, 64 × 64 pixels, n = 100",
    "eyes": "`dcgan-eyes`: a class-conditional DCGAN of painted eyes, 128 × 128 pixels, n = 100, eight colours in turn",
    "digits": "the decoder of a variational autoencoder of digits, 32 × 32 pixels, n = 32 (jobs/findings/digits.py)",
}
PAPER = {
    "dims": "23 / 52 / 90 / 113",
    "c_log": "mean .952, median .954",
    "c_lin": "mean .739, median .777",
    "distance": ".09",
    "layers": "r = .915, log r = .993, slope .995",
}
"""Values of Wang & Ponce (ICLR 2021) for their DCGAN of fashion images: n = 120, SqueezeNet, 30 to 300 samples, 13
layers. Another generator, so the values need not agree."""

OWN = ("anisotropy", "homogeneity", "dependence", "local_geometry", "path_length", "random_directions")
AXES = ("stability", "diagonality", "means", "subspaces", "distortion")
SHARES = ("0.99", "0.999", "0.9999", "0.99999")

Row = Sequence[str]


class Findings:
    """The finished sweeps of a folder and their statistics, computed when they are first asked for."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.sweeps: dict[str, Sweep] = {}
        self.names = tuple(names)
        for name in self.names:
            if not (folder / name).exists():
                continue
            sweep = open_sweep(folder / name)
            if sweep.status().pending == 0:
                self.sweeps[name] = sweep

    def has(self, *names: str) -> bool:
        """Whether all these sweeps are finished."""
        return all(name in self.sweeps for name in names)

    def of(self, name: str, *statistics: str, others: Sequence[str] = ()) -> Analysis:
        """Return statistics of a sweep, cached beside it."""
        print(f"{name}: {', '.join(statistics)}", flush=True)
        further = [self.sweeps[other] for other in others]
        return run_statistics(self.sweeps[name], choose(list(statistics), {}), others=further)


def write(folder: Path, page: Path, names: Iterable[str]) -> None:
    """Write the page and its figures.

    Args:
        folder: where the sweeps are.
        page: the Markdown file; its figures go into a folder of its name.
        names: the sweeps by name.
    """
    found = Findings(folder, names)
    figures = page.with_suffix("")
    figures.mkdir(parents=True, exist_ok=True)
    writer = _Page(found, figures)
    page.write_text(writer.text())


class _Page:
    def __init__(self, found: Findings, figures: Path) -> None:
        self.found, self.figures = found, figures
        self.short: list[str] = []
        """The summary's sentences, which the sections add as they compute their numbers."""
        self.generators = [name for name in GENERATORS if found.has(f"{name}-alex")]

    def text(self) -> str:
        """Return the page."""
        parts = [
            self.introduction(),
            self.anisotropy(),
            self.homogeneity(),
            self.controls(),
            self.codes(),
            self.axes(),
            self.distances(),
            self.layers(),
            self.scalars(),
            self.sureness(),
        ]
        summary = "## In short\n\n" + "\n".join(f"- {line}" for line in self.short)
        return "\n\n".join([parts[0], summary, *filter(None, parts[1:])]) + "\n"

    def introduction(self) -> str:
        lines = [
            "# Findings",
            "The geometry of three trained generators whose weights need no download, beside the values that Wang & "
            "Ponce (ICLR 2021) report for other generators. `python jobs/findings/make.py sweeps/findings` makes this "
            "page again; every number on it comes from the results of that command.",
            "\n".join(f"- {GENERATORS[name]}" for name in self.generators),
            "Sweeps on this page, with their number of good samples: "
            + ", ".join(f"{name} {sweep.status().good}" for name, sweep in self.found.sweeps.items())
            + f". Written on {date.today().isoformat()} with Pullback {pullback.__version__}.",
            "Square brackets hold 95 % intervals: over samples by the bootstrap, unless a statistic says otherwise. "
            "The distance is LPIPS with the AlexNet trunk where none is named. *Shuffled* is the same network with the "
            "entries of every weight tensor permuted, *random* the same network with freshly drawn weights.",
        ]
        return "\n\n".join(lines)

    def anisotropy(self) -> str:
        rows, lines = [], []
        for name in self._trained_and_controls():
            result = self.found.of(name, "anisotropy", "local_geometry")
            dims, local = result["anisotropy"].json, result["local_geometry"].json
            rows.append(
                [
                    name,
                    str(dims["latent_dim"]),
                    *(f"{dims['dim'][q]['below']} {_ends(dims['dim'][q]['below_ci95'], 0)}" for q in SHARES),
                    f"{local['effective_rank_mean'][0]:.3g} {_ends(local['effective_rank_mean_ci95'])}",
                ]
            )
        for generator in self.generators:
            dims = self.found.of(f"{generator}-alex", "anisotropy")["anisotropy"].json
            below, n = dims["dim"]["0.99"]["below"], dims["latent_dim"]
            lines.append(f"{below + 1} of {n} ranks carry 99 % of the mean spectrum of {generator}")
        self.short.append("**How few directions change the image.** " + "; ".join(lines) + ".")
        table = _table(["sweep", "n", *(f"dim({q})" for q in SHARES), "effective rank"], rows)
        figure = self._figure("spectra", [f"{name}-alex" for name in self.generators])
        return "\n\n".join(
            [
                "## How many directions change the image?",
                "dim(q) is the number of ranks whose cumulative share of the mean spectrum is still below q. "
                f"The paper's DCGAN has {PAPER['dims']} for the four q, of n = 120.",
                table,
                figure,
            ]
        )

    def homogeneity(self) -> str:
        rows, means = [], {}
        for name in self._trained_and_controls():
            result = self.found.of(name, "homogeneity")["homogeneity"].json
            means[name] = result["log"]
            rows.append(
                [
                    name,
                    *(
                        f"{result[key]['mean']:.3f} {_ends(result[key]['ci95'], 3)}, median {result[key]['median']:.3f}"
                        for key in ("log", "linear", "vec")
                    ),
                    f"{result['random_axes']['log']['mean']:.3f} / {result['random_axes']['linear']['mean']:.3f} / "
                    f"{result['random_axes']['vec']['mean']:.3f}",
                ]
            )
        lines = []
        for generator in self.generators:
            own = means[f"{generator}-alex"]
            controls = [means[name] for name in self._controls(generator)]
            text = f"C_log of {generator} is {own['mean']:.3f}"
            if controls:
                apart = all(own["ci95"][0] > other["ci95"][1] for other in controls)
                others = " and ".join(f"{other['mean']:.3f}" for other in controls)
                text += f", of its controls {others} (intervals {'apart' if apart else 'not apart'})"
            lines.append(text)
        self.short.append("**How well one sample's axes serve another, and the controls.** " + "; ".join(lines) + ".")
        figure = self._figure("similarity", ["faces-alex", "faces-alex-shuffled"])
        return "\n\n".join(
            [
                "## Does one sample's coordinate system serve another sample?",
                "Λ_ij = diag(U_iᵀ H_j U_i) is compared with the eigenvalues of H_j: C_log and C_lin are Pearson's r of "
                "logarithms and of values, C_vec that of the entries of H_i and H_j. The last column has the same "
                "three numbers for random axes. "
                f"The paper's DCGAN has C_log {PAPER['c_log']} and C_lin {PAPER['c_lin']}.",
                _table(["sweep", "C_log", "C_lin", "C_vec", "random axes"], rows),
                figure,
            ]
        )

    def controls(self) -> str:
        parts = []
        for generator in self.generators:
            controls = self._controls(generator)
            if controls:
                result = self.found.of(f"{generator}-alex", "controls", others=controls)["controls"]
                parts.append(f"**{generator.capitalize()}.** " + " ".join(result.sentences()))
        return "\n\n".join(["## What part of it comes from training?", *parts]) if parts else ""

    def codes(self) -> str:
        rows = []
        for generator in self.generators:
            effects = self.found.of(f"{generator}-alex", "dependence")["dependence"].json["effects"]
            for effect in effects.values():
                p = effect["p_holm"]
                rows.append(
                    [
                        generator,
                        effect["name"],
                        f"{effect['value']:.3f} {_ends(effect['ci95'], 3)}",
                        "–" if p is None else f"{p:.3g}",
                        f"{effect['samples']}",
                    ]
                )
        return "\n\n".join(
            [
                "## Does the metric depend on the code?",
                "Correlations, except for classes, where the number is the difference of the mean C_log within and "
                "between classes. p is from permutations, corrected for the tests of a generator by Holm's method. The "
                f"paper's r of C_log with the distance of codes is {PAPER['distance']} for its DCGAN.",
                _table(["generator", "effect", "value", "p", "samples"], rows),
            ]
        )

    def axes(self) -> str:
        parts = []
        for generator in self.generators:
            results = self.found.of(f"{generator}-alex", *AXES)
            lines = [line for name in AXES for line in results[name].sentences()]
            parts.append(f"**{generator.capitalize()}**\n\n" + "\n".join(f"- {line}" for line in lines))
        figure = self._figure("stability", ["faces-alex"])
        return "\n\n".join(["## Are there global axes?", *parts, figure])

    def distances(self) -> str:
        rows, cross = [], {}
        for generator in self.generators:
            for other in ("vgg", "mse"):
                name = f"{generator}-{other}"
                if not self.found.has(name):
                    continue
                result = self.found.of(f"{generator}-alex", "comparison", others=[name])["comparison"].json
                cross[generator, other] = result["same_code"]["a_under_b_log"]["mean"]
                same, shuffled = result["same_code"], result["other_code"]
                rows.append(
                    [
                        f"{generator}: alex, {other}",
                        *(
                            f"{same[key]['mean']:.3f} {_ends(same[key]['ci95'], 3)} ({_or_dash(shuffled[key]['mean'])})"
                            for key in ("h", "log_h", "a_under_b_log", "b_under_a_log", "overlap_10")
                        ),
                    ]
                )
        if not rows:
            return ""
        lines = ", ".join(f"{value:.3f} for {generator} under {other}" for (generator, other), value in cross.items())
        self.short.append(
            f"**How well the axes of LPIPS-alex serve other distances at the same code.** C_log is {lines}."
        )
        columns = ["sweeps", "r of H", "r of log H", "C_log, A's axes under B", "C_log, B's under A", "overlap, k = 10"]
        figure = self._figure("comparison", ["faces-alex", "faces-mse"], 2)
        return "\n\n".join(
            [
                "## Do other distances see the same axes?",
                "The metrics of two distances at the same codes. In brackets after the interval: the same number for "
                "the metric of another code.",
                _table(columns, rows),
                figure,
            ]
        )

    def layers(self) -> str:
        names = [name for name in self.found.sweeps if name.startswith("faces-main")]
        if len(names) < 2 or not self.found.has("faces-alex"):
            return ""
        result = self.found.of(names[0], "layers", others=[*names[1:], "faces-alex"])["layers"]
        figure = self._figure("layers", [*names, "faces-alex"], 2)
        tables = [_table([*table.headings], table.text()) for table in result.tables()]
        return "\n\n".join(
            [
                "## Where does the anisotropy arise?",
                f"Layers of the faces' generator on the same codes. The paper's 13 layers: {PAPER['layers']}.",
                " ".join(result.sentences()),
                *tables,
                figure,
            ]
        )

    def scalars(self) -> str:
        rows = []
        for name in self._trained_and_controls():
            results = self.found.of(name, "local_geometry", "path_length", "random_directions")
            local, path, null = (results[key].json for key in ("local_geometry", "path_length", "random_directions"))
            rows.append(
                [
                    name,
                    f"{local['participation_ratio_mean'][0]:.3g} {_ends(local['participation_ratio_mean_ci95'])}",
                    f"{path['path_length'][0]:.3g} {_ends(path['path_length_ci95'])}",
                    f"{null['axes_above']} of {null['axes']}",
                    f"{null['axis']['ratio'][0]:.3g}",
                ]
            )
        columns = ["sweep", "participation ratio", "path length", "mean axes above random directions", "first axis"]
        return "\n\n".join(
            [
                "## Scalars",
                "The path length is the exact limit of StyleGAN's for this distance. An axis is above random "
                "directions if its rate exceeds 97.5 % of theirs. The last column is the first axis's rate over their "
                "mean.",
                _table(columns, rows),
            ]
        )

    def sureness(self) -> str:
        missing = [name for name in self.found.names if not self.found.has(name)]
        lines = [
            "## How sure are we?",
            "- One trained network of each kind was measured, with one seed of its controls. The intervals are over "
            "codes; they say nothing about other trainings of the same architecture.",
            "- The paper's values are of other generators and another trunk (SqueezeNet), so agreement in kind is all "
            "that can be expected.",
            "- C_log gives small eigenvalues the same weight as large ones. C_lin and C_vec are dominated by the first "
            'few axes, and are lower; a claim about "the same axes" should name its number.',
        ]
        if missing:
            lines.append(f"- Not on this page, because their sweeps are not finished: {', '.join(missing)}.")
        return "\n\n".join([lines[0], "\n".join(lines[1:])])

    def _controls(self, generator: str) -> list[str]:
        return [name for name in (f"{generator}-alex-{control}" for control in CONTROLS) if self.found.has(name)]

    def _trained_and_controls(self) -> list[str]:
        return [name for generator in self.generators for name in (f"{generator}-alex", *self._controls(generator))]

    def _figure(self, name: str, sweeps: Sequence[str], most: int = 1) -> str:
        """Save figures of sweeps as SVG and return their Markdown with captions; nothing if a sweep is missing.

        Args:
            name: a name of `pullback figure --list`.
            sweeps: the sweeps.
            most: how many of its figures, the first ones.
        """
        if not sweeps or not self.found.has(*sweeps):
            return ""

        def analyze(sweep: Sweep, statistics: Sequence[str], others: Sequence[Sweep]) -> Analysis:
            return run_statistics(sweep, choose(list(statistics), {}), others=others)

        parts = []
        for made in figures_of(name, [self.found.sweeps[sweep] for sweep in sweeps], analyze)[:most]:
            made.write(self.figures, ["svg"], False, DPI)
            parts.append(f"![{made.caption}]({self.figures.name}/{made.stem}.svg)\n\n*{made.caption}*")
        return "\n\n".join(parts)


def _table(columns: Row, rows: Sequence[Row]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _ends(ends: Sequence[float | None], digits: int | None = None) -> str:
    shown: Callable[[float], str] = (lambda x: f"{x:.3g}") if digits is None else (lambda x: f"{x:.{digits}f}")
    return "[" + ", ".join("–" if end is None else shown(end) for end in ends) + "]"


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"

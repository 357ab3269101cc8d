"""An analysis: the results of several statistics over the same samples."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pullback.analysis.protocol import About, Result, strict

if TYPE_CHECKING:
    import xarray as xr


class Analysis(Mapping[str, Result]):
    """Results by the name of their statistic, in the order in which they were asked for.

    Args:
        results: at least one; all of the same sweep and snapshot.
    """

    def __init__(self, results: Mapping[str, Result]) -> None:
        together: dict[str, Result] = {}
        for name, result in results.items():
            together[name] = replace(result, others=together)
        self._results = together

    def __getitem__(self, statistic: str) -> Result:
        return self._results[statistic]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    @property
    def about(self) -> About:
        """Which samples the results are computed from."""
        return next(iter(self._results.values())).about

    def to_json(self) -> dict[str, Any]:
        """Return every result, ready for `json.dumps(..., allow_nan=False)`: null for a number that does not exist."""
        about = self.about
        content = {
            "name": about.name,
            "snapshot": about.snapshot,
            "samples": about.samples,
            **({"further": self._further()} if self._further() else {}),
            **{name: result.json for name, result in self._results.items()},
            "bootstrap": self._bootstrap(),
            "zero_metrics": about.zero_metrics,
            "options": {name: result.options.model_dump(mode="json") for name, result in self._results.items()},
        }
        return dict(strict(content))

    def to_xarray(self) -> "xr.DataTree":
        """Return the dataset of every result as one xarray DataTree, a node a statistic, such as for `to_netcdf`."""
        import xarray as xr

        tree = xr.DataTree.from_dict({f"/{name}": result.dataset for name, result in self._results.items()})
        about = self.about
        tree.attrs = {"sweep": about.name, "snapshot": about.snapshot, "samples": about.samples}
        return tree

    def cautions(self) -> list[str]:
        """Return what limits the numbers, in words."""
        return [sentence for result in self._results.values() for sentence in result.cautions()]

    def _further(self) -> list[dict[str, Any]]:
        """Name, snapshot and good samples of the other sweeps of the first result that reads several."""
        for result in self._results.values():
            if result.further:
                return [
                    {"name": each.name, "snapshot": each.snapshot, "samples": each.samples} for each in result.further
                ]
        return []

    def _bootstrap(self) -> dict[str, int]:
        """Draws and seed of the first result that has both."""
        for result in self._results.values():
            options = result.options.model_dump()
            if {"draws", "seed"} <= options.keys():
                return {"draws": options["draws"], "seed": options["seed"]}
        return {}

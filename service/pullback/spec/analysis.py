"""A job of kind `analysis`: statistics of a sweep's samples."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from pullback.plugins import STATISTICS
from pullback.spec.job import JobBase
from pullback.spec.options import Options
from pullback.spec.plugin_field import PluginMapping

StatisticsField = PluginMapping(STATISTICS)


class AnalysisJob(JobBase):
    """An analysis: statistics of a sweep's good samples, kept beside the sweep."""

    model_config = ConfigDict(serialize_by_alias=True)

    kind: Literal["analysis"] = "analysis"
    """The kind of job: `sweep`, `analysis` or `application`."""
    sweep: str = Field(min_length=1)
    """The sweep: its folder, an address like `s3://bucket/prefix`, or the YAML file of its job."""
    snapshot: str | None = Field(default=None, min_length=1)
    """A snapshot of the sweep, one of `pullback snapshots`; by default its state when the job starts."""
    others: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), alias="with")
    """Further sweeps, for statistics that compare several, such as `comparison`: each named as `sweep` is. Its last
    snapshot is read, or the one that follows it after an `@`."""
    statistics: Annotated[dict[str, Options] | None, StatisticsField] = None
    """The statistics with their options, such as `{homogeneity: {points: 500}}`, or a list of names; by default those
    of `pullback analyze`."""

    @model_validator(mode="before")
    @classmethod
    def _one_other_is_a_list(cls, data: Any) -> Any:
        one = isinstance(data, dict) and isinstance(data.get("with"), str)
        return {**data, "with": (data["with"],)} if one else data

    def canonical(self) -> dict[str, Any]:
        """Return what decides the results, besides the sweep: each statistic with its options, without defaults."""
        return {"kind": self.kind, "statistics": _chosen(self.statistics or {})}


def _chosen(options: dict[str, Options]) -> dict[str, Any]:
    return {name: each.model_dump(mode="json", exclude_defaults=True) for name, each in sorted(options.items())}

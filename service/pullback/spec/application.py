"""A job of kind `application`: something done with a sweep's metrics, or with a generator alone."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pullback.plugins import APPLICATIONS
from pullback.spec.generator import GeneratorSpec
from pullback.spec.job import JobBase
from pullback.spec.plugin_field import Choice, PluginChoice
from pullback.spec.resources import DeviceSpec

ApplicationField = PluginChoice(APPLICATIONS)


class ApplicationJob(JobBase):
    """An application of a sweep, of a generator, or of both. Its result is kept beside the sweep."""

    bare_names = ("generator", "application")

    kind: Literal["application"] = "application"
    """The kind of job: `sweep`, `analysis` or `application`."""
    sweep: str | None = Field(default=None, min_length=1)
    """The sweep: its folder, an address like `s3://bucket/prefix`, or the YAML file of its job."""
    snapshot: str | None = Field(default=None, min_length=1)
    """A snapshot of the sweep, one of `pullback snapshots`; by default its state when the job starts."""
    generator: GeneratorSpec | None = None
    """The generator; by default the sweep's own."""
    application: Annotated[Choice, ApplicationField]
    """The application and its options, as `{name: ..., <its options>}`; a bare name takes the default options."""
    store: str | None = Field(default=None, min_length=1)
    """Without a sweep, the folder or address beside which the result is kept; by default `applications/<name>`."""
    resources: DeviceSpec = DeviceSpec()

    @model_validator(mode="after")
    def _has_a_subject(self) -> Self:
        if self.sweep is None and self.generator is None:
            raise ValueError("a `sweep` or a `generator` is needed")
        if self.sweep is None and self.snapshot is not None:
            raise ValueError("a `snapshot` needs the `sweep` that it belongs to")
        if self.sweep is not None and self.store is not None:
            raise ValueError("the result is kept beside the sweep; remove `store`")
        return self

    @property
    def results_path(self) -> Path:
        """Without a sweep, the folder or address beside which the result is kept."""
        return Path(self.store if self.store is not None else f"applications/{self.name}")

    def canonical(self) -> dict[str, Any]:
        """Return what decides the result, besides the sweep: generator and application, without defaults."""
        generator = None if self.generator is None else self.generator.model_dump(mode="json", exclude_defaults=True)
        chosen = self.application.model_dump(mode="json", exclude_defaults=True)
        return {"kind": self.kind, "application": chosen, **({"generator": generator} if generator else {})}

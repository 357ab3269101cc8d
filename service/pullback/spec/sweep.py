"""A job of kind `sweep`: a generator, a distance, a method, the latent codes, and the store of the results."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pullback.spec.distance import DistanceSpec
from pullback.spec.generator import GeneratorSpec
from pullback.spec.job import JobBase
from pullback.spec.metric import MetricSpec
from pullback.spec.resources import ResourcesSpec
from pullback.spec.samples import SamplesSpec

_DECISIVE = {"generator", "distance", "metric", "samples"}
"""The keys of a job that decide its numbers."""


class JobSpec(JobBase):
    """A sweep: the metrics of a generator under a distance at sampled latent codes."""

    bare_names = ("generator", "distance")

    kind: Literal["sweep"] = "sweep"
    """The kind of job: `sweep`, `analysis` or `application`."""
    generator: GeneratorSpec
    distance: DistanceSpec
    metric: MetricSpec = MetricSpec()
    samples: SamplesSpec
    store: str | None = Field(default=None, min_length=1)
    """The sweep's store: a folder, or an address like `s3://bucket/prefix`; by default the folder `sweeps/<name>`."""
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="before")
    @classmethod
    def _control_of_the_generator(cls, data: Any) -> Any:
        """Accept `control` and `control_seed` at the top of a job, too; they belong to its generator."""
        above = {key: data[key] for key in ("control", "control_seed") if key in data} if isinstance(data, dict) else {}
        if not above:
            return data
        generator = data.get("generator")
        generator = {"name": generator} if isinstance(generator, str) else generator
        if not isinstance(generator, dict) or above.keys() & generator.keys():
            return data
        return {**{key: value for key, value in data.items() if key not in above}, "generator": {**generator, **above}}

    @property
    def store_path(self) -> Path:
        """The path of the sweep's store, which need not exist yet."""
        return Path(self.store if self.store is not None else f"sweeps/{self.name}")

    def canonical(self) -> dict[str, Any]:
        """Return the part of the job that decides its numbers, as plain JSON values, for a sweep's identity.

        Keys that have their default value are left out (except the names and the count), so that a key added later
        does not change the identity of older sweeps. A default, once released, must therefore keep its meaning.
        """
        chosen = self.model_dump(mode="json", include=_DECISIVE, exclude_defaults=True)
        return {**chosen, "distance": {"name": self.distance.name, **chosen["distance"]}}

    def complete(self) -> dict[str, Any]:
        """Return the same as `canonical` with every default filled in, for people to read."""
        return self.model_dump(mode="json", include=_DECISIVE)

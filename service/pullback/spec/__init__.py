"""A job's YAML read into typed, validated, frozen models.

`load_job` turns a file into a `JobSpec`, or raises one `SpecError` that lists every problem with its path, what is
allowed there and the nearest valid value. Leaves to others the syntax of YAML itself (`yaml_reader`).
"""

from pullback.spec.job_file import load_job
from pullback.spec.models import (
    CYCLE,
    CustomSpec,
    DistanceSpec,
    FeaturesSpec,
    GeneratorSpec,
    JobSpec,
    LpipsSpec,
    MetricSpec,
    MseSpec,
    ResourcesSpec,
    SamplesSpec,
    SsimSpec,
)
from pullback.spec.problems import explain
from pullback.spec.words import names_code, nearest

__all__ = [
    "CYCLE",
    "CustomSpec",
    "DistanceSpec",
    "FeaturesSpec",
    "GeneratorSpec",
    "JobSpec",
    "LpipsSpec",
    "MetricSpec",
    "MseSpec",
    "ResourcesSpec",
    "SamplesSpec",
    "SsimSpec",
    "explain",
    "load_job",
    "names_code",
    "nearest",
]

"""A job's YAML read into typed, validated, frozen models; one module for each section and each kind of job.

`load_any_job` reads a job of any kind, `load_job` a sweep's. Both raise one `SpecError` that lists every problem with
its path, the allowed values and the nearest valid value. The options of distances, statistics and applications are
defined beside the code that uses them; `plugin_field` finds them through the registries.
"""

from pullback.spec.analysis import AnalysisJob
from pullback.spec.application import ApplicationJob
from pullback.spec.distance import CustomOptions, DistanceOptions, DistanceSpec
from pullback.spec.generator import CYCLE, GeneratorSpec
from pullback.spec.job_file import KINDS, Job, job_of, load_any_job, load_job
from pullback.spec.messages import code_meant, names_code, nearest
from pullback.spec.metric import ITERATIVE_METHODS, MetricSpec
from pullback.spec.options import Options
from pullback.spec.problems import explain
from pullback.spec.resources import ResourcesSpec
from pullback.spec.samples import SamplesSpec
from pullback.spec.schema import job_schema
from pullback.spec.sweep import JobSpec

__all__ = [
    "CYCLE",
    "ITERATIVE_METHODS",
    "KINDS",
    "AnalysisJob",
    "ApplicationJob",
    "CustomOptions",
    "DistanceOptions",
    "DistanceSpec",
    "GeneratorSpec",
    "Job",
    "JobSpec",
    "MetricSpec",
    "Options",
    "ResourcesSpec",
    "SamplesSpec",
    "code_meant",
    "explain",
    "job_of",
    "job_schema",
    "load_any_job",
    "load_job",
    "names_code",
    "nearest",
]

"""The section `resources` of a job. It changes no result, so it is not part of a job's identity."""

from typing import Annotated, Literal

from pydantic import Field

from pullback.spec.metric import Replay
from pullback.spec.options import Options
from pullback.spec.samples import MOST_CODES

Device = Literal["auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7"]


class DeviceSpec(Options):
    """The resources of an application."""

    device: Device = "auto"
    """`auto` takes a GPU if there is one; `cuda:1` is one GPU of this machine."""
    workers: int = Field(default=1, ge=1, le=4096)
    """Processes of an application that can spread its work over several; no more than there are cores or GPUs."""


class ResourcesSpec(Options):
    """The resources of a sweep."""

    device: Device = "auto"
    """`auto` takes the GPUs if there are any; `cuda:1` is one GPU of this machine."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Number of workers; `auto` is one for each GPU, else one for each CPU core with one thread each. More workers than
    GPUs share them, and their memory."""
    shard_size: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_CODES)] = "auto"
    """Codes in one unit of work, storage and retry; fixed once the store exists."""
    batch: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_CODES)] = "auto"
    """Codes computed at once by a worker."""
    tangents: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_CODES)] = "auto"
    """Tangent vectors pushed forward at once for each code."""
    memory_gib: Literal["auto"] | Annotated[float, Field(gt=0, le=2.0**20)] = "auto"
    """Memory that one worker may use; `auto` is its share of what is free."""
    retries: int = Field(default=2, ge=0, le=100)
    """How often a shard that raised is tried again. The last try goes sample by sample and quarantines what raises."""
    max_quarantined: float = Field(default=0.5, ge=0, le=1)
    """The share of samples that may be quarantined before the sweep is ended as failed (from 20 samples on)."""
    fsync: bool = True
    """Write results through to the disk before they count, so that a power cut costs seconds; `false` is for scratch
    disks."""
    replay: Replay = "eager"
    """On a GPU, how a Jacobian's tangents are pushed: operation by operation, as a captured CUDA graph, or by whichever
    is faster if both give the same. A CPU has no graphs."""

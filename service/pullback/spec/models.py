"""What a job is: typed, validated, frozen models of its YAML.

Invariants: unknown keys are errors; nothing is coerced (text is never a number); every model is immutable.
Leaves to others: the words for what pydantic finds wrong (`problems`), and whether the weights exist, the work fits
into memory and the store is free (`sweep.plan`).
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pullback.spec.words import describe, names_code, nearest, number_hint, shown

CYCLE = "cycle"
"""The condition of a class-conditional generator that gives sample i the class i mod (number of classes)."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class GeneratorSpec(_Model):
    """Which generator; a bare name in the YAML means `{name: ...}`."""

    name: str = Field(min_length=1)
    """A name of `pullback generators list`, the path of a checkpoint, or `module:factory` for your own code."""
    weights: str | None = None
    """A local weight file to use in place of the generator's registered one."""
    condition: str | None = None
    """For a class-conditional generator: a class name, or `cycle` to take the classes in turn over the samples."""

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        known: Collection[str] = (info.context or {}).get("generators", ())
        looks_local = ":" in name or "/" in name or Path(name).suffix != ""
        if known and name not in known and not looks_local:
            raise ValueError(
                f"unknown generator {name!r}{nearest(name, known) or ';'} registered are {', '.join(sorted(known))} "
                "(your own: 'module:factory', or the path of a checkpoint)"
            )
        return name


class _DistanceSpec(_Model):
    name: str
    clamp: bool = False
    """Clamp images to [0, 1] inside the differentiated path, so that saturated pixels count for nothing."""
    size: int | None = Field(default=None, ge=16, le=4096)
    """Resize images bilinearly to size × size before measuring; by default the generator's own size is kept."""
    mask: tuple[float, float, float, float] | str | None = None
    """Measure a part of the image: a box [top, left, bottom, right] in fractions of it, or the path of an array
    [height, width] of weights in [0, 1] (`.npy`). Nothing is renormalised."""

    @field_validator("mask", mode="before")
    @classmethod
    def _is_box_or_path(cls, mask: Any) -> Any:
        if mask is None or (isinstance(mask, str) and mask.endswith(".npy")):
            return mask
        if not isinstance(mask, list | tuple) or len(mask) != 4:
            raise ValueError(
                f"a box [top, left, bottom, right] or the path of an array (.npy) is needed, not {describe(mask)}"
            )
        for edge in mask:
            if isinstance(edge, bool) or not isinstance(edge, int | float):
                raise ValueError(f"a number is needed, not {describe(edge)}{number_hint(edge)}")
        top, left, bottom, right = (float(edge) for edge in mask)
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(
                "a box is [top, left, bottom, right] in fractions of the image from 0 to 1, with top < bottom and "
                f"left < right; this one is {shown(list(mask))} (divide pixels by the image's height or width)"
            )
        return top, left, bottom, right

    @property
    def label(self) -> str:
        """The short name used in tables."""
        return self.name


class LpipsSpec(_DistanceSpec):
    """LPIPS v0.1 with calibrated linear heads."""

    name: Literal["lpips"] = "lpips"
    trunk: Literal["alex", "vgg", "squeeze"] = "alex"
    """The feature network; Wang & Ponce used `squeeze`."""
    input_range: Literal["standard", "paper"] = "standard"
    """`standard` feeds the trunk images in [-1, 1] as LPIPS documents; `paper` in [0, 1] as Wang & Ponce did."""

    @property
    def label(self) -> str:
        """The short name used in tables, such as `lpips-alex`."""
        return f"lpips-{self.trunk}"


class MseSpec(_DistanceSpec):
    """The mean squared difference of pixels in [0, 1]."""

    name: Literal["mse"] = "mse"


class SsimSpec(_DistanceSpec):
    """1 − mean SSIM (Wang et al. 2004) of images in [0, 1]."""

    name: Literal["ssim"] = "ssim"


class FeaturesSpec(_DistanceSpec):
    """Σ (a − a_ref)² of the activation a of one layer."""

    name: Literal["features"] = "features"
    module: str
    """`module:factory`, which gives a torch module of images [batch, 3, height, width] in [0, 1]; or `generator`."""
    layer: str = Field(min_length=1)
    """A name of the module's `named_modules()`, such as `blocks.2`."""

    @field_validator("module")
    @classmethod
    def _is_code_or_generator(cls, module: str, info: ValidationInfo) -> str:
        if module == "generator":
            unused = [key for key in ("clamp", "size") if info.data.get(key)]
            if unused:
                raise ValueError(f"a layer of the generator measures no image; remove {' and '.join(unused)}")
        elif not names_code(module):
            raise ValueError(
                f"{shown(module)} is neither 'generator' (a layer of the generator itself) nor 'module:factory' (your "
                f"own){nearest(module, ['generator'])}"
            )
        return module

    @property
    def label(self) -> str:
        """The short name used in tables, such as `features-blocks.2`."""
        return f"features-{self.layer}"


class CustomSpec(_DistanceSpec):
    """A function of the user's own: f(images) -> [batch, m], a residual, or f(x, y) -> [batch], a squared distance."""

    @field_validator("name")
    @classmethod
    def _is_code(cls, name: str) -> str:
        if not names_code(name):
            raise ValueError(f"{shown(name)} is not of the form 'module:function', both written as in Python")
        return name


_CUSTOM = "module:function"


def _kind_of_distance(value: Any) -> str | None:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    if isinstance(name, str) and ":" in name:
        return _CUSTOM
    return None if name is None else str(name)


DistanceSpec = Annotated[
    Annotated[LpipsSpec, Tag("lpips")]
    | Annotated[MseSpec, Tag("mse")]
    | Annotated[SsimSpec, Tag("ssim")]
    | Annotated[FeaturesSpec, Tag("features")]
    | Annotated[CustomSpec, Tag(_CUSTOM)],
    Discriminator(_kind_of_distance),
]


class MetricSpec(_Model):
    """How the metric is computed and how much of it is kept."""

    method: Literal["auto", "gauss_newton", "backprop", "lanczos", "block_krylov", "finite_difference"] = "auto"
    """`gauss_newton`: the exact H = 2 JᵀJ from batched forward-mode Jacobian columns; `backprop`: a second backward
    pass a coordinate, as Wang & Ponce; `lanczos`, `block_krylov`: the top eigenpairs from exact products with H;
    `finite_difference`: the same from differences of gradients; `auto` picks by distance, n, components and memory."""
    components: Literal["all"] | Annotated[int, Field(ge=1)] = "all"
    """How many eigenpairs are stored of each metric, largest first."""
    precision: Literal["float32", "float64", "tf32", "bfloat16"] = "float32"
    """The arithmetic of derivatives; its measured error is in every certificate."""
    deterministic: bool = False
    """Use only algorithms that repeat themselves bit by bit; slower on a GPU."""
    tolerance: float = Field(default=1e-6, gt=0, lt=1)
    """Of the iterative methods: the residuals ‖Hv − λv‖ / λ₁ at which they end."""
    max_products: Annotated[int, Field(ge=1)] | None = None
    """Of the iterative methods: vectors multiplied with H at most; by default twice the size of the code."""
    relative_step: float = Field(default=1e-3, gt=0, lt=1)
    """Of `finite_difference`: its step, relative to the norm of the code."""


class SamplesSpec(_Model):
    """Which latent codes: sample i is drawn from `SeedSequence(seed, spawn_key=(i,))`, whatever runs it."""

    count: int = Field(ge=1, le=10_000_000)
    """Number of latent codes."""
    seed: int = Field(default=0, ge=0)
    """Seed of the whole set."""
    distribution: Literal["normal"] = "normal"
    """`normal`: N(0, scale² I)."""
    scale: float = Field(default=1.0, gt=0)
    """Standard deviation of each latent coordinate."""


class ResourcesSpec(_Model):
    """With what the sweep is run. Nothing here changes a result, so nothing here is part of the sweep's identity."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPUs where there are any."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    """Number of workers; `auto` is one a GPU, else one a CPU core with one thread each."""
    shard_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Codes in one unit of work, storage and retry; fixed once the store exists."""
    batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Codes computed at once by a worker."""
    tangents: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Tangent vectors pushed forward at once for each code."""
    memory_gib: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Memory that one worker may use; `auto` is its share of what is free."""
    retries: int = Field(default=2, ge=0, le=100)
    """How often a shard that raised is tried again; the last time sample by sample, and what raises is quarantined."""
    max_quarantined: float = Field(default=0.5, ge=0, le=1)
    """The share of samples that may be quarantined before the sweep is ended as failed (from 20 samples on)."""


_DECISIVE = {"generator", "distance", "metric", "samples"}
"""The keys of a job that decide its numbers."""


class JobSpec(_Model):
    """One job: which metrics of which generator under which distance, and where they go."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Letters, digits, `_`, `.` and `-`, at most 100, the first a letter or a digit."""
    generator: GeneratorSpec
    distance: DistanceSpec
    metric: MetricSpec = MetricSpec()
    samples: SamplesSpec
    store: str | None = Field(default=None, min_length=1)
    """The sweep's store: a folder, or an address like `s3://bucket/prefix`; by default the folder `sweeps/<name>`."""
    resources: ResourcesSpec = ResourcesSpec()

    @model_validator(mode="before")
    @classmethod
    def _expand_bare_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        expanded = dict(data)
        for key in ("generator", "distance"):
            if isinstance(data.get(key), str):
                expanded[key] = {"name": data[key]}
        return expanded

    @property
    def store_path(self) -> Path:
        """Where the sweep's store is or will be."""
        return Path(self.store if self.store is not None else f"sweeps/{self.name}")

    def canonical(self) -> dict[str, Any]:
        """The part of the job that decides its numbers, as plain JSON values, for a sweep's identity.

        Keys that have their default value are left out (except the names and the count), so that a key added later
        does not change the identity of older sweeps. A default, once released, must therefore keep its meaning.
        """
        chosen = self.model_dump(mode="json", include=_DECISIVE, exclude_defaults=True)
        return {**chosen, "distance": {"name": self.distance.name, **chosen["distance"]}}

    def complete(self) -> dict[str, Any]:
        """As `canonical`, with every default filled in, for people to read."""
        return self.model_dump(mode="json", include=_DECISIVE)

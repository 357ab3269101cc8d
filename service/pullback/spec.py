"""A job's YAML read into typed, validated, frozen models.

Purpose: `load_job` turns a file into a `JobSpec` or raises one `SpecError` that lists every problem with its
path, what is allowed there and the nearest valid value.
Invariants: unknown keys are errors; nothing is coerced (text is never a number); every model is immutable.
Leaves to others: whether the weights exist, the work fits into memory and the store is free (`sweep.plan`), and
the syntax of YAML itself (`yaml_reader`).
"""

import datetime
import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pullback.errors import SpecError
from pullback.yaml_reader import read_yaml

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
                f"a box [top, left, bottom, right] or the path of an array (.npy) is needed, not {_describe(mask)}"
            )
        for edge in mask:
            if isinstance(edge, bool) or not isinstance(edge, int | float):
                raise ValueError(f"a number is needed, not {_describe(edge)}{_number_hint(edge)}")
        top, left, bottom, right = (float(edge) for edge in mask)
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(
                "a box is [top, left, bottom, right] in fractions of the image from 0 to 1, with top < bottom and "
                f"left < right; this one is {_shown(list(mask))} (divide pixels by the image's height or width)"
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
                f"{_shown(module)} is neither 'generator' (a layer of the generator itself) nor 'module:factory' (your "
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
            raise ValueError(f"{_shown(name)} is not of the form 'module:function', both written as in Python")
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
    """`gauss_newton`: the exact H = 2 JᵀJ from batched forward-mode Jacobian columns; `backprop`: a second backward pass
    a coordinate, as Wang & Ponce; `lanczos`, `block_krylov`: the top eigenpairs from exact products with H;
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
    """How often a failed shard is tried again before the sweep gives up on it."""


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
    """The folder of the sweep's store; by default `sweeps/<name>` under the working directory."""
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


def load_job(path: str | Path, generators: Collection[str] = ()) -> JobSpec:
    """Read and validate a job's YAML file.

    Args:
        path: the file.
        generators: the registered generators' names, to tell an unknown one; none are checked when empty.

    Raises:
        SpecError: the file cannot be read, is not plain YAML, or any value in it is wrong; lists every problem.
    """
    data, problems = read_yaml(Path(path))
    if data is None and problems:
        raise SpecError(problems, str(path))
    try:
        job = JobSpec.model_validate(data, context={"generators": generators})
    except ValidationError as error:
        problems += explain(error)
    if problems:
        raise SpecError(problems, str(path))
    return job


def nearest(word: str, allowed: Collection[str]) -> str:
    """`; did you mean 'x'?` for the closest of the allowed words, or nothing where none is close."""
    close = difflib.get_close_matches(str(word), [str(option) for option in allowed], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def names_code(name: str) -> bool:
    """Whether a name is of the form `module:function`, the module's name dotted where it lies in a package."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "greater than"),
}
_EXPONENT = re.compile(r"^([+-]?)(\d*)(\.\d*)?[eE]([+-]?)(\d+)$")
_LONGEST_NAME = 100
_LONGEST_SHOWN = 80


def explain(error: ValidationError, within: tuple[str, ...] = ()) -> list[str]:
    """What pydantic found wrong, as one sentence a path of a job's file.

    Args:
        error: from validating a job, or the part of one that stands under the path `within`.
        within: that path.
    """
    best: dict[str, tuple[int, str]] = {}
    for detail in error.errors():
        loc = (*within, *detail["loc"])
        path = ".".join(_walk(loc)[0])
        # of a union's several complaints about one value, the one that helps most
        rank = 0 if detail["type"] in _BOUNDS else 1 if detail["type"] == "literal_error" else 2
        if path not in best or rank < best[path][0]:
            best[path] = rank, _sentence(detail, loc)
    return [sentence for _, sentence in best.values()]


def _sentence(detail: Mapping[str, Any], loc: Sequence[str | int]) -> str:
    """One pydantic error as `path: what is wrong; what is allowed`."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    location, model, alternatives = _walk(loc)
    path = ".".join(location) or "the job"
    if kind == "extra_forbidden":
        allowed = list(model.model_fields) if model else []
        return f"{path}: unknown key{nearest(location[-1], allowed) or ';'} allowed here are {', '.join(allowed)}"
    if kind == "missing":
        return f"{path}: this key is required"
    if kind == "union_tag_not_found":
        if not isinstance(value, Mapping):
            return f"{path}: {_TYPES['model_type']} is needed, not {_describe(value)}"
        return f"{path}: it needs a `name`, one of {alternatives}"
    if kind in ("literal_error", "union_tag_invalid"):
        given = context.get("tag", value)
        expected = str(context.get("expected", context.get("expected_tags", "")))
        options = re.findall(r"'([^']*)'", expected)
        mixed = bool(alternatives) and kind == "literal_error"
        text_hint = _number_hint(value, whole="whole" in alternatives) if mixed else ""
        rest = f" or {alternatives}" if mixed else ""
        listed = f"{', '.join(options)}{rest}"
        return f"{path}: {_shown(given)} is not one of {listed}{nearest(str(given), options)}{text_hint}"
    if kind == "string_too_short":
        return f"{path}: it must not be empty"
    if kind in _TYPES:
        hint = _number_hint(value, whole=kind.startswith("int")) if kind.startswith(("int", "float")) else ""
        if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
            hint = f"; put it in quotes, {str(value)!r}, if it is meant"
        return f"{path}: {_TYPES[kind]} is needed, not {_describe(value)}{hint}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = context[key]
        tip = "" if key == "gt" else f"; the nearest valid value is {bound}"
        return f"{path}: must be {words} {bound}, not {_shown(value)}{tip}"
    if kind == "string_pattern_mismatch":
        return (
            f"{path}: {_shown(value)} may have letters, digits, '_', '.' and '-' only, at most {_LONGEST_NAME}, "
            f"the first a letter or a digit{_clean_name(value)}"
        )
    if kind == "invalid_key":
        return f"{path}: a key must be text, not {_describe(value)}; put it in quotes if it is meant"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    return f"{path}: {detail['msg']} (got {_describe(value)})"


def _clean_name(value: Any) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value)).strip("-._")[:_LONGEST_NAME]
    return f"; the nearest valid value is {cleaned!r}" if cleaned else ""


def _describe(value: Any) -> str:
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return f"{str(value).lower()} (put a word that YAML reads as true or false in quotes)"
    if isinstance(value, str):
        return f"the text {_shown(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, datetime.date):
        return f"the date {value} (put it in quotes)"
    return _shown(value)


def _shown(value: Any) -> str:
    """The value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _number_hint(value: Any, whole: bool = False) -> str:
    """How to write a number that YAML took for text."""
    if not isinstance(value, str):
        return ""
    text = value.strip()
    try:
        number = float(text)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    if whole:
        return f"; write {int(number)}" if number.is_integer() and abs(number) < 1e15 else ""
    exponent = _EXPONENT.match(text)
    if not exponent:
        return f"; write {number!r}, without quotes"
    sign, digits, fraction, power_sign, power = exponent.groups()
    fraction = fraction if fraction and len(fraction) > 1 else ".0"
    return f"; YAML reads {value} as text: write {sign}{digits or '0'}{fraction}e{power_sign or '+'}{power}"


def _walk(loc: Sequence[str | int]) -> tuple[list[str], type[BaseModel] | None, str]:
    """The path a user wrote for a pydantic location, the model that holds its last key, and that key's plain types.

    Pydantic puts the tags of unions (`distance.lpips.trunk`, `components.constrained-int`) into its locations;
    they are not keys of the file.
    """
    path: list[str] = []
    model: type[BaseModel] | None = JobSpec
    holder: type[BaseModel] | None = None
    choices: dict[str, type[BaseModel]] = {}
    plain = ""
    for part in loc:
        text = str(part)
        if choices and text in choices:
            model, choices = choices[text], {}
            continue
        if model is None:
            break  # the tag of a union of plain types: the path is complete
        path.append(text)
        holder = model
        field = model.model_fields.get(text)
        model, choices, plain = _inside(field.annotation) if field else (None, {}, "")
    return path, holder, plain


def _inside(annotation: Any) -> tuple[type[BaseModel] | None, dict[str, type[BaseModel]], str]:
    """What stands under a field: a model, the models of a tagged union, or the names of plain alternatives."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, {}, ""
    options = get_args(annotation) if get_origin(annotation) in (Union, type(int | str)) else ()
    tagged = {part.tag: _base(option) for option in options for part in get_args(option) if isinstance(part, Tag)}
    if tagged:
        return None, tagged, " or ".join(repr(tag) for tag in tagged)
    names = {int: "a whole number", float: "a number"}
    plain = [names[kind] for kind in (_base(option) for option in options) if kind in names]
    return None, {}, " or ".join(plain)


def _base(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation

"""Which statistics are asked for, with which options: the same for jobs, the command line and HTTP.

An option that several statistics have under one name, with one type and default, is shared: given once, it counts for
all of them. If two options only have the name in common, the second is given as `statistic_option`; so is an option
whose name the commands use themselves.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pullback.analysis.protocol import sweeps_of
from pullback.errors import PluginError, SpecError
from pullback.plugins import STATISTICS
from pullback.spec.messages import nearest
from pullback.spec.option_text import help_text
from pullback.spec.options import Options
from pullback.spec.problems import explain

DEFAULT_STATISTICS = ("anisotropy", "homogeneity", "mean_metric", "certificate")
"""What is computed where no statistic is named."""

DEFAULT_COMPARISON = "comparison"
"""What is computed of two sweeps where no statistic is named."""


_RESERVED = {"help", "id", "json", "out", "snapshot", "statistic", "sweep", "with"} | {
    *("control", "data", "dpi", "format", "list", "name", "output", "sweeps"),
}
"""Names of parameters that the commands and the routes have themselves."""


@dataclass(frozen=True)
class SharedOption:
    """An option as it is given for several statistics at once.

    Attributes:
        name: under which it is given.
        field: its name in the options of the statistics.
        info: type, default, bounds and description.
        statistics: the names of those that have it.
    """

    name: str
    field: str
    info: FieldInfo
    statistics: tuple[str, ...]

    @property
    def help(self) -> str:
        """Its description, which statistics have it, and its default."""
        return help_text(self.info, self.statistics)


def shared_options(names: Sequence[str] | None = None) -> list[SharedOption]:
    """Return the options of statistics, of all that can be loaded by default, in the order of first use."""
    found: dict[str, SharedOption] = {}
    for statistic in loadable_statistics() if names is None else names:
        for field, info in STATISTICS.options(statistic).model_fields.items():
            name, known = field, found.get(field)
            if field in _RESERVED or (known is not None and not _alike(known.info, info)):
                name, known = f"{statistic}_{field}", None
            together = (*known.statistics, statistic) if known else (statistic,)
            found[name] = SharedOption(name, field, known.info if known else info, together)
    return list(found.values())


def choose(names: Sequence[str], given: Mapping[str, Any], source: str = "the analysis") -> dict[str, Options]:
    """Return the options of the named statistics.

    Args:
        names: the statistics, in the order in which they are shown; the usual ones if there are none.
        given: values by the names of `shared_options`; each counts for every named statistic that has it.
        source: where the values come from, for the message.

    Raises:
        UnknownPluginError: a statistic does not exist.
        PluginError: a statistic cannot be loaded.
        SpecError: an option that no named statistic has, or a value out of its range; lists every problem.
    """
    wanted = list(dict.fromkeys(names or DEFAULT_STATISTICS))
    values: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for name in wanted:
        STATISTICS.module(name)
    loadable = [*loadable_statistics(), *(name for name in wanted if name not in loadable_statistics())]
    options = {option.name: option for option in shared_options(loadable)}
    problems = []
    for name, value in given.items():
        option = options.get(name)
        takers = [each for each in option.statistics if each in values] if option else []
        if option is None or not takers:
            problems.append(_not_taken(name, wanted, option))
        for statistic in takers:
            values[statistic][option.field if option else name] = value
    chosen = {}
    for statistic, own in values.items():
        try:
            chosen[statistic] = STATISTICS.options(statistic).model_validate(own)
        except ValidationError as error:
            problems += explain(error, model=STATISTICS.options(statistic))
    if problems:
        raise SpecError(list(dict.fromkeys(problems)), source)
    return chosen


def usual_statistics(others: int) -> tuple[str, ...]:
    """Return what is computed where no statistic is named.

    Args:
        others: number of sweeps that are named besides the first.

    Raises:
        SpecError: several statistics read this number of sweeps, so one must be named.
    """
    if others == 0:
        return DEFAULT_STATISTICS
    fitting = [name for name in loadable_statistics() if _takes(name, others + 1)]
    if DEFAULT_COMPARISON in fitting:
        return (DEFAULT_COMPARISON,)
    raise SpecError([f"statistic: name one that reads {others + 1} sweeps: {', '.join(fitting)}"], "the analysis")


def refuse_unfit(asked: Collection[str], others: int, source: str = "the analysis", key: str = "with") -> None:
    """Check that statistics can read the first sweep and a number of others.

    Statistics of one sweep leave the others out, if at least one of the statistics reads them.

    Args:
        asked: the statistics.
        others: number of sweeps that are named besides the first.
        source: where the request comes from, for the message.
        key: how the other sweeps are named there, for the message.

    Raises:
        SpecError: a statistic reads another number of sweeps, or none reads the others.
    """
    problems = []
    for name in asked:
        least, most = sweeps_of(STATISTICS.module(name))
        if least > 1 and not _takes(name, others + 1):
            many = f"{least} sweeps" if most == least else f"{least} sweeps or more"
            problems.append(
                f"{key}: {name} reads {many}, but {others + 1} {'is' if not others else 'are'} given; name the other "
                f"sweeps with `{key}`"
            )
    if others and not problems and not any(reads_several(name) for name in asked):
        several = [name for name in loadable_statistics() if reads_several(name)]
        problems.append(
            f"{key}: {' and '.join(asked)} {'reads' if len(asked) == 1 else 'read'} one sweep only; omit `{key}`, or "
            f"ask for {' or '.join(several) or 'a statistic that reads several'}"
        )
    if problems:
        raise SpecError(problems, source)


def reads_several(statistic: str) -> bool:
    """Return whether a statistic reads more than one sweep."""
    return sweeps_of(STATISTICS.module(statistic))[0] > 1


def _takes(statistic: str, sweeps: int) -> bool:
    least, most = sweeps_of(STATISTICS.module(statistic))
    return least <= sweeps and (most is None or sweeps <= most)


def arguments(asked: Mapping[str, Options]) -> list[str]:
    """Return the arguments by which `pullback analyze` is asked for the same; none for the default statistics."""
    words = [] if tuple(asked) == DEFAULT_STATISTICS else [f"--statistic={name}" for name in asked]
    for name, value in given_options(asked).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def decisive_options(statistic: str, options: Options, samples: int) -> Options:
    """Return the options that decide a statistic's result for this number of samples."""
    reduce = getattr(STATISTICS.module(statistic), "decisive", None)
    return options if reduce is None else reduce(options, samples)


def given_options(asked: Mapping[str, Options]) -> dict[str, Any]:
    """Return the values by which `choose` makes these options, without those that have their default."""
    given = {}
    for option in shared_options(list(dict.fromkeys([*loadable_statistics(), *asked]))):
        for statistic in option.statistics:
            value = getattr(asked[statistic], option.field) if statistic in asked else None
            if statistic in asked and value != option.info.get_default(call_default_factory=True):
                given[option.name] = value
    return given


def loadable_statistics() -> list[str]:
    """Return the names of the statistics that can be loaded, the default ones first."""
    names = [*DEFAULT_STATISTICS, *(name for name in STATISTICS.names() if name not in DEFAULT_STATISTICS)]
    loadable = []
    for name in names:
        try:
            STATISTICS.module(name)
        except PluginError:  # listed by `pullback plugins`
            continue
        loadable.append(name)
    return loadable


def _alike(one: FieldInfo, other: FieldInfo) -> bool:
    return (one.annotation, one.default, one.metadata) == (other.annotation, other.default, other.metadata)


def _not_taken(name: str, wanted: Collection[str], option: SharedOption | None) -> str:
    known = [each.name for each in shared_options(list(wanted))]
    if option:
        return (
            f"{name}: an option of {', '.join(option.statistics)}, not of {', '.join(wanted)}; allowed here are "
            f"{', '.join(known)}"
        )
    return f"{name}: unknown option{nearest(name, known) or ';'} allowed here are {', '.join(known)}"

"""Parts of error messages: a readable form of a value, the nearest valid value, and the right way to write a number."""

import datetime
import difflib
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

_LONGEST_SHOWN = 80
_EXPONENT = re.compile(r"^([+-]?)(\d*)(\.\d*)?[eE]([+-]?)(\d+)$")


_SYNONYMS = {
    "gpu": "cuda",
    "fp32": "float32",
    "single": "float32",
    "fp64": "float64",
    "double": "float64",
    "bf16": "bfloat16",
    "bp": "backprop",
    "backwarditer": "lanczos",
    "forwarditer": "finite_difference",
}
"""Other names of a value, whose spelling is closer to another valid value. The last three are Wang & Ponce's."""


def nearest(word: str, allowed: Collection[str]) -> str:
    """Return `; did you mean 'x'?` with the synonym or the closest allowed word; empty if none is close."""
    options = [str(option) for option in allowed]
    synonym = _SYNONYMS.get(str(word).lower())
    close = [synonym] if synonym in options else difflib.get_close_matches(str(word), options, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def names_code(name: str) -> bool:
    """Return whether a name has the form `module:function`, with a dotted module name for a module in a package."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def code_meant(name: str) -> str:
    """Return `; did you mean 'models.mine:generator'?` for code named by its file or with dots only, else nothing."""
    path, colon, function = name.rpartition(":")
    if not colon:
        path, _, function = name.rpartition(".")
    module = path.removeprefix("./").removesuffix(".py").replace("/", ".").replace("\\", ".")
    intended = f"{module}:{function}"
    plausible = (colon and module != path) or (not colon and Path(f"{module.replace('.', '/')}.py").is_file())
    return f"; did you mean {intended!r}?" if plausible and names_code(intended) else ""


def describe(value: Any) -> str:
    """Describe a value for use after "not", with advice if YAML read it as something unexpected."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return f"{str(value).lower()} (put a word that YAML reads as true or false in quotes)"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, datetime.date):
        return f"the date {value} (put it in quotes)"
    return shown(value)


def shown(value: Any) -> str:
    """Return a value as Python writes it, shortened if it is long. A tuple is written as the list that YAML has."""
    text = repr(_lists(value))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _lists(value: Any) -> Any:
    return [_lists(each) for each in value] if isinstance(value, tuple) else value


def written(value: Any) -> str:
    """Return a value as YAML needs it: a number with an exponent needs a decimal point and a sign."""
    mantissa, e, power = str(value).partition("e") if isinstance(value, float) else (str(value), "", "")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(power):+d}" if e else mantissa


def number_hint(value: Any, whole: bool = False) -> str:
    """Return how to write a number that YAML read as text; empty if the value is no such text."""
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


def enumerated(items: Collection[Any], most: int) -> str:
    """Join items with commas, the first `most` of them: `a, b, c and 997 more`."""
    shown_items = ", ".join(map(str, list(items)[:most]))
    return shown_items if len(items) <= most else f"{shown_items} and {len(items) - most:,} more"

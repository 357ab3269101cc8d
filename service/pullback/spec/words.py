"""The words of error messages: how a value is shown, what is nearest to it, and how it must be written."""

import datetime
import difflib
import math
import re
from collections.abc import Collection, Mapping
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
"""What others call a value, in letters that are nearer to another one's; the last three are Wang & Ponce's words."""


def nearest(word: str, allowed: Collection[str]) -> str:
    """`; did you mean 'x'?` for the allowed word that is meant or is the closest, or nothing where none is close."""
    options = [str(option) for option in allowed]
    meant = _SYNONYMS.get(str(word).lower())
    close = [meant] if meant in options else difflib.get_close_matches(str(word), options, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def names_code(name: str) -> bool:
    """Whether a name is of the form `module:function`, the module's name dotted where it lies in a package."""
    module, colon, function = name.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def describe(value: Any) -> str:
    """What a value is, to be said after "not", with what to do where YAML read it as something unexpected."""
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
    """The value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def written(value: Any) -> str:
    """A value as it must stand in YAML, which reads a number with an exponent only with a point and a sign in it."""
    mantissa, e, power = str(value).partition("e") if isinstance(value, float) else (str(value), "", "")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(power):+d}" if e else mantissa


def number_hint(value: Any, whole: bool = False) -> str:
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

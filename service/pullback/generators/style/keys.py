"""Names of tensors in checkpoints: count them, and raise for names that a layout does not have."""

import re
from collections.abc import Iterable

from pullback.spec.messages import enumerated
from pullback.weights.networks import Misfit

_MOST_LISTED = 12


def count(names: Iterable[str], pattern: str) -> int:
    """Return the number of names that match the whole pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in names)


def refuse_unknown(names: Iterable[str], pattern: str, layout: str) -> None:
    """Raise for a network with tensors that its layout does not have.

    Raises:
        Misfit: names do not match the whole pattern; lists them.
    """
    unknown = [name for name in names if not re.fullmatch(pattern, name)]
    if unknown:
        raise Misfit(f"has unexpected {enumerated(unknown, _MOST_LISTED)}, which {layout} does not have")


def missing(error: KeyError, layout: str) -> Misfit:
    """Return the error for a network that lacks a tensor from which its sizes are read."""
    return Misfit(f"lacks {error.args[0]}, which {layout} has")

"""Options as text, for the command line and for queries."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from pullback.errors import SpecError
from pullback.spec.option_text import help_text, plain_type, read_text
from pullback.spec.options import Options


class Some(Options):
    needed: int
    "How many."
    perhaps: float | None = None
    bounded: Annotated[int, Field(ge=1)] = 3
    word: Literal["no", "yes"] = "no"
    "An answer."
    flag: bool = True
    several: tuple[int, ...] = (1, 2)
    "Sizes."
    either: Literal["all"] | int = "all"


FIELDS = Some.model_fields


def test_an_option_has_the_type_of_its_plain_values():
    kinds = {name: plain_type(field) for name, field in FIELDS.items()}
    assert kinds == {
        **{"needed": int, "perhaps": float, "bounded": int, "word": str, "flag": bool},
        **{"several": None, "either": None},
    }


def test_only_text_of_an_option_without_plain_type_is_yaml():
    assert read_text("several", FIELDS["several"], "[3, 4]") == [3, 4]
    assert read_text("either", FIELDS["either"], "7") == 7
    assert read_text("word", FIELDS["word"], "no") == "no"
    with pytest.raises(SpecError) as caught:
        read_text("several", FIELDS["several"], "[3", "the command line")
    assert (caught.value.problems[0].partition(": ")[0], caught.value.source) == ("several", "the command line")


def test_help_has_choices_default_and_owners():
    assert help_text(FIELDS["needed"]) == "How many. Required."
    assert help_text(FIELDS["word"]) == "An answer. One of no, yes. Default: no."
    assert help_text(FIELDS["several"], ["a", "b"]) == "Sizes. [a, b] Default: [1, 2]."

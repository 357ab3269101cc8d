"""The glossary of a report: the terms of glossary.md that its page uses."""

import re
from importlib.resources import files

_ENTRY = re.compile(r"^\*\*(?P<term>.+?)\*\*: (?P<meaning>.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


def glossary() -> dict[str, str]:
    """Return every term with its meaning as plain text, in order."""
    text = files("pullback.report").joinpath("glossary.md").read_text(encoding="utf-8")
    return {entry["term"]: _plain(entry["meaning"]) for entry in _ENTRY.finditer(text)}


def terms_in(text: str) -> dict[str, str]:
    """Return the terms of the glossary that occur in a text, singular or plural, with their meanings."""
    words = text.lower()
    return {
        term: meaning
        for term, meaning in glossary().items()
        if re.search(rf"(?<![\w-]){re.escape(term.lower())}(?:e?s)?(?![\w-])", words)
    }


def _plain(markdown: str) -> str:
    """Return a paragraph without line breaks, emphasis, code marks and links."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(markdown.split()))
    return re.sub(r"(?<!\w)\*([^*]+)\*(?!\w)", r"\1", text).replace("`", "")

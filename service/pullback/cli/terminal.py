"""Standard output and error in any encoding, on terminals, in files and in pipes that close.

- A character that an encoding lacks is replaced by an entry of `REPLACEMENTS`, or by an escape such as `\\u540d`.
  Control characters are escaped too.
- Standard error never stops a command: a closed pipe or terminal, or a full disk, is ignored there.
- An error on standard output is an error of the command.
"""

import codecs
import os
import re
import shlex
import sys
import warnings
from contextlib import suppress
from shutil import get_terminal_size
from typing import IO, Any, cast

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pullback.standard_streams import open_closed_streams

REPLACEMENTS = {
    "λ": "lambda", "Λ": "Lambda", "Σ": "Sigma", "σ": "sigma", "Δ": "Delta", "δ": "delta", "ε": "epsilon",
    "μ": "u", "µ": "u", "π": "pi", "τ": "tau", "ρ": "rho", "α": "alpha", "β": "beta", "κ": "kappa", "ψ": "psi",
    "×": "x", "·": "*", "÷": "/", "−": "-", "±": "+-", "≈": "~", "≤": "<=", "≥": ">=", "≠": "!=", "∞": "inf",
    "√": "sqrt", "∑": "sum", "∂": "d", "∇": "grad", "²": "^2", "³": "^3", "⁻": "^-", "¹": "^1", "₁": "1", "₂": "2",
    "ᵀ": "^T", "–": "-", "—": "-", "‐": "-", "‑": "-", "…": "...", "→": "->", "←": "<-", "↑": "^", "↓": "v", "⇒": "=>",
    "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "«": '"', "»": '"', "\u00a0": " ", "\u202f": " ", "\u2009": " ",
    "•": "*", "●": "*", "○": "o", "✓": "ok", "✔": "ok", "✗": "no", "✘": "no", "°": " deg", "‰": " per mille",
    "█": "#", "▉": "#", "▊": "#", "▋": "#", "▌": "#", "▍": "|", "▎": "|", "▏": "|", "▓": "#", "▒": "+", "░": ".",
    "╸": "-", "╺": "-", "╹": "|", "╻": "|", "‖": "||",
}  # fmt: skip
"""ASCII replacements for the characters that our own texts use."""
_BOX = range(0x2500, 0x2580)
_BRAILLE = range(0x2800, 0x2900)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERRORS = "pullback.replacements"
_UNLIMITED = 1_000_000
"""Width of an output that is not a terminal, so that no line is folded."""


def _replacement(character: str) -> str:
    code = ord(character)
    if character in REPLACEMENTS:
        return REPLACEMENTS[character]
    if code in _BOX:
        return "-" if character in "─━┄┅┈┉╌╍═" else "|" if character in "│┃┆┇┊┋╎╏║" else "+"
    if code in _BRAILLE:  # spinners
        return "*"
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Error handler for codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_replacement, error.object[error.start : error.end])), error.end


codecs.register_error(_ERRORS, _replace)


def written(text: str, encoding: str) -> str:
    """Return a text in the characters of an encoding, with control characters escaped."""
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    try:
        return text.encode(encoding, _ERRORS).decode(encoding)
    except LookupError:
        return text


def shell_word(text: str, encoding: str) -> str:
    """Quote a word for a shell; one with unwritable characters as `$'...'` of bash and zsh."""
    if written(text, encoding) == text and "\n" not in text and "\t" not in text:
        return shlex.quote(text)
    content = os.fsencode(text)
    plain = {
        ord(character) for character in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-./:@%+=,"
    }
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in content) + "'"


def prepare() -> None:
    """Prepare the standard streams and the warnings for any environment. Call once, at the start of a command."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=_ERRORS)
    # Commands draw into files only. The backend of a notebook, which this environment may lack, would make importing
    # matplotlib fail here and in the workers.
    if "MPLBACKEND" in os.environ:
        os.environ["MPLBACKEND"] = "agg"
    # With -W error or PYTHONWARNINGS=error, any warning of a library would end the command or a Ray worker. Warnings
    # are shown instead.
    os.environ["PYTHONWARNINGS"] = _without_errors(os.environ.get("PYTHONWARNINGS", ""))
    if not os.environ["PYTHONWARNINGS"]:
        del os.environ["PYTHONWARNINGS"]
    if any(option.partition(":")[0] in _FATAL for option in sys.warnoptions):
        sys.warnoptions[:] = [option for option in sys.warnoptions if option.partition(":")[0] not in _FATAL]
        warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
        getattr(warnings, "_filters_mutated", lambda: None)()


_FATAL = {"error"[:length] for length in range(1, 6)}


def _without_errors(options: str) -> str:
    return ",".join(each for each in options.split(",") if each.strip().partition(":")[0] not in _FATAL)


def flush() -> OSError | None:
    """Flush the standard streams; return the error of standard output, if any.

    A failed stream is redirected to the null device, so that Python's flush at exit does not report it again.
    """
    _flush(sys.stderr)
    return _flush(sys.stdout)


def _flush(stream: IO[str] | None) -> OSError | None:
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, stream.fileno())
            os.close(null_device)
        return error
    except ValueError:  # closed
        return None
    return None


class Output(Console):
    """A rich console that writes any text in the encoding of its stream, and folds lines only between words.

    A word wider than the terminal stays whole: the terminal wraps it, and copying restores it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"emoji": False, **options})  # `:smile:` in a path stays as it is

    def render_str(self, text: str, **options: Any) -> Text:
        """Lay out a text with the characters that will be written."""
        return super().render_str(written(text, self.encoding), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print without cropping; texts are folded between words."""
        if not (options.get("soft_wrap") or self.soft_wrap):
            objects = tuple(
                Text("\n").join(folded(self.render_str(each), self.width)) if isinstance(each, str) else each
                for each in objects
            )
        super().print(*objects, **{"crop": False, "overflow": "ignore", **options})

    @property
    def animates(self) -> bool:
        """Whether the stream is a terminal that can redraw lines."""
        return self.is_terminal and not self.is_dumb_terminal

    @property
    def spinner(self) -> str:
        """Name of a spinner whose characters the stream can encode."""
        return "dots" if self.encoding.startswith("utf") else "line"

    def on_broken_pipe(self) -> None:
        """Raise the error; rich would end the process here."""
        raise


def folded(text: Text, width: int) -> list[Text]:
    """Fold a text between words into lines; a word wider than `width` gets a line of its own."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        breaks, used = [], 0
        for word in re.finditer(r"\S+\s*", line.plain):
            wide = cell_len(word[0].rstrip())
            if used and used + wide > width:
                breaks.append(word.start())
                used = 0
            used += cell_len(word[0])
        lines += line.divide(breaks)
    for line in lines:
        line.rstrip()
    return lines


class Messages(Output):
    """Standard error. Text that cannot be written is dropped."""

    @property
    def file(self) -> IO[str]:
        """The stream."""
        return cast(IO[str], _Lossy(super().file))

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new


class _Lossy:
    """A stream that drops text it cannot write."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def out() -> Output:
    """Return a console on standard output. Lines are folded only on a terminal."""
    console = Output(highlight=False)
    if not console.is_terminal:
        return Output(highlight=False, width=_UNLIMITED)
    # rich assumes 80 columns for every terminal without cursor movements
    columns, lines = get_terminal_size()
    return Output(highlight=False, width=columns, height=lines) if console.is_dumb_terminal else console


def messages() -> Messages:
    """Return a console on standard error. The terminal wraps its lines, so that a command in them can be copied."""
    return Messages(stderr=True, highlight=False, soft_wrap=True)

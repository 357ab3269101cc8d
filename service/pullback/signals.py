"""Signals that ask a process to end. They raise KeyboardInterrupt, like Ctrl-C, so that finished work is committed.

Job schedulers and containers send SIGTERM, a closing terminal sends SIGHUP, SLURM, LSF and Grid Engine send SIGUSR1 or
SIGUSR2 shortly before a job's time is up, and a limit on processor time sends SIGXCPU. A signal that the parent process
ignores stays ignored, so `nohup` works.
"""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from pullback.process_exit import exit_with

_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""The signals of this system that ask a process to end, without SIGINT."""
_ECHO_SECONDS = 5.0
"""Terminals and schedulers send several signals at once. Signals within this time of the first are ignored,
because they would interrupt the commit and the shutdown of the workers."""
_AGAIN_SECONDS = 0.1
"""Python drops exceptions raised in finalizers and garbage-collector callbacks. A dropped interrupt is raised again
after this time."""
_IMPORT_SECONDS = 10.0
"""Longest time that an import delays an interrupt. User code may compute for hours while it is imported."""
_last = float("-inf")
_postponed_at: float | None = None
Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, unless a signal has done so within `_ECHO_SECONDS`; after an import that is running."""
    global _last
    now = time.monotonic()
    if now - _last < _ECHO_SECONDS or _postponed(number, frame):
        return
    _last = now
    raise KeyboardInterrupt


def _interrupt_by_user(number: int, frame: FrameType | None) -> None:
    """As `_interrupt`, for Ctrl-C: another Ctrl-C interrupts again at once."""
    if not _postponed(number, frame):
        raise KeyboardInterrupt


def _postponed(number: int, frame: FrameType | None) -> bool:
    """Whether a signal arrived within an import; it is then delivered again later.

    Many libraries try an import and hide what it raises. An interrupt would be lost there, or leave half a module.
    """
    global _postponed_at
    now = time.monotonic()
    if not _importing(frame) or (_postponed_at is not None and now - _postponed_at > _IMPORT_SECONDS):
        _postponed_at = None
        return False
    _postponed_at = now if _postponed_at is None else _postponed_at
    _deliver_again(number)
    return True


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _deliver_again(number: int) -> None:
    again = threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main, (number,))
    again.daemon = True
    again.start()


def end_on_signals() -> None:
    """Make every signal of `ENDING` raise KeyboardInterrupt in the main thread, except ignored ones.

    A signal within an import, Ctrl-C too, is raised after the import. An interrupt that Python drops in a finalizer is
    raised again. Signals that arrive during the installation are delivered at its end, so call this where a
    KeyboardInterrupt is handled.
    """
    global _last, _postponed_at
    _last, _postponed_at = float("-inf"), None
    with _blocked((signal.SIGINT, *ENDING)):
        _install(_interrupt, _not_ignored())
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            _install(_interrupt_by_user, (signal.SIGINT,))
        if sys.unraisablehook is not _raise_again:
            sys.unraisablehook = _raise_again


def leave(code: int) -> NoReturn:
    """Exit with a code that signals change no more: the work is done, and its outcome is decided.

    Signals of `ENDING` are ignored from now on, also after Python has removed its handlers at exit. Ctrl-C ends an exit
    that takes long, after some seconds.
    """
    global _last
    _last = time.monotonic()
    with _blocked((signal.SIGINT, *ENDING)):
        _install(signal.SIG_IGN, ENDING)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            _install(_interrupt, (signal.SIGINT,))
    # If an interrupt comes while `exec` or `eval` runs a string, as in the import of a module with data classes, Python
    # notes that the interrupt was not handled. `python -m` then kills itself by SIGINT after a handled interrupt too.
    # Another string clears the note.
    exec("")
    exit_with(code)


def _raise_again(dropped: "sys.UnraisableHookArgs") -> None:
    global _last
    handler = signal.getsignal(signal.SIGTERM)
    # While Ray starts, its own handler of SIGTERM raises SystemExit (`around_ray`).
    exits = SystemExit if callable(handler) and handler is not _interrupt else KeyboardInterrupt
    if not issubclass(dropped.exc_type, KeyboardInterrupt | exits):
        sys.__unraisablehook__(dropped)
    elif threading.current_thread() is threading.main_thread():
        _last = float("-inf")
        _deliver_again(signal.SIGTERM if callable(handler) else signal.SIGINT)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C and every signal of `ENDING` within the block."""
    with _installed(signal.SIG_IGN, (signal.SIGINT, *ENDING)):
        yield


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Call `handler` on every signal of `ENDING` that is not ignored, within the block."""
    with _installed(handler, _not_ignored()):
        yield


@contextmanager
def around_ray() -> Iterator[None]:
    """Start Ray within the block without losing a signal, and shield Ray's processes from signals to the group.

    - Terminals and schedulers signal every process of a group. Ray's processes inherit a mask that blocks all of these
      signals but SIGTERM; this process ends them after it has committed their results. A signal to this process is
      delivered at the end of the block, or sooner by another thread.
    - `ray.init` replaces the handler of SIGTERM with one that exits. An exit within the block becomes an interrupt, and
      the handler is restored.

    Raises:
        KeyboardInterrupt: on a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    with _blocked(number for number in ENDING if number != signal.SIGTERM):
        try:
            yield
        except SystemExit:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Deliver signals to this thread after the block instead of within it, where the system can do so."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _not_ignored() -> tuple[int, ...]:
    return tuple(number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN)


def _install(handler: Handler, numbers: Iterable[int]) -> dict[int, Any]:
    """Set handlers and return the earlier ones. Does nothing outside the main thread, where Python allows none."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in numbers}


@contextmanager
def _installed(handler: Handler, numbers: Iterable[int]) -> Iterator[None]:
    before = _install(handler, numbers)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)

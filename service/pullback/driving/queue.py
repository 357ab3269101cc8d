"""The queue of local submissions: one background driver runs at a time, and the next starts when it ends.

Every submission holds a ticket, a numbered file that its process keeps locked. A ticket whose lock is free belongs to a
process that has ended, however it ended, so a crash blocks no submission. A driver waits while a lower number is
locked. `python -m pullback.driving.queue STORE wait|now COMMAND...` waits, and then the same process runs the command,
so it keeps the lock. The tickets of each user and machine lie in the user's state folder. Foreground runs take no
ticket, nor do drivers of the HTTP service, which has a limit of its own.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from filelock import FileLock
from platformdirs import user_state_path

from pullback.driving.control import cancel_requested, read_record, write_record
from pullback.driving.record import DriverRecord
from pullback.signals import leave

with suppress(ImportError):  # Windows has none: submissions do not queue there
    import fcntl

_LOOK_SECONDS = 0.5


def queue_folder() -> Path:
    """The folder of this machine's tickets."""
    return user_state_path("pullback") / "queue" / socket.gethostname()


class Ticket:
    """A place in the queue, held until the process ends or `release` is called.

    Args:
        store: the sweep's store, shown to later submissions.

    Raises:
        OSError: the state folder cannot be written to.
    """

    def __init__(self, store: str) -> None:
        self._folder = queue_folder()
        self._folder.mkdir(parents=True, exist_ok=True)
        with _guard(self._folder):
            self._number = 1 + max((int(path.stem) for path in _tickets(self._folder)), default=0)
            self._path = self._folder / f"{self._number:09d}.ticket"
            self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(self.descriptor, json.dumps({"store": store, "pid": os.getpid()}).encode())

    def ahead(self) -> list[str]:
        """Stores of the submissions with lower numbers, in order. Tickets of ended processes are removed."""
        with _guard(self._folder):
            return [_store_of(path) for path in _held(self._folder) if int(path.stem) < self._number]

    def may_start_now(self) -> bool:
        """Whether `start_now` was called for this submission."""
        try:
            return bool(json.loads(self._path.read_text(encoding="utf-8")).get("now"))
        except (OSError, ValueError):  # it is being rewritten
            return False

    def release(self) -> None:
        """Leave the queue."""
        with suppress(OSError):
            self._path.unlink()
        os.close(self.descriptor)


def waiting_for() -> list[str]:
    """Stores of the submissions that a new one would wait for, in order."""
    folder = queue_folder()
    if "fcntl" not in globals() or not folder.is_dir():
        return []
    with suppress(OSError), _guard(folder):
        return [_store_of(path) for path in _held(folder)]
    return []


def start_now(store: str) -> None:
    """Let a queued submission start without waiting for the earlier ones.

    Args:
        store: the store that its ticket names.
    """
    folder = queue_folder()
    with suppress(OSError), _guard(folder):
        for path in _held(folder):
            if _store_of(path) == store:
                ticket = json.loads(path.read_text(encoding="utf-8"))
                # in place: the lock belongs to this file, not to a new file of the same name
                path.write_text(json.dumps({**ticket, "now": True}), encoding="utf-8")


def _tickets(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.ticket") if path.stem.isdigit())


def _held(folder: Path) -> list[Path]:
    return [path for path in _tickets(folder) if _is_held(path)]


def _store_of(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["store"])
    except (OSError, ValueError, KeyError):
        return "another sweep"


def _is_held(path: Path) -> bool:
    """Whether a ticket's process is running. If not, the ticket is removed."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)


@contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Keep other processes from taking or removing tickets within the block."""
    with FileLock(str(folder / "tickets.lock")):
        yield


def wait_for_turn(store: str, now: bool) -> Ticket | None:
    """Wait until no earlier submission is left. With `now`, only take a ticket, so that later submissions wait.

    Returns:
        The ticket to keep; None if no queue is possible (Windows, a state folder that cannot be written).

    Raises:
        KeyboardInterrupt: the sweep was cancelled while it waited.
    """
    if "fcntl" not in globals():
        return None
    try:
        ticket = Ticket(store)
    except OSError:
        return None
    record = read_record(store) or DriverRecord("queued", host=socket.gethostname())
    record = replace(record, pid=os.getpid(), began=_began())
    while not now and not ticket.may_start_now() and (others := ticket.ahead()):
        message = f"number {len(others)} in the queue, behind {', '.join(others)}"
        write_record(store, replace(record, life="queued", position=len(others), message=message, updated=time.time()))
        if cancel_requested(store):
            write_record(store, replace(record, life="cancelled", updated=time.time()))
            ticket.release()
            raise KeyboardInterrupt
        time.sleep(_LOOK_SECONDS)
    write_record(store, replace(record, life="starting", position=0, message="", updated=time.time()))
    return ticket


def _began() -> float:
    import psutil

    return float(psutil.Process().create_time())


def main(arguments: Sequence[str]) -> NoReturn:
    """Wait for a sweep's turn, then become its driver."""
    store, how, *command = arguments
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        ticket = wait_for_turn(store, how == "now")
    except KeyboardInterrupt:
        leave(130)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if ticket is not None:
        os.set_inheritable(ticket.descriptor, True)  # the lock lasts as long as the driver's process
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])

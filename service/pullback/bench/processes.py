"""Processes that measure, and how they are asked: a request and a reply in turn, each a line of JSON.

Each measurement has its own process, because the C library's allocator, a GPU's cache and the libraries' chosen
algorithms remember what ran before: one method would make another faster or slower than it is alone.

Invariants: a child that fails or dies costs its own measurements only; none outlives its parent, however that ends
(a child whose standard input closes ends itself); what a user's code prints never mixes with the replies.
Leaves to others what is measured (`child`).
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pullback.errors import PullbackError, SpecError


class ChildError(PullbackError):
    """A request could not be fulfilled; the message is one sentence that says why.

    Attributes:
        problems: those of a `SpecError` in the child: what was asked for is wrong. Empty otherwise.
    """

    def __init__(self, sentence: str, problems: list[str]) -> None:
        super().__init__(sentence)
        self.problems = problems


class Child:
    """A process that runs a module which calls `serve`, in this process's working directory.

    Args:
        module: its dotted name.
        environment: variables that it has besides those of this process.
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process lives
        self._process = subprocess.Popen(
            # -P: a file in the working directory must not stand in for a library's module of the same name
            [sys.executable, "-P", "-m", module],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Ask for something, and wait for the reply.

        Args:
            request: which handler of the child's.
            arguments: ready for JSON.

        Raises:
            ChildError: the handler raised an error, or the process died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"request": request, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ChildError(self._last_words(), [])
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ChildError(reply["error"], reply["problems"])
        return reply

    def end(self) -> None:
        """End the process, whatever it is at; nothing is lost, for it keeps nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # what it had not read is not needed any more
                continue
        self._messages.close()

    def _last_words(self) -> str:
        """How the process ended, for a reader."""
        code = self._process.wait()
        if code < 0:
            hint = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name}{hint}"
        self._messages.seek(0)
        lines = self._messages.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with exit code {code}{f': {lines[-1].strip()}' if lines else ''}"


def serve(handlers: Mapping[str, Callable[..., dict[str, Any]]]) -> NoReturn:
    """Be such a process: answer requests until the parent is gone. Standard output then goes to standard error.

    Args:
        handlers: by the request's name; called with its arguments, they give what the reply holds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides what it means
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        arguments = json.loads(requests.get())
        try:
            reply = handlers[arguments.pop("request")](**arguments)
        except Exception as error:  # whatever a user's generator raises
            problems = error.problems if isinstance(error, SpecError) else []
            reply = {"error": sentence_of(error), "problems": problems}
        print(json.dumps(reply), file=channel, flush=True)


def _read(requests: "queue.SimpleQueue[str]") -> None:
    """Hand on what comes in, also while something is computed: so that the end of the parent is seen at once."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def sentence_of(error: Exception) -> str:
    """An error on one line; those of Pullback speak for themselves."""
    if isinstance(error, SpecError):
        return "; ".join(" ".join(problem.split()) for problem in error.problems)
    if isinstance(error, PullbackError):
        return " ".join(str(error).split())
    told = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__

"""Processes that measure. Parent and child exchange requests and replies, each one line of JSON.

Each measurement has its own process, because its time and memory depend on what ran before: on the state of the C
library's allocator and of a GPU's cache, and on the algorithms that the libraries have chosen.

Invariants: a child that fails or dies loses only its own measurements. No child outlives its parent: it ends when its
standard input closes. Output of the user's code never mixes with replies.
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
    """A request failed; the message is one sentence with the reason.

    Attributes:
        problems: the problems of a `SpecError` in the child, if the request was invalid; else empty.
    """

    def __init__(self, sentence: str, problems: list[str]) -> None:
        super().__init__(sentence)
        self.problems = problems


class Child:
    """A process that runs a module that calls `serve`, in the current working directory.

    Args:
        module: dotted name of the module.
        environment: variables in addition to the environment of this process.
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process ends
        self._process = subprocess.Popen(
            # -P: a file in the working directory must not shadow a library's module of the same name
            [sys.executable, "-P", "-m", module],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return the reply.

        Args:
            request: name of a handler of the child.
            arguments: JSON values.

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
            raise ChildError(self._exit_reason(), [])
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ChildError(reply["error"], reply["problems"])
        return reply

    def end(self) -> None:
        """Kill the process. Nothing is lost, because it stores nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:  # unread requests are not needed
                continue
        self._stderr.close()

    def _exit_reason(self) -> str:
        """Return the reason why the process ended, in one sentence."""
        code = self._process.wait()
        if code < 0:
            hint = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
            return f"its process was killed by {signal.Signals(-code).name}{hint}"
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with exit code {code}{f': {lines[-1].strip()}' if lines else ''}"


def serve(handlers: Mapping[str, Callable[..., dict[str, Any]]]) -> NoReturn:
    """Answer requests until the parent ends. Standard output is redirected to standard error.

    Args:
        handlers: functions by request name. They take the arguments of the request and return the reply.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to every process; the parent handles it
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    while True:
        arguments = json.loads(requests.get())
        try:
            reply = handlers[arguments.pop("request")](**arguments)
        except Exception as error:  # a user's generator may raise anything
            problems = error.problems if isinstance(error, SpecError) else []
            reply = {"error": sentence_of(error), "problems": problems}
        print(json.dumps(reply), file=channel, flush=True)


def _read(requests: "queue.SimpleQueue[str]") -> None:
    """Queue requests while others are computed, so that the end of the parent is noticed at once."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def sentence_of(error: Exception) -> str:
    """Return an error as one line, with its type unless it is an error of Pullback."""
    if isinstance(error, SpecError):
        return "; ".join(" ".join(problem.split()) for problem in error.problems)
    if isinstance(error, PullbackError):
        return " ".join(str(error).split())
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

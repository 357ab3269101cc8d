"""The service's client: the same verbs in Python. Needs httpx and numpy, nothing of what computes."""

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt

from pullback.errors import PullbackError

_SECONDS = 60.0
_ACTIVE = {"submitted", "starting", "running", "cancelling"}


class ServiceError(PullbackError):
    """The service refuses, fails, or cannot be reached.

    Attributes:
        status: of its answer; None where there was none.
        problems: what is wrong with a job or a parameter, one sentence each.
        again: whether the same request may be answered in a moment.
    """

    def __init__(
        self, message: str, status: int | None = None, problems: tuple[str, ...] = (), again: bool = False
    ) -> None:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{message}{lines}")
        self.status = status
        self.problems = problems
        self.again = again


class Client:
    """A service of `pullback serve`.

    Every method raises ServiceError where the service refuses, fails or cannot be reached.

    Args:
        url: such as `http://127.0.0.1:8000`.
        token: of `pullback tokens add`, where the service needs one.
        timeout: seconds to wait for an answer to begin.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = _SECONDS) -> None:
        self.url = url.rstrip("/")
        token = token if token is None else token.strip()  # read from a file, it has a line's end
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise ServiceError(
                "the token has characters that no token has; take it as `pullback tokens add` printed it"
            )
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            # never through a proxy that the environment names: it would see the token
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url!r} is no address of a service: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, job: Path | str | Mapping[str, Any]) -> dict[str, Any]:
        """Submit a job; the same job again goes on with its sweep.

        Args:
            job: the path of its YAML file, its YAML as text of several lines, or its content.

        Returns:
            `id` of the sweep, and whether it was `created`.

        Raises:
            ServiceError: also where the file cannot be read; what is wrong in the job is in its `problems`.
        """
        if isinstance(job, Mapping):
            content, kind = json.dumps(job).encode(), "application/json"
        elif isinstance(job, str) and "\n" in job:
            content, kind = job.encode(), "application/yaml"
        else:
            try:
                content, kind = Path(job).read_bytes(), "application/yaml"
            except OSError as error:
                raise ServiceError(f"the job {job} cannot be read: {error.strerror}; nothing was submitted") from error
        return self._json("POST", "/v1/sweeps", content=content, headers={"Content-Type": kind})

    def list(self) -> "list[dict[str, Any]]":
        """Every sweep."""
        sweeps: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = self._json("GET", "/v1/sweeps", params={"after": after})
            sweeps += page["sweeps"]
            after = page["next"]
        return sweeps

    def show(self, id: str, snapshot: str | None = None) -> dict[str, Any]:
        """What a sweep is, and what made it."""
        return self._json("GET", _path(id), params=_given(snapshot=snapshot))

    def snapshots(self, id: str, limit: int = 100) -> Sequence[dict[str, Any]]:
        """A sweep's last snapshots, the newest first: `id`, `written` and `message` of each."""
        content = self._json("GET", _path(id, "snapshots"), params={"limit": str(limit)})
        return tuple(content["snapshots"])

    def status(self, id: str) -> dict[str, Any]:
        """Where a sweep is: `state`, `planned`, `good`, `quarantined`, `pending`, `message` and more."""
        return self._json("GET", _path(id, "status"))

    def events(self, id: str, follow: bool = False) -> Iterator[dict[str, Any]]:
        """What happened to a sweep, one event after the other.

        Args:
            id: the sweep's.
            follow: go on as events come, until nobody works on the sweep any more.
        """
        if follow:
            yield from self._follow(id)
            return
        offset = "0"
        while True:
            answer = self._ask("GET", _path(id, "events"), params={"offset": offset})
            if not answer.content:
                return
            for line in answer.content.splitlines():
                yield from _event(line)
            offset = answer.headers["Pullback-Next-Offset"]

    def cancel(self, id: str) -> bool:
        """Ask a sweep to stop; returns whether anybody worked on it. What is done is kept."""
        return bool(self._json("POST", _path(id, "cancel"))["cancelling"])

    def wait(self, id: str, timeout: float | None = None, poll: float = 1.0) -> dict[str, Any]:
        """Wait until nobody works on a sweep any more; returns its last status.

        Args:
            id: the sweep's.
            timeout: seconds to wait at most.
            poll: seconds between two questions.

        Raises:
            ServiceError: also when the time is over; the sweep goes on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self.status(id)
            if status["state"] not in _ACTIVE:
                return status
            left = poll if end is None else end - time.monotonic()
            if left <= 0:
                raise ServiceError(f"{id} is {status['state']} still after {timeout:g} s; it goes on by itself")
            time.sleep(min(poll, left))

    def spectra(
        self,
        id: str,
        samples: slice | None = None,
        components: slice | None = None,
        snapshot: str | None = None,
        quarantined: bool = False,
    ) -> npt.NDArray[Any]:
        """The eigenvalues of good samples.

        Args:
            id: the sweep's.
            samples: positions in the sweep; all by default. Without a step, and counted from the beginning.
            components: likewise.
            snapshot: the one of an earlier answer.
            quarantined: quarantined samples too.

        Returns:
            A structured array with the fields `sample` and `eigenvalue` [components]; with `quarantined`, `status` too.
        """
        asked = _given(
            samples=_range(samples),
            components=_range(components),
            snapshot=snapshot,
            quarantined="true" if quarantined else None,
        )
        return self._array(_path(id, "spectra"), asked)

    def eigenvectors(
        self, id: str, sample: int, components: slice | None = None, snapshot: str | None = None
    ) -> npt.NDArray[Any]:
        """The eigenvectors of one good sample.

        Returns:
            A structured array with the fields `component`, `eigenvalue` and `eigenvector` [latent size].
        """
        asked = _given(sample=str(sample), components=_range(components), snapshot=snapshot)
        return self._array(_path(id, "eigenvectors"), asked)

    def analysis(self, id: str, snapshot: str | None = None) -> dict[str, Any]:
        """The analysis that is kept of a sweep's snapshot; `analyze` has one made."""
        return self._json("GET", _path(id, "analysis"), params=_given(snapshot=snapshot))

    def analyze(
        self, id: str, snapshot: str | None = None, timeout: float | None = None, poll: float = 1.0
    ) -> dict[str, Any]:
        """The analysis of a sweep's snapshot, which is made where none is kept.

        Args:
            id: the sweep's.
            snapshot: the one of an earlier answer; by default the last.
            timeout: seconds to wait at most.
            poll: seconds between two questions.

        Raises:
            ServiceError: also where it cannot be made, or when the time is over; it may be made still then.
        """
        end = None if timeout is None else time.monotonic() + timeout
        started = False
        while True:
            try:
                if not started:
                    asked = self._json("POST", _path(id, "analysis"), params=_given(snapshot=snapshot))
                    snapshot, started = asked["snapshot"], True
                return self.analysis(id, snapshot)
            except ServiceError as error:
                if not error.again:
                    raise
            left = poll if end is None else end - time.monotonic()
            if left <= 0:
                raise ServiceError(f"the analysis of {id} is not made yet after {timeout:g} s; ask for it again later")
            time.sleep(min(poll, left))

    def report(self, id: str, snapshot: str | None = None) -> str:
        """The report of a sweep, an HTML page."""
        return self._ask("GET", _path(id, "report"), params=_given(snapshot=snapshot)).text

    def _follow(self, id: str) -> Iterator[dict[str, Any]]:
        try:
            with self._http.stream(
                "GET", _path(id, "events"), params={"follow": "true"}, timeout=httpx.Timeout(_SECONDS, read=_SECONDS)
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise _refused(answer)
                kind = "message"
                for line in answer.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        kind = value
                    elif field == "data" and kind == "end":
                        return
                    elif field == "data":
                        yield from _event(value)
            raise ServiceError(f"the service at {self.url} ended; the sweep goes on. Follow it again when it runs")
        except httpx.HTTPError as error:
            raise self._unreached(error) from error

    def _array(self, path: str, params: Mapping[str, str]) -> npt.NDArray[Any]:
        content = self._ask("GET", path, params={**params, "format": "npy"}).content
        array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return array

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._ask(method, path, **options)
        try:
            content: dict[str, Any] = answer.json()
        except ValueError as error:
            raise ServiceError(f"what answers at {self.url} is not a service of Pullback") from error
        return content

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreached(error) from error
        if not answer.is_success:
            raise _refused(answer)
        return answer

    def _unreached(self, error: Exception) -> ServiceError:
        if isinstance(error, httpx.TimeoutException):
            return ServiceError(f"the service at {self.url} did not answer in time; what it was asked may be done yet")
        return ServiceError(
            f"the service at {self.url} cannot be reached ({error}). Check the address and that it runs: pullback serve"
        )


def _refused(answer: httpx.Response) -> ServiceError:
    try:
        content = answer.json()
        message, problems = str(content["error"]), tuple(map(str, content.get("problems", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, problems = f"the service answered {answer.status_code} {answer.reason_phrase}", ()
    return ServiceError(message, answer.status_code, problems, again="Retry-After" in answer.headers)


def _event(line: str | bytes) -> Iterator[dict[str, Any]]:
    """The event of a line; none of one that a full disk has torn."""
    with suppress(ValueError):
        yield json.loads(line)


def _path(id: str, *rest: str) -> str:
    return "/".join(["/v1/sweeps", quote(id, safe=""), *rest])


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}


def _range(asked: slice | None) -> str | None:
    if asked is None:
        return None
    if not isinstance(asked, slice):
        raise ServiceError(f"a range is a slice, such as slice(0, 10), not {asked!r}")
    if asked.step not in (None, 1) or any(end is not None and end < 0 for end in (asked.start, asked.stop)):
        raise ServiceError(f"{asked} counts from the end or in steps, which is not served; take the whole and select")
    return f"{'' if asked.start is None else asked.start}:{'' if asked.stop is None else asked.stop}"

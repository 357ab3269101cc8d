"""The client of the HTTP service. Needs httpx and numpy, but none of the libraries that compute."""

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

from pullback.driving.states import ACTIVE
from pullback.errors import PullbackError

_SECONDS = 60.0


class ServiceError(PullbackError):
    """The service refuses, fails, or cannot be reached.

    Attributes:
        status: HTTP status of its answer; None if there was no answer.
        problems: mistakes in a job or a parameter, one sentence each.
        again: whether the same request may succeed in a moment.
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

    Every method raises ServiceError if the service refuses, fails or cannot be reached.

    Args:
        url: such as `http://127.0.0.1:8000`.
        token: from `pullback tokens add`, if the service needs one.
        timeout: seconds to wait for the beginning of an answer.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = _SECONDS) -> None:
        self.url = url.rstrip("/")
        token = token if token is None else token.strip()  # a token read from a file ends with a newline
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise ServiceError("the token has impossible characters; use it as `pullback tokens add` printed it")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            # never through a proxy of the environment, which would see the token
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url!r} is not the address of a service: {error}") from error

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
        """Submit a job of any kind. The same job again attaches to it, or continues it if it has stopped.

        Args:
            job: the path of its YAML file, its YAML as text of several lines, or its content.

        Returns:
            `id` of the job (for a sweep, of the sweep), its `kind`, and whether it was `created`.

        Raises:
            ServiceError: also if the file cannot be read; `problems` lists the mistakes in the job.
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
        return self._json("POST", "/v1/jobs", content=content, headers={"Content-Type": kind})

    def list(self) -> "list[dict[str, Any]]":
        """List every sweep."""
        sweeps: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = self._json("GET", "/v1/sweeps", params={"after": after})
            sweeps += page["sweeps"]
            after = page["next"]
        return sweeps

    def jobs(self) -> Sequence[dict[str, Any]]:
        """Return the analyses and applications, with the state of each; `list` returns the sweeps."""
        return tuple(self._json("GET", "/v1/jobs")["jobs"])

    def results(self, id: str) -> dict[str, dict[str, Any]]:
        """Return the finished results of an analysis or an application, by the statistic's or application's name.

        Raises:
            ServiceError: also if there are no results yet; `wait` waits for them.
        """
        results: dict[str, dict[str, Any]] = self._json("GET", _job_path(id, "results"))["results"]
        return results

    def show(self, id: str, snapshot: str | None = None) -> dict[str, Any]:
        """Describe a sweep: its progress, and what it was computed from."""
        return self._json("GET", _path(id), params=_given(snapshot=snapshot))

    def snapshots(self, id: str, limit: int = 100) -> Sequence[dict[str, Any]]:
        """List a sweep's last snapshots, the newest first: `id`, `written` and `message` of each."""
        content = self._json("GET", _path(id, "snapshots"), params={"limit": str(limit)})
        return tuple(content["snapshots"])

    def status(self, id: str) -> dict[str, Any]:
        """Return a job's state: `state`, `planned`, `good`, `quarantined`, `pending`, `message` and more."""
        return self._json("GET", _job_path(id, "status"))

    def events(self, id: str, follow: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the events of a sweep.

        Args:
            id: the sweep's.
            follow: wait for further events until no driver is running.
        """
        if follow:
            yield from self._follow(id)
            return
        offset = "0"
        while True:
            answer = self._ask("GET", _job_path(id, "events"), params={"offset": offset})
            if not answer.content:
                return
            for line in answer.content.splitlines():
                yield from _event(line)
            offset = answer.headers["Pullback-Next-Offset"]

    def cancel(self, id: str) -> bool:
        """Ask a driver to stop; return whether one was running. Results are kept."""
        return bool(self._json("POST", _job_path(id, "cancel"))["cancelling"])

    def wait(self, id: str, timeout: float | None = None, poll: float = 1.0) -> dict[str, Any]:
        """Wait until no driver of a sweep is running; return its last status.

        Args:
            id: the sweep's.
            timeout: longest wait in seconds.
            poll: seconds between two requests.

        Raises:
            ServiceError: also after the timeout; the sweep keeps running.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            status = self.status(id)
            if status["state"] not in ACTIVE:
                return status
            left = poll if end is None else end - time.monotonic()
            if left <= 0:
                raise ServiceError(f"{id} is {status['state']} after {timeout:g} s; it keeps running")
            time.sleep(min(poll, left))

    def spectra(
        self,
        id: str,
        samples: slice | None = None,
        components: slice | None = None,
        snapshot: str | None = None,
        quarantined: bool = False,
    ) -> npt.NDArray[Any]:
        """Return the eigenvalues of good samples.

        Args:
            id: the sweep's.
            samples: a slice of sample numbers; all by default. No step, and no negative numbers.
            components: a slice of components, likewise.
            snapshot: of an earlier answer; by default the last.
            quarantined: include quarantined samples.

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
        """Return the eigenvectors of one good sample.

        Returns:
            A structured array with the fields `component`, `eigenvalue` and `eigenvector` [latent size].
        """
        asked = _given(sample=str(sample), components=_range(components), snapshot=snapshot)
        return self._array(_path(id, "eigenvectors"), asked)

    def statistics(self) -> Sequence[dict[str, Any]]:
        """Return the statistics of the service: name, summary, and the JSON schema of their options."""
        listed: Sequence[dict[str, Any]] = self._json("GET", "/v1/statistics")["statistics"]
        return listed

    def analysis(
        self,
        id: str,
        snapshot: str | None = None,
        statistics: Sequence[str] = (),
        others: Sequence[str] = (),
        **options: Any,
    ) -> dict[str, Any]:
        """Return the cached analysis of a sweep's snapshot; `analyze` computes one.

        Args:
            id: the sweep's.
            snapshot: the one of an earlier answer; by default the last.
            statistics: names of statistics; by default the usual ones.
            others: ids of further sweeps, for statistics that compare several.
            options: of the statistics, such as `draws=2000`.
        """
        return self._json("GET", _path(id, "analysis"), params=_analysis(snapshot, statistics, options, others))

    def analyze(
        self,
        id: str,
        snapshot: str | None = None,
        timeout: float | None = None,
        poll: float = 1.0,
        statistics: Sequence[str] = (),
        others: Sequence[str] = (),
        **options: Any,
    ) -> dict[str, Any]:
        """Return the analysis of a sweep's snapshot, which is computed if it is not cached.

        Args:
            id: the sweep's.
            snapshot: the one of an earlier answer; by default the last.
            timeout: longest wait in seconds.
            poll: seconds between two requests.
            statistics: names of statistics; by default the usual ones.
            others: ids of further sweeps, for statistics that compare several.
            options: of the statistics, such as `draws=2000`.

        Raises:
            ServiceError: also if it cannot be computed, or when the time is over; it may still be computed then.
        """
        end = None if timeout is None else time.monotonic() + timeout
        started = False
        while True:
            try:
                if not started:
                    params = _analysis(snapshot, statistics, options, others)
                    asked = self._json("POST", _path(id, "analysis"), params=params)
                    snapshot, others, started = asked["snapshot"], asked.get("further", others), True
                return self.analysis(id, snapshot, statistics, others, **options)
            except ServiceError as error:
                if not error.again:
                    raise
            left = poll if end is None else end - time.monotonic()
            if left <= 0:
                raise ServiceError(f"the analysis of {id} is not made yet after {timeout:g} s; ask for it again later")
            time.sleep(min(poll, left))

    def report(self, id: str, snapshot: str | None = None) -> str:
        """Return the report of a sweep, an HTML page."""
        return self._ask("GET", _path(id, "report"), params=_given(snapshot=snapshot)).text

    def _follow(self, id: str) -> Iterator[dict[str, Any]]:
        try:
            with self._http.stream(
                "GET",
                _job_path(id, "events"),
                params={"follow": "true"},
                timeout=httpx.Timeout(_SECONDS, read=_SECONDS),
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
            raise ServiceError(
                f"the service at {self.url} ended; the sweep keeps running. Follow it again when the service runs"
            )
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
            raise ServiceError(f"the server at {self.url} is not a Pullback service") from error
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
            return ServiceError(
                f"the service at {self.url} did not answer in time; the request may still be carried out"
            )
        return ServiceError(
            f"the service at {self.url} cannot be reached ({error}). Check that it runs: pullback serve"
        )


def _refused(answer: httpx.Response) -> ServiceError:
    try:
        content = answer.json()
        message, problems = str(content["error"]), tuple(map(str, content.get("problems", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, problems = f"the service answered {answer.status_code} {answer.reason_phrase}", ()
    return ServiceError(message, answer.status_code, problems, again="Retry-After" in answer.headers)


def _event(line: str | bytes) -> Iterator[dict[str, Any]]:
    """Yield the event of a line; nothing if the line is incomplete."""
    with suppress(ValueError):
        yield json.loads(line)


def _job_path(id: str, *rest: str) -> str:
    return "/".join(["/v1/jobs", quote(id, safe=""), *rest])


def _path(id: str, *rest: str) -> str:
    return "/".join(["/v1/sweeps", quote(id, safe=""), *rest])


def _analysis(
    snapshot: str | None, statistics: Sequence[str], options: Mapping[str, Any], others: Sequence[str]
) -> dict[str, Any]:
    chosen = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return {**_given(snapshot=snapshot), "statistic": [*statistics], "with": [*others], **chosen}


def _given(**params: str | None) -> dict[str, str]:
    return {name: value for name, value in params.items() if value is not None}


def _range(asked: slice | None) -> str | None:
    if asked is None:
        return None
    if not isinstance(asked, slice):
        raise ServiceError(f"a range must be a slice such as slice(0, 10), not {asked!r}")
    if asked.step not in (None, 1) or any(end is not None and end < 0 for end in (asked.start, asked.stop)):
        raise ServiceError(
            f"{asked} has a step or a negative number, which the service does not support; read everything and select"
        )
    return f"{'' if asked.start is None else asked.start}:{'' if asked.stop is None else asked.stop}"

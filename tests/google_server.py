"""A stand-in for Google Cloud Storage on this machine, for tests: its XML API as far as Icechunk and obstore use it.

No server of that API comes in a package. This one keeps objects in memory and answers as Google documents
(https://cloud.google.com/storage/docs/xml-api/reference-methods): generations, conditional writes, ranges, pages.

Run as a program it serves a bucket `bucket` on a free port of loopback, which it prints.
"""

import json
import os
import re
import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

import server_process

_PAGE = 7
"""Names a page of a list; small, so that tests meet several."""


def serving() -> AbstractContextManager[str]:
    """A running server; gives its address."""
    return server_process.serving(__file__)


def use(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment by which a user gives credentials: a file in the form of Google's, which names the server."""
    for name in [name for name in os.environ if name.startswith("GOOGLE_")]:
        monkeypatch.delenv(name)
    key = {
        "type": "service_account",
        "gcs_base_url": address,
        "disable_oauth": True,
        "client_email": "someone@example.org",
        "private_key": _private_key(),
        "private_key_id": "1",
    }
    folder.mkdir()
    (folder / "key.json").write_text(json.dumps(key))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(folder / "key.json"))


def _private_key() -> str:
    """A key that is good for nothing: it is read, and nothing is signed with it."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


class _Object(NamedTuple):
    content: bytes
    generation: int
    written: datetime

    @property
    def tag(self) -> str:
        return f'"{self.generation}"'


class _Bucket:
    """Objects by name; every change has a generation of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, _Object] = {}
        self.generation = 1000

    def put(self, name: str, content: bytes, generation_match: str | None) -> _Object | None:
        """Write; None where the object is not of the generation that the writer believes (0: not there)."""
        with self.lock:
            now = self.objects[name].generation if name in self.objects else 0
            if generation_match is not None and int(generation_match) != now:
                return None
            self.generation += 1
            self.objects[name] = _Object(content, self.generation, datetime.now(UTC))
            return self.objects[name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and content leave together: else each answer waits 40 ms for the other side
    disable_nagle_algorithm = True
    buckets: ClassVar = {"bucket": _Bucket()}

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")
        self.wfile.flush()

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _asked(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        bucket_name, _, name = unquote(parts.path).lstrip("/").partition("/")
        bucket = self.buckets.get(bucket_name)
        if bucket is None:
            self._refuse(404, "NoSuchBucket")
        elif self.command == "PUT":
            self._put(bucket, name, content)
        elif not name:
            self._list(bucket, {key: values[0] for key, values in parse_qs(parts.query).items()})
        elif name not in bucket.objects:
            self._refuse(404, "NoSuchKey")
        elif self.command == "DELETE":
            with bucket.lock:
                bucket.objects.pop(name, None)
            self._answer(204)
        else:
            self._get(bucket.objects[name])

    do_GET = do_HEAD = do_PUT = do_DELETE = _asked  # noqa: N815 - http.server's names

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _put(self, bucket: _Bucket, name: str, content: bytes) -> None:
        written = bucket.put(name, content, self.headers.get("x-goog-if-generation-match"))
        if written is None:
            self._refuse(412, "PreconditionFailed")
        else:
            self._answer(200, ETag=written.tag, x_goog_generation=str(written.generation))

    def _get(self, found: _Object) -> None:
        size, status, headers = len(found.content), 200, {}
        first, last = 0, size - 1
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked:
            if asked[1]:
                first, last = int(asked[1]), min(int(asked[2] or last), last)
            else:
                first = max(0, size - int(asked[2]))
            status, headers = 206, {"Content_Range": f"bytes {first}-{last}/{size}"}
        self._answer(
            status,
            found.content[first : last + 1],
            ETag=found.tag,
            x_goog_generation=str(found.generation),
            Last_Modified=format_datetime(found.written, usegmt=True),
            **headers,
        )

    def _list(self, bucket: _Bucket, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        with bucket.lock:
            objects = dict(bucket.objects)
        names: list[str] = []
        for name in sorted(name for name in objects if name.startswith(prefix)):
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            shown = prefix + head + delimiter if found else name
            if shown not in names:
                names.append(shown)
        begin = int(query.get("continuation-token", "0"))
        page, more = names[begin : begin + _PAGE], len(names) > begin + _PAGE
        rows = [
            f"<Contents><Key>{escape(name)}</Key><Size>{len(objects[name].content)}</Size>"
            f"<LastModified>{objects[name].written.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}</LastModified>"
            f"<ETag>{escape(objects[name].tag)}</ETag></Contents>"
            if name in objects
            else f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in page
        ]
        token = f"<NextContinuationToken>{begin + _PAGE}</NextContinuationToken>" if more else ""
        self._answer(200, f"<ListBucketResult>{token}{''.join(rows)}</ListBucketResult>".encode())


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

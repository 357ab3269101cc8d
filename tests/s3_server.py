"""A real S3 server of this machine for tests: moto's, in a process of its own, one request at a time.

moto looks whether an object exists and then writes it, in two steps. S3 decides a conditional write in one, and
Icechunk's commits rest on that: hence the lock.

Run as a program it serves a bucket `bucket` on a free port of loopback, which it prints.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import pytest

import server_process

needed = pytest.mark.skipif(
    find_spec("moto") is None or find_spec("flask") is None, reason="no S3 server here: pip install 'moto[s3]' flask"
)


def serving() -> AbstractContextManager[str]:
    """A running server; gives its address."""
    return server_process.serving(__file__)


def use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment by which a user names a server and has credentials for it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "knows-nothing")


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    lock = threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with lock:
            return list(application(environ, start_response))

    s3_backends["123456789012"]["aws"].create_bucket("bucket", "us-east-1")
    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

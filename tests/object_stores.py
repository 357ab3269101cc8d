"""Fixtures of tests against object stores of this machine; a test module imports those that it uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import google_server
import s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server.serving() as address:
        yield address


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    with google_server.serving() as address:
        yield address


@pytest.fixture(params=["s3", "gs"])
def bucket(
    s3: str, google: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """A free prefix of a bucket, for this test."""
    if request.param == "s3":
        s3_server.use(s3, monkeypatch)
    else:
        google_server.use(google, tmp_path / "google", monkeypatch)
    return f"{request.param}://bucket/{request.node.originalname}"

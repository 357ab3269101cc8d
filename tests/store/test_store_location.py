import re
from pathlib import Path

import pytest

from pullback.errors import StoreError
from pullback.store import objects
from pullback.store.location import Location, locate


@pytest.mark.parametrize(
    "text", ["s3://bucket/a/sweep", "s3:/bucket/a/sweep", "s3://bucket//a/sweep/", "S3://bucket/a/sweep"]
)
def test_an_address_is_read_however_it_is_written(text: str) -> None:
    found = locate(text)
    assert (found.scheme, found.bucket, found.prefix, found.name) == ("s3", "bucket", "a/sweep", "sweep")
    assert not found.is_local
    assert str(found) == "s3://bucket/a/sweep"
    assert locate(str(found)) == locate(found.path) == locate(found) == found


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    found = locate(tmp_path / "sweep")
    assert found == Location(tmp_path / "sweep")
    assert found.is_local
    assert str(found) == str(tmp_path / "sweep")
    assert locate("~/sweep").path == Path.home() / "sweep"
    assert locate("c:/sweep").is_local, "a drive is no scheme"


@pytest.mark.parametrize("text", ["sweeps/a", "s3://bucket/sweeps/a", "gs://bucket/a"])
def test_what_is_beside_and_inside_has_an_address_of_its_own(text: str) -> None:
    assert str(locate(text).sibling("b.zarr")) == f"{text[:-1]}b.zarr"
    assert str(locate(text).child("b")) == f"{text}/b"
    assert locate(str(locate(text).child("b"))) == locate(text).child("b")


@pytest.mark.parametrize("text", ["s3://bucket", "s3://bucket/", "gs://", "s3:///sweep", "s3://b/../c", "s3://b/a\nb"])
def test_an_address_without_a_bucket_and_a_place_in_it_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match=r"Give an address like (s3|gs)://bucket/prefix"):
        locate(text)


@pytest.mark.parametrize("text", ["https://host/sweep", "file:///tmp/sweep", Path("ftp://host/sweep")])
def test_another_kind_of_address_is_refused(text: str | Path) -> None:
    with pytest.raises(StoreError, match="cannot hold a sweep"):
        locate(text)


@pytest.mark.parametrize("name", ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "Unable to open service account file"),
        ("not json", "Unable to decode service account file"),
        ('{"type": "service_account"}', "missing field `private_key`"),
        (
            '{"type": "service_account", "client_email": "a", "private_key": "no key", "private_key_id": "k"}',
            "no items found",
        ),
    ],
)
def test_google_credentials_that_cannot_be_used_are_reported_before_they_are(
    tmp_path: Path, name: str, content: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    monkeypatch.setenv(name, str(tmp_path / "key.json"))
    place = locate("gs://bucket/sweep")
    for use in (lambda: place.storage(), lambda: objects.children(place), lambda: objects.get_object(place)):
        with pytest.raises(StoreError) as caught:
            use()
        message = f"gs://bucket/sweep cannot be reached: the credentials that {name} names cannot be used .*{why}"
        assert re.fullmatch(f"{message}.*unset it\\.", str(caught.value)), "one line, and the cause once"


def test_an_environment_that_cannot_be_used_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "banana")
    with pytest.raises(StoreError, match=r's3://bucket/sweep cannot be reached \(.*"banana"'):
        objects.children(locate("s3://bucket/sweep"))


def test_an_address_that_is_no_url_to_a_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://[half")
    with pytest.raises(StoreError, match="nothing answers at AWS_ENDPOINT_URL"):
        locate("s3://bucket/sweep").storage()

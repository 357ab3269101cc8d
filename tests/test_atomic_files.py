"""A file that is replaced has its old or its new content at every moment."""

import os
import stat

import pytest

from pullback.atomic_files import replace_file, replacing


@pytest.mark.parametrize("durable", [False, True])
def test_new_content_takes_the_place_of_the_old_and_leaves_no_other_file(tmp_path, durable):
    path = tmp_path / "record.json"
    for content in ("first", b"second", "drittes ß"):
        replace_file(path, content, durable=durable)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_content_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as new:
        new.write_text(b"not text")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_raises_and_keeps_the_file(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(IsADirectoryError):
        replace_file(path, "content")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_private_file_is_readable_by_its_user_only(tmp_path):
    replace_file(tmp_path / "tokens", "secret", private=True)
    assert stat.S_IMODE((tmp_path / "tokens").stat().st_mode) == 0o600


def test_other_files_have_the_usual_mode(tmp_path):
    before = os.umask(0o022)
    try:
        replace_file(tmp_path / "report", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o644

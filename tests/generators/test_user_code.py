"""What is recorded of a user's own source: enough to notice every edit that could change a number."""

import hashlib
import sys

import pytest

from pullback.generators.user_code import imported


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes files into the working directory and gives the hash recorded for a function of theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def hash_of(name, **files):
        for module in set(sys.modules) - known:
            del sys.modules[module]
        for path, text in files.items():
            file = tmp_path / path.replace("__in__", "/")
            file.parent.mkdir(exist_ok=True)
            file.with_suffix(".py").write_text(text)
        (recorded,) = imported(f"{name}:make", "generator.name")[1].values()
        return recorded

    yield hash_of
    for module in set(sys.modules) - known:
        del sys.modules[module]


MAKE = "def make(): pass\n"


def test_of_a_module_alone_its_own_file_counts(written):
    before = written("their_model", their_model=MAKE, their_other="a = 1")
    assert before == hashlib.sha256(MAKE.encode()).hexdigest()
    assert written("their_model", their_other="a = 2") == before
    assert written("their_model", their_model=MAKE + "# edited") != before


def test_of_a_module_in_a_package_its_neighbours_count_too(written):
    files = {"theirs__in____init__": "", "theirs__in__model": MAKE, "theirs__in__layers": "a = 1"}
    before = written("theirs.model", **files)
    assert written("theirs.model", **files) == before
    assert written("theirs.model", **files | {"theirs__in__layers": "a = 2"}) != before
    assert written("theirs.model", **files | {"theirs__in__model": MAKE + "# edited"}) != before

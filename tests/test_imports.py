"""Who may import whom: imports go one way, and the heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pullback

PACKAGE = Path(pullback.__file__).parent
ORDER = [
    "errors", "citation", "plugins", "user_folders", "regular_files", "atomic_files", "standard_streams",
    "process_exit", "signals",
    "spec", "weights",
    "generators", "distances", "metric",
    "store", "sweep", "driving", "cluster",
    "analysis", "interchange", "applications", "jobs", "report", "api", "bench", "cli", "__main__",
]  # fmt: skip
"""Each part of the package may import those before it, and itself."""
LIGHT = {
    "ray": {"cluster"},
    "zarr": {"store"},
    "icechunk": {"store"},
    "matplotlib": {"analysis"},
    "typer": {"cli"},
    "fastapi": {"api"},
    "fastapi_offline": {"api"},
    "uvicorn": {"api"},
    "httpx": {"api"},
    "pyarrow": {"api"},
    "orjson": {"api"},
    "prometheus_client": {"api"},
}
"""Libraries that are imported in one part only."""


def parts(path):
    """The part of the package that a module belongs to: `metric` for metric/eigen.py, `cli` for cli.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(source, package):
    """Every module that a source names in an import, wherever in the source it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(package)
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imports_of(path):
    package = ["pullback", *path.relative_to(PACKAGE).parts[:-1]]
    return set(imported(path.read_text(encoding="utf-8"), package))


def against_the_order(part, names):
    """The imported parts of the package that come after the importing one."""
    targets = {name.split(".")[1] for name in names if name.startswith("pullback.")}
    return sorted(t for t in targets if t in ORDER and ORDER.index(t) > ORDER.index(part))


def test_every_module_has_its_place_in_the_order():
    assert len(modules()) > 20
    assert {parts(path) for path in modules()} <= set(ORDER)


def test_imports_go_one_way():
    wrong = {str(path.relative_to(PACKAGE)): against_the_order(parts(path), imports_of(path)) for path in modules()}
    assert {module: targets for module, targets in wrong.items() if targets} == {}


def test_errors_and_the_yaml_reader_are_leaves():
    for leaf, allowed in (
        ("errors", set()),
        ("regular_files", set()),
        ("spec/messages", set()),
        ("spec/yaml_reader", {"errors", "regular_files", "spec.messages"}),
    ):
        inner = {name.removeprefix("pullback.") for name in imports_of(PACKAGE / f"{leaf}.py") if "pullback." in name}
        assert {name for name in inner if (PACKAGE / f"{name.replace('.', '/')}.py").exists()} <= allowed


def test_each_heavy_library_is_imported_in_one_part_only():
    found = {library: set() for library in LIGHT}
    for path in modules():
        for name in imports_of(path):
            if name.split(".")[0] in found:
                found[name.split(".")[0]].add(parts(path))
    assert found == LIGHT


def test_a_wrong_import_would_be_seen_wherever_it_stands():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pullback import sweep
def late():
    import pullback.cluster.pool
    from ..store import reader
"""
    names = set(imported(source, ["pullback", "metric"]))
    assert against_the_order("metric", names) == ["cluster", "store", "sweep"]
    assert against_the_order("cli", names) == []


def in_a_fresh_process(code, *blocked):
    """Run code as where the blocked libraries are not installed; returns what it printed."""
    preamble = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {blocked!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
sys.path.insert(0, {str(Path(__file__).parent)!r})
"""
    result = subprocess.run([sys.executable, "-c", preamble + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_the_metric_runs_without_ray_and_without_a_store():
    code = """
import pullback
from toy_generators import Linear
generator, distance = Linear(), pullback.load_distance("mse", device="cpu")
metric = pullback.metric_at(generator, distance, [0.0] * 6)
print(float(metric.matrix.trace()), bool(metric.certificate.passed))
print(float(2 * generator.matrix.double().square().sum() / 192))
print("torch._dynamo" in sys.modules)
"""
    blocked = ("ray", "icechunk", "zarr", "xarray", "matplotlib", "typer")
    found, passed, wanted, compiler = in_a_fresh_process(code, *blocked)
    assert abs(float(found) / float(wanted) - 1) < 1e-6
    assert passed == "True"
    assert compiler == "False", "importing torch.compile takes a second in each process"


def test_a_registered_generator_is_looked_up_without_ray_and_without_a_store():
    code = """
import pullback
try:
    pullback.load_generator("dcgan-face", device="cpu")
except pullback.PullbackError as error:
    print("dcgan-faces" in str(error))
"""
    assert in_a_fresh_process(code, "ray", "icechunk", "zarr", "xarray") == ["True"]


def test_the_blocked_libraries_of_these_tests_are_absent():
    code = """
import importlib.util
print(importlib.util.find_spec("zarr"))
try:
    import zarr
except ModuleNotFoundError:
    print("absent")
"""
    assert in_a_fresh_process(code, "zarr") == ["None", "absent"]


def test_importing_the_package_imports_nothing_heavy():
    code = """
import pullback, pullback.cli
print(*(name for name in ("torch", "ray", "zarr", "icechunk", "xarray", "numpy", "matplotlib") if name in sys.modules))
"""
    assert in_a_fresh_process(code) == []


def test_a_name_that_does_not_exist_is_an_attribute_error():
    assert not hasattr(pullback, "load_generater")
    assert all(hasattr(pullback, name) for name in pullback.__all__)


def test_the_packages_public_names_are_listed_before_they_are_looked_up():
    code = "import pullback; print(*(name for name in dir(pullback) if not name.startswith('__')))"
    assert {*in_a_fresh_process(code), "__version__"} == {*pullback.__all__}

"""What is measured, and what is made of it; most of it in this process, on generators too small to be timed."""

import json
import mmap
import time
from pathlib import Path

import pytest
import torch
from bench_settings import SETTINGS

from pullback.bench import child as child_module
from pullback.bench import machine as machine_module
from pullback.bench import metric as metric_module
from pullback.bench.baselines import arpack_pairs
from pullback.bench.child import BATCHES, Measurements
from pullback.bench.machine import peak_memory
from pullback.bench.metric import RETURN_FREED_MEMORY, MetricBench, _Entry, _summary, bench_metric
from pullback.bench.processes import ChildError
from pullback.errors import SpecError
from pullback.generators import zoo
from pullback.metric.methods import Setting
from pullback.metric.strategy import Request, decide

TESTS = Path(__file__).parent.parent
MEGABYTE = 2**20


def measurements(generator="toy_generators:smooth", **changes):
    return Measurements(generator, **{**SETTINGS, **changes})


def runs(*seconds):
    common = {"points": 4, "method": "x", "certified": None, "certificate_share": 0.1, "residual": None}
    return [{"seconds": each, **common} for each in seconds]


# What the numbers are


def test_ratios_are_those_of_times_of_the_same_round():
    floor = _Entry({"batch": 8}, runs(1.0, 2.0, 4.0))
    entries = {"fast": _Entry({}, runs(2.0, 4.0, 12.0)), "backprop": _Entry({}, runs(20.0, 60.0, 60.0))}
    found = _summary(floor, entries)
    fast = found["methods"]["fast"]
    assert (fast["seconds"], fast["seconds_range"]) == (4.0, [2.0, 12.0])
    assert (found["floor_seconds"], found["floor_range"], found["floor_batch"]) == (2.0, [1.0, 4.0], 8)
    # by rounds 2, 2, 3 and 20, 30, 15 and 10, 15, 5
    assert found["times_floor"] == {"fast": 2.0, "backprop": 20.0}
    assert found["times_floor_range"] == {"fast": [2.0, 3.0], "backprop": [15.0, 30.0]}
    assert found["speedup_vs_backprop"] == {"fast": 10.0}
    assert found["speedup_range"] == {"fast": [5.0, 15.0]}


def test_every_problem_is_reported_before_a_process_starts(monkeypatch):
    monkeypatch.setattr(metric_module, "Child", None)  # starting one would fail otherwise
    methods = ("gaus_newton", "lanczos@bfloat61", "backprop@bfloat16", "auto@tf32", "arpack")
    bench = MetricBench("dcgan-face", distance="lpisp", methods=methods, device="cpu", points=0, tf32=True)
    with pytest.raises(SpecError) as raised:
        bench_metric(bench)
    assert len(raised.value.problems) == 9
    problems = "\n".join(raised.value.problems)
    for hint in ("dcgan-faces", "lpips", "gauss_newton", "bfloat16"):
        assert f"did you mean '{hint}'?" in problems
    assert "points: must be at least 1, not 0" in problems
    assert "components: arpack" in problems
    assert "backprop@bfloat16: " in problems


def test_a_trunk_that_a_distance_does_not_have_is_refused(monkeypatch):
    monkeypatch.setattr(metric_module, "Child", None)
    for distance, trunk in (("mse", "alex"), ("lpips", "alexx")):
        with pytest.raises(SpecError, match=r"distance\.trunk"):
            bench_metric(MetricBench(next(iter(zoo())), distance=distance, trunk=trunk, device="cpu"))


# What is measured


def test_a_run_times_all_points_of_ours_and_few_of_the_papers():
    toy = measurements(points=5)
    ours, paper = toy.run("gauss_newton", "float32"), toy.run("backprop", "float32")
    assert (ours["points"], ours["method"], ours["certified"]) == (5, "gauss_newton", True)
    assert 0 <= ours["residual"] < 1e-6
    assert (paper["points"], paper["certified"], paper["residual"]) == (2, None, None)


def test_seconds_are_those_of_one_metric_and_of_the_paper_one_slow_code_is_enough(monkeypatch):
    monkeypatch.setattr(Measurements, "_seconds", lambda self, work: (work(), 3.0)[1])
    toy = measurements(points=6)
    assert toy.run("gauss_newton", "float32")["seconds"] == 0.5
    paper = toy.run("backprop", "float32")
    assert (paper["seconds"], paper["points"]) == (3.0, 2)
    monkeypatch.setattr(child_module, "_LONG", 3.0)
    assert toy.run("backprop", "float32")["points"] == 1


def test_the_error_is_that_of_the_arithmetic():
    toy = measurements()
    bounds = {"float64": (0, 1e-12), "float32": (1e-9, 1e-5), "bfloat16": (1e-4, 0.1)}
    for precision, (low, high) in bounds.items():
        found = toy.error("gauss_newton", precision)
        assert found["error_of"] == "metric"
        assert low <= found["relative_error"] < high
    assert toy.error("backprop", "float64")["relative_error"] == 0
    assert 0 < toy.error("backprop", "float32")["relative_error"] < 1e-5


def test_the_error_of_a_method_without_a_matrix_is_that_of_its_eigenvalues():
    toy = measurements(components=2)
    found = toy.error("lanczos", "float32")
    assert found["error_of"] == "eigenvalues"
    assert found["relative_error"] < 1e-4
    toy._exact = 1.01 * toy._exact
    assert toy.error("lanczos", "float32")["relative_error"] == pytest.approx(0.01 / 1.01, rel=0.05)


def test_arpack_finds_the_pairs_that_ours_finds_and_reports_their_residual():
    toy = measurements(components=3)
    run = toy.run("arpack", "float32")
    assert (run["points"], run["method"], run["certified"]) == (2, "arpack", None)
    assert 0 < run["residual"] < 1e-5
    assert toy.error("arpack", "float32")["relative_error"] < 1e-5
    exact = torch.tensor([5.0, -3.0, 2.0, 1.0], dtype=torch.float64)
    z = torch.zeros(4, dtype=torch.float64)
    values, residual = arpack_pairs(lambda codes: (exact * codes * codes).sum(1) / 2, z, 2)
    assert values.tolist() == pytest.approx([5, 2])
    assert residual < 1e-10


def test_a_class_conditional_generator_is_measured_at_its_classes():
    toy = measurements("toy_generators:classes", points=3)
    assert toy.run("gauss_newton", "float32")["certified"]
    assert toy.error("gauss_newton", "float32")["relative_error"] < 1e-5
    assert toy.find_floor()["seconds"] > 0


def test_the_floor_is_n_passes_at_the_size_that_takes_least(monkeypatch):
    toy = measurements("toy_generators:smooth")
    toy.latent_dim = 1000
    cost = {1: 9.0, 2: 7.0, 4: 8.0, 8: 3.0, 16: 4.0, 25: 5.0, 32: 1.0}
    tried = []
    monkeypatch.setattr(toy, "_passes", lambda batch, count=1: lambda: None)
    monkeypatch.setattr(toy, "floor", lambda batch: (tried.append(batch), {"seconds": cost[batch]})[1])
    # one size that is no better is passed over, two end the search: 32 is not tried
    assert toy.find_floor() == {"batch": 8, "seconds": 3.0}
    assert tried == [1, 2, 4, 8, 16, 25]


def test_no_batch_of_the_floor_is_larger_than_n_or_than_memory(monkeypatch):
    toy = measurements()
    tried = []
    falling = iter(range(100, 0, -1))
    monkeypatch.setattr(toy, "floor", lambda batch: (tried.append(batch), {"seconds": next(falling)})[1])
    toy.find_floor()
    assert tried == [1, 2, 4]  # n = 6
    tried.clear()
    toy.latent_dim = 10_000
    monkeypatch.setattr(toy, "_passes", lambda batch, count=1: lambda: torch.ones(MEGABYTE // 4))
    monkeypatch.setattr(child_module, "usable_bytes", lambda device: 20 * MEGABYTE)
    toy.find_floor()
    assert tried == [size for size in BATCHES if size <= 20]


def test_passes_that_are_not_timed_are_counted(monkeypatch):
    toy = measurements()
    toy.latent_dim, asked = 1000, []
    monkeypatch.setattr(toy, "_passes", lambda batch, count=1: (asked.append(count), lambda: count)[1])
    monkeypatch.setattr(toy, "_seconds", lambda work: 0.5 * work())  # half a second a batch: 4 batches are enough
    assert toy.floor(25) == {"seconds": 0.5 * 1000 / 25}
    assert asked == [1, 4]
    asked.clear()
    toy.latent_dim = 30  # the second batch has 5 codes; all of them are timed
    assert toy.floor(25) == {"seconds": 1.0}
    assert asked == [1, 2]


def test_a_pass_covers_every_code_once():
    toy, seen = measurements(), []
    toy.generator.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    toy._passes(4, 2)()
    assert seen == [4, 2]


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])  # where the system records peaks, and where it does not
def test_peak_memory_sees_what_is_freed_again_and_not_what_was_there(proc, monkeypatch):
    monkeypatch.setattr(machine_module, "Path", lambda path: Path(path.replace("/proc", proc)))
    held = torch.ones(30 * MEGABYTE // 4)

    def work():
        """Fill new pages, which no allocator of this process has kept from earlier work."""
        with mmap.mmap(-1, 100 * MEGABYTE) as passing:
            for page in range(0, len(passing), 4096):
                passing[page] = 1
            time.sleep(0.5)  # within this, a thread that samples the memory gets its turn on a busy machine

    assert 99 * MEGABYTE < peak_memory(work, torch.device("cpu")) < 125 * MEGABYTE
    assert peak_memory(held.sum, torch.device("cpu")) < 20 * MEGABYTE


def test_memory_of_our_method_comes_with_what_was_predicted():
    toy = measurements()
    request = Request("gauss_newton", toy.latent_dim, 1, Setting("gauss_newton"))
    predicted = decide(toy.generator, toy.distance, request).fit.bytes
    for method, wanted in (("gauss_newton", predicted), ("backprop", None), ("lanczos", None)):
        found = toy.memory(method, "float32")
        assert found["predicted_memory_bytes"] == wanted
        assert found["peak_memory_bytes"] >= 0


# The course of a comparison


class Here:
    """In place of a process: the same measurements in this one, logged, some of them failing."""

    started, failing, course = [], {}, []

    def __init__(self, module, environment=None):
        self.settings, self.ended, self.environment = {}, False, environment
        Here.started.append(self)

    def ask(self, request, **arguments):
        assert not self.ended
        if request == "load":
            self.settings = arguments
            passed = {key: value for key, value in arguments.items() if key not in ("path", "keep_memory")}
            self.measurements = Measurements(**passed, keep_memory=False)
            return self.measurements.facts()
        Here.course.append((Here.started.index(self), request))
        if (request, arguments.get("method")) in Here.failing:
            raise ChildError(Here.failing[request, arguments.get("method")], [])
        return getattr(self.measurements, request)(**arguments)

    def end(self):
        self.ended = True


@pytest.fixture
def here(monkeypatch):
    Here.started, Here.failing, Here.course = [], {}, []
    monkeypatch.setattr(metric_module, "Child", Here)
    return Here


def compare(*methods, **changes):
    lines = []
    settings = {"distance": "mse", "device": "cpu", "rounds": 1, "points": 2, **changes}
    found = bench_metric(MetricBench("toy_generators:smooth", methods=methods, **settings), lines.append)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert all(child.ended for child in Here.started)
    return found, lines


def test_the_share_of_the_certificate_is_reported_and_a_baseline_has_none(here):
    found, _ = compare("gauss_newton", "backprop", error=False)
    assert 0 < found["methods"]["gauss_newton"]["certificate_share"] < 1
    assert found["methods"]["backprop"]["certificate_share"] == 0


def test_a_family_is_measured_in_the_space_that_is_asked_for(here):
    settings = {"distance": "mse", "device": "cpu", "rounds": 1, "points": 1, "methods": ("gauss_newton",)}
    found = bench_metric(MetricBench("bench_settings:two_spaces", space="w", error=False, **settings))
    assert (found["family"], found["space"], found["latent_dim"]) == ("two", "w", 6)
    assert found["methods"]["gauss_newton"]["certified"]
    with pytest.raises(SpecError, match="space: "):
        bench_metric(MetricBench("bench_settings:two_spaces", space="w+", error=False, **settings))


def test_methods_wait_together_and_are_timed_in_rounds_there_and_back(here):
    compare("gauss_newton", "backprop", rounds=2, error=False)
    # 0 is the floor; the memory is measured by processes of their own
    assert here.course == [
        (0, "find_floor"), (1, "warm_up"), (2, "warm_up"),
        (0, "floor"), (1, "run"), (2, "run"), (2, "run"), (1, "run"), (0, "floor"),
        (3, "memory"), (4, "memory"),
    ]  # fmt: skip


def test_only_our_methods_keep_freed_memory_and_only_while_they_are_timed(here):
    compare("gauss_newton", "backprop", "lanczos@float64", "backprop@float64")
    kept = [child.settings["keep_memory"] for child in here.started]
    assert kept == [False, True, False, True, False] + 4 * [False] + [False]


def test_only_where_memory_is_measured_the_c_library_gives_it_back(here):
    compare("gauss_newton", "backprop")
    assert [child.environment for child in here.started] == [
        None,
        None,
        None,
        RETURN_FREED_MEMORY,
        RETURN_FREED_MEMORY,
        None,
    ]


def test_every_method_has_every_key_and_the_ratios_are_those_of_the_seconds(here):
    found, lines = compare("gauss_newton", "backprop", "lanczos@float64", components=2)
    for name, entry in found["methods"].items():
        assert set(entry) == {
            "seconds", "seconds_range", "relative_error", "error_of", "peak_memory_bytes", "predicted_memory_bytes",
            "method", "points", "certified", "certificate_share",
        }  # fmt: skip
        assert found["times_floor"][name] == entry["seconds"] / found["floor_seconds"]
        assert entry["relative_error"] < 1e-4
    seconds = {name: entry["seconds"] for name, entry in found["methods"].items()}
    assert found["speedup_vs_backprop"] == {
        name: seconds["backprop"] / seconds[name] for name in ("gauss_newton", "lanczos@float64")
    }
    assert found["methods"]["lanczos@float64"]["error_of"] == "eigenvalues"
    assert "round 1 of 1: lanczos@float64" in lines


@pytest.mark.parametrize("request_that_fails", ["warm_up", "run"])
def test_a_method_that_fails_is_reported_and_the_others_go_on(here, request_that_fails):
    here.failing = {(request_that_fails, "backprop"): "its process ended with exit code 7"}
    found, lines = compare("gauss_newton", "backprop", rounds=2, error=False)
    assert found["methods"]["backprop"]["error"] == "its process ended with exit code 7"
    assert found["methods"]["backprop"]["seconds"] is None
    assert found["methods"]["gauss_newton"]["seconds"] > 0
    assert found["times_floor"].keys() == {"gauss_newton"}
    assert found["speedup_vs_backprop"] == {}
    assert lines.count("backprop failed: its process ended with exit code 7") == 1
    assert [request for _, request in here.course].count("memory") == 1


def test_with_arpack_there_are_ratios_to_it(here):
    found, _ = compare("lanczos", "arpack", components=2)
    seconds = {name: entry["seconds"] for name, entry in found["methods"].items()}
    assert found["speedup_vs_arpack"] == {"lanczos": seconds["arpack"] / seconds["lanczos"]}
    assert found["speedup_vs_backprop"] == {}
    assert [child.settings["keep_memory"] for child in here.started[:3]] == [False, True, False]


def test_images_are_resized_if_the_distance_asks_for_it(here):
    compare("gauss_newton", size=16, error=False)
    assert {child.measurements.distance.size for child in here.started} == {16}


def test_without_a_floor_the_methods_are_still_compared(here):
    here.failing = {("floor", None): "it is out of order"}
    found, _ = compare("gauss_newton", "backprop", error=False)
    assert (found["floor_seconds"], found["floor_error"]) == (None, "it is out of order")
    assert found["times_floor"] == {}
    assert found["speedup_vs_backprop"]["gauss_newton"] > 0


def test_a_memory_or_an_error_that_cannot_be_measured_costs_itself_only(here):
    here.failing = {("memory", "gauss_newton"): "no memory", ("error", "backprop"): "no error"}
    found, lines = compare("gauss_newton", "backprop")
    ours, paper = found["methods"]["gauss_newton"], found["methods"]["backprop"]
    assert (ours["peak_memory_bytes"], paper["relative_error"]) == (None, None)
    assert ours["relative_error"] < 1e-5
    assert paper["peak_memory_bytes"] >= 0
    assert "error" not in {**ours, **paper}
    assert "the memory of gauss_newton could not be measured: no memory" in lines
    assert "the error of backprop could not be measured: no error" in lines


def test_an_interrupt_ends_every_process(here, monkeypatch):
    def interrupted(self, method, precision):
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurements, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare("gauss_newton", "backprop")
    assert [child.ended for child in here.started] == [True, True, True]


def test_beyond_the_largest_n_the_error_is_the_residual_of_the_eigenpairs(monkeypatch):
    monkeypatch.setattr(metric_module, "EXACT_UP_TO", 5)
    ours = _Entry({}, [{**runs(1.0)[0], "residual": residual} for residual in (1e-8, 3e-8, 2e-8)])
    paper = _Entry({}, runs(1.0))
    metric_module._find_errors({"ours": ours, "backprop": paper}, 6, {}, print)
    assert ours.found == {"relative_error": 3e-8, "error_of": "residual"}
    assert paper.found == {"relative_error": None, "error_of": None}

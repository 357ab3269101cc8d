"""The application `search` and `pullback.search` on toys whose best image is known."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import pullback
from command_line import call
from pullback.applications.protocol import Checkpoint, Progress, Stopped, Subject
from pullback.applications.search import Options, run
from pullback.applications.searching.feasible import feasible_set
from pullback.applications.searching.objective import UnitScore, read_unit
from pullback.applications.searching.searchers import KINDS
from pullback.distances.trunks import untrained_trunk
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.errors import ArgumentError, PullbackError, SpecError
from pullback.store.reader import open_sweep
from pullback.sweep.plan import make_plan
from sweep_jobs import job
from toy_generators import Classes, Linear, Smooth

SCORES = """
import torch
calls = []
def red(images):
    return images[:, 0].mean(dim=(1, 2))
def late(images):
    calls.append(1)
    if len(calls) == 3:
        raise ValueError("no more")
    return red(images)
def nan(images):
    return red(images) * float("nan")
def wide(images):
    return images[:, 0]
def words(images):
    return "words"
def leave(images):
    raise SystemExit("gone")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    (folder / "scores_of_search.py").write_text(SCORES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_sweep(make_plan(job("toy_generators:linear", count=4)), serial_pool)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def red(images):
    return images[:, 0].mean(dim=(1, 2))


def best_red(generator, radius):
    """The largest mean of the red channel in the ball, in closed form: the generator is linear."""
    gradient = generator.matrix.detach().double().view(3, -1, generator.latent_dim)[0].mean(dim=0)
    return 0.5 + radius * float(gradient.norm())


@pytest.mark.parametrize("searcher", ["cma", "metric-cma", "sphere", "metric-sphere"])
def test_the_best_code_of_a_linear_generator_is_found(here, searcher):
    found = pullback.search("sweeps/toy", red, searcher=searcher, evaluations=1500, device="cpu")
    wanted = best_red(Linear(), 1.25 * 6**0.5)
    # clamping to [0, 1] does not bind: the images of this toy are within 0.5 ± 0.3
    assert 0.99 * (wanted - 0.5) < found.score - 0.5 <= (wanted - 0.5) * (1 + 1e-4)
    assert np.linalg.norm(found.code) <= 1.25 * 6**0.5 * (1 + 1e-6)
    assert float(red(torch.from_numpy(found.image)[None])) == pytest.approx(found.score, abs=1e-6)


def test_an_interrupted_search_goes_on_and_ends_the_same(here, tmp_path):
    given = Options(score="scores_of_search:red", evaluations=90, noise=0.2)
    subject = Subject(open_sweep("sweeps/toy"), None, "cpu")
    whole = run(subject, given, Progress(Checkpoint(tmp_path / "a")))
    calls = []
    stopping = Progress(Checkpoint(tmp_path / "b"), lambda *done: calls.append(done), lambda: len(calls) >= 4)
    with pytest.raises(Stopped):
        run(subject, given, stopping)
    again = []
    rest = run(subject, given, Progress(Checkpoint(tmp_path / "b"), lambda *done: again.append(done)))
    assert calls == [(1, 10), (2, 10), (3, 10), (4, 10)]
    assert again[0] == (5, 10)
    for name in ("best", "mean", "best_code", "best_image", "frame_image"):
        np.testing.assert_array_equal(rest[name], whole[name])


def test_the_command_shows_and_writes_what_it_found(here, tmp_path):
    options = ("--score", "scores_of_search:red", "--evaluations", "120", "--device", "cpu")
    printed = call("search", "sweeps/toy", *options, "--output", tmp_path / "out")
    assert printed.code == 0, printed.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "search-score.png",
        "search-images.png",
        "search-best.png",
        "search-code.npy",
    }
    shown = call("apply", "search", "sweeps/toy", *options, "--json")
    content = shown.json["search"]
    assert content["evaluations"][-1] <= 120
    assert content["best_score"] == pytest.approx(max(content["best"]))
    assert len(content["best_code"]) == 6


def test_a_score_that_fails_late_keeps_what_was_done(here):
    options = ("--score", "scores_of_search:late", "--evaluations", "90", "--device", "cpu")
    printed = call("search", "sweeps/toy", *options)
    assert printed.code == 1
    assert "no more" in printed.err
    assert "Traceback" not in printed.err
    again = call("search", "sweeps/toy", *options, "--json")
    assert again.code == 0
    assert again.json["search"]["generations"] == 10


@pytest.mark.parametrize("name", ["nan", "wide", "words", "leave", "missing"])
def test_a_score_that_cannot_be_used_is_one_sentence(here, name):
    printed = call("search", "sweeps/toy", "--score", f"scores_of_search:{name}", "--evaluations", "20")
    assert printed.code in (1, 2)
    assert "error:" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--unit", "alex:conv3"),
        ("--unit", "alexx:conv3:1"),
        ("--unit", "alex:conv3:1", "--score", "scores_of_search:red"),
        ("--score", "scores_of_search:red", "--evaluations", "0"),
        ("--score", "scores_of_search:red", "--evaluations", "3"),
        ("--score", "scores_of_search:red", "--searcher", "cmaes"),
        ("--score", "scores_of_search:red", "--condition", "cat"),
    ],
)
def test_wrong_options_are_one_message(here, options):
    printed = call("search", "sweeps/toy", *options)
    assert printed.code in (1, 2)
    assert "Traceback" not in printed.err


def test_a_searcher_with_a_metric_needs_a_sweep_of_this_generator(here):
    options = ("--score", "scores_of_search:red", "--searcher", "metric-cma", "--evaluations", "40")
    alone = call("search", "--generator", "toy_generators:linear", *options)
    assert alone.code == 1
    other = call("search", "sweeps/toy", "--generator", "toy_generators:smooth_of_twelve", *options)
    assert other.code == 1
    assert "12" in other.err


def test_a_generator_alone_is_enough_without_a_metric(tmp_path):
    found = pullback.search(Smooth(), red, searcher="sep-cma", evaluations=120, seed=3)
    assert found.score > 0.5
    assert "data:image/png" in found._repr_html_()
    paths = found.save(tmp_path)
    assert {path.name for path in paths} >= {"search-best.png", "search.npz"}
    with np.load(tmp_path / "search.npz") as file:
        np.testing.assert_array_equal(file["best_code"], found.code)
    assert found.figure().axes
    json.dumps(found.json, default=lambda value: value.tolist())


def test_a_metric_can_be_given_as_a_matrix():
    generator = Linear()
    matrix = (generator.matrix.T @ generator.matrix).detach().numpy()
    given = {"searcher": "metric-sphere", "evaluations": 120}
    assert pullback.search(generator, red, metric=matrix, **given).score > 0.5
    with pytest.raises(ArgumentError):
        pullback.search(generator, red, metric=np.eye(3), **given)
    with pytest.raises(ArgumentError):
        pullback.search(generator, red, unit="alex:conv1:0")
    with pytest.raises(ArgumentError):
        pullback.search(generator, red, evaluations=0)
    with pytest.raises(PullbackError):
        pullback.search(generator, red, **given)


def test_a_class_is_chosen_by_name():
    best = [
        pullback.search(Classes(), red, condition=each, evaluations=90, sphere=True).score for each in ("one", "three")
    ]
    assert best[1] - 0.5 == pytest.approx(3 * (best[0] - 0.5), rel=0.05)  # images of the third class vary three times
    with pytest.raises(SpecError):
        pullback.search(Classes(), red, evaluations=90)


def test_a_time_limit_ends_the_search_after_a_generation():
    found = pullback.search(Linear(), red, evaluations=100_000, seconds=1e-6)
    assert found.json["generations"] == 1
    assert len(found.result.cautions()) == 1


def test_the_feasible_set_of_mapped_codes_is_around_their_mean():
    class Mapped(Linear):
        z_dim = 6

        def map(self, z, condition=None):
            return 3 + 2 * z

    found = feasible_set(Mapped())
    assert found.measured
    np.testing.assert_allclose(found.centre, 3, atol=0.3)
    assert found.scale == pytest.approx(2, rel=0.1)
    inside = found.codes(found.inside(np.full((1, 6), 100.0)))
    assert np.linalg.norm(inside - found.centre) == pytest.approx(1.25 * 6**0.5 * found.scale)


def test_units_are_channels_after_the_layer():
    trunk = untrained_trunk("alex", 0)
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    fed = (2 * images - 1 - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
    with torch.no_grad():
        whole = trunk(fed)[1][:, 5]
        mean = UnitScore(trunk, read_unit("alex:conv2:5"))(images)
        centre = UnitScore(trunk, read_unit("alex:2:5", centre=True))(images)
    torch.testing.assert_close(mean, whole.mean(dim=(1, 2)))
    torch.testing.assert_close(centre, whole[:, whole.shape[1] // 2, whole.shape[2] // 2])
    for wrong in ("alex:conv6:0", "alex:conv2:192"):
        with pytest.raises(SpecError):
            UnitScore(trunk, read_unit(wrong))
    with pytest.raises(PullbackError):
        pullback.search(Linear(), unit="alex:conv1:0", evaluations=40)  # 8 × 8 pixels are too few


def test_the_commands_of_the_tutorial_run_on_a_toy(here):
    page = (Path(__file__).parents[2] / "docs/tutorials/search.md").read_text(encoding="utf-8")
    (here / "scores.py").write_text(re.search(r"```python\n(def .+?)```", page, flags=re.DOTALL)[1])
    commands = re.findall(r"^pullback search .+$", page, flags=re.MULTILINE)
    assert len(commands) == 3
    for line in commands:
        toy = line.replace("sweeps/quickstart", "sweeps/toy").replace("--unit alex:conv3:17", "--score scores:warmth")
        words = shlex.split(re.sub(r"--evaluations \d+", "--evaluations 80", toy))[1:]
        printed = call(*words, "--device", "cpu")
        assert printed.code == 0, printed.err
    listed = re.findall(r"^\| `([a-z][a-z-]*)` \|", page, flags=re.MULTILINE)
    assert set(listed) == set(KINDS)


def test_an_edited_score_is_searched_again(here):
    options = ("--score", "edited_score:value", "--evaluations", "40", "--device", "cpu", "--json")
    (here / "edited_score.py").write_text("def value(images):\n    return images.mean(dim=(1, 2, 3))\n")
    first = call("search", "sweeps/toy", *options)
    (here / "edited_score.py").write_text("def value(images):\n    return 10 + images.mean(dim=(1, 2, 3))\n")
    second = call("search", "sweeps/toy", *options)
    assert second.json["search"]["best_score"] > 9 > first.json["search"]["best_score"]

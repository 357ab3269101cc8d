"""The application `axes` on a sweep whose axes are known: one coordinate of the code has one effect on the image."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pullback
from command_line import call
from moving_blobs import BRIGHTER, REDDER, RIGHT, Blobs
from pullback.applications.results import file_identity
from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.errors import ArgumentError, PullbackError
from pullback.interchange.direction_files import read_directions
from pullback.sweep.plan import make_plan
from sweep_jobs import job

FAST = {"scored": 5, "random": 8, "draws": 50, "count": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `sweeps/toy`, a sweep of `Blobs`, and `coordinates.npy`, the directions of its effects."""
    folder = tmp_path_factory.mktemp("axes")
    np.save(folder / "coordinates.npy", np.eye(6)[:5])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_sweep(make_plan(job("moving_blobs:blobs", count=8)), serial_pool)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def walks(folder):
    """Walks along the coordinates, whose effects are known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return pullback.axes("sweeps/toy", "1-5", file="coordinates.npy", frames=5, reach=0.006, **FAST)


def mse(one, other):
    return np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)


def test_frames_are_steps_of_equal_image_distance(walks):
    asked = np.abs(walks.dataset["asked"].values)
    np.testing.assert_allclose(
        walks.distances[:, :, asked > 0], np.broadcast_to(asked[asked > 0], (5, 2, 4)), rtol=0.02
    )
    # Measured again, from the steps alone.
    codes, step = walks.dataset["latent"].values, walks.steps[RIGHT, 0, -1]
    moved = codes[0] + step * np.eye(6)[RIGHT]
    with torch.no_grad():
        images = Blobs()(torch.tensor(np.stack([codes[0], moved]), dtype=torch.float32)).numpy()
    assert np.sqrt(mse(*images)) == pytest.approx(asked[-1], rel=0.02)


def test_pictures_show_the_walk(walks):
    images, codes = walks.images, walks.dataset["latent"].values
    z = torch.tensor(codes[1] + walks.steps[BRIGHTER, 1, 4] * np.eye(6)[BRIGHTER], dtype=torch.float32)
    with torch.no_grad():
        wanted = Blobs()(z[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(images[BRIGHTER, 1, 4] / 255, wanted.clip(0, 1), atol=1 / 255)
    brightness = images[BRIGHTER, 0].mean(axis=(1, 2, 3))
    assert (np.diff(brightness) > 0).all()
    np.testing.assert_array_equal(images[0, 0, 2], images[4, 0, 2])


def test_hints_recognise_what_each_coordinate_does(walks):
    wanted = ["brighter", "shifts right", "larger", "turns clockwise", "redder"]
    for place, words in enumerate(wanted):
        others = [hint.split(" (")[0] for hint in walks.hints[place]]
        assert words in others, (words, others)
        assert not (set(wanted) - {words}) & set(others), (words, others)
    assert walks.result.json["axes"][REDDER]["effects"]["red_green"]["value"] > 0


def test_where_it_changes_is_the_derivative_of_the_image(walks):
    code, step = walks.dataset["latent"].values[:1], 1e-4
    ends = np.concatenate([code - step * np.eye(6)[RIGHT], code + step * np.eye(6)[RIGHT]])
    with torch.no_grad():
        low, high = Blobs().double()(torch.tensor(ends)).numpy()
    slope = np.sqrt(np.sum(((high - low) / (2 * step)) ** 2, axis=0))
    np.testing.assert_allclose(walks.dataset["change"].values[RIGHT, 0], slope, atol=1e-5)


def test_scores_stand_beside_random_directions(walks):
    data = walks.dataset
    # Brightness is added: the same change at every code, straight, and quadratic in D² exactly.
    assert float(data["consistency"][BRIGHTER]) == pytest.approx(1, abs=1e-3)
    assert float(data["straightness"][BRIGHTER]) == pytest.approx(1, abs=1e-3)
    assert float(data["quadratic"][BRIGHTER]) == pytest.approx(1, abs=1e-2)
    assert float(data["guessing"][BRIGHTER]) == 1
    assert float(data["consistency_random"][1]) < 1
    for name in ("consistency", "straightness", "quadratic", "guessing", "leakage", "percentile"):
        low, high = data[f"{name}_ci95"].values
        assert (low <= data[name].values + 1e-9).all(), name
        assert (data[name].values <= high + 1e-9).all(), name


def test_the_shuffled_control_has_the_same_scores_of_its_own_axes(here):
    run_sweep(make_plan(job("toy_generators:linear", count=6, name="other")), serial_pool)
    found = pullback.axes("sweeps/toy", "1-3", control="sweeps/other", **FAST)
    assert found.dataset["consistency_control"].values == pytest.approx(1, abs=1e-4)  # a linear generator
    assert "shuffled weights, mean" in [row[0] for row in found.result.tables()[1].rows]
    assert "With shuffled weights" in found.result.sentences()[-1]
    # A control that grew is another input.
    assert file_identity(found.result.options) == {"control": [pullback.open_sweep("sweeps/other").snapshot]}


def test_the_sphere_keeps_the_norm_and_fixed_steps_their_length(here):
    found = pullback.axes("sweeps/toy", "1-2", path="sphere", steps="fixed", reach=0.8, **(FAST | {"scored": 0}))
    np.testing.assert_allclose(found.steps, np.broadcast_to(np.linspace(-0.8, 0.8, 7), (2, 2, 7)))
    assert "consistency" not in found.dataset
    code, axis = found.dataset["latent"].values[0], found.vectors[0]
    norm = np.linalg.norm(code)
    across = axis - (axis @ code) * code / norm**2
    moved = np.cos(0.8 / norm) * code + np.sin(0.8 / norm) * norm * across / np.linalg.norm(across)
    assert np.linalg.norm(moved) == pytest.approx(norm)
    with torch.no_grad():
        wanted = Blobs()(torch.tensor(moved[None], dtype=torch.float32))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found.images[0, 0, -1] / 255, wanted.clip(0, 1), atol=1 / 255)


def test_own_axes_of_a_sample_and_new_codes_can_be_walked(here):
    sweep = pullback.open_sweep("sweeps/toy")
    found = pullback.axes(sweep, [1, "1-2*2"], sample=3, code_seed=5, **(FAST | {"scored": 0}))
    own = sweep.dataset()["eigenvector"].sel(sample=3).values
    np.testing.assert_allclose(found.vectors[0], own[0], atol=1e-6)
    assert (found.dataset["number"].values == -1).all()


def test_codes_of_a_file_can_be_walked(here):
    codes = pullback.open_sweep("sweeps/toy").dataset()["latent"].values[[4, 1]]
    np.save("codes.npy", np.stack([codes[0], np.full(6, np.nan), codes[1]]))  # the second picture failed
    found = pullback.axes("sweeps/toy", 1, code_file="codes.npy", **(FAST | {"scored": 0}))
    own = pullback.axes("sweeps/toy", 1, codes=[4, 1], **(FAST | {"scored": 0}))
    np.testing.assert_allclose(found.dataset["latent"].values, codes)
    np.testing.assert_array_equal(found.images, own.images)
    assert [name for name, _ in found.sheets()][:2] == ["code-1", "code-2"]
    np.save("wide.npy", np.ones((2, 7)))
    for wrong in ({"code_file": "wide.npy"}, {"code_file": "codes.npy", "codes": [1]}, {"code_file": "none.npy"},
                  {"code_file": "codes.npy", "code_seed": 1}, {"condition": 1}):  # fmt: skip
        with pytest.raises(PullbackError, match=r"Nothing was computed"):
            pullback.axes("sweeps/toy", 1, **FAST, **wrong)


def test_a_gallery_saves_every_format_and_its_directions(walks, tmp_path):
    files = walks.save(tmp_path / "pictures", ["png", "svg", "gif", "webp"])
    names = {path.name for path in files}
    assert {"code-0.png", "axis-2.svg", "axis-2.gif", "axis-5.webp", "changes.png", "directions.npz"} <= names
    with Image.open(tmp_path / "pictures" / "axis-2.gif") as gif:
        assert gif.n_frames == 8  # five frames there, three back
    read = read_directions(tmp_path / "pictures" / "directions.npz", 6)
    np.testing.assert_allclose(read.vectors, walks.vectors)
    sheet = dict(walks.sheets())["code-0"]
    whole = np.asarray(sheet.drawn())
    factor = sheet.factor
    first = walks.images[0, 0, 0].repeat(factor, axis=0).repeat(factor, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(whole[:, :, 0], first.shape[:2])
    assert (windows[:80] == first[:, :, 0]).all(axis=(2, 3)).any()


def test_a_gallery_shows_itself(walks):
    page = walks._repr_html_()
    assert page.startswith("<img")
    assert "brighter" in page
    assert walks.figure("scores").axes
    with pytest.raises(ArgumentError, match="walks, changes"):
        walks.figure("nothing")


def test_names_are_kept_beside_the_sweep_and_used(here, monkeypatch):
    first = pullback.axes("sweeps/toy", "1-2", **FAST)
    assert call("axes", "sweeps/toy", "--name", "2=bright side", "--name", "1-0.5*2=odd").code == 0
    assert "bright side" in (here / "sweeps" / "toy.axes.yaml").read_text()
    again = pullback.axes("sweeps/toy", ["bright side", "odd", 1], **FAST)
    assert again.labels == ["bright side", "odd", "axis 1"]
    np.testing.assert_allclose(again.vectors[0], first.vectors[1])
    # A result that was kept before the name was given has it now.
    assert pullback.axes("sweeps/toy", "1-2", **FAST).labels == ["axis 1", "bright side (2)"]
    (here / "sweeps" / "toy.axes.yaml").unlink()


def test_tags_choose_axes_and_ranges_say_where_a_name_holds(here):
    names = here / "sweeps" / "toy.axes.yaml"
    names.write_text(
        "axes:\n- {name: bright, axis: 2, tags: [light, face], range: [-1, 0.002]}\n"
        "- {name: odd, axis: 1-0.5*2, tags: [light]}\n"
    )
    found = pullback.axes("sweeps/toy", "tag:light", frames=5, reach=0.006, **(FAST | {"scored": 0}))
    assert found.labels == ["bright", "odd"]
    (row, other) = found.result.tables()[0].rows
    assert (row[-2:], other[-2:]) == (["−1 – 0.002", "light, face"], ["–", "light"])
    sheet = dict(found.sheets())["code-0"]
    assert [text.startswith("(") for text in sheet.under[0]] == [False, False, False, True, True]
    assert not any(text.startswith("(") for text in sheet.under[1])
    assert found.result.json["axes"][0]["named_range"] == [-1, 0.002]
    with np.load(found.export(here / "tagged.npz")) as file:
        assert file["tags"].tolist() == ["light, face", "light"]
        np.testing.assert_array_equal(file["ranges"], [[-1, 0.002], [np.nan, np.nan]])
    wrong = call("axes", "sweeps/toy", "--axis", "tag:mouth")
    assert (wrong.code, "light, face" in wrong.err) == (1, True)

    edits = json.loads(exported(here, "edits.json", "--axis", "tag:light").read_text())
    assert [each["name"] for each in edits] == ["bright", "odd"]
    rate, deviation = edits[0]["rate"], edits[0]["lat_stdev"]
    assert edits[0]["sigma_range"] == pytest.approx(np.sqrt(2 / rate) / deviation)
    assert edits[0]["decomposition"]["components"] == 2
    again = pullback.axes("sweeps/toy", ["odd", 1], file="edits.json", **(FAST | {"scored": 0}))
    assert again.labels == ["odd", "bright (1)"]
    np.testing.assert_allclose(again.vectors, found.vectors[::-1], atol=1e-6)
    boundary = np.load(exported(here, "bright.npy", "--axis", "bright"))  # as InterFaceGAN has it
    np.testing.assert_allclose(boundary, found.vectors[:1])
    names.unlink()


def exported(here, name, *options):
    done = call("axes", "sweeps/toy", *options, "--export", name)
    assert done.code == 0, done.err
    return here / name


def test_mp4_gets_every_frame_with_even_sides(walks, here, tmp_path, monkeypatch):
    """Frames go to the program as raw pixels; without one the error says what to do."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PullbackError, match=r"axis-1\.mp4 was not written: MP4 needs .*ffmpeg.* choose gif or webp"):
        walks.save(tmp_path / "none", ["mp4"])
    refused = call("axes", "sweeps/toy", "--format", "mp4")
    assert (refused.code, "choose gif or webp" in " ".join(refused.err.split())) == (2, True)

    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" >> "$0.calls"\ncat > "$last"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{path}")
    files = [each for each in walks.save(tmp_path / "made", ["mp4"]) if each.suffix == ".mp4"]
    calls = (tmp_path / "ffmpeg.calls").read_text().splitlines()
    assert len(files) == len(calls) == 5
    sheets = dict(walks.animations())
    for file, line in zip(files, calls, strict=True):
        width, height = (side - side % 2 for side in sheets[file.stem][0].drawn().size)
        assert f"-s {width}x{height} " in line
        assert file.stat().st_size == 8 * width * height * 3  # five frames there, three back
    program.write_text("#!/bin/sh\necho no codec >&2\nexit 1\n")
    with pytest.raises(PullbackError, match=r"ffmpeg failed \(no codec\)"):
        walks.save(tmp_path / "failed", ["mp4"])


def test_the_command_prints_and_writes(here):
    fast = ["--scored", 3, "--random", 3, "--draws", 20, "--count", 1]
    done = call("axes", "sweeps/toy", "--axis", "1", "--axis", "2*1-0.5*3", *fast, "--output", "seen")
    assert (done.code, "2*1-0.5*3" in done.out) == (0, True)
    assert (here / "seen" / "code-0.png").exists()
    content = json.loads(call("axes", "sweeps/toy", "--axis", "1", "--axis", "2*1-0.5*3", *fast, "--json").out)
    assert [each["label"] for each in content["axes"]] == ["axis 1", "2*1-0.5*3"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--axis", "99"], 1),
        (["--axis", "smile"], 1),
        (["--frames", "0"], 2),
        (["--reach", "0"], 2),
        (["--codes", "[77]"], 1),
        (["--sample", "77"], 1),
        (["--block", "noise"], 1),
        (["--file", "wrong.npy"], 1),
        (["--file", "missing.npy"], 1),
        (["--format", "bmp"], 2),
        (["--name", "99=smile"], 1),
        (["--name", "smile"], 1),
        (["--name", "1=7up"], 1),
        (["--path", "curved"], 2),
        (["--with", "sweeps/twelve"], 1),
        (["--with", "sweeps/none"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_a_sentence(here, arguments, code):
    np.save("wrong.npy", np.eye(7))
    if arguments[-1] == "sweeps/twelve":
        run_sweep(make_plan(job("toy_generators:smooth_of_twelve", count=2, name="twelve")), serial_pool)
    printed = call("axes", "sweeps/toy", *arguments, "--scored", "2", "--random", "0", "--draws", "5")
    assert printed.code == code, printed.err
    assert "error" in printed.err
    assert "Traceback" not in printed.err


def test_an_interrupted_walk_goes_on_where_it_stopped(here, tmp_path, monkeypatch):
    from pullback.applications import axes as application
    from pullback.applications.protocol import Checkpoint, Progress, Stopped, Subject
    from pullback.applications.walking import records

    monkeypatch.setattr(records, "_SECONDS", 0.0)
    given = application.Options(axis=("1-3",), scored=2, random=1, draws=5, count=1)
    subject, checkpoint = Subject(pullback.open_sweep("sweeps/toy")), Checkpoint(tmp_path / "state")
    whole = application.run(subject, given, Progress(Checkpoint(tmp_path / "other")))
    reports = []
    with pytest.raises(Stopped):
        application.run(
            subject, given, Progress(checkpoint, lambda *done: reports.append(done), lambda: len(reports) == 5)
        )
    walked, responded = [], []
    true_walk, true_of = application.walk, application.Responses.of
    monkeypatch.setattr(application, "walk", lambda *all_: (walked.append(1), true_walk(*all_))[1])
    monkeypatch.setattr(application.Responses, "of", lambda *all_: (responded.append(1), true_of(*all_))[1])
    resumed = application.run(subject, given, Progress(checkpoint))
    assert (len(walked), len(responded)) == (0, 2)
    assert resumed.identical(whole)


def test_exported_axes_carry_their_names(here):
    assert call("axes", "sweeps/toy", "--name", "2=bright").code == 0
    assert call("export", "sweeps/toy", "named.npz").code == 0
    assert np.load("named.npz")["names"].tolist() == ["", "bright", "", "", "", ""]
    (here / "sweeps" / "toy.axes.yaml").write_text("axes:\n- {name: bright, axis: 2}\n- {name: bright, axis: 3}\n")
    refused = call("axes", "sweeps/toy")
    assert (refused.code, "given twice" in refused.err) == (1, True)
    (here / "sweeps" / "toy.axes.yaml").unlink()


def test_the_sweep_of_another_generator_is_refused(here, monkeypatch):
    import moving_blobs

    monkeypatch.setattr(moving_blobs, "blobs", lambda: Blobs(size=20))
    with pytest.raises(PullbackError, match="other inputs"):
        pullback.axes("sweeps/toy", "4", **FAST)

"""The application inversion: pictures of any kind, starts, results, and bad input."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pullback
from pullback.applications import inversion
from pullback.applications.inverting import library_cache, several
from pullback.applications.inverting.assembly import make_inverter
from pullback.applications.inverting.hybrid import ranked
from pullback.applications.inverting.inverter import Inverter
from pullback.applications.inverting.library_cache import StoredCodes
from pullback.applications.inverting.pictures import PictureError, files_in, of_array, read_picture
from pullback.applications.inverting.starts import Library
from pullback.applications.protocol import Checkpoint, Progress, Stopped, Subject
from pullback.errors import PullbackError, SpecError
from toy_generators import Classes, Smooth

N = 5
QUICK = {"distance": "mse", "samples": 60, "held_out": False, "budget": 2000.0}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def smooth():
    return Smooth(N)


@pytest.fixture(scope="module")
def own(smooth):
    """Four codes that the library of starts does not hold, and their images [4, 3, 8, 8]."""
    codes = torch.randn(4, N, generator=torch.Generator().manual_seed(7))
    return codes, smooth(codes).detach()


@pytest.fixture(scope="module")
def found(smooth, own):
    return pullback.invert(own[1], smooth, **QUICK)


def test_the_codes_of_own_samples_come_back(found, own):
    np.testing.assert_allclose(found.codes, own[0], atol=1e-3)
    assert (found.distances < 1e-8).all()
    data = found.result.dataset
    assert (data["mse"].values < 1e-8).all()
    np.testing.assert_allclose(data["norm"], own[0].norm(dim=1), rtol=0.4)
    wanted = np.round(own[1].permute(0, 2, 3, 1).numpy() * 255)
    assert np.abs(found.reconstructions.astype(float) - wanted).max() <= 1
    assert np.abs(data["target"].values.astype(float) - wanted).max() <= 1


def test_the_cost_and_the_trace_of_each_picture_are_reported(found):
    data = found.result.dataset
    work = data["forwards"] + 3 * data["gradients"] + data["columns"]
    assert (work <= 2000 + 400).all()
    assert (data["columns"] % N == 0).all()
    for trace in data["trace"].values:
        known = trace[np.isfinite(trace[:, 0])]
        assert (np.diff(known[:, 0]) >= 0).all()
        assert (np.diff(known[:, 2]) <= 0).all()
    table = inversion.summary(found.result)
    assert len(table.rows) == 4
    assert [len(row) for row in table.rows] == [len(table.columns)] * 4
    assert "4 of 4" in inversion.sentences(found.result)[0]


def test_a_result_shows_and_saves_itself(found, tmp_path):
    shown = found._repr_html_()
    assert "<img" in shown
    assert shown.count("<tr>") == 5
    files = {path.name for path in found.save(tmp_path / "new")}
    assert "codes.npy" in files
    assert len([name for name in files if name.endswith("reconstruction.png")]) == 4
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "codes.npy"), found.codes)
    with Image.open(tmp_path / "new" / "image_0.reconstruction.png") as image:
        np.testing.assert_array_equal(np.asarray(image), found.reconstructions[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(PullbackError):
        found.save(tmp_path / "file")


def test_a_class_is_found_or_taken_as_given():
    generator = Classes(N)
    codes = 0.3 * torch.randn(3, N, generator=torch.Generator().manual_seed(8))  # so that no pixel leaves [0, 1]
    images = generator(codes, torch.tensor([0, 1, 2])).detach()
    unknown = pullback.invert(images, generator, prior=0.0, **QUICK)
    assert (unknown.distances < 1e-8).all()
    given = pullback.invert(images[1:2], generator, condition="two", prior=0.0, **QUICK)
    assert given.result.dataset["condition"].values.tolist() == [1]
    np.testing.assert_allclose(given.codes[0], codes[1], atol=1e-3)
    with pytest.raises(SpecError):
        pullback.invert(images, generator, condition="four", **QUICK)


def test_a_mask_leaves_out_what_is_masked(smooth, own, tmp_path):
    image = own[1][:1].clone()
    image[:, :, :4] = 1.0
    np.save(tmp_path / "mask.npy", np.repeat([0.0, 1.0], 4)[:, None] * np.ones(8))
    for mask in (str(tmp_path / "mask.npy"), (0.5, 0.0, 1.0, 1.0)):
        masked = pullback.invert(image, smooth, mask=mask, **QUICK)
        np.testing.assert_allclose(masked.codes[0], own[0][0], atol=1e-2)


def test_the_prior_holds_the_norm_of_codes_of_foreign_pictures(smooth):
    foreign = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    norms = [
        float(pullback.invert(foreign, smooth, prior=prior, **QUICK).result.dataset["norm"][0])
        for prior in (0.0, 0.1, 10)
    ]
    assert norms[0] > norms[1] > norms[2]


@pytest.mark.parametrize(
    ("mode", "note"), [("RGB", ""), ("L", ""), ("P", ""), ("RGBA", "white"), ("I;16", ""), ("1", ""), ("CMYK", "")]
)
def test_pictures_of_every_mode_are_read(mode, note, tmp_path):
    pixels = np.full((8, 8), 128, dtype=np.uint8)
    image = (
        Image.fromarray(np.full((8, 8), 32768, np.uint16)) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    )
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.full((8, 8), 51, dtype=np.uint8)))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    image.save(path)
    read = read_picture(path, 8, 8)
    assert read.image.shape == (3, 8, 8)
    assert note in read.note
    expected = 0.2 * 0.502 + 0.8 if mode == "RGBA" else 0.5
    if mode != "1":
        torch.testing.assert_close(read.image, torch.full((3, 8, 8), expected), atol=0.01, rtol=0)


def test_a_picture_is_turned_cropped_at_its_centre_and_resized(tmp_path):
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, 10:30] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # stored a quarter turn to the left
    image.save(tmp_path / "turned.png", exif=exif)
    read = read_picture(tmp_path / "turned.png", 8, 8)
    assert read.note == "turned upright, cropped to 20 × 20, resized to 8 × 8"
    torch.testing.assert_close(read.image, torch.ones(3, 8, 8))
    small = of_array(np.ones((1, 1, 3)), 8, 8, "one pixel")
    assert small.note == "resized to 8 × 8"
    assert of_array(np.zeros((3, 8, 8)), 8, 8, "same").note == ""


@pytest.mark.parametrize(
    "values",
    [
        np.full((8, 8, 3), np.nan),
        np.full((8, 8, 3), 7.0),
        np.zeros((2, 8, 8)),
        np.zeros((8,)),
        np.zeros((0, 8, 3)),
        np.array([["a"]]),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(values):
    with pytest.raises(PictureError):
        of_array(values, 8, 8, "it")


def run(generator, folder, images, stopped=lambda: False, report=lambda done, total: None, **options):
    subject = Subject(None, None, "cpu")
    subject.__dict__["generator"] = generator
    given = inversion.Options(images=tuple(map(str, images)), **{**QUICK, **options})
    return inversion.run(subject, given, Progress(Checkpoint(Path(folder)), report, stopped))


@pytest.fixture(scope="module")
def pictures(own, tmp_path_factory):
    """A folder with three pictures, a file that is none, and notes."""
    folder = tmp_path_factory.mktemp("pictures")
    for row, image in enumerate(own[1][:3]):
        np.save(folder / f"{row}.npy", image.numpy())
    (folder / "1b.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("")
    return folder


def test_without_a_single_picture_that_can_be_read_nothing_is_computed(smooth, pictures, tmp_path):
    with pytest.raises(PullbackError, match=r"1b\.png"):
        run(smooth, tmp_path, [pictures / "1b.png"])
    assert not [*tmp_path.iterdir()]


def test_a_broken_picture_is_one_sentence_and_the_others_go_on(smooth, pictures, own, tmp_path):
    dataset = run(smooth, tmp_path, [pictures])
    printed = json.loads(dataset.attrs["scalars"])
    assert [bool(problem) for problem in printed["problems"]] == [False, False, True, False]
    np.testing.assert_allclose(dataset["code"].values[[0, 1, 3]], own[0][:3], atol=1e-3)
    assert np.isnan(dataset["code"].values[2]).all()


def test_several_workers_give_what_one_gives(smooth, pictures, tmp_path, monkeypatch):
    """Threads take the place of processes here."""

    @contextmanager
    def threads(subject, start, given):
        start("cpu", *given)
        with ThreadPoolExecutor(1) as pool:
            yield pool

    def inverter_of(subject, given):
        return make_inverter(smooth, pullback.load_distance("mse", device="cpu"), given, None)

    one = run(smooth, tmp_path / "one", [pictures], random=0, budget=300.0)
    monkeypatch.setattr(several, "process_count", lambda subject: 2)
    monkeypatch.setattr(several, "worker_processes", threads)
    monkeypatch.setattr(several, "inverter_of", inverter_of)
    two = run(smooth, tmp_path / "two", [pictures], random=0, budget=300.0)
    for name in ("code", "distance", "gradients"):
        np.testing.assert_array_equal(one[name], two[name])
    calls = []
    monkeypatch.setattr(several, "_ASKED_EVERY", 0.001)
    with pytest.raises(Stopped):
        run(
            smooth,
            tmp_path / "stopped",
            [pictures],
            random=0,
            budget=300.0,
            stopped=lambda: calls.append(0) or len(calls) > 2,
        )
    assert several._inverters[0][1].is_set()


def test_an_interrupted_run_goes_on_and_gives_the_same(smooth, pictures, tmp_path):
    whole = run(smooth, tmp_path / "whole", [pictures], random=1)
    calls = []
    with pytest.raises(Stopped):
        run(smooth, tmp_path / "cut", [pictures], lambda: len(calls) > 2, lambda *each: calls.append(each), random=1)
    state = Checkpoint(tmp_path / "cut").load()
    assert 0 < len(state["done"]) < 3
    resumed = run(smooth, tmp_path / "cut", [pictures], random=1)
    np.testing.assert_array_equal(resumed["code"], whole["code"])
    np.testing.assert_array_equal(resumed["columns"], whole["columns"])


def test_pictures_together_are_as_good_as_one_by_one(smooth, pictures, own, tmp_path):
    dataset = run(smooth, tmp_path, [pictures], together=3)
    np.testing.assert_allclose(dataset["code"].values[[0, 1, 3]], own[0][:3], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"budget": 0.0}, "budget"),
        ({"budget": float("nan")}, "budget"),
        ({"seconds": -1.0}, "seconds"),
        ({"solver": "magic"}, "solver"),
        ({"distance": "ssim"}, "distance"),
        ({"condition": 3}, "condition"),
        ({"colour": 3}, "colour"),
    ],
)
def test_options_that_cannot_work_are_refused(smooth, own, options, path):
    with pytest.raises(SpecError) as refused:
        pullback.invert(own[1], smooth, **{**QUICK, **options})
    assert path in str(refused.value)


def test_paths_without_pictures_are_refused(tmp_path):
    with pytest.raises(PullbackError):
        files_in([tmp_path])
    with pytest.raises(PullbackError):
        files_in([tmp_path / "missing.png"])
    with pytest.raises(SpecError):
        pullback.invert([], Smooth(N))


def test_a_metric_of_other_codes_is_refused(smooth):
    with pytest.raises(SpecError):
        Inverter(smooth, pullback.load_distance("mse"), mean_metric=torch.eye(N + 1))


@pytest.mark.parametrize("solver", ["lbfgs_metric", "adam_basis"])
def test_solvers_with_a_metric_work_without_a_sweep(smooth, own, solver):
    found = pullback.invert(own[1][:1], smooth, solver=solver, prior=0.0, **QUICK)
    assert float(found.distances[0]) < 1e-3


def test_the_regression_finds_codes_of_nearly_linear_images(smooth, own):
    library = Library.drawn(smooth, 200, 0)
    codes = library.ridge(own[1], None)
    errors = (codes - own[0]).norm(dim=1) / own[0].norm(dim=1)
    assert (errors < 0.6).all()


def test_nearest_samples_are_those_of_the_smallest_distance(smooth, own):
    inverter = Inverter(smooth, pullback.load_distance("mse"), samples=60)
    objective, library = inverter.objective(own[1]), inverter.library
    found = library.nearest(objective, 1, 3, None)
    images = smooth(library.codes.float())
    away = (images - own[1][1]).square().mean(dim=(1, 2, 3)).argsort()[:3]
    assert found.tolist() == away.tolist()


def test_a_kept_library_is_used_only_for_its_own_generator(own, monkeypatch):
    first = library_cache.library_of(Smooth(N, seed=3), 40, 5)
    again = library_cache.library_of(Smooth(N, seed=3), 40, 5)
    torch.testing.assert_close(again.pooled, first.pooled, atol=0, rtol=0)
    other = library_cache.library_of(Smooth(N, seed=4), 40, 5)
    assert not torch.allclose(other.pooled, first.pooled)


def test_codes_of_a_sweep_are_starts_but_have_no_part_in_the_regression(smooth, own):
    stored = StoredCodes(own[0].double(), None)
    plain = Inverter(smooth, pullback.load_distance("mse"), samples=40)
    inverter = replace(plain, stored=stored)
    library = inverter.library
    assert library.nearest(inverter.objective(own[1]), 2, 1, None).tolist() == [42]
    for name in ("weights", "centre", "scale"):
        torch.testing.assert_close(getattr(library, name), getattr(plain.library, name), atol=0, rtol=0)
    torch.testing.assert_close(replace(plain, stored=stored).library.pooled, library.pooled, atol=0, rtol=0)


def test_rows_are_ranked_by_target():
    order = ranked(torch.tensor([3.0, 1.0, torch.nan, 2.0, 0.5]), torch.tensor([0, 0, 1, 0, 1]))
    assert order.tolist() == [[1, 4], [3, 2], [0, -1]]

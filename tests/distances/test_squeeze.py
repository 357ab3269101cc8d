"""LPIPS-squeeze: the whole of it against a plain one, and how its trunk, which no package holds, is supplied."""

import hashlib

import pytest
import torch
from plain_lpips import LAYERS, lpips
from typer.testing import CliRunner

from pullback.cli import app
from pullback.distances import load_distance
from pullback.distances import lpips as lpips_module
from pullback.errors import WeightsError
from pullback.weights import fetching
from pullback.weights import manifest as weights
from pullback.weights.manifest import manifest

CHANNELS = [64, 128, 256, 384, 384, 512, 512]
FILE = "squeezenet1_1-b8a52dc0.pth"


def random_convolutions():
    stream = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(out, into, kernel, kernel, generator=stream) * (2 / (into * kernel**2)) ** 0.5,
            0.1 * torch.randn(out, generator=stream),
        )
        for into, out, kernel in LAYERS["squeeze"].values()
    ]


def save_trunk(path, convolutions):
    """As torchvision saves SqueezeNet 1.1: its convolutions in order, and a classifier that LPIPS has no use for."""
    state = {}
    for key, (kernel, bias) in zip(LAYERS["squeeze"], convolutions, strict=True):
        state[f"{key}.weight"], state[f"{key}.bias"] = kernel, bias
    state["classifier.1.weight"], state["classifier.1.bias"] = torch.zeros(1000, 512, 1, 1), torch.zeros(1000)
    torch.save(state, path)


def save_heads(path, heads):
    torch.save({f"lin{i}.model.1.weight": head.view(1, -1, 1, 1) for i, head in enumerate(heads)}, path)


@pytest.fixture
def supplied(tmp_path, monkeypatch):
    """A random trunk and random heads in the real files' formats, in place of the real files."""
    convolutions = random_convolutions()
    stream = torch.Generator().manual_seed(1)
    heads = [torch.rand(width, generator=stream) for width in CHANNELS]
    paths = {"trunk-squeeze": tmp_path / FILE, "heads-squeeze": tmp_path / "heads.pth"}
    save_trunk(paths["trunk-squeeze"], convolutions)
    save_heads(paths["heads-squeeze"], heads)
    monkeypatch.setattr(lpips_module, "locate", lambda name: (paths[name], f"hash of {name}"))
    return convolutions, heads


def some_images(seed, size=48):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("input_range", ["standard", "paper"])
@pytest.mark.parametrize("size", [17, 48])
def test_lpips_squeeze_is_the_definition(supplied, input_range, size):
    distance = load_distance("lpips", trunk="squeeze", input_range=input_range, device="cpu")
    x, y = some_images(1, size), some_images(2, size)
    plain = lpips("squeeze", *supplied, x, y, input_range)
    assert float(plain.min()) > 0.05
    assert torch.allclose(distance(x, y), plain, rtol=1e-4)


def test_lpips_squeeze_states_its_name_its_weights_and_its_channels(supplied):
    distance = load_distance("lpips", trunk="squeeze", device="cpu")
    assert distance.name == "lpips-squeeze"
    assert distance.weights == {name: f"hash of {name}" for name in ("trunk-squeeze", "heads-squeeze")}
    assert distance.trunk.channels == CHANNELS
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_images_too_small_for_squeezenet_are_refused(supplied):
    distance = load_distance("lpips", trunk="squeeze", device="cpu")
    with pytest.raises(ValueError, match="16 × 16 are too small for lpips-squeeze, which needs 17"):
        distance(some_images(1, 16), some_images(2, 16))


def test_forward_mode_goes_through_every_layer_of_squeezenet(supplied):
    distance = load_distance("lpips", trunk="squeeze", device="cpu").double()
    x, direction = some_images(1, 33).double(), some_images(2, 33).double() - 0.5
    tangents = torch.stack([direction, -direction])
    pushed = torch.func.vmap(lambda t: torch.func.jvp(distance.residual, (x,), (t,))[1])(tangents)
    step = 1e-7
    difference = (distance.residual(x + step * direction) - distance.residual(x - step * direction)) / (2 * step)
    assert torch.allclose(pushed[0], -pushed[1])
    assert float((pushed[0] - difference).norm() / difference.norm()) < 1e-4


def test_black_images_have_finite_derivatives(supplied):
    distance = load_distance("lpips", trunk="squeeze", device="cpu")
    _, tangent = torch.func.jvp(distance.residual, (torch.zeros(1, 3, 32, 32),), (torch.ones(1, 3, 32, 32),))
    assert bool(tangent.isfinite().all())


@pytest.mark.weights
def test_the_calibrated_heads_fit_the_trunk(tmp_path, monkeypatch):
    if weights.find("heads-squeeze") is None:
        pytest.skip("no network: heads-squeeze could not be fetched here (pullback weights fetch)")
    save_trunk(tmp_path / FILE, random_convolutions())
    true = weights.locate
    monkeypatch.setattr(
        lpips_module, "locate", lambda name: (tmp_path / FILE, "0") if name == "trunk-squeeze" else true(name)
    )
    distance = load_distance("lpips", trunk="squeeze", device="cpu")
    assert [len(distance.get_buffer(f"head_{layer}")) for layer in range(7)] == CHANNELS
    assert bool((distance(some_images(1), some_images(2)) > 0).all())


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without any weights."""
    for variable in ("PULLBACK_WEIGHTS", "PULLBACK_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return tmp_path


def test_a_missing_trunk_is_reported_with_the_two_ways_to_supply_it(nowhere):
    with pytest.raises(WeightsError) as caught:
        load_distance("lpips", trunk="squeeze", device="cpu")
    message = str(caught.value)
    _, _, what_to_do = message.partition("What to do: ")
    assert FILE in what_to_do
    assert "set PULLBACK_WEIGHTS to that folder" in what_to_do
    assert f"torch hub's cache, {nowhere / 'TORCH_HOME' / 'hub' / 'checkpoints'}," in what_to_do
    assert "b8a52dc0" in what_to_do
    assert "fetch" not in message
    assert "pip" not in message


@pytest.mark.parametrize("place", ["PULLBACK_WEIGHTS", "TORCH_HOME/hub/checkpoints"])
def test_each_of_the_two_ways_is_looked_at_and_another_file_refused(nowhere, place):
    folder = nowhere / place
    folder.mkdir(parents=True)
    save_trunk(folder / FILE, random_convolutions())
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    with pytest.raises(WeightsError) as caught:
        load_distance("lpips", trunk="squeeze", device="cpu")
    assert f"{FILE} is damaged or another file: its SHA-256 is {digest}" in str(caught.value)
    assert f"Remove it and supply the file {FILE} yourself" in str(caught.value)
    assert "weights fetch" not in str(caught.value)


def test_fetching_it_by_name_says_how_to_supply_it(nowhere):
    with pytest.raises(WeightsError, match=rf"'trunk-squeeze' cannot be fetched: supply the file {FILE} yourself"):
        fetching.fetch(["trunk-squeeze"])


def test_fetching_it_by_name_reports_the_damaged_file_that_is_there(nowhere):
    (nowhere / "PULLBACK_WEIGHTS").mkdir()
    (nowhere / "PULLBACK_WEIGHTS" / FILE).write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=f"cannot be fetched: the weight file .*{FILE} is damaged"):
        fetching.fetch(["trunk-squeeze"])


@pytest.fixture
def only_the_trunk(nowhere, monkeypatch):
    """A manifest of the trunk alone, so that fetching everything fetches nothing."""
    alone = {"trunk-squeeze": manifest()["trunk-squeeze"]}
    for module in (weights, fetching):
        monkeypatch.setattr(module, "manifest", lambda: alone)
    return nowhere


@pytest.mark.parametrize("damaged", [False, True])
def test_fetching_everything_leaves_it_out_with_a_line(only_the_trunk, damaged):
    if damaged:
        (only_the_trunk / "PULLBACK_WEIGHTS").mkdir()
        (only_the_trunk / "PULLBACK_WEIGHTS" / FILE).write_bytes(b"damaged")
    lines = []
    assert fetching.fetch(report=lines.append) == {}
    (line,) = lines
    assert line.startswith("trunk-squeeze: left out; ")
    assert ("is damaged" in line) == damaged
    assert f"supply the file {FILE} yourself" in line
    assert "\n" not in line


def test_fetching_everything_succeeds_without_it_and_the_list_still_has_it(only_the_trunk):
    done = CliRunner().invoke(app, ["weights", "fetch"])
    assert done.exit_code == 0
    assert "trunk-squeeze: left out" in done.output
    listed = CliRunner().invoke(app, ["weights", "list", "--json"])
    assert '"trunk-squeeze"' in listed.output
    assert '"path": null' in listed.output


def test_the_manifest_holds_torchvisions_file_and_the_heads_of_the_lpips_package():
    trunk, heads = manifest()["trunk-squeeze"], manifest()["heads-squeeze"]
    assert [(v.file, v.sha256, v.hub, v.package) for v in trunk.variants] == [(FILE, "b8a52dc0", True, None)]
    assert heads.fetchable.member == "lpips/weights/v0.1/squeeze.pth"
    assert heads.fetchable.archive_sha256 == manifest()["heads-alex"].fetchable.archive_sha256

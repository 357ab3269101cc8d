"""DCGANs are rebuilt from their checkpoints' shapes, and give the images that their authors' code gives."""

import re

import pytest
import torch
from family_checks import assert_fast_and_exact
from safetensors.torch import save_file
from torch import nn

from dcgan_files import EYES_CLASSES, EYES_WIDTHS, FACES_WIDTHS, network, save_eyes, save_faces, state_dict_of
from pullback import load_generator
from pullback.errors import WeightsError
from pullback.generators.attributes import loading_notes
from pullback.generators.checkpoint import load_checkpoint
from pullback.weights.checkpoints import read_checkpoint
from pullback.weights.manifest import locate
from pullback.weights.networks import networks_in


def codes(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_a_plain_checkpoint_gives_its_network(tmp_path):
    main = save_faces(tmp_path / "faces.tar")
    generator = load_checkpoint(tmp_path / "faces.tar")
    z = codes(4, FACES_WIDTHS[0])
    assert generator.latent_dim == FACES_WIDTHS[0]
    assert generator.classes == ()
    assert generator(z).shape == (4, 3, 64, 64)
    assert torch.allclose(generator(z), (main(z[:, :, None, None]) + 1) / 2, atol=1e-6)


def test_a_class_conditional_checkpoint_with_a_gap_gives_its_network(tmp_path):
    main = save_eyes(tmp_path / "eyes.pth")
    generator = load_checkpoint(tmp_path / "eyes.pth", options={"classes": EYES_CLASSES})
    z = codes(3, EYES_WIDTHS[0] - 3)
    one_hot = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    expected = (main(torch.cat([z, one_hot], dim=1)[:, :, None, None]) + 1) / 2
    assert generator.latent_dim == EYES_WIDTHS[0] - 3
    assert generator.classes == EYES_CLASSES
    assert expected.shape == (3, 3, 128, 128)
    assert torch.allclose(generator(z, torch.tensor([2, 0, 1])), expected, atol=1e-6)


def test_norm_statistics_decide_the_image(tmp_path):
    # in training mode the batch's own statistics would
    main = save_faces(tmp_path / "faces.tar")
    generator = load_checkpoint(tmp_path / "faces.tar")
    z = codes(4, FACES_WIDTHS[0])
    assert not torch.allclose(generator(z), (main.train()(z[:, :, None, None]) + 1) / 2, atol=1e-2)


def test_one_class_may_stand_for_a_whole_batch(tmp_path):
    save_eyes(tmp_path / "eyes.pth")
    generator = load_checkpoint(tmp_path / "eyes.pth", options={"classes": EYES_CLASSES})
    z = codes(3, generator.latent_dim)
    assert torch.equal(generator(z, torch.tensor([1])), generator(z, torch.tensor([1, 1, 1])))


def test_a_class_conditional_generator_needs_its_classes(tmp_path):
    save_eyes(tmp_path / "eyes.pth")
    generator = load_checkpoint(tmp_path / "eyes.pth", options={"classes": EYES_CLASSES})
    with pytest.raises(ValueError, match="is class-conditional: give each code a class index"):
        generator(codes(2, generator.latent_dim))


def test_a_generator_is_in_evaluation_mode_and_frozen(tmp_path):
    save_faces(tmp_path / "faces.tar")
    generator = load_checkpoint(tmp_path / "faces.tar")
    assert not any(module.training for module in generator.modules())
    assert not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize("change", ["module.", "safetensors", "nested", "no num_batches_tracked", "half"])
def test_the_same_weights_saved_otherwise_give_the_same_images(tmp_path, change):
    main = save_faces(tmp_path / "faces.tar")
    expected = load_checkpoint(tmp_path / "faces.tar")(codes(2, FACES_WIDTHS[0]))
    state, path, tolerance = state_dict_of(main), tmp_path / "other.pth", 0.0
    if change == "module.":
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    elif change == "nested":
        state = {"epoch": 3, "generator": state}
    elif change == "no num_batches_tracked":  # as torch before 0.4.1 saved it
        state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    elif change == "half":
        state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
        tolerance = 1e-2
    if change == "safetensors":
        path = tmp_path / "other.safetensors"
        save_file(state, path)
    else:
        torch.save(state, path)
    images = load_checkpoint(path)(codes(2, FACES_WIDTHS[0]))
    assert images.dtype == torch.float32
    assert torch.allclose(images, expected, atol=tolerance, rtol=0)


def altered(key, value):
    """The plain state with one tensor replaced, or removed where the value is None."""
    state = state_dict_of(network(FACES_WIDTHS))
    if value is None:
        del state[key]
    else:
        state[key] = value
    return state


WRONG = {
    "another key": (altered("main.0.scale", torch.zeros(1)), "is of no known family"),
    "a key of another part": (altered("head.weight", torch.zeros(1)), "is of no known family"),
    "a kernel of 3 × 3": (altered("main.3.weight", torch.zeros(8, 7, 3, 3)), "not 4 × 4 in sequence"),
    "a linear first layer": ({"main.0.weight": torch.zeros(5, 8)}, r"its kernels are \[\]"),
    "a vector alone": ({"main.0.weight": torch.zeros(5)}, r"its kernels are \[\]"),
    "one layer": ({"main.0.weight": torch.zeros(5, 3, 4, 4)}, r"its kernels are \[\(5, 3, 4, 4\)\]"),
    "widths that do not follow": (
        altered("main.3.weight", torch.zeros(9, 7, 4, 4)),
        "does not fit Dcgan.* has misshapen",
    ),
    "a norm of another width": (altered("main.4.weight", torch.zeros(3)), "does not fit Dcgan.* has misshapen"),
    "a convolution with a bias": (altered("main.0.bias", torch.zeros(8)), "does not fit Dcgan.* has unexpected"),
    "a norm without statistics": (altered("main.1.running_mean", None), "does not fit Dcgan.* lacks"),
    "a norm without a weight": (altered("main.1.weight", None), "does not fit Dcgan.* lacks"),
    "a missing norm": (
        {
            key: tensor
            for key, tensor in altered("main.0.weight", torch.zeros(5, 8, 4, 4)).items()
            if "main.4." not in key
        },
        "has 8 layers with tensors; a DCGAN like it has 9",
    ),
    "a layer too many": (altered("main.13.weight", torch.zeros(3)), "has 10 layers with tensors; .* has 9"),
    "no state dict": ({"epoch": 3}, "holds no network"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_checkpoint_of_another_network_is_refused(tmp_path, content, message):
    path = tmp_path / "wrong.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=f"(?s){re.escape(str(path))} .*{message}"):
        load_checkpoint(path)


def test_more_classes_than_inputs_are_refused(tmp_path):
    save_faces(tmp_path / "faces.tar")
    with pytest.raises(WeightsError, match="takes 5 inputs, too few for 5 classes"):
        load_checkpoint(tmp_path / "faces.tar", options={"classes": tuple("abcde")})


@pytest.mark.weights
@pytest.mark.parametrize(("name", "save"), [("dcgan-faces", save_faces), ("dcgan-eyes", save_eyes)])
def test_the_checkpoints_of_these_tests_have_the_keys_of_the_real_ones(request, tmp_path, name, save):
    request.getfixturevalue(name.removeprefix("dcgan-"))  # skips where the weights are not here
    save(tmp_path / "small.pth")
    small, real = read_checkpoint(tmp_path / "small.pth"), read_checkpoint(locate(name)[0])
    assert [key for key in small if not key.startswith("main.")] == [key for key in real if not key.startswith("main.")]
    states = [networks_in(content)[0].state for content in (small, real)]
    assert list(states[0]) == list(states[1])
    assert [tensor.dim() for tensor in states[0].values()] == [tensor.dim() for tensor in states[1].values()]
    assert [tensor.dtype for tensor in states[0].values()] == [tensor.dtype for tensor in states[1].values()]


@pytest.mark.weights
def test_real_faces_are_those_of_the_published_network(faces):
    state = read_checkpoint(locate("dcgan-faces")[0])["netG_state_dict"]
    main = nn.Sequential(*network((100, 512, 256, 128, 64, 3)))
    main.load_state_dict({key.removeprefix("main."): tensor for key, tensor in state.items()})
    z = codes(2, 100)
    with torch.no_grad():
        assert torch.allclose(faces(z), (main.eval()(z[:, :, None, None]) + 1) / 2, atol=1e-6)


@pytest.mark.weights
def test_real_eyes_are_those_of_the_published_network(eyes):
    main = network((108, 1024, 512, 256, 128, 64, 3), dropout=True)
    state = read_checkpoint(locate("dcgan-eyes")[0])
    main.load_state_dict({key.removeprefix("main."): tensor for key, tensor in state.items()})
    z = codes(2, 100)
    one_hot = torch.zeros(2, 8)
    one_hot[0, 7] = one_hot[1, 2] = 1
    with torch.no_grad():
        expected = (main.eval()(torch.cat([z, one_hot], 1)[:, :, None, None]) + 1) / 2
        assert torch.allclose(eyes(z, torch.tensor([7, 2])), expected, atol=1e-6)


REAL = {"faces": (None, 64), "eyes": (torch.tensor([0, 3, 7]), 128)}


@pytest.mark.weights
@pytest.mark.parametrize(("name", "condition", "size"), [(name, *rest) for name, rest in REAL.items()], ids=REAL)
def test_a_real_generator_gives_images_in_range_and_varied(request, name, condition, size):
    generator = request.getfixturevalue(name)
    arguments = () if condition is None else (condition,)
    images = generator(codes(3, 100), *arguments)
    assert images.shape == (3, 3, size, size)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) < 0.2
    assert 0.8 < float(images.max()) <= 1
    assert float((images[0] - images[1]).abs().mean()) > 0.02
    assert not any(module.training for module in generator.modules())
    assert not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.weights
@pytest.mark.parametrize(("name", "condition"), [(name, condition) for name, (condition, _) in REAL.items()], ids=REAL)
def test_an_image_does_not_depend_on_its_batch_mates(request, name, condition):
    generator = request.getfixturevalue(name)
    z = codes(3, 100)
    arguments = (lambda rows: ()) if condition is None else (lambda rows: (condition[rows],))
    together = generator(z, *arguments(slice(None)))
    alone = torch.cat([generator(z[i : i + 1], *arguments(slice(i, i + 1))) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5, rtol=0)


@pytest.mark.weights
def test_the_class_changes_the_image(eyes):
    z = codes(1, 100).expand(8, -1)
    images = eyes(z, torch.arange(8))
    different = [float((images[i] - images[j]).abs().mean()) for i in range(8) for j in range(i)]
    assert min(different) > 1e-3
    assert torch.allclose(images[3], eyes(z[:1], torch.tensor([3]))[0], atol=1e-5)


def zoo_state(depth=2, wide=4, code=5, out=3):
    """A generator of pytorch_GAN_zoo with random weights, by its own names."""
    stream = torch.Generator().manual_seed(0)
    widths = [wide * 2**index for index in range(depth, -1, -1)]
    made = {"formatLayer.weight": torch.randn(code, widths[0], 4, 4, generator=stream) / 4}
    for index, width in enumerate(widths):
        if index:
            made[f"main.convTranspose{index}.weight"] = (
                torch.randn(widths[index - 1], width, 4, 4, generator=stream) / 4
            )
        made[f"main.batchNorm{index}.weight"] = torch.rand(width, generator=stream) + 0.5
        made[f"main.batchNorm{index}.bias"] = torch.randn(width, generator=stream)
        made[f"main.batchNorm{index}.running_mean"] = torch.randn(width, generator=stream)
        made[f"main.batchNorm{index}.running_var"] = torch.rand(width, generator=stream) + 0.5
        made[f"main.batchNorm{index}.num_batches_tracked"] = torch.tensor(3)
    made["main.outlayer.weight"] = torch.randn(widths[-1], out, 4, 4, generator=stream) / 4
    return made


def zoo_images(state, code, depth=2):
    """What pytorch_GAN_zoo computes, before the last activation."""
    x = torch.nn.functional.conv_transpose2d(code[:, :, None, None], state["formatLayer.weight"])
    for index in range(depth + 1):
        if index:
            kernel = state[f"main.convTranspose{index}.weight"]
            x = torch.nn.functional.conv_transpose2d(x, kernel, stride=2, padding=1)
        norm = [state[f"main.batchNorm{index}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = torch.nn.functional.batch_norm(x, *norm).relu()
    return torch.nn.functional.conv_transpose2d(x, state["main.outlayer.weight"], stride=2, padding=1)


@pytest.mark.parametrize(
    ("criterion", "bounded"), [("DCGAN", True), ("MSE", True), ("WGANGP", False), ("Logistic", False)]
)
def test_a_generator_of_pytorch_gan_zoo_ends_as_its_loss_says(criterion, bounded, tmp_path):
    state = zoo_state()
    torch.save({"config": {"lossCriterion": criterion}, "netG": state, "avgG": state}, tmp_path / "zoo.pth")
    generator = load_generator(tmp_path / "zoo.pth", device="cpu")
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    wanted = zoo_images(state, z)
    assert torch.allclose(generator.native(z), wanted.tanh() if bounded else wanted, atol=1e-5)
    assert torch.equal(generator.native(z[:, :, None, None]), generator.native(z))  # as the original takes codes


def test_labels_of_pytorch_gan_zoo_end_the_code(tmp_path):
    order = {"Kind": {"order": 1, "values": ["a", "b"]}, "Size": {"order": 0, "values": ["s"]}}
    config = {"lossCriterion": "DCGAN", "categoryVectorDim": 3, "attribKeysOrder": order}
    torch.save({"config": config, "avgG": zoo_state()}, tmp_path / "zoo.pth")
    generator = load_generator(tmp_path / "zoo.pth", device="cpu")
    assert generator.classes == ("Size: s", "Kind: a", "Kind: b")
    z, labels = torch.randn(2, 2), torch.tensor([[1.0, 0, 1], [1, 1, 0]])
    code = torch.cat([z, labels], dim=1)
    assert torch.allclose(generator.native(z, labels), zoo_images(zoo_state(), code).tanh(), atol=1e-5)
    assert torch.equal(generator.use("z+class").native(code), generator.use("z").native(z, labels))


def test_norms_without_statistics_are_noted(tmp_path):
    state = zoo_state()
    for name in state:
        if "running" in name:
            state[name] = torch.zeros_like(state[name]) if "mean" in name else torch.ones_like(state[name])
    torch.save({"config": {}, "avgG": state}, tmp_path / "zoo.pth")
    assert any("statistics" in note for note in loading_notes(load_generator(tmp_path / "zoo.pth", device="cpu")))


def test_it_runs_on_the_fast_path(tmp_path):
    torch.save({"config": {"lossCriterion": "WGANGP"}, "avgG": zoo_state(out=1)}, tmp_path / "zoo.pth")
    assert_fast_and_exact(load_generator(tmp_path / "zoo.pth", device="cpu"), torch.linspace(-1, 1, 5))

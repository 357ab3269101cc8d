"""Controls keep the architecture of a generator, and lose what its training put into the weights."""

import pytest
import torch

from dcgan_files import save_faces
from pullback.generators import load_generator
from pullback.generators.checks import notes_of


@pytest.fixture
def path(tmp_path):
    save_faces(tmp_path / "faces.tar")
    return tmp_path / "faces.tar"


def tensors(path, **options):
    return load_generator(path, device="cpu", **options).state_dict()


def test_a_shuffled_control_permutes_the_numbers_of_each_tensor(path):
    trained, control = tensors(path), tensors(path, control="shuffled")
    moved = 0
    for name, tensor in trained.items():
        assert torch.equal(tensor.flatten().sort().values, control[name].flatten().sort().values)
        moved += not torch.equal(tensor, control[name])
    assert moved > len(trained) // 2


def test_a_random_control_keeps_mean_and_deviation_and_signs_of_variances(path):
    trained, control = tensors(path), tensors(path, control="random")
    largest = max(
        (name for name in trained if trained[name].is_floating_point()), key=lambda name: trained[name].numel()
    )
    assert control[largest].mean().item() == pytest.approx(trained[largest].mean().item(), abs=0.02)
    assert control[largest].std().item() == pytest.approx(trained[largest].std().item(), rel=0.05)
    assert not torch.equal(control[largest].flatten().sort().values, trained[largest].flatten().sort().values)
    assert all((control[name] >= 0).all() for name in control if name.endswith("running_var"))


def test_the_seed_alone_decides_a_control(path):
    one, two, other = (tensors(path, control="shuffled", control_seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_control_is_noted_and_gives_other_images(path):
    trained, control = load_generator(path, device="cpu"), load_generator(path, device="cpu", control="shuffled")
    z = torch.randn(2, trained.latent_dim)
    assert not torch.allclose(trained(z), control(z), atol=1e-2)
    assert any("control" in note for note in notes_of(control))


def test_a_users_own_generator_has_controls_too():
    trained = load_generator("toy_generators:linear", device="cpu").state_dict()
    control = load_generator("toy_generators:linear", device="cpu", control="shuffled").state_dict()
    assert any(not torch.equal(trained[name], control[name]) for name in trained)

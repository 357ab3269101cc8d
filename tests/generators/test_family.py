"""A family registers itself, reads its checkpoints, and gives generators in its spaces, truncation and noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pullback
from plugin_files import on_the_path, write_distribution
from pullback.errors import SpecError, WeightsError
from pullback.generators import load_generator
from pullback.generators.family import FamilyGenerator
from pullback.spec import GeneratorSpec, SamplesSpec
from pullback.sweep.latents import LatentCodes
from toy_generators import linear

TEMPLATE = Path(__file__).parents[2] / "docs" / "templates" / "family.py"
STREAM = torch.Generator().manual_seed(0)
STATE = {
    "map.weight": torch.randn(6, 4, generator=STREAM),
    "map.bias": torch.randn(6, generator=STREAM),
    "draw.weight": torch.randn(48, 6, generator=STREAM) / 3,
    "draw.bias": torch.randn(48, generator=STREAM) / 3,
}
Z = torch.randn(3, 4, generator=STREAM)


@pytest.fixture
def painter(tmp_path):
    """A checkpoint of the family of the template, which another distribution registers."""
    folder = write_distribution(tmp_path / "site", "pullback.generators", {"painter": TEMPLATE.read_text()})
    torch.save({"g_ema": STATE, "g": {name: tensor + 1 for name, tensor in STATE.items()}}, tmp_path / "painter.pt")
    with on_the_path(folder):
        yield tmp_path / "painter.pt"


def images(w):
    return torch.tanh(w @ STATE["draw.weight"].T + STATE["draw.bias"]).reshape(-1, 3, 4, 4)


def mapped(z, truncation=1.0):
    return truncation * torch.tanh(z @ STATE["map.weight"].T + STATE["map.bias"])


def test_a_checkpoint_of_another_packages_family_is_a_generator(painter):
    generator = pullback.load_generator(painter, size=4)
    assert generator.family == "painter"
    assert generator.options == {"z_dim": 4, "w_dim": 6, "size": 4}
    assert (generator.latent_dim, generator.z_dim, generator.blocks, generator.classes) == (4, 4, {"z": (0, 4)}, ())
    torch.testing.assert_close(generator.native(Z), images(mapped(Z)))
    torch.testing.assert_close(generator(Z), (images(mapped(Z)) + 1) / 2)
    assert list(generator.weights) == ["painter.pt"]


def test_codes_of_w_come_from_the_mapping_and_truncation_is_the_familys(painter):
    generator = pullback.load_generator(painter, space="w", truncation=0.5, size=4)
    assert (generator.space, generator.latent_dim, generator.blocks) == ("w", 6, {"w": (0, 6)})
    torch.testing.assert_close(generator.map(Z), mapped(Z, 0.5))
    torch.testing.assert_close(generator.native(generator.map(Z)), images(mapped(Z, 0.5)))
    torch.testing.assert_close(generator.native(mapped(Z).reshape(3, 2, 3)), images(mapped(Z)))
    with pytest.raises(ValueError, match="have 6 values"):
        generator.native(Z)


def test_an_option_that_the_file_lacks_is_asked_for_and_a_config_beside_it_answers(painter):
    with pytest.raises(SpecError, match=r"^size: .*Height and width") as caught:
        pullback.load_generator(painter)
    assert len(caught.value.problems) == 1
    painter.with_name("painter.config.json").write_text(json.dumps({"size": 4}))
    generator = pullback.load_generator(painter)
    assert generator.options["size"] == 4
    assert sorted(generator.weights) == ["painter.config.json", "painter.pt"]


WRONG = {
    "space": ({"space": "w+"}, r"^space: .*no space 'w\+'"),
    "option": ({"sise": 4}, r"^sise: .*did you mean 'size'"),
    "value": ({"size": "4"}, r"^size: "),
    "family": ({"family": "paintr"}, r"^family: .*painter"),
    "noise": ({"noise": "loud"}, r"^noise: "),
    "another family": ({"family": "dcgan"}, "is not of the family dcgan"),
    "args": ({"args": {"a": 1}}, r"^args: "),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_what_a_family_lacks_is_an_error_that_names_it(painter, options, message):
    with pytest.raises((SpecError, WeightsError), match=f"(?s){message}"):
        pullback.load_generator(painter, **{"size": 4, **options})


def test_a_family_without_truncation_refuses_one(tmp_path):
    from dcgan_files import save_faces

    save_faces(tmp_path / "faces.tar")
    with pytest.raises(SpecError, match=r"^truncation: "):
        load_generator(tmp_path / "faces.tar", truncation=0.7, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map.bias": None}, r"lacks mapping\.bias"),
        ({"draw.scale": torch.ones(2)}, r"unexpected drawing\.scale"),
        ({"draw.bias": torch.ones(3)}, r"misshapen drawing\.bias \[3\] instead of \[48\]"),
    ],
)
def test_missing_unexpected_and_misshapen_keys_are_listed(painter, change, message):
    state = {name: tensor for name, tensor in {**STATE, **change}.items() if tensor is not None}
    torch.save(state, painter)
    with pytest.raises(WeightsError, match=message):
        pullback.load_generator(painter, size=4)


def test_a_job_has_the_options_beside_the_name_or_below_options(painter):
    one = GeneratorSpec.model_validate({"name": str(painter), "size": 4, "space": "w"})
    two = GeneratorSpec.model_validate({"name": str(painter), "options": {"size": 4}, "space": "w"})
    assert one == two
    assert one.options == {"size": 4}
    with pytest.raises(ValueError, match="sice"):
        GeneratorSpec.model_validate({"name": str(painter), "sice": 4})


def test_two_families_that_know_a_file_are_distinguished_by_the_job(painter, tmp_path):
    other = write_distribution(
        tmp_path / "more", "pullback.generators", {"copier": TEMPLATE.read_text()}, name="copies"
    )
    with on_the_path(other):
        with pytest.raises(WeightsError, match="copier and painter"):
            pullback.load_generator(painter, size=4)
        assert pullback.load_generator(painter, family="copier", size=4).family == "copier"


def test_a_family_that_cannot_be_imported_keeps_no_other_from_being_read(painter, tmp_path):
    broken = write_distribution(
        tmp_path / "broken", "pullback.generators", {"broken": "SUMMARY = 'x'\nraise OSError('no')\n"}, name="breaks"
    )
    with on_the_path(broken):
        assert pullback.load_generator(painter, size=4).family == "painter"


class Noisy(FamilyGenerator):
    """A family with one noise map."""

    def __init__(self):
        super().__init__({"z": {"z": 2}}, z_dim=2)
        self.name = "noisy"
        self.register_buffer("grain", torch.full((4, 4), 0.25))

    def noise_buffers(self):
        return [self.grain]

    def render(self, blocks, condition):
        return blocks["z"].sum(1)[:, None, None, None] + self.grain.expand(1, 3, 4, 4)


def test_noise_is_kept_left_out_or_drawn_once_from_a_seed():
    z = torch.zeros(1, 2)
    assert torch.equal(Noisy().use().native(z), torch.full((1, 3, 4, 4), 0.25))
    assert torch.equal(Noisy().use(noise="none").native(z), torch.zeros(1, 3, 4, 4))
    one, two, other = (Noisy().use(noise="seed", noise_seed=seed).native(z) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_noise_that_a_file_does_not_hold_is_drawn_and_noted():
    generator = Noisy()
    generator.noise_stored = False
    generator.use()
    assert float(generator.grain.std()) > 0.3
    assert any("noise" in note for note in generator._pullback_notes)


def test_labels_are_class_indices_or_soft_labels():
    generator = FamilyGenerator({"z": {"z": 2}}, 2, classes=("a", "b", "c"))
    generator.name = "conditional"
    like = torch.zeros(2, 5, dtype=torch.float64)
    assert generator.labels(torch.tensor([2, 0]), like).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert generator.labels(torch.tensor([1]), like).tolist() == [[0, 1, 0], [0, 1, 0]]
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    assert generator.labels(soft, like).dtype == torch.float64
    for wrong in (None, torch.zeros(2, 4)):
        with pytest.raises(ValueError, match="conditional"):
            generator.labels(wrong, like)


def test_a_factory_decides_its_space_itself():
    assert linear().latent_dim == 6
    with pytest.raises(SpecError, match=r"^space: .*args"):
        load_generator("toy_generators:linear", space="w", device="cpu")


class Embedded(FamilyGenerator):
    """Codes of z for a class, or of z and a class embedding."""

    def __init__(self):
        super().__init__({"z": {"z": 2}, "z+class": {"z": 2, "class": 3}}, z_dim=2, classes=("a", "b", "c"))
        self.name = "embedded"
        self.register_buffer("embedding", torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("weight", torch.randn(5, 192, generator=torch.Generator().manual_seed(1)) / 3)

    def map(self, z, condition=None):
        return z if self.space == "z" else torch.cat([z, self.labels(condition, z) @ self.embedding], 1)

    def render(self, blocks, condition):
        kind = blocks["class"] if "class" in blocks else self.labels(condition, blocks["z"]) @ self.embedding
        return torch.tanh(torch.cat([blocks["z"], kind], 1) @ self.weight).reshape(-1, 3, 8, 8)


def test_a_metric_takes_a_class_soft_labels_or_codes_that_hold_the_class():
    distance, z = pullback.load_distance("mse"), torch.randn(2, 2, generator=torch.Generator().manual_seed(2))
    by_class = pullback.metric_at(Embedded().eval(), distance, z, condition=["b", "c"])
    by_labels = pullback.metric_at(Embedded().eval(), distance, z, condition=torch.eye(3)[1:])
    inside = Embedded().use(space="z+class").eval()
    codes = inside.map(z, torch.tensor([1, 2]))
    whole = pullback.metric_at(inside, distance, codes)
    torch.testing.assert_close(by_class.matrix, by_labels.matrix)
    torch.testing.assert_close(whole.matrix[:, :2, :2], by_class.matrix, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(whole.block("z").matrix, whole.matrix[:, :2, :2])


def test_drawn_codes_of_a_space_with_the_class_need_a_condition_and_given_ones_do_not(tmp_path):
    generator = Embedded().use(space="z+class").eval()
    with pytest.raises(SpecError, match=r"generator\.condition"):
        LatentCodes(SamplesSpec(count=2), generator, conditioned=False)
    np.save(tmp_path / "codes.npy", np.ones((2, 5)))
    given = SamplesSpec(count=2, distribution="codes", codes=str(tmp_path / "codes.npy"))
    assert LatentCodes(given, generator, conditioned=False).at([0, 1]).shape == (2, 5)
    drawn = LatentCodes(SamplesSpec(count=2), generator).at([0, 1], torch.tensor([0, 2]))
    np.testing.assert_allclose(drawn[:, 2:], generator.embedding[[0, 2]].numpy())

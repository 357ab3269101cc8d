"""The doctor measures what a metric relies on; each of its checks finds the fault that it is for."""

import pytest
import torch
from torch import nn

from command_line import call
from dcgan_files import save_faces
from pullback.bench.doctor import diagnose, examine, fast_path


class Sound(nn.Module):
    """Codes [batch, 6] to images [batch, 3, 8, 8] by a small network, with a place for a fault."""

    latent_dim = 6

    def __init__(self):
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(32, 6, generator=stream) / 2, requires_grad=False)
        self.b = nn.Parameter(torch.randn(192, 32, generator=stream) / 12, requires_grad=False)

    def forward(self, z):
        return torch.sigmoid(torch.tanh(z @ self.a.T) @ self.b.T).reshape(-1, 3, 8, 8)


class Noisy(Sound):
    def forward(self, z):
        x = super().forward(z)
        return x + 1e-3 * torch.randn(x.shape[1:])


class Coupled(Sound):
    def forward(self, z):
        return super().forward(z - z.mean(0))


class Placed(Sound):
    def forward(self, z):
        return super().forward(z) * (1 - torch.arange(len(z))[:, None, None, None] * 1e-2)


class Signed(Sound):
    def forward(self, z):
        return torch.tanh(3 * (super().forward(z) - 0.5) * 6)


class Infinite(Sound):
    def forward(self, z):
        return super().forward(z) / 0 * 0


class Constant(Sound):
    def forward(self, z):
        return super().forward(z * 0)


class Clamped(Sound):
    def forward(self, z):
        return (50 * (super().forward(z) - 0.5)).clamp(0, 1)


class Detached(Sound):
    def forward(self, z):
        x = super().forward(z)
        return 0.5 * x + 0.5 * x.detach()


class DetachedInSingle(Sound):
    def forward(self, z):
        return super().forward(0.7 * z + 0.3 * z.detach().float().to(z))


class _WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * 1

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.01

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * 1


class WrongBackward(Sound):
    def forward(self, z):
        return _WrongBackward.apply(super().forward(z))


class _NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1


class NoForwardMode(Sound):
    def forward(self, z):
        return _NoForwardMode.apply(super().forward(z))


class Blind(Sound):
    def forward(self, z):
        return super().forward(z * torch.tensor([1.0, 1, 1, 0, 1, 1]).to(z))


class Training(Sound):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, z):
        return self.norm(super().forward(z)) / 8 + 0.5


class ClassIgnored(Sound):
    classes = ("a", "b")

    def forward(self, z, condition):
        return super().forward(z)


class Conditional(Sound):
    classes = ("a", "b")

    def forward(self, z, condition):
        return super().forward(z) * (1 - 0.2 * condition[:, None, None, None])


class Mapped(Sound):
    z_dim = 4

    def map(self, z):
        return torch.cat([z, z[:, :2]], 1) - z.mean(0).mean()


class Broken(Sound):
    def forward(self, z):
        raise RuntimeError("it does not work")


FAULTS = {
    "repeatable": Noisy,
    "batch_rows": Coupled,
    "batch_rows by place": Placed,
    "range": Signed,
    "finite": Infinite,
    "varies": Constant,
    "saturation": Clamped,
    "jvp_differences": Detached,
    "jvp_differences in float64": DetachedInSingle,
    "jvp_vjp": WrongBackward,
    "coordinates": Blind,
    "evaluation_mode": Training,
    "class_matters": ClassIgnored,
    "mapping": Mapped,
}


def test_a_sound_generator_passes_every_check():
    checks = examine(Sound().eval())
    assert {name: check.value for name, check in checks.items() if not check.passed} == {}
    assert {name.partition(" ")[0] for name in FAULTS} - {*checks} == {"class_matters", "mapping"}


def test_an_operation_without_forward_mode_is_no_fault_but_leaves_the_fast_path():
    assert all(check.passed for check in examine(NoForwardMode().eval()).values())
    assert not fast_path(NoForwardMode())[0]


def test_a_sound_conditional_generator_passes_every_check():
    checks = examine(Conditional().eval())
    assert all(check.passed for check in checks.values())
    assert checks["class_matters"].value > 0.05


@pytest.mark.parametrize(("check", "fault"), FAULTS.items(), ids=FAULTS)
def test_each_check_finds_its_planted_fault(check, fault):
    generator = fault()
    found = examine(generator if fault is Training else generator.eval())[check.partition(" ")[0]]
    assert not found.passed
    assert found.detail


def test_a_generator_that_raises_fails_its_checks_and_ends_no_program():
    content = diagnose(Broken().eval(), cost=False)
    assert not content["passed"]
    assert content["checks"]["finite"]["value"] is None
    assert "it does not work" in content["checks"]["finite"]["detail"]
    assert not content["fast_path"]


class Fallback(Sound):
    def forward(self, z):
        return torch.special.i0e(super().forward(z)) + 0 * z.sum()


class Custom(Sound):
    def forward(self, z):
        return _WrongBackward.apply(super().forward(z))


def test_operations_that_leave_the_fast_path_are_named():
    assert fast_path(Sound()) == (True, [])
    fast, names = fast_path(Fallback())
    assert not fast
    assert any("i0e" in name for name in names)
    fast, names = fast_path(Custom())
    assert not fast
    assert names


def test_the_command_prints_its_report_and_leaves_with_one_for_a_fault(tmp_path, monkeypatch):
    save_faces(tmp_path / "faces.tar")
    done = call("generators", "doctor", str(tmp_path / "faces.tar"), "--json")
    content = done.json
    assert done.code == (0 if content["passed"] else 1)
    assert content["family"] == "dcgan"
    assert content["options"]["widths"][0] == content["latent_dim"]
    assert content["checks"]["jvp_vjp"].keys() >= {"passed", "value", "limit"}
    assert content["fast_path"] is True
    assert content["fallbacks"] == []
    assert content["seconds_per_forward"] > 0
    assert content["metric"]["dense_seconds"] > 0
    assert content["metric"]["dense_bytes"] > 0
    assert content["metric"]["topk_seconds"] > 0
    (tmp_path / "their_faulty.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    latent_dim = 3\n    def forward(self, z):\n"
        "        return 5 + z[:, :, None, None].expand(-1, 3, 8, 8)\ndef net(): return Net()\n"
    )
    monkeypatch.chdir(tmp_path)
    failed = call("generators", "doctor", "their_faulty:net", "--no-cost", "--json")
    assert failed.code == 1
    assert not failed.json["checks"]["range"]["passed"]
    assert failed.json["metric"] is None
    assert "FAILED" in call("generators", "doctor", "their_faulty:net", "--no-cost").out

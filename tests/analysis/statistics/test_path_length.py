import numpy as np
import pytest
from sample_metrics import random_metrics
from scalar_samples import result_of, samples_of, shown
from scipy.integrate import quad

from pullback.analysis.path_lengths import squared_angle
from pullback.errors import PullbackError
from pullback.store.artifacts import load_artifact, save_artifact

NORMAL = {"spec": {"samples": {"distribution": "normal", "scale": 1.0}}, "space": "z"}
N_PAIRS = 50_000
EPSILON = 1e-4


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slerp(a, b, t):
    """StyleGAN's: both ends and the result on the unit sphere."""
    a, b = unit(a), unit(b)
    cosine = (a * b).sum(axis=-1, keepdims=True)
    angle = t * np.arccos(cosine)
    return a * np.cos(angle) + unit(b - cosine * a) * np.sin(angle)


def sampled(generator, n, *, whole_path, norm, seed=0):
    """StyleGAN's PPL with finite steps on circles of one norm, where D² is the mean square; and its standard error."""
    stream = np.random.default_rng(seed)
    ends = stream.standard_normal((2, N_PAIRS, n))
    t = stream.random((N_PAIRS, 1)) * whole_path
    norms = norm(stream, N_PAIRS)[:, None]
    images = [generator(norms * slerp(*ends, t + step)) for step in (0.0, EPSILON)]
    lengths = np.mean((images[1] - images[0]) ** 2, axis=1) / EPSILON**2
    return lengths.mean(), lengths.std() / N_PAIRS**0.5


def own_norms(n):
    """Norms of standard normal codes."""
    return lambda stream, count: np.linalg.norm(stream.standard_normal((count, n)), axis=1)


MATRIX = np.random.default_rng(5).standard_normal((7, 4)) * [3, 1, 0.5, 0.2]


def metric_of(jacobians):
    return 2 * np.einsum("...mi,...mj->...ij", jacobians, jacobians) / jacobians.shape[-2]


def value(result):
    low, high = result["path_length"].values
    assert low == pytest.approx(high)
    return low


@pytest.mark.parametrize("n", [2, 3, 8, 100])
def test_the_squared_angle_is_the_integral_over_its_density(n):
    weight, _ = quad(lambda angle: np.sin(angle) ** (n - 2), 0, np.pi)
    moment, _ = quad(lambda angle: angle**2 * np.sin(angle) ** (n - 2), 0, np.pi)
    assert squared_angle(n) == pytest.approx(moment / weight)


def test_one_dimension_has_no_angle():
    with pytest.raises(ValueError, match="2"):
        squared_angle(1)
    with pytest.raises(PullbackError):
        result_of("path_length", samples_of(np.ones((3, 1, 1)), latent=np.ones((3, 1))))


@pytest.mark.parametrize("whole_path", [1, 0], ids=["full", "end"])
def test_great_circles_agree_with_sampled_paths_of_a_linear_generator(whole_path):
    codes = np.random.default_rng(1).standard_normal((4000, 4))
    metrics = np.broadcast_to(metric_of(MATRIX), (4000, 4, 4))
    found = value(result_of("path_length", samples_of(metrics, latent=codes, **NORMAL)))
    wanted, error = sampled(lambda z: z @ MATRIX.T, 4, whole_path=whole_path, norm=own_norms(4))
    assert found == pytest.approx(wanted, rel=0.03)
    # Without the noise of the codes, E[r²] = n and the direction is uniform: ½ E[θ²] tr H.
    assert wanted == pytest.approx(0.5 * squared_angle(4) * np.trace(metrics[0]), abs=5 * error)


@pytest.mark.parametrize("whole_path", [1, 0], ids=["full", "end"])
def test_great_circles_agree_with_sampled_paths_of_a_curved_generator(whole_path):
    codes = np.random.default_rng(2).standard_normal((8000, 4))
    jacobians = np.cos(codes @ MATRIX.T)[:, :, None] * MATRIX
    result = result_of("path_length", samples_of(metric_of(jacobians), latent=codes, **NORMAL))
    wanted, error = sampled(lambda z: np.sin(z @ MATRIX.T), 4, whole_path=whole_path, norm=own_norms(4))
    low, high = result["path_length_ci95"].values
    assert value(result) == pytest.approx(wanted, abs=4 * error + (high - low))
    assert high - low < 0.08 * wanted


def test_a_generator_that_normalises_its_input_has_the_path_length_of_the_unit_sphere():
    codes = np.random.default_rng(3).standard_normal((5000, 4))
    norms = np.linalg.norm(codes, axis=1)[:, None, None]
    directions = unit(codes)
    tangent = np.eye(4) - directions[:, :, None] * directions[:, None, :]
    jacobians = np.einsum("mi,sij->smj", MATRIX, tangent) / norms
    found = value(result_of("path_length", samples_of(metric_of(jacobians), latent=codes, **NORMAL)))
    wanted, _ = sampled(lambda z: unit(z) @ MATRIX.T, 4, whole_path=1, norm=lambda stream, count: np.ones(count))
    assert found == pytest.approx(wanted, rel=0.02)


@pytest.fixture(scope="module")
def few():
    return random_metrics(7, 5), np.random.default_rng(4).standard_normal((7, 5)) + 0.5


def test_segments_are_the_mean_over_all_ordered_pairs(few):
    metrics, codes = few
    result = result_of("path_length", samples_of(metrics, latent=codes, space="w"))
    pairs = [
        0.5 * (codes[j] - codes[i]) @ metrics[i] @ (codes[j] - codes[i]) for i in range(7) for j in range(7) if i != j
    ]
    assert str(result["path"].values) == "linear"
    assert value(result) == pytest.approx(np.mean(pairs))
    assert result["local_length"].values == pytest.approx(np.reshape(pairs, (7, 6)).mean(axis=1))
    shown(result)


def test_segments_agree_with_sampled_segments_at_their_start():
    stream = np.random.default_rng(6)
    codes = stream.standard_normal((5000, 4)) @ np.diag([1, 2, 0.5, 1]) + 0.3
    jacobians = np.cos(codes @ MATRIX.T)[:, :, None] * MATRIX
    found = value(result_of("path_length", samples_of(metric_of(jacobians), latent=codes, space="w"), draws=20))
    starts, ends = codes[stream.integers(5000, size=N_PAIRS)], codes[stream.integers(5000, size=N_PAIRS)]
    images = [np.sin((starts + step * (ends - starts)) @ MATRIX.T) for step in (0.0, EPSILON)]
    lengths = np.mean((images[1] - images[0]) ** 2, axis=1) / EPSILON**2
    assert found == pytest.approx(lengths.mean(), abs=5 * lengths.std() / N_PAIRS**0.5)


@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_the_parts_of_all_axes_sum_to_the_whole_in_every_draw(few, path):
    metrics, codes = few
    result = result_of("path_length", samples_of(metrics, latent=codes), path=path, axes=5)
    assert result["axis_part"].values.sum() == pytest.approx(value(result))
    assert result["axis_share"].values.sum() == pytest.approx(1)
    metrics = np.array([np.diag([4.0, 1.0, 0.0, 0.0, 0.0])] * 7)
    one = result_of("path_length", samples_of(metrics, latent=codes), path=path, axes=2)
    variances = codes.var(axis=0, ddof=1)[:2]
    if path == "linear":
        assert one["axis_part"].values == pytest.approx(variances * [4, 1])
    shown(one)


def test_the_interval_of_segments_has_the_width_of_resampled_pairs():
    stream = np.random.default_rng(7)
    metrics, codes = random_metrics(40, 3), stream.standard_normal((40, 3)) * [3, 1, 1] + 1
    low, high = result_of("path_length", samples_of(metrics, latent=codes), path="linear", draws=2000)[
        "path_length_ci95"
    ].values
    steps = codes[None] - codes[:, None]
    pairs = 0.5 * np.einsum("ijn,inm,ijm->ij", steps, metrics, steps)
    means = []
    for _ in range(2000):
        row = np.bincount(stream.integers(40, size=40), minlength=40)
        means.append(row @ pairs @ row / (row.sum() ** 2 - (row**2).sum()))
    assert high - low == pytest.approx(np.subtract(*np.quantile(means, [0.975, 0.025])), rel=0.12)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_cut_spectra_bound_the_length_of_whole_ones(few, path, whole):
    metrics, codes = few
    true = result_of("path_length", samples_of(metrics, latent=codes), path=path)
    for kept in (1, 3):
        cut = result_of("path_length", samples_of(metrics, kept=kept, latent=codes, whole=whole), path=path, axes=kept)
        assert (cut["local_length"].values <= true["local_length"].values + 1e-12).all()
        assert (true["local_length"].values <= cut["local_length_greatest"].values + 1e-12).all()
        low, high = cut["path_length_ci95"].values
        assert low <= value(true) <= high
        assert f"{kept} of 5" in shown(cut)


def test_the_path_follows_the_distribution_of_the_codes(few):
    metrics, _ = few
    normal = np.random.default_rng(0).standard_normal((7, 5))

    def path(latent, distribution, space="z", **more):
        spec = {"samples": {"distribution": distribution, "scale": 1.0, **more}}
        result = result_of("path_length", samples_of(metrics, latent=latent, spec=spec, space=space))
        return str(result["path"].values), shown(result)

    assert path(normal, "normal")[0] == "spherical"
    assert path(normal, "normal", space="w")[0] == "linear"
    assert path(9 * normal, "normal")[0] == "linear", "mapped by a generator that names no space"
    assert path(np.sqrt(5) * unit(normal), "sphere")[0] == "spherical"
    assert path(2 * unit(normal), "sphere", norms=[1, 2])[0] == "spherical"
    assert path(2 * unit(normal), "sphere", norms=[3])[0] == "linear"
    assert path(normal, "truncated_normal")[0] == "linear"
    chosen, words = path(normal, "around")
    assert chosen == "linear"
    assert "not independent" in words
    assert path(normal, "between", steps=7)[0] == "sweep"
    assert path(normal, "between", steps=7, map=True)[0] == "linear"


def test_metrics_that_are_zero_have_length_zero_and_no_shares(few):
    _, codes = few
    result = result_of("path_length", samples_of(np.zeros((7, 5, 5)), latent=codes))
    assert value(result) == 0
    assert np.isnan(result["axis_share"].values).all()
    shown(result)


def test_codes_must_be_stored(few):
    with pytest.raises(PullbackError, match="codes"):
        result_of("path_length", samples_of(few[0]))


def test_the_result_can_be_stored(few, tmp_path):
    metrics, codes = few
    dataset = result_of("path_length", samples_of(metrics, latent=codes)).dataset
    save_artifact(tmp_path / "sweep", "analysis-1-path_length", dataset)
    again = load_artifact(tmp_path / "sweep", "analysis-1-path_length")
    assert str(again["path"].values) == "linear"
    assert again["axis_part"].values == pytest.approx(dataset["axis_part"].values)


def between(ends, steps, norm_kept):
    """Codes [lines * steps, n] on segments or on great circles with norms between those of their ends, as a sweep's."""
    t = np.linspace(0, 1, steps)[None, :, None]
    start, end = ends[:-1, None], ends[1:, None]
    if not norm_kept:
        return (start + t * (end - start)).reshape(-1, ends.shape[1])
    norms = [np.linalg.norm(each, axis=-1, keepdims=True) for each in (start, end)]
    turned = slerp(np.broadcast_to(start, (*start.shape[:1], steps, ends.shape[1])), end, t)
    return (turned * ((1 - t) * norms[0] + t * norms[1])).reshape(-1, ends.shape[1])


def along_sweep(latent, steps, spherical, metrics, keep=slice(None), **options):
    spec = {"distribution": "between", "steps": steps, "interpolation": "spherical" if spherical else "linear"}
    numbers = np.arange(len(latent))[keep]
    samples = samples_of(metrics[keep], latent=latent[keep], spec={"samples": spec}, space="w")
    samples.numbers = numbers
    return result_of("path_length", samples, **options)


@pytest.mark.parametrize("spherical", [False, True], ids=["segments", "great circles"])
def test_paths_of_the_sweep_agree_with_sampled_steps_along_them(spherical):
    ends = np.random.default_rng(8).standard_normal((60, 4)) + 0.5
    codes = between(ends, 41, spherical)
    jacobians = np.cos(codes @ MATRIX.T)[:, :, None] * MATRIX
    result = along_sweep(codes, 41, spherical, metric_of(jacobians), draws=20)
    fine = between(ends, 2001, spherical).reshape(59, 2001, 4)
    images = np.sin(fine @ MATRIX.T)
    steps = np.mean(np.diff(images, axis=1) ** 2, axis=-1) * 2000**2
    assert str(result["path"].values) == "sweep"
    assert int(result["paths"]) == 59
    assert value(result) == pytest.approx(steps.mean(), rel=0.01)
    shown(result)


@pytest.mark.parametrize("missing", [(0,), (2, 3), (4,), (0, 1, 2, 3)])
def test_a_path_without_some_of_its_samples_still_counts_as_a_whole(missing):
    codes = between(np.random.default_rng(9).standard_normal((4, 3)), 5, False)
    metrics = np.repeat(random_metrics(1, 3), len(codes), axis=0)
    keep = np.array([at for at in range(15) if at not in missing])
    found, whole = along_sweep(codes, 5, False, metrics, keep), along_sweep(codes, 5, False, metrics)
    if len(missing) == 4:
        assert (int(found["left_out"]), int(found["paths"])) == (1, 2)
        assert "left out" in shown(found)
    else:
        assert value(found) == pytest.approx(value(whole))
        assert int(found["left_out"]) == 0


def test_a_great_circle_needs_both_of_its_ends():
    codes = between(np.random.default_rng(9).standard_normal((4, 3)), 5, True)
    metrics = np.repeat(random_metrics(1, 3), len(codes), axis=0)
    found = along_sweep(codes, 5, True, metrics, np.arange(1, 15))
    assert (int(found["left_out"]), int(found["paths"])) == (4, 2)
    with pytest.raises(PullbackError):
        along_sweep(codes, 5, True, metrics, np.array([1, 2, 6, 7, 11]))


def test_the_interval_resamples_paths_and_parts_sum_to_the_whole():
    codes = between(np.random.default_rng(10).standard_normal((9, 3)), 3, False)
    metrics = random_metrics(24, 3)
    result = along_sweep(codes, 3, False, metrics, draws=3000)
    steps = np.repeat(codes[2::3] - codes[::3], 3, axis=0)
    local = 0.5 * np.einsum("si,sij,sj->s", steps, metrics, steps)
    assert result["local_length"].values == pytest.approx(local)
    paths = local.reshape(8, 3) @ [0.25, 0.5, 0.25]
    assert value(result) == pytest.approx(paths.mean())
    assert result["axis_part"].values.sum() == pytest.approx(value(result))
    drawn = paths[np.random.default_rng(0).integers(8, size=(3000, 8))].mean(axis=1)
    assert result["path_length_ci95"].values == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=0.05)


def test_cut_spectra_bound_the_length_of_the_sweeps_own_paths():
    codes = between(np.random.default_rng(10).standard_normal((5, 4)), 3, False)
    metrics = random_metrics(12, 4)
    true = along_sweep(codes, 3, False, metrics)["local_length"].values
    spec = {"samples": {"distribution": "between", "steps": 3, "interpolation": "linear"}}
    cut = result_of("path_length", samples_of(metrics, kept=2, latent=codes, spec=spec))
    assert (cut["local_length"].values <= true + 1e-12).all()
    assert (true <= cut["local_length_greatest"].values + 1e-12).all()


def test_the_paths_of_a_sweep_without_any_are_refused(few):
    metrics, codes = few
    with pytest.raises(PullbackError, match="path"):
        result_of("path_length", samples_of(metrics, latent=codes, **NORMAL), path="sweep")

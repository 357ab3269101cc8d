"""Metrics in the layouts of the paper's scripts: import into sweeps, export, and files that are refused."""

import json

import numpy as np
import pytest
from sample_metrics import random_metrics

from command_line import call
from pullback.errors import PullbackError, StoreError
from pullback.interchange.imported_sweeps import export_metrics, import_metrics
from pullback.interchange.paper_files import natural_order, read_paper_metric
from pullback.store.audit import audit
from pullback.store.reader import open_sweep

N, FILES = 6, 12


def arrays(metric, code, early=False):
    values, columns = np.linalg.eigh(metric)
    names = ("eigvals", "eigvects", "H", "vect") if early else ("eva_BP", "evc_BP", "H_BP", "feat")
    return dict(zip(names, (values, columns, metric, code[None].astype(np.float32)), strict=True))


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(FILES, N)


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(5).standard_normal((FILES, N)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, metrics, codes):
    """Files as the paper's script of StyleGAN2 writes them, in single precision."""
    folder = tmp_path_factory.mktemp("paper")
    for number, (metric, code) in enumerate(zip(metrics, codes, strict=True)):
        np.savez(folder / f"Hess_BP_{number}.npz", **arrays(metric.astype(np.float32), code))
    return folder


@pytest.fixture(scope="module")
def sweep(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("imported") / "sweep"
    import_metrics([folder], path, generator="stylegan2", distance="lpips (squeeze)", space="w")
    return open_sweep(path)


def test_an_imported_sweep_has_a_sample_for_each_file_in_natural_order(sweep, metrics, codes):
    data = sweep.dataset()
    np.testing.assert_array_equal(data["latent"].values, codes)  # file 10 comes after file 9
    np.testing.assert_allclose(data["eigenvalue"].values, np.linalg.eigvalsh(metrics)[:, ::-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sweep.mean_metric(), metrics.mean(axis=0), atol=1e-6)
    vectors, values = data["eigenvector"].values, data["eigenvalue"].values
    np.testing.assert_allclose(np.einsum("ski,sk,skj->sij", vectors, values, vectors), metrics, atol=1e-5)
    assert sweep.provenance["imported"]["files"][10]["name"] == "Hess_BP_10.npz"
    assert len(sweep.provenance["imported"]["files"][0]["sha256"]) == 64


def test_the_certificate_of_an_imported_sweep_has_what_the_files_prove(sweep):
    data = sweep.dataset()
    for name in ("symmetry_error", "eigen_residual", "orthogonality_error", "negative_eigenvalue"):
        assert (data[name].values < 1e-5).all()
    assert np.isnan(data["column_error"].values).all()
    np.testing.assert_allclose(data["trace_share"], 1, rtol=1e-5)


@pytest.mark.parametrize("command", ["show", "audit", "analyze", "export", "snapshots"])
def test_commands_that_read_take_an_imported_sweep(sweep, tmp_path, command):
    more = {"export": [tmp_path / "out.csv"], "analyze": ["--draws", "20"]}.get(command, [])
    done = call(command, sweep.path, *more)
    assert (done.code, "Traceback" in done.err) == (0, False)


def test_a_report_of_an_imported_sweep_has_no_images_and_an_application_needs_a_generator(sweep, tmp_path, monkeypatch):
    # Figures take most of a report's time, and each statistic has tests of its own.
    monkeypatch.setattr("pullback.analysis.request.DEFAULT_STATISTICS", ("mean_metric",))
    reported = call("report", sweep.path, "--draws", "20", "--out", tmp_path / "r.html")
    assert reported.code == 0
    assert "imported" in reported.err
    assert "Hess_BP_0.npz" in (tmp_path / "r.html").read_text(encoding="utf-8")
    refused = call("apply", "directions", sweep.path, "--method", "sefa")
    assert refused.code == 1
    assert "--generator" in refused.err
    np.save(tmp_path / "axes.npy", np.eye(N))
    options = ("--method", "random", "--files", tmp_path / "axes.npy", "--controls", "10", "--draws", "20")
    assert call("apply", "directions", sweep.path, *options).code == 0


def test_the_command_imports_and_shows_the_record(folder, tmp_path):
    done = call("import", folder, "--into", tmp_path / "s", "--generator", "mine", "--distance", "lpips")
    assert done.code == 0
    shown = call("show", tmp_path / "s", "--json").json
    assert (shown["generator"], shown["distance"], shown["state"]) == ("mine", "lpips", "done")
    assert shown["samples"]["good"] == FILES
    assert call("import", folder, "--into", tmp_path / "s").code == 1  # taken
    assert not audit(tmp_path / "s").damages


@pytest.mark.parametrize("early", [False, True])
def test_an_export_to_the_papers_layout_imports_as_the_same_sweep(sweep, tmp_path, early):
    assert export_metrics(sweep, tmp_path / "files", early) == FILES
    import_metrics([tmp_path / "files"], tmp_path / "again")
    first, again = sweep.dataset().load(), open_sweep(tmp_path / "again").dataset().load()
    for name in ("latent", "eigenvalue", "eigenvector", "condition"):
        np.testing.assert_array_equal(again[name].values, first[name].values)
    np.testing.assert_allclose(again["metric_sum"].sum("shard"), first["metric_sum"].sum("shard"), atol=1e-5)
    name = sorted(path.name for path in (tmp_path / "files").iterdir())[0]
    with np.load(tmp_path / "files" / name) as file:  # as numpy.linalg.eigh gives them
        values, columns, metric = (
            file[key] for key in (("eigvals", "eigvects", "H") if early else ("eva_BP", "evc_BP", "H_BP"))
        )
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose(metric @ columns, columns * values, atol=1e-6)


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("early", [True, False])
def test_order_and_orientation_are_recognised_by_h(tmp_path, metrics, codes, ascending, columns, early):
    content = arrays(metrics[0], codes[0], early)
    values, vectors = ("eigvals", "eigvects") if early else ("eva_BP", "evc_BP")
    if not ascending:
        content |= {values: content[values][::-1], vectors: content[vectors][:, ::-1]}
    if not columns:
        content[vectors] = content[vectors].T
    np.savez(tmp_path / "f.npz", **content)
    found = read_paper_metric(tmp_path / "f.npz")
    np.testing.assert_allclose(
        found.eigenvectors.T @ np.diag(found.eigenvalues) @ found.eigenvectors, metrics[0], atol=1e-9
    )
    assert (np.diff(found.eigenvalues) <= 0).all()


def test_without_h_eigenvectors_are_columns_and_k_below_n_needs_the_trace(tmp_path, metrics, codes):
    content = arrays(metrics[0], codes[0])
    del content["H_BP"]
    np.savez(tmp_path / "f.npz", **content)
    found = read_paper_metric(tmp_path / "f.npz")
    np.testing.assert_allclose(
        found.eigenvectors.T @ np.diag(found.eigenvalues) @ found.eigenvectors, metrics[0], atol=1e-9
    )
    content |= {"eva_BP": content["eva_BP"][2:], "evc_BP": content["evc_BP"][:, 2:]}
    np.savez(tmp_path / "k.npz", **content)
    with pytest.raises(StoreError, match="trace"):
        read_paper_metric(tmp_path / "k.npz")
    np.savez(tmp_path / "t.npz", **content, trace=np.trace(metrics[0]))
    assert read_paper_metric(tmp_path / "t.npz").trace == pytest.approx(np.trace(metrics[0]))


def test_a_truncated_sweep_keeps_its_traces_through_a_round_trip(tmp_path, metrics, codes):
    for number, (metric, code) in enumerate(zip(metrics, codes, strict=True)):
        content = arrays(metric, code)
        content |= {"eva_BP": content["eva_BP"][2:], "evc_BP": content["evc_BP"][:, 2:], "trace": np.trace(metric)}
        del content["H_BP"]
        np.savez(tmp_path / f"f{number}.npz", **content)
    import_metrics(sorted(tmp_path.glob("*.npz")), tmp_path / "first")
    first = open_sweep(tmp_path / "first")
    assert (first.whole_metrics, first.layout.components) == (False, N - 2)
    export_metrics(first, tmp_path / "files")
    import_metrics([tmp_path / "files"], tmp_path / "again")
    again = open_sweep(tmp_path / "again")
    assert not again.whole_metrics
    assert again.trace_share() == pytest.approx(first.trace_share())
    np.testing.assert_allclose(again.dataset()["trace"], first.dataset()["trace"])


def biggan(metric, code):
    content = arrays(metric, code, early=True)
    for suffix, part in (("nois", slice(0, 2)), ("clas", slice(2, N))):
        values, columns = np.linalg.eigh(metric[part, part])
        content |= {f"eigvals_{suffix}": values, f"eigvects_{suffix}": columns, f"H_{suffix}": metric[part, part]}
    return {**content, "noisevec": code[None, :2], "classvec": code[None, 2:]}


def test_biggans_files_give_the_whole_metric_with_its_blocks_or_one_block(tmp_path, metrics, codes):
    for index in (7, 30):
        np.savez(tmp_path / f"Hess_cls{index}.npz", **biggan(metrics[index % FILES], codes[index % FILES]))
    import_metrics([tmp_path], tmp_path / "whole")
    whole = open_sweep(tmp_path / "whole")
    assert whole.provenance["blocks"] == {"noise": [0, 2], "class": [2, N]}
    assert whole.dataset()["condition"].values.tolist() == [7, 30]
    assert len(whole.provenance["classes"]) == 31
    import_metrics(sorted(tmp_path.glob("*.npz")), tmp_path / "part", block="class")
    part = open_sweep(tmp_path / "part")
    assert part.layout.latent_dim == N - 2
    np.testing.assert_allclose(part.mean_metric(), (metrics[7] + metrics[6])[2:, 2:] / 2, atol=1e-9)
    export_metrics(whole, tmp_path / "out")
    with np.load(tmp_path / "out" / "Hess_cls30_00001.npz") as file:
        np.testing.assert_allclose(file["H_clas"], metrics[6][2:, 2:], atol=1e-5)
        assert file["noisevec"].shape == (1, 2)


def broken(metric, code, fault):
    content = arrays(metric, code)
    match fault:
        case "nan":
            content["evc_BP"][0, 0] = np.nan
        case "other vectors":
            content["evc_BP"] = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
        case "not orthonormal":
            content |= {"evc_BP": content["evc_BP"] * 1.1}
            del content["H_BP"]
        case "not symmetric":
            content["H_BP"] = content["H_BP"] + np.triu(np.ones((N, N)), 1)
        case "no code":
            del content["feat"]
        case "short code":
            content["feat"] = content["feat"][:, 1:]
        case "no vectors":
            del content["evc_BP"]
        case "mean":
            content = {"H_avg": metric, "eva_avg": content["eva_BP"], "evc_avg": content["evc_BP"]}
        case "objects":
            content["evc_BP"] = np.array([print], dtype=object)
        case "text":
            content["eva_BP"] = np.array(["a"] * N)
    return content


@pytest.mark.parametrize(
    "fault",
    [
        *("nan", "other vectors", "not orthonormal", "not symmetric", "no code", "short code", "no vectors", "mean"),
        *("objects", "text"),
    ],
)
def test_a_wrong_file_is_named_and_nothing_is_left(tmp_path, metrics, codes, fault):
    np.savez(tmp_path / "good1.npz", **arrays(metrics[0], codes[0]))
    np.savez(tmp_path / "wrong2.npz", **broken(metrics[1], codes[1], fault))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match="wrong2"):
        import_metrics([tmp_path], tmp_path / "sweep")
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_missing_doubled_and_different_files_are_refused(tmp_path, metrics, codes):
    good = tmp_path / "a.npz"
    np.savez(good, **arrays(metrics[0], codes[0]))
    (tmp_path / "damaged.npz").write_bytes(good.read_bytes()[:200])
    np.savez(tmp_path / "small.npz", **arrays(metrics[0][:3, :3], codes[0][:3]))
    np.savez(tmp_path / "plain.npz", **{k: v for k, v in arrays(metrics[0], codes[0]).items() if k != "H_BP"})
    for other in ("damaged.npz", "missing.npz", "small.npz", "plain.npz", "a.npz"):
        with pytest.raises(StoreError):
            import_metrics([good, tmp_path / other], tmp_path / "sweep")
    for nothing in ([], [tmp_path / "empty"]):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(PullbackError):
            import_metrics(nothing, tmp_path / "sweep")
    with pytest.raises(StoreError, match="address"):
        import_metrics([good], "s3://bucket/sweep")
    assert not (tmp_path / "sweep").exists()


def test_numbers_in_names_are_in_numerical_order(tmp_path):
    names = ["Hess_10.npz", "Hess_9.npz", "a_2_b_10.npz", "a_2_b_9.npz", "Hess_010.npz"]
    ordered = [path.name for path in natural_order([tmp_path / name for name in names])]
    assert ordered == ["Hess_9.npz", "Hess_010.npz", "Hess_10.npz", "a_2_b_9.npz", "a_2_b_10.npz"]


def test_json_of_an_imported_sweep_is_strict(sweep):
    json.dumps(call("show", sweep.path, "--json").json, allow_nan=False)

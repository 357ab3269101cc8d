"""Files of directions in the layouts of other tools, small; and files that are refused."""

import json
import pickle

import numpy as np
import pytest
import torch

from pullback.errors import PullbackError
from pullback.interchange.direction_files import read_directions

N = 6
ROWS = np.random.default_rng(0).standard_normal((3, N)).astype(np.float32)


def saved(path, content):
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "rows", "strengths"),
    [
        ("axes.npy", ROWS, ROWS, None),
        ("one.npy", ROWS[0], ROWS[:1], None),
        ("interfacegan.npy", ROWS[:1], ROWS[:1], None),
        (
            "ganspace.npz",
            {"lat_comp": ROWS[:, None], "lat_mean": ROWS[:1], "lat_stdev": np.arange(3.0), "act_comp": ROWS},
            ROWS,
            [0, 1, 2],
        ),
        ("ours.npz", {"axes": ROWS, "eigenvalues": np.arange(3.0)}, ROWS, [0, 1, 2]),
        (
            "e4e.pt",
            {"comp": torch.tensor(ROWS[:, None]), "mean": torch.zeros(1, N), "std": torch.arange(3.0)},
            ROWS,
            [0, 1, 2],
        ),
        ("boundary.pt", torch.tensor(ROWS[:1]), ROWS[:1], None),
        ("edit.pkl", {"name": "smile", "lat_comp": ROWS[:1], "lat_stdev": 2.0, "edit_start": 0}, ROWS[:1], [2]),
        ("edits.json", [{"name": "smile", "lat_comp": ROWS[:1].tolist()}], ROWS[:1], None),
    ],
)
def test_each_layout_gives_its_directions(tmp_path, name, content, rows, strengths):
    found = read_directions(saved(tmp_path / name, content), N)
    np.testing.assert_array_equal(found.vectors, rows)
    assert (found.strengths if strengths is None else found.strengths.tolist()) == strengths


def test_an_edit_moves_its_layers_only_and_has_its_name(tmp_path):
    blocks = {f"w{layer}": (2 * layer, 2 * layer + 2) for layer in range(3)}
    edit = {"name": "smile", "lat_comp": [[1.0, 2.0]], "lat_stdev": 0.5, "edit_start": 1, "edit_end": 2}
    found = read_directions(saved(tmp_path / "smile.json", [edit]), N, blocks)
    assert (found.vectors.tolist(), found.names) == ([[0, 0, 1, 2, 0, 0]], ("smile",))


def test_codes_of_w_plus_take_whole_directions_and_those_of_w(tmp_path):
    blocks = {f"w{layer}": (2 * layer, 2 * layer + 2) for layer in range(3)}
    whole = saved(tmp_path / "whole.npy", ROWS[0].reshape(3, 2))  # as InterFaceGAN's 18 × 512
    assert read_directions(whole, N, blocks).vectors.tolist() == [ROWS[0].tolist()]
    several = saved(tmp_path / "several.npy", ROWS.reshape(3, 3, 2))
    np.testing.assert_array_equal(read_directions(several, N, blocks).vectors, ROWS)
    single = saved(tmp_path / "single.npy", np.array([[1.0, 2.0]]))
    assert read_directions(single, N, blocks).vectors.tolist() == [[1, 2] * 3]


def test_equal_rows_of_a_broadcast_boundary_count_once(tmp_path):
    found = read_directions(saved(tmp_path / "all_layers.npy", np.tile(ROWS[:1], (4, 1))), N)
    assert (found.vectors.shape, len(found.notes)) == ((1, N), 1)


def test_a_block_places_its_directions_in_the_code(tmp_path):
    file = saved(tmp_path / "noise.npy", np.array([[3.0, 4.0]]))
    blocks = {"noise": (0, 2), "class": (2, 6)}
    assert read_directions(file, N, blocks, "noise").vectors.tolist() == [[3, 4, 0, 0, 0, 0]]
    with pytest.raises(PullbackError, match="block"):
        read_directions(file, N, blocks, "nose")
    with pytest.raises(PullbackError, match="option `block`"):
        read_directions(file, N, blocks)


class Harmful:
    def __reduce__(self):
        return (print, ("code of a file was run",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("wide.npy", np.ones((2, N + 1))),
        ("nan.npy", np.array([1, np.nan, 0, 0, 0, 0])),
        ("zero.npy", np.zeros((2, N))),
        ("empty.npy", np.zeros((0, N))),
        ("scalar.npy", np.array(1.0)),
        ("text.npy", np.array(["a"] * N)),
        ("complex.npy", np.ones(N, dtype=complex)),
        ("objects.npy", np.array([Harmful()] * N, dtype=object)),
        ("unknown.npz", {"images": ROWS}),
        ("unknown.pt", {"weight": torch.ones(2, N)}),
        ("list.pt", [1, 2]),
        ("code.pt", {"comp": Harmful()}),
        ("text.pt", {"comp": "abc"}),
        ("directions.txt", "1 2 3"),
        ("code.pkl", {"name": "smile", "lat_comp": Harmful()}),
        ("text.json", "abc"),
        ("sizes.json", [{"name": "a", "lat_comp": [[1.0] * N]}, {"name": "b", "lat_comp": [1.0]}]),
        ("layers.json", [{"name": "a", "lat_comp": [[1.0] * N], "edit_end": "all"}]),
    ],
)
def test_what_is_no_file_of_directions_is_refused_and_no_code_runs(tmp_path, name, content, capsys):
    with pytest.raises(PullbackError) as caught:
        read_directions(saved(tmp_path / name, content), N)
    assert name in str(caught.value)
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".pkl", ".json"])
def test_damaged_and_missing_files_and_folders_are_refused(tmp_path, ending):
    file = tmp_path / f"f{ending}"
    with pytest.raises(PullbackError):
        read_directions(file, N)
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY\x01", b"\x80\x04garbage", pickle.dumps(Harmful())):
        file.write_bytes(content)
        with pytest.raises(PullbackError):
            read_directions(file, N)
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(PullbackError):
        read_directions(tmp_path / f"folder{ending}", N)

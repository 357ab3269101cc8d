import re
import shlex
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import typer

from pullback import cli
from pullback.driving import pool_protocol
from pullback.store.reader import open_sweep
from pullback.weights.manifest import CACHE_VARIABLE, FOLDER_VARIABLE


def parse(command):
    """Let typer parse a whole command, without running it; raises on an unknown command, option or path."""
    words = shlex.split(command)
    assert words[0] == "pullback"
    group = typer.main.get_command(cli.app)
    names, rest = [], words[1:]
    while hasattr(group, "commands"):
        name, *rest = rest
        names.append(name)
        group = group.commands[name]
    return group.make_context(" ".join(names), list(rest))


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_a_plan_shows_what_will_be_done_and_writes_nothing(here, pullback, job):
    path = job("mine.yaml", samples={"count": 1000}, metric={"components": 4})
    before = contents(here)
    result = pullback("plan", path)
    assert result.code == 0
    assert re.search(r"1000 codes .*n = 6, 4 eigenpairs", result.out)
    assert "500 of 2 samples" in result.out
    assert "measured here" in result.out
    assert result.next_commands() == ["pullback run mine.yaml"]
    assert contents(here) == before


def test_a_plan_as_json_is_strict_and_complete(here, pullback, job):
    plan = pullback("plan", job("mine.yaml", samples={"count": 1000}), "--json").json
    sizes = {key: plan[key] for key in ("samples", "latent_dim", "components", "shards", "shard_size", "workers")}
    assert sizes == {
        "samples": 1000, "latent_dim": 6, "components": 6, "shards": 500, "shard_size": 2, "workers": 1,
    }  # fmt: skip
    assert plan["name"] == "mine"
    assert plan["generator"] == "own_generators:smooth"
    assert plan["distance"] == "mse"
    assert plan["store"] == "sweeps/mine"
    assert len(plan["sweep_id"]) == 16
    assert plan["seconds_per_sample"] > 0
    assert plan["seconds"] == pytest.approx(1000 * plan["seconds_per_sample"])
    # vectors, values, latents and sums alone: a lower bound that is nearly all of it
    assert plan["stored_bytes"] > 1000 * (6 * 6 * 4 + 6 * 8 + 6 * 4) + 500 * 36 * 8
    assert plan["memory_bytes_per_worker"] > 0


def test_a_job_runs_and_the_same_again_has_nothing_to_do(here, pullback, job):
    path = job("mine.yaml")
    first = pullback("run", path, "--serial")
    assert first.code == 0
    assert first.out == ""
    assert "done: 5 good samples of 5 in sweeps/mine" in first.err
    assert first.next_commands() == ["pullback report sweeps/mine"]
    snapshot = open_sweep("sweeps/mine").snapshot
    again = pullback("run", path, "--serial")
    assert again.code == 0
    assert "nothing to do: all 5 samples of sweeps/mine are done" in again.err
    assert open_sweep("sweeps/mine").snapshot == snapshot


def test_progress_off_a_terminal_is_plain_lines(here, pullback, job):
    result = pullback("run", job("mine.yaml"), "--serial")
    lines = [line for line in result.err.splitlines() if line.startswith("samples: ")]
    assert lines[0].startswith("samples: 0 of 5")
    assert lines[-1].startswith("samples: 5 of 5")
    assert "0 quarantined" in lines[-1]
    assert "\x1b" not in result.err


def test_quarantined_samples_give_an_exit_code_of_their_own_every_time(here, pullback, job):
    path = job("gaps.yaml", name="gaps", generator="own_generators:gaps", samples={"count": 30})
    first = pullback("run", path, "--serial")
    assert first.code == 4
    count = open_sweep("sweeps/gaps").status().quarantined
    assert 0 < count < 15
    assert f"{count} samples are quarantined" in first.err
    again = pullback("run", path, "--serial")
    assert again.code == 4
    assert "nothing to do" in again.err
    assert "pullback show sweeps/gaps" in again.next_commands()


def test_an_interrupted_run_says_how_to_go_on_and_going_on_ends_it(here, pullback, job, monkeypatch):
    path = job("mine.yaml")
    serial_pool = pool_protocol.serial_pool

    @contextmanager
    def interrupted(order, plan):
        with serial_pool(order, plan) as inner:

            class Pool:
                def results(self, shards, stop):
                    yield next(inner.results(shards, stop))
                    raise KeyboardInterrupt

            yield Pool()

    with monkeypatch.context() as patch:
        patch.setattr(pool_protocol, "serial_pool", interrupted)
        result = pullback("run", path, "--serial")
    assert result.code == 130
    assert "interrupted: 2 of 5 samples" in result.err
    assert result.next_commands() == ["pullback run mine.yaml"]
    status = pullback("show", "sweeps/mine", "--json").json["samples"]
    assert status == {"planned": 5, "good": 2, "quarantined": 0, "pending": 3}
    rest = pullback("run", path, "--serial")
    assert rest.code == 0
    assert "samples: 2 of 5" in rest.err


def test_every_printed_next_command_parses(here, pullback, job):
    path = job("mine.yaml")
    commands = [
        *pullback("plan", path).next_commands(),
        *pullback("run", path, "--serial").next_commands(),
        *pullback("analyze", "sweeps/mine", "--draws", 10).next_commands(),
        *pullback("ls", "nowhere").next_commands(),
    ]
    assert len(commands) == 4
    for command in commands:
        assert parse(command).params


def test_the_parser_of_these_tests_refuses_what_is_no_command():
    with pytest.raises(KeyError):
        parse("pullback rune mine.yaml")
    with pytest.raises(Exception, match="No such option"):
        parse("pullback run mine.yaml --seriall")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": {"count": 0}}, "samples.count"),
        ({"distance": "lpip"}, "'lpips'"),
        ({"metrik": {}}, "'metric'"),
        ({"generator": "dcgan-face"}, "'dcgan-faces'"),
        ({"metric": {"components": 9}}, "metric.components"),
        ({"store": "s3://bucket/sweep"}, "s3://bucket/sweep"),
        ({"generator": "own_generators:absent"}, "'absent'"),
        ({"resources": {"memory_gib": 0.001}}, "memory"),
    ],
)
@pytest.mark.parametrize("command", [("plan",), ("run", "--serial")])
def test_a_bad_job_is_one_message_and_leaves_nothing(here, pullback, job, command, changes, message):
    path = job("bad.yaml", **changes)
    before = contents(here)
    result = pullback(command[0], path, *command[1:])
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: bad.yaml: 1 problem")
    assert message in result.err
    assert "Traceback" not in result.err
    assert contents(here) == before


def test_all_problems_of_a_job_are_reported_together(here, pullback, job):
    result = pullback("plan", job("bad.yaml", samples={"count": 0, "seed": -1}, metrik={}))
    assert result.code == 2
    assert "3 problems" in result.err
    assert all(word in result.err for word in ("samples.count", "samples.seed", "metrik"))


def test_a_job_file_that_is_not_there_is_bad_usage(here, pullback):
    result = pullback("run", "absent.yaml", "--serial")
    assert result.code == 2
    assert "absent.yaml" in result.err
    assert contents(here) == ["own_generators.py"]


def test_another_sweep_at_the_same_path_is_refused(here, pullback, job):
    pullback("run", job("mine.yaml"), "--serial")
    result = pullback("run", job("mine.yaml", samples={"count": 6}), "--serial")
    assert result.code == 2
    assert "samples.count (5 there, 6 here)" in result.err
    assert open_sweep("sweeps/mine").status().good == 5


def test_missing_weights_are_reported_with_the_way_to_get_them(here, pullback, job, monkeypatch):
    (here / "empty").mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(here / "empty"))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(here / "empty"))
    monkeypatch.setattr("pullback.weights.manifest.importlib.util.find_spec", lambda name: None)
    path = job("faces.yaml", generator="dcgan-faces")
    result = pullback("run", path, "--serial")
    assert result.code == 2
    assert "not on this machine" in result.err
    assert f"{here / 'empty'}" in result.err
    assert "Traceback" not in result.err
    commands = [line.split("`")[1] for line in result.err.splitlines() if "`pullback weights fetch" in line]
    assert commands == ["pullback weights fetch dcgan-faces"]
    assert parse(commands[0]).params["names"] == ["dcgan-faces"]
    generators = {row["name"]: row["here"] for row in pullback("generators", "list", "--json").json}
    assert generators["dcgan-faces"] is False
    weights = {row["name"]: row["path"] for row in pullback("weights", "list", "--json").json}
    assert weights["dcgan-faces"] is None
    assert "missing" in pullback("weights", "list").out


def test_a_jobs_weights_are_looked_for_where_it_says(here, pullback, job):
    path = job("faces.yaml", generator={"name": "dcgan-faces", "weights": "absent.pth"})
    result = pullback("plan", path)
    assert result.code == 2
    assert "generator: " in result.err
    assert "absent.pth" in result.err


def test_help_is_there_for_every_command(pullback):
    result = pullback("--help")
    assert result.code == 0
    for command in ("plan", "run", "ls", "show", "export", "analyze", "report", "generators", "weights"):
        assert command in result.out
        assert pullback(command, "--help").code == 0


def test_an_unknown_command_is_bad_usage(pullback):
    result = pullback("rnu")
    assert result.code == 2
    assert "rnu" in result.err


def test_the_console_script_leaves_with_the_same_codes(here, job):
    """As a user's shell sees it: one process each."""
    script = [sys.executable, "-m", "pullback"]
    bad = subprocess.run([*script, "plan", job("bad.yaml", samples={"count": 0})], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: bad.yaml: 1 problem")
    absent = subprocess.run([*script, "show", "sweeps/absent"], capture_output=True, text=True)
    assert (absent.returncode, absent.stdout) == (1, "")
    assert "no sweep at sweeps/absent" in absent.stderr
    assert "Traceback" not in absent.stderr + bad.stderr


def test_the_stored_numbers_do_not_depend_on_the_job_files_place(here, pullback, job):
    (here / "jobs").mkdir()
    pullback("run", job("jobs/one.yaml"), "--serial")
    pullback("run", job("two.yaml", store="sweeps/two"), "--serial")
    one, two = open_sweep("sweeps/mine").dataset(), open_sweep("sweeps/two").dataset()
    np.testing.assert_array_equal(one.eigenvalue, two.eigenvalue)
    assert open_sweep("sweeps/mine").provenance["sweep_id"] == open_sweep("sweeps/two").provenance["sweep_id"]

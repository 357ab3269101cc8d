"""`pullback audit` and `pullback gc`, on sweeps that are run, damaged and run again."""

import os
import re
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from pullback.store.history import history
from pullback.store.lock import driver_lock
from pullback.store.reader import open_sweep

SWEEP = Path("sweeps/mine")


@pytest.fixture
def ran(here, job, pullback):
    """A finished sweep of 40 samples in 3 shards, whose eigenvectors are files of their own."""
    resources = {"shard_size": 16, "workers": 1}
    assert pullback("run", job("mine.yaml", samples={"count": 40}, resources=resources), "--serial").code == 0


def numbers(path=SWEEP):
    """Everything that is a number of the sweep's, but the time it took."""
    return open_sweep(path).dataset(only_good=False).drop_vars("seconds").load()


def tear():
    """Damage the eigenvectors of one shard."""
    chunk = max((SWEEP / "chunks").iterdir(), key=lambda chunk: chunk.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:100])


def forget():
    """Lose the statuses of one shard, as damage to Icechunk's own files can."""
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(SWEEP))).writable_session("main")
    zarr.open_group(session.store, mode="r+", use_consolidated=False)["status"][16:32] = 0
    session.commit("forget")


def test_a_clean_sweep_leaves_with_0(ran, pullback):
    result = pullback("audit", SWEEP)
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines()[-1].startswith("clean: ")
    assert "shards read: 3 of 3" in result.err
    shown = pullback("audit", SWEEP, "--json")
    assert shown.code == 0
    assert shown.json["clean"] is True
    assert shown.json["damages"] == shown.json["lost_shards"] == []


@pytest.mark.parametrize(
    ("damage", "array", "kind"), [(tear, "eigenvector", "unreadable"), (forget, "status", "missing")]
)
def test_what_is_damaged_is_reported_repaired_and_computed_again_to_the_last_bit(ran, pullback, damage, array, kind):
    clean = numbers()
    damage()
    found = pullback("audit", SWEEP, "--json")
    assert found.code == 1
    (entry,) = found.json["damages"]
    assert (entry["array"], entry["kind"]) == (array, kind)
    assert found.json["lost_shards"] == [entry["shard"]]
    result = pullback("audit", SWEEP)
    assert result.code == 1
    assert f"shard {entry['shard']}: {array} {kind}" in result.out
    (repair,) = result.next_commands()
    assert repair == "pullback audit sweeps/mine --repair"
    repaired = pullback(*repair.split()[1:])
    assert repaired.code == 0
    assert "1 shards are pending again" in repaired.err
    assert open_sweep(SWEEP).status().pending == (16 if entry["shard"] < 2 else 8)
    again = pullback("run", "mine.yaml", "--serial")
    assert again.code == 0
    assert numbers().identical(clean)
    assert pullback("audit", SWEEP).code == 0


def test_a_repair_of_a_sweep_that_is_driven_is_refused(ran, pullback):
    tear()
    with driver_lock(SWEEP):
        result = pullback("audit", SWEEP, "--repair")
    assert result.code == 1
    assert "held by" in result.err
    assert open_sweep(SWEEP).status().pending == 0


def test_a_repair_says_in_json_that_it_was_made(ran, pullback):
    tear()
    result = pullback("audit", SWEEP, "--repair", "--json")
    assert result.code == 0
    assert result.json["repaired"] is True
    assert len(result.json["lost_shards"]) == 1


def test_what_a_killed_worker_left_is_removed_when_it_is_old(ran, pullback):
    clean = numbers()
    orphan = SWEEP / "chunks" / ("0" * 20)
    orphan.write_bytes(bytes(5000))
    young = pullback("gc", SWEEP)
    assert (young.code, orphan.exists()) == (0, True)
    assert "removed 0 chunks" in young.out
    os.utime(orphan, (0, 0))
    planned = pullback("gc", SWEEP, "--dry-run", "--json").json
    assert (planned["chunks"], planned["bytes"], planned["dry_run"], orphan.exists()) == (1, 5000, True, True)
    result = pullback("gc", SWEEP, "--older-than", "12h")
    assert (result.code, orphan.exists()) == (0, False)
    assert "removed 1 chunks, 0 manifests and 0 snapshots: 4.88 KiB" in result.out
    assert numbers().identical(clean)


def test_earlier_commits_are_forgotten_only_when_asked_for(ran, pullback):
    clean = numbers()
    kept = len(list((SWEEP / "snapshots").iterdir()))
    assert "expired" not in pullback("gc", SWEEP, "--older-than", "0s").out
    assert len(list((SWEEP / "snapshots").iterdir())) == kept
    first = open_sweep(SWEEP).snapshot
    assert pullback("analyze", SWEEP).code == 0
    tear()
    assert pullback("audit", SWEEP, "--repair").code == 0
    assert pullback("run", "mine.yaml", "--serial").code == 0
    assert pullback("analyze", SWEEP).code == 0
    result = pullback("gc", SWEEP, "--older-than", "0s", "--expire", "0s")
    assert result.code == 0
    assert re.search(r"expired [1-9]\d* .* [1-9]\d* analyses", result.out)
    assert pullback("show", SWEEP, "--snapshot", first).code == 1
    assert len(list((SWEEP / "snapshots").iterdir())) < kept
    assert numbers().identical(clean)
    assert pullback("run", "mine.yaml", "--serial").code == 0


@pytest.mark.parametrize("age", ["tomorrow", "1", "-1d", "1 fortnight", "99999999999999d"])
def test_what_is_no_age_is_bad_usage(ran, pullback, age):
    result = pullback("gc", SWEEP, "--older-than", age)
    assert result.code == 2
    assert "--older-than" in result.err


@pytest.mark.parametrize("command", ["audit", "gc"])
def test_a_sweep_that_is_not_there_is_one_line(here, pullback, command):
    result = pullback(command, "sweeps/nowhere")
    assert result.code == 1
    assert result.err.startswith("error: no sweep at sweeps/nowhere")


def test_a_table_of_much_damage_is_cut_and_json_is_not(here, job, pullback, monkeypatch):
    resources = {"shard_size": 1, "workers": 1}
    assert pullback("run", job("mine.yaml", samples={"count": 4}, resources=resources), "--serial").code == 0
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(SWEEP))).writable_session("main")
    zarr.open_group(session.store, mode="r+", use_consolidated=False)["trace"][:] = np.inf
    session.commit("spoil")
    monkeypatch.setattr("pullback.cli.maintenance._SHOWN", 3)
    assert "and 1 more shards; --json lists all" in pullback("audit", SWEEP).out
    assert pullback("audit", SWEEP, "--json").json["lost_shards"] == [0, 1, 2, 3]


@pytest.mark.parametrize("first", ["audit", "run"])
def test_a_sweep_whose_last_commit_was_lost_is_listed_shown_and_gone_on_with(ran, pullback, caplog, monkeypatch, first):
    from pullback.store import opening

    clean = numbers()
    forget()  # a commit more
    last, before = (commit.id for commit in history(SWEEP, 2))
    (SWEEP / "snapshots" / last).write_bytes(b"")
    (SWEEP / "refs" / "branch.main" / "ref.json").write_bytes(b"")
    for command in (("ls",), ("show", SWEEP), ("status", SWEEP), ("audit", SWEEP), ("snapshots", SWEEP)):
        monkeypatch.setattr(opening, "_warned", set())
        caplog.clear()
        result = pullback(*command, "--json")
        assert result.code == (1 if command[0] == "audit" else 0), result.err
        assert any(before in record.getMessage() for record in caplog.records), command
        assert result.json
    assert pullback("show", SWEEP, "--snapshot", before, "--json").json["snapshot"] == before
    if first == "audit":
        repaired = pullback("audit", SWEEP, "--repair")
        assert repaired.code == 0
        assert before in repaired.err
    assert pullback("run", "mine.yaml", "--serial").code == 0
    assert numbers().identical(clean)
    assert pullback("audit", SWEEP).code == 0

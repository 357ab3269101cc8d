"""`pullback serve` and `pullback tokens` as a user calls them."""

import os
import re
import signal
import stat
import subprocess
import sys

import httpx


def test_tokens_are_made_listed_and_removed(pullback, tmp_path):
    file = tmp_path / "tokens.json"
    made = pullback("tokens", "add", "anna", "--scope", "read", "--file", file)
    assert made.code == 0
    assert re.fullmatch(r"pullback_[A-Za-z0-9_-]{43}\n", made.out)
    assert made.next_commands() == [f"pullback serve --tokens {file}"]
    assert made.out.strip() not in file.read_text() + made.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert re.search(r"anna\s+read\s+20", pullback("tokens", "list", "--file", file).out)
    (listed,) = pullback("tokens", "list", "--file", file, "--json").json
    assert {key: listed[key] for key in ("name", "scope")} == {"name": "anna", "scope": "read"}
    assert pullback("tokens", "remove", "anna", "--file", file).code == 0
    emptied = pullback("tokens", "list", "--file", file)
    assert (emptied.code, emptied.out) == (0, "")
    assert "no tokens in" in emptied.err
    assert pullback("tokens", "add", "bo", "--scope", "all", "--file", file).code == 2


def test_serving_beyond_this_machine_without_tokens_does_not_start(pullback, tmp_path):
    refused = pullback("serve", tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert refused.code == 1
    assert "it was not started" in refused.err
    file = tmp_path / "tokens.json"
    assert pullback("serve", tmp_path, "--tokens", file).code == 1
    pullback("tokens", "add", "anna", "--scope", "read", "--file", file)
    pullback("tokens", "remove", "anna", "--file", file)
    nobody = pullback("serve", tmp_path, "--host", "0.0.0.0", "--tokens", file)
    assert (nobody.code, "pullback tokens add" in nobody.err) == (1, True)
    file.chmod(0o640)
    assert "chmod 600" in pullback("serve", tmp_path, "--tokens", file).err


def test_a_service_starts_answers_and_ends_with_a_signal_or_two(tmp_path):
    audit = tmp_path / "audit.jsonl"
    command = [
        sys.executable,
        "-m",
        "pullback",
        "serve",
        str(tmp_path / "sweeps"),
        "--port",
        "0",
        "--audit",
        str(audit),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300"}) as service:
        try:
            first = service.stderr.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+", first)[0]
            answer = httpx.get(f"{url}/v1/sweeps", timeout=60, trust_env=False)
            assert answer.json() == {"sweeps": [], "next": None}
            taken = [*command[:-3], url.rpartition(":")[2]]
            second = subprocess.run(taken, capture_output=True, text=True, timeout=120)
            assert second.returncode == 1
            assert "nothing was started" in second.stderr
        finally:
            for number in (signal.SIGINT, signal.SIGINT):  # an impatient user's
                service.send_signal(number)
            rest = service.stderr.read()
        assert service.wait(60) == 0, rest
    assert "Traceback" not in rest
    assert "there is no folder" in rest
    assert '"path": "/v1/sweeps", "status": 200' in audit.read_text()

"""What remote users read about the server's files: nothing that they could use against it, and enough to go on."""

import json
from pathlib import Path

import httpx
import pytest
from served_sweeps import LAYOUT, FakeBackend, commit, serving

from pullback.api.paths import in_line, in_strings, without_paths
from pullback.driving.sweep_state import SweepState
from pullback.store.creation import create

FOLDER = Path("/srv/our sweeps")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/our sweeps/eyes is damaged", "eyes is damaged"),
        ("sample 3: ValueError: no (/home/anna/models/net.py:12)", "sample 3: ValueError: no (…/net.py:12)"),
        ("the weights /var/cache/pullback/alex.safetensors are missing", "the weights …/alex.safetensors are missing"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "…/x.py", line 3'),
        ("read '/a/b/c', then /d/e/; end", "read '…/c', then …/; end"),
        ("see\n/tmp/ray/session/log", "see\n…/log"),
        ("file:///home/anna/secret/model.pt is gone", "…/model.pt is gone"),
        ("No such file: '/mnt/my data/models/x.pt'", "No such file: '…/x.pt'"),
        ("on disk, /v1/secret/x.pt and /docs/secret/y.pt", "on disk, …/x.pt and …/y.pt"),
        ("~/secrets/x.pt, /secret.pt, ../home/x", "…/x.pt, …/secret.pt, …/x"),
        ("'GET /v1/sweeps/a.b-1' and /v1/sweeps.", "'GET /v1/sweeps/a.b-1' and /v1/sweeps."),
        ("HOME=/root/x and PATH=/usr/bin:/opt/own/bin", "HOME=…/x and PATH=…/bin:…/bin"),
        (
            "GET /v1/sweeps/eyes/status says how it is; see /docs",
            "GET /v1/sweeps/eyes/status says how it is; see /docs",
        ),
        ("http://head:8265/api/jobs does not answer", "http://head:8265/api/jobs does not answer"),
        ("s3://bucket/sweeps/eyes, 1/2 of 3/4, and/or", "s3://bucket/sweeps/eyes, 1/2 of 3/4, and/or"),
        ("", ""),
    ],
)
def test_of_a_path_the_last_part_is_left(text, shown):
    assert without_paths(text, FOLDER) == shown


def test_a_folder_with_a_space_is_known_by_name(tmp_path, monkeypatch):
    folder = tmp_path / "my own place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert without_paths(f"{folder}/models/net.py is wrong", FOLDER) == "…/models/net.py is wrong"


def test_texts_are_changed_wherever_they_are_in_a_value():
    content = {"/a/b": ["/a/b", {"c": ("/d/e/f", 3, None, True, 1.5)}]}
    assert in_strings(content, lambda text: without_paths(text, FOLDER)) == {
        "/a/b": ["…/b", {"c": ["…/f", 3, None, True, 1.5]}]
    }


def test_a_torn_line_is_no_way_around():
    change = lambda text: without_paths(text, FOLDER)  # noqa: E731
    assert in_line(b'{"message": "no\\n/home/anna/x.py", "shard": 3}\n', change) == (
        b'{"message": "no\\n\\u2026/x.py", "shard": 3}\n'
    )
    assert in_line(b'{"message": "/home/anna/x', change).decode() == '{"message": "…/x'
    assert in_line(b'{"shard": 3}\n', change) == b'{"shard": 3}\n'


def test_no_answer_names_a_path_of_the_server(tmp_path):
    secret = "/home/anna/secret/net.py"
    store = create(tmp_path / "sweeps" / "mine", LAYOUT, {"name": "mine", "spec": {"generator": {"weights": secret}}})
    commit(store, 0, 1, 2)
    journal = tmp_path / "sweeps" / "mine.events.jsonl"
    lines = [{"event": "failed", "message": f"sample 3: ValueError ({secret}:{n})"} for n in range(3)]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    backend = FakeBackend(states={"mine": SweepState("failed", "mine", message=f"{secret} is gone")})
    with (
        serving(tmp_path / "sweeps", backend) as (url, _),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as ask,
    ):
        routes = ("", "/mine", "/mine/status", "/mine/events", "/mine/events?follow=true", "/mine/report")
        texts = {route: ask.get(f"/v1/sweeps{route}").text for route in routes}
        first = ask.get("/v1/sweeps/mine/events", params={"limit": 1})
        rest = ask.get("/v1/sweeps/mine/events", params={"offset": first.headers["Pullback-Next-Offset"]})
    for route, text in texts.items():
        assert "secret" not in text, route
        assert str(tmp_path) not in text, route
    assert "net.py is gone" in texts["/mine/status"]
    assert texts["/mine/events"].count("net.py") == texts["/mine/events?follow=true"].count("ValueError") == 3
    assert first.text + rest.text == texts["/mine/events"], "offsets are those of the journal itself"

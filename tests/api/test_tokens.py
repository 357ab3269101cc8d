import json
import re
import stat

import pytest

from pullback.api.tokens import TokenFile, add_token, remove_token
from pullback.errors import PullbackError


def test_a_token_is_stored_as_its_hash_in_a_file_for_its_owner_only(tmp_path):
    file = tmp_path / "new" / "tokens.json"
    first, second = add_token(file, "anna", "read"), add_token(file, "bo", "submit")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(first) > 40
    assert first not in file.read_text()
    tokens = TokenFile(file)
    assert [(token.name, token.scope) for token in tokens.tokens()] == [("anna", "read"), ("bo", "submit")]
    assert tokens.find(second.encode()).name == "bo"
    assert tokens.find(second.encode() + b" ") is None
    assert tokens.find(b"") is None
    assert tokens.find(tokens.tokens()[0].sha256.encode()) is None, "a hash lets nobody in"


def test_two_tokens_are_never_the_same(tmp_path):
    made = {add_token(tmp_path / "tokens.json", f"t{number}", "read") for number in range(20)}
    assert len(made) == 20


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o611])
def test_a_file_that_others_may_open_is_refused(tmp_path, mode):
    file = tmp_path / "tokens.json"
    add_token(file, "anna", "read")
    file.chmod(mode)
    for act in (lambda: TokenFile(file), lambda: add_token(file, "bo", "read"), lambda: remove_token(file, "anna")):
        with pytest.raises(PullbackError, match=r"chmod 600"):
            act()
    assert "bo" not in file.read_text()


@pytest.mark.parametrize("name", ["", "a b", "-a", "../a", "a\n", "a" * 65, 'a"'])
def test_a_name_that_would_confuse_a_log_is_refused(tmp_path, name):
    with pytest.raises(PullbackError, match="cannot be a token's name"):
        add_token(tmp_path / "tokens.json", name, "read")
    assert not (tmp_path / "tokens.json").exists()


def test_a_name_is_given_once(tmp_path):
    token = add_token(tmp_path / "tokens.json", "anna", "read")
    with pytest.raises(PullbackError, match="has a token named anna"):
        add_token(tmp_path / "tokens.json", "anna", "submit")
    assert TokenFile(tmp_path / "tokens.json").find(token.encode()).scope == "read"


def test_a_token_that_is_removed_lets_nobody_in_and_what_is_not_there_is_reported(tmp_path):
    file = tmp_path / "tokens.json"
    token = add_token(file, "anna", "read")
    tokens = TokenFile(file)
    remove_token(file, "anna")
    assert tokens.find(token.encode()) is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(PullbackError, match="no token named anna"):
        remove_token(file, "anna")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": 2, "tokens": []}',
        '{"format": 1, "tokens": [{}]}',
        '{"format": 1, "tokens": [{"name": "a", "scope": "all", "sha256": "%s", "created": ""}]}' % ("0" * 64),
        '{"format": 1, "tokens": [{"name": "a", "scope": "read", "sha256": "0", "created": ""}]}',
        '{"format": 1, "tokens": [{"name": 3, "scope": "read", "sha256": "%s", "created": ""}]}' % ("0" * 64),
    ],
)
def test_a_file_of_something_else_is_refused_and_left(tmp_path, content):
    file = tmp_path / "tokens.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(PullbackError, match="is not a file of tokens"):
        TokenFile(file)
    with pytest.raises(PullbackError, match="is not a file of tokens"):
        add_token(file, "anna", "read")
    assert file.read_text() == content


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(PullbackError, match="pullback tokens add"):
        TokenFile(tmp_path / "tokens.json")


def test_every_entry_is_compared_whichever_is_right(tmp_path, monkeypatch):
    import hmac

    file = tmp_path / "tokens.json"
    token, *_ = [add_token(file, name, "read") for name in "abc"]
    compared = []
    whole = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: (compared.append(one), whole(one, other))[1])
    assert TokenFile(file).find(token.encode()).name == "a"
    assert len(compared) == 3
    hashes = [entry["sha256"] for entry in json.loads(file.read_text())["tokens"]]
    assert compared == hashes
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes)


def test_a_folder_in_place_of_the_file_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(PullbackError, match=r"it is a folder\. .*pullback tokens add"):
        TokenFile(tmp_path)

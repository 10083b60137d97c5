"""Other names for interfaces on the command line: what is asked of the host, what is told where."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rumi_setup.cli import codes, link
from rumi_setup.cli.main import main
from tests.support.socket_host import SocketHost, serving

ROW = {"alias": "store.get", "key": "db.get", "available": True, "hides": None}
EVIL = "x\x1b[2J\u202e"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SocketHost]:
    with tempfile.TemporaryDirectory(prefix="r") as short:  # a socket's path has 107 bytes at most
        for name, value in (("XDG_RUNTIME_DIR", short), ("RUMI_HOME", str(tmp_path)), ("RUMI_LANG", "en"), ("NO_COLOR", "1")):
            monkeypatch.setenv(name, value)
        folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
        with serving(folder / "api.sock", SocketHost()) as found:
            yield found


def test_a_name_is_given_listed_and_taken_away(host, capsys) -> None:
    host.answers |= {"GET /api/aliases": [ROW], "GET /api/issues": [], "PUT /api/aliases/store.get": [ROW], "DELETE /api/aliases/store.get": []}
    assert main(["interface", "alias", "add", "store.get", "db.get"]) == 0
    assert host.asked[-1].body == {"means": "db.get"}
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].split() == ["store.get", "db.get", "yes"]
    assert "Nobody provides" not in err
    assert main(["interface", "alias", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [ROW]
    assert main(["interface", "alias", "remove", "store.get"]) == 0
    assert "No interface has another name." in capsys.readouterr().err
    assert host.paths() == ["PUT /api/aliases/store.get", "GET /api/aliases", "DELETE /api/aliases/store.get"]


def test_a_name_that_reaches_nobody_or_hides_somebody_is_told(host, capsys) -> None:
    host.answers["PUT /api/aliases/store.get"] = [{**ROW, "available": False, "hides": EVIL}]
    assert main(["interface", "alias", "add", "store.get", "db.get"]) == 0
    out, err = capsys.readouterr()
    assert "Nobody provides db.get now." in err
    assert "\\u001b" in out
    assert not {"\x1b", "\u202e"} & {*out, *err}


def test_a_refusal_is_told_with_its_hint(host, capsys) -> None:
    host.answers["PUT /api/aliases/a"] = (409, {"error": "'a' is an interface itself", "code": "alias_conflict", "hint": "Choose another."})
    assert main(["interface", "alias", "add", "a", "db.get"]) == codes.CONFLICT
    err = capsys.readouterr().err
    assert "'a' is an interface itself" in err
    assert "Choose another." in err


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ["/h/user_data/aliases.json can't be used: line 1 \\u001b",
                "Correct it, or have what is in force written, keeping it as a backup: ./rumi doctor --fix"]),
        ("ja", ["/h/user_data/aliases.json は使えません: line 1 \\u001b",
                "直してください。効いている内容で書き直す（元のファイルは残す）こともできます: ./rumi doctor --fix"]),
    ],
)  # fmt: skip
def test_a_list_says_that_the_file_can_not_be_used(host, capsys, monkeypatch, language, said) -> None:
    monkeypatch.setenv("RUMI_LANG", language)
    issue = {"code": "aliases_json_invalid", "detail": "line 1 \x1b", "evidence": {"file": "/h/user_data/aliases.json"}}
    host.answers |= {"GET /api/aliases": [ROW], "GET /api/issues": [{"code": "other", "detail": "?"}, issue]}
    assert main(["interface", "alias", "list"]) == 0
    out, err = capsys.readouterr()
    assert "store.get" in out
    assert err.splitlines()[:2] == said
    assert main(["interface", "alias", "list", "--json"]) == 0
    assert capsys.readouterr().err == ""

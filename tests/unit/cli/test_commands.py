"""The command line against a real Unix socket: what it asks, what it says where, and how it ends."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import socket
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.main import COMMANDS, main
from rumi_setup.cli.words_ja import JAPANESE
from tests.support.socket_host import SocketHost, serving

ROOT = Path(__file__).resolve().parents[3]
HELLO = {"pack_id": "my_pack", "status": "running", "version": "1.0.0", "description": "My first pack", "cause": None}
STATUS = {**HELLO, "digest": "sha256:" + "0" * 64, "approval": {"approved_at": 1, "isolation": {"driver": "docker"}}}


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="r") as short:  # a socket's path has 107 bytes at most
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        monkeypatch.setenv("RUMI_HOME", str(tmp_path))
        monkeypatch.setenv("RUMI_LANG", "en")
        monkeypatch.setenv("NO_COLOR", "1")
        yield


@pytest.fixture
def host(tmp_path):
    folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
    with serving(folder / "api.sock", SocketHost()) as found:
        yield found


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- data and words -----------------------------------------------------------------------------------------------


def test_data_is_on_stdout_words_are_on_stderr(host, capsys) -> None:
    host.answers |= {"POST /api/packs/scan": {}, "GET /api/packs": [HELLO]}
    code, out, err = run(capsys, "pack", "list")
    assert code == 0
    assert out.splitlines() == ["pack     status   version  description", "my_pack  running  1.0.0    My first pack"]
    assert err == "Next: ./rumi interface list\n"


def test_json_prints_the_data_and_nothing_else(host, capsys) -> None:
    host.answers |= {"POST /api/packs/scan": {}, "GET /api/packs": [HELLO]}
    for arguments in (("pack", "list", "--json"), ("--json", "pack", "list")):
        code, out, err = run(capsys, *arguments)
        assert (code, json.loads(out), err) == (0, [HELLO], "")


def test_call_passes_json_and_shows_the_result(host, capsys) -> None:
    host.answers["POST /api/interfaces/service.hello/call"] = lambda body: {
        "result": {"message": f"Hello, {body['args']['name']}!"}
    }
    assert run(capsys, "call", "service.hello", '{"name": "世界"}')[1] == '{\n  "message": "Hello, 世界!"\n}\n'
    assert json.loads(run(capsys, "call", "--json", "service.hello", '{"name": "x"}')[1]) == {
        "result": {"message": "Hello, x!"}
    }
    run(capsys, "call", "service.hello", '{"name": 1}', "--timeout", "2.5")
    assert host.asked[-1].body == {"args": {"name": 1}, "timeout": 2.5}
    assert host.asked[-1].headers["Host"] == "rumi"
    assert host.asked[-1].headers["Content-Type"] == "application/json"
    run(capsys, "call", "service.hello", '{"name": 1}', "--idempotency-key", "order-7")
    assert host.asked[-1].body == {"args": {"name": 1}, "idempotency_key": "order-7"}


def test_call_reads_arguments_from_standard_input(host, capsys, monkeypatch) -> None:
    host.answers["POST /api/interfaces/a.b/call"] = lambda body: {"result": body["args"]}
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO('{"from": "stdin"}'))
    assert json.loads(run(capsys, "call", "a.b", "-")[1]) == {"from": "stdin"}


def test_a_key_can_not_leave_its_place_in_the_path(host, capsys) -> None:
    run(capsys, "call", "../packs/x?y#z", "{}")
    assert host.paths() == ["POST /api/interfaces/..%2Fpacks%2Fx%3Fy%23z/call"]


def test_a_stream_is_printed_item_by_item(host, capsys) -> None:
    host.answers["POST /api/interfaces/a.b/call"] = (
        b'event: item\ndata: {"n": 1}\n\n: a comment\n\nevent: item\ndata: {"n":\ndata: 2}\n\nevent: end\ndata: {"items": 2}\n\n'
    )
    code, out, _ = run(capsys, "call", "--stream", "a.b", "{}")
    assert (code, out) == (0, '{"n": 1}\n{"n": 2}\n')
    assert host.asked[-1].headers["Accept"] == "text/event-stream"


@pytest.mark.parametrize("way", [(), ("--stream",), ("--timeout", "2.5")])
def test_lines_of_standard_input_are_the_argument_as_they_come(host, capsys, monkeypatch, way) -> None:
    lines = b'{"n": 1}\n' + b"2\n" * 100_000
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    path = "/api/interfaces/a.b/call" + ("?timeout=3" if "--timeout" in way else "")
    host.answers[f"POST {path}"] = {"result": 100_001}
    assert run(capsys, "call", "a.b", "--lines", *way)[:2] == (0, "100001\n")
    assert host.asked[-1].headers["Content-Type"] == "application/x-ndjson"
    assert host.asked[-1].body == lines


def test_lines_and_an_argument_are_one_too_many(host, capsys) -> None:
    code, _, err = run(capsys, "call", "a.b", "{}", "--lines")
    assert (code, host.asked) == (codes.USAGE, [])
    assert "standard input" in err
    code, _, err = run(capsys, "call", "a.b", "--lines", "--idempotency-key", "k")
    assert (code, host.asked, "idempotency" in err) == (codes.USAGE, [], True)


def test_a_stream_that_breaks_says_why(host, capsys) -> None:
    error = json.dumps({"success": False, "error": "It broke", "code": "x", "hint": "Look"})
    host.answers["POST /api/interfaces/a.b/call"] = f"event: item\ndata: 1\n\nevent: error\ndata: {error}\n\n".encode()
    code, out, err = run(capsys, "call", "--stream", "a.b", "{}")
    assert (code, out) == (codes.PACK_FAILED, "1\n")
    assert "It broke" in err


def test_status_of_everything(host, capsys) -> None:
    host.answers |= {
        "GET /api/health": {"phase": "ready", "web": "http://localhost:5000", "api": "http://localhost:8765"},
        "GET /api/packs": [HELLO, {**HELLO, "pack_id": "b", "status": "pending"}],
        "GET /api/isolation": {"isolation": {"driver": "embedded", "level": "standard"}},
        "GET /api/issues": [],
    }
    code, out, err = run(capsys, "status")
    assert code == 0
    assert "http://localhost:5000" in out
    assert "embedded (standard)" in out
    assert "1 pending, 1 running" in out
    assert err == "Next: ./rumi pack pending\n"
    assert json.loads(run(capsys, "status", "--json")[1])["running"] is True


def test_status_says_that_the_engine_answers_no_more(host, capsys) -> None:
    isolation = {"isolation": {"driver": "docker", "level": "standard"}, "problem": "It does not answer"}
    host.answers |= {"GET /api/health": {}, "GET /api/packs": [], "GET /api/isolation": isolation, "GET /api/issues": []}
    assert "docker (standard): It does not answer" in run(capsys, "status")[1]


def test_status_and_doctor_say_which_way_the_bus_takes_and_why(host, capsys, tmp_path) -> None:
    docker = {"driver": "docker", "available": True, "level": "standard", "version": "20.10", "transport": "stdio: the \x1b[2Jnetwork"}
    embedded = {"driver": "embedded", "available": False, "reason": "Bubblewrap is not installed", "hint": "apt-get"}
    host.answers |= {
        "GET /api/health": {"phase": "ready"},
        "GET /api/packs": [],
        "GET /api/isolation": {"isolation": {"driver": "docker", "level": "standard"}, "drivers": [docker, embedded]},
        "GET /api/issues": [],
        "GET /api/doctor": {"healthy": True, "checks": [], "issues": [], "fixups": []},
    }
    _, out, _ = run(capsys, "status")
    assert "stdio: the \\u001b[2Jnetwork" in out
    _, out, _ = run(capsys, "doctor")
    assert "docker: standard; 20.10; stdio: the" in out
    assert "embedded: Bubblewrap is not installed; apt-get" in out
    assert "\x1b" not in out


def test_pack_show_tells_limits_with_use_and_hits(host, capsys) -> None:
    limits = [
        {"name": "memory", "limit": 268435456, "unit": "bytes", "used": 41943040.0, "hits": 2, "beyond": "the kernel ends it"},
        {"name": "time", "limit": 30.0, "unit": "s", "used": None, "hits": 0, "beyond": "the caller is answered"},
    ]
    components = [{"id": "my_pack:service:one", "state": "waiting", "cause": "a.b is not there\x1b[2J"}]
    host.answers |= {
        "GET /api/packs/my_pack/status": STATUS, "GET /api/packs/my_pack/limits": limits,
        "GET /api/packs/my_pack/components": components,
    }  # fmt: skip
    _, out, _ = run(capsys, "pack", "show", "my_pack")
    assert "my_pack:service:one  waiting  a.b is not there" in out
    assert "\x1b" not in out
    assert re.search(r"memory +40\.0 / 256\.0 MiB +met 2 times: the kernel ends it", out)
    assert re.search(r"time +– / 30 s\n", out)
    assert json.loads(run(capsys, "pack", "show", "my_pack", "--json")[1])["limits"] == limits


def test_logs(host, capsys) -> None:
    lines = [{"ts": 0.0, "level": 40, "source": "stderr", "text": "bad \x1b[31mred\u202e", "generation": 1}]
    host.answers["GET /api/packs/my_pack/logs?lines=5"] = {"pack_id": "my_pack", "lines": lines}
    _, out, _ = run(capsys, "logs", "my_pack", "-n", "5")
    assert re.fullmatch(r"\d\d:\d\d:\d\d ERROR bad \\u001b\[31mred\\u202e\n", out)


def test_containers_and_interfaces(host, capsys) -> None:
    host.answers |= {
        "GET /api/containers": [{"pack_id": "my_pack", "id": "c1", "driver": "docker", "level": "strong", "state": "serving", "restarts": 0}],
        "GET /api/interfaces": [{"key": "service.hello", "owner": "my_pack", "available": True}],
        "GET /api/interfaces/service.hello": {"key": "service.hello", "owner": "my_pack"},
        "POST /api/containers/my_pack/stop": {**STATUS, "status": "approved"},
    }  # fmt: skip
    assert "c1" in run(capsys, "container", "list")[1]
    assert "service.hello  my_pack  yes" in run(capsys, "interface", "list")[1]
    assert json.loads(run(capsys, "interface", "show", "service.hello")[1])["owner"] == "my_pack"
    code, out, err = run(capsys, "pack", "stop", "my_pack")
    assert code == 0
    assert "status       approved" in out
    assert err == "Next: ./rumi pack start my_pack\n"


# -- decisions ----------------------------------------------------------------------------------------------------


def test_approve_without_a_terminal_is_the_plain_request(host, capsys) -> None:
    host.answers["POST /api/packs/my_pack/approve"] = STATUS
    code, out, err = run(capsys, "pack", "approve", "my_pack")
    assert code == 0
    assert host.paths() == ["POST /api/packs/my_pack/approve"]
    assert host.asked[0].body is None
    assert "running" in out
    assert err == "Next: ./rumi interface list\n"


def test_approve_with_yes_binds_what_the_review_shows(host, capsys) -> None:
    host.answers |= {
        "GET /api/packs/my_pack/review": {"digest": "sha256:abc"},
        "POST /api/packs/my_pack/approve": STATUS,
    }
    run(capsys, "pack", "approve", "my_pack", "--yes")
    assert host.asked[-1].body == {"digest": "sha256:abc"}
    run(capsys, "pack", "approve", "my_pack", "--digest", "sha256:def", "--accept-weaker")
    assert host.asked[-1].body == {"digest": "sha256:def", "accept_weaker": True}


def test_a_pack_that_was_put_there_just_now_is_looked_for_once(host, capsys) -> None:
    known = iter([(404, {"error": "Unknown Pack", "code": "not_found"}), STATUS])
    host.answers |= {"POST /api/packs/my_pack/approve": lambda _: next(known), "POST /api/packs/scan": {}}
    assert run(capsys, "pack", "approve", "my_pack")[0] == 0
    assert host.paths() == [
        "POST /api/packs/my_pack/approve",
        "POST /api/packs/scan",
        "POST /api/packs/my_pack/approve",
    ]


def test_an_approved_pack_that_fails_to_start_is_no_success(host, capsys) -> None:
    host.answers["POST /api/packs/my_pack/approve"] = {**STATUS, "status": "error", "cause": "setup.py failed"}
    code, _, err = run(capsys, "pack", "approve", "my_pack")
    assert code == codes.PACK_FAILED
    assert "./rumi logs my_pack" in err


def test_remove_asks_or_is_told(host, capsys) -> None:
    host.answers["DELETE /api/packs/my_pack"] = {"pack_id": "my_pack", "removed": True}
    assert run(capsys, "pack", "remove", "my_pack")[0] == codes.USAGE
    assert host.asked == []
    assert run(capsys, "pack", "remove", "my_pack", "--yes")[0] == 0
    assert host.paths() == ["DELETE /api/packs/my_pack"]


def test_reject_sends_the_reason(host, capsys) -> None:
    host.answers["POST /api/packs/my_pack/reject"] = {**STATUS, "status": "blocked"}
    run(capsys, "pack", "reject", "my_pack", "--reason", "no")
    assert host.asked[0].body == {"reason": "no"}


def test_a_hostile_review_can_not_paint_the_terminal(host, capsys) -> None:
    evil = "\x1b[2J\u202egpj\u200b[red]\r\x9b31m\U000e0041"
    host.answers["GET /api/packs/my_pack/review"] = {
        "pack_id": "my_pack", "state": "pending", "digest": "d", "description": evil + "x" * 10_000, "author": evil,
        "permissions": [{"type": "network", "risk": "high", "reason": evil, "domains": [evil], "words": {"en": "talks"}}],
        "findings": [{"code": "c", "path": evil, "detail": evil}], "provides": [evil], "rating": {"score": 5, "grade": "E",
        "deductions": [{"points": 10, "reason": "because", "reason_ja": "理由"}]}, "replaces": {evil: evil},
        "file_changes": {"added": [evil]}, "permission_changes": {"added": [{"type": evil}]},
    }  # fmt: skip
    for arguments in (("pack", "review", "my_pack"), ("pack", "review", "my_pack", "--json")):
        code, out, err = run(capsys, *arguments)
        assert code == 0
        assert all(ch.isprintable() or ch == "\n" for ch in out + err)
        assert "\\u202e" in out
    _, out, err = run(capsys, "pack", "review", "my_pack")
    assert err == "Next: ./rumi pack approve my_pack --digest d\n"
    assert "[red]" in out
    assert "-10  because" in out
    assert len(out) < 10_000


def test_json_keeps_its_meaning_when_escaped() -> None:
    value = {"a\u202e": ["\x1b", "\u200b", "\U000e0041", "日本", "\x9b", "\ud800"]}
    text = show.as_json(value)
    assert json.loads(text) == value
    assert text.isascii() or all(ch.isprintable() or ch == "\n" for ch in text)


def test_a_staged_version_waits_for_a_decision_too(host, capsys) -> None:
    staged = {**HELLO, "pending_update": {"version": "2.0.0\x1b[2J"}}
    host.answers |= {
        "POST /api/packs/scan": [], "GET /api/packs": [staged], "GET /api/packs/pending": [],
        "GET /api/health": {}, "GET /api/isolation": {}, "GET /api/issues": [],
        "GET /api/packs/my_pack/review": {"approved_version": "1.0.0", "pending_update": staged["pending_update"]},
    }  # fmt: skip
    _, out, err = run(capsys, "pack", "list")
    assert "update 2.0.0" in out
    assert "\x1b" not in out
    assert err == "Next: ./rumi pack pending\n"
    _, out, err = run(capsys, "pack", "pending")
    assert out.startswith("my_pack  update 2.0.0")
    assert err == "Next: ./rumi pack update my_pack --show\n"
    _, out, err = run(capsys, "status")
    assert "my_pack 2.0.0" in out
    assert err == "Next: ./rumi pack pending\n"
    assert run(capsys, "pack", "diff", "my_pack")[2].endswith("Next: ./rumi pack update my_pack --show\n")


def test_a_pack_in_development_is_marked(host, capsys) -> None:
    host.answers |= {"POST /api/packs/scan": [], "GET /api/packs": [{**HELLO, "in_development": True}]}
    assert "in development; My first pack" in run(capsys, "pack", "list")[1]


def test_a_host_that_still_starts_is_asked_again(host, capsys) -> None:
    early = (503, {"error": "not there yet", "code": "starting"})
    answers = iter([early, early, ["my_pack"]])
    host.answers |= {"GET /api/packs/pending": lambda _: next(answers), "GET /api/health": {"phase": "starting"}}
    assert run(capsys, "pack", "pending", "--json")[:2] == (0, '[\n  "my_pack"\n]\n')


def test_a_host_whose_start_failed_is_not_waited_for(host, capsys) -> None:
    host.answers |= {
        "GET /api/packs/pending": (503, {"error": "not there yet", "code": "starting"}),
        "GET /api/health": {"phase": "failed"},
    }
    assert run(capsys, "pack", "pending")[0] == codes.HOST_DOWN
    assert host.paths() == ["GET /api/packs/pending", "GET /api/health"]


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 4), (403, 4), (404, 5), (409, 6), (413, 2), (422, 7), (500, 1), (502, 7), (503, 3), (504, 7)],
)
def test_exit_codes_by_status(host, capsys, status, code) -> None:
    host.answers["POST /api/interfaces/a.b/call"] = (
        status,
        {"error": "Why", "code": "slug", "hint": "do this", "fields": {"a": 1}},
    )
    found, out, err = run(capsys, "call", "a.b", "{}")
    assert (found, out, err) == (code, "", "rumi: Why\n  → do this\n")
    found, out, err = run(capsys, "call", "--json", "a.b", "{}")
    assert (found, out) == (code, "")
    assert json.loads(err) == {"error": "Why", "code": "slug", "hint": "do this", "fields": {"a": 1}}


def test_without_a_host(capsys) -> None:
    code, out, err = run(capsys, "status")
    assert (code, out) == (codes.HOST_DOWN, "")
    assert err == "rumi: The host does not run.\n  → Start it: ./rumi up\n"


def test_a_socket_that_nobody_serves(capsys, tmp_path) -> None:
    folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "api.sock"))
    assert run(capsys, "status")[0] == codes.HOST_DOWN


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o710])
def test_a_folder_that_others_may_enter_gets_nothing(host, capsys, tmp_path, mode) -> None:
    folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
    folder.chmod(mode)
    code, _, err = run(capsys, "status")
    assert code == codes.DENIED
    assert "nothing was sent" in err
    assert host.asked == []


def test_a_folder_that_is_a_link_gets_nothing(host, capsys, tmp_path) -> None:
    folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
    folder.rename(folder.with_name("real"))
    folder.symlink_to(folder.with_name("real"))
    assert run(capsys, "status")[0] == codes.DENIED
    assert host.asked == []
    folder.unlink()
    folder.with_name("real").rename(folder)


def test_a_server_of_another_user_gets_nothing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        link.check_peer(ours, os.getuid())
        if os.getuid() != 0:
            with pytest.raises(link.Failure):
                link.check_peer(ours, os.getuid() + 1)


@pytest.mark.root
def test_a_squatter_with_another_uid_is_refused(tmp_path, capsys) -> None:
    folder = link.run_folders(tmp_path, os.environ, 0)[0]
    folder.mkdir(mode=0o700)
    program = (
        "import os,socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])\n"
        "os.setuid(65533); s.listen(); print('up', flush=True)\n"
        "c,_=s.accept(); print(len(c.recv(100)), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program, str(folder / "api.sock")], stdout=subprocess.PIPE, text=True
    ) as squatter:
        try:
            assert squatter.stdout.readline() == "up\n"
            code, _, err = run(capsys, "status")
            assert code == codes.DENIED
            assert "65533" in err
            assert squatter.stdout.readline() == "0\n"
        finally:
            squatter.kill()


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"data": 1}', b"[" * 100_000])
def test_an_answer_that_is_no_envelope(host, capsys, content) -> None:
    host.answers["GET /api/interfaces"] = (200, content)
    code, out, err = run(capsys, "interface", "list")
    assert (code, out) == (codes.FAILED, "")
    assert err.startswith("rumi: The host answered")


@pytest.mark.parametrize(
    "arguments",
    [["pack", "show", "../x"], ["pack", "show", "A"], ["logs", "x" * 65], ["call", "a.b", "{"], ["call"], ["pack", "show"],
     ["call", "a.b", "{}", "--timeout", "0"], ["pack", "list", "--nope"], ["logs", "a", "-n", "0"]],
)  # fmt: skip
def test_wrong_command_lines_ask_nothing(host, capsys, arguments) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (codes.USAGE, "")
    assert err
    assert host.asked == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["stauts"], "rumi status"),
        (["packs"], "rumi pack"),
        (["pack", "aprove", "x"], "rumi pack approve"),
        (["dctor"], "rumi doctor"),
    ],
)
def test_did_you_mean(capsys, arguments, meant) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == codes.USAGE
    assert f"Did you mean '{meant}'?" in err


# -- without a host -----------------------------------------------------------------------------------------------


def test_pack_new_makes_a_pack_that_the_host_can_read(tmp_path, capsys) -> None:
    from backend_core.ecosystem.registry import scan_folder

    code, out, err = run(capsys, "pack", "new", "fresh")
    assert code == 0
    made = Path(out.strip())
    assert made == tmp_path / "ecosystem/packs/fresh"
    assert err == "Next: ./rumi pack approve fresh\n"
    found = scan_folder(made)
    assert found.error is None
    assert found.metadata.provides() == {"fresh.hello"}
    assert found.metadata.notes == ()


@pytest.mark.parametrize("name", ["Bad", "a b", "../up", "", "1st"])
def test_pack_new_refuses_names_that_are_no_id(tmp_path, capsys, name) -> None:
    assert run(capsys, "pack", "new", name)[0] not in {0, 1}
    assert not (tmp_path / "ecosystem").exists()


def test_pack_new_never_overwrites(tmp_path, capsys) -> None:
    run(capsys, "pack", "new", "fresh")
    file = tmp_path / "ecosystem/packs/fresh/backend/ecosystem.json"
    file.write_text("mine")
    code, _, err = run(capsys, "pack", "new", "fresh")
    assert code != 0
    assert "exists already" in err
    assert file.read_text() == "mine"


def test_token(tmp_path, capsys) -> None:
    file = tmp_path / "user_data/permissions/.api_token"
    assert run(capsys, "token")[0] == codes.NOT_FOUND
    file.parent.mkdir(parents=True)
    file.write_text("secret\n")
    file.chmod(0o600)
    assert run(capsys, "token")[:2] == (0, "secret\n")
    assert json.loads(run(capsys, "token", "--path", "--json")[1]) == {"path": str(file)}
    file.chmod(0o644)
    code, out, _ = run(capsys, "token")
    assert (code, out) == (codes.DENIED, "")


def test_doctor_finds_mends_and_is_healthy_then(tmp_path, capsys) -> None:
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == codes.FAILED
    assert "user_data_missing" in {issue["id"] for issue in json.loads(out)["issues"]}
    code, out, err = run(capsys, "doctor", "--fix")
    assert code == 0, out + err
    assert "Healthy." in err
    assert (tmp_path / "user_data/mounts.json").is_file()


ISSUE = {
    "id": "mount_missing:data.x", "code": "mount_missing", "severity": "warn", "subject": "data.x", "title": "No \x1b[2Jfolder",
    "hint": "Make it", "count": 1, "first_ts": 1.0, "last_ts": 1.0, "gone_ts": None,
    "suggestions": [{"title": "Make the folder", "command": "", "fixup": "make_mount", "args": {"name": "data.x"}}],
}


def test_doctor_asks_the_running_host_and_has_it_mend(host, capsys, tmp_path) -> None:
    unfinished = {"code": "slow", "title": "Slow things", "title_ja": "遅いもの", "status": "unfinished", "found": 0, "took_s": 20.0}
    host.answers |= {
        "GET /api/isolation": {},
        "POST /api/doctor/fix": [{"issue": ISSUE["id"], "fixup": "make_mount", "success": True, "message": "made \x1bit"}],
        "GET /api/doctor": {"healthy": False, "checks": [unfinished], "issues": [{**ISSUE, "severity": "error"}], "fixups": []},
    }
    code, out, err = run(capsys, "doctor", "--fix")
    assert code == codes.FAILED
    assert "mount_missing:data.x: mended: made \\u001bit" in out
    assert "No \\u001b[2Jfolder" in out
    assert "Slow things" in out
    assert "rumi issue list" in err
    found = json.loads(run(capsys, "doctor", "--fix", "--json")[1])
    assert (found["healthy"], found["host_fixed"][0]["fixup"], found["host_checks"]) == (False, "make_mount", [unfinished])


def test_issues_are_listed_mended_and_looked_up_later(host, capsys) -> None:
    host.answers |= {
        "GET /api/issues": [ISSUE],
        "POST /api/doctor/fix": [{"issue": ISSUE["id"], "fixup": "make_mount", "success": False, "message": "No room"}],
        "GET /api/issues/history?lines=50&subject=data.x": [ISSUE, {**ISSUE, "gone_ts": 5.0}],
    }
    code, out, _ = run(capsys, "issue", "list")
    assert (code, "./rumi issue fix mount_missing:data.x" in out, "\x1b" in out) == (0, True, False)
    code, out, _ = run(capsys, "issue", "fix", "mount_missing:data.x")
    assert (code, out) == (codes.FAILED, "mount_missing:data.x: not mended: No room\n")
    assert host.asked[-1].body == {"issue": "mount_missing:data.x", "fixup": ""}
    code, out, _ = run(capsys, "issue", "history", "--subject", "data.x")
    assert [("stands" in line) for line in out.splitlines()] == [True, False]
    for words in (["list"], ["history", "--subject", "data.x"], ["fix", ISSUE["id"]]):
        json.loads(run(capsys, "issue", *words, "--json")[1])


def test_past_runs_are_shown_with_what_they_took(host, capsys) -> None:
    run_ = {"kind": "pack", "subject": "p", "run": "1-1", "started_at": 10.0, "ended_at": 12.5, "status": "crashed", "detail": "\x1b[31m"}
    host.answers |= {"GET /api/history?count=50": [run_, {**run_, "ended_at": None}], "GET /api/history?count=2&kind=flow&subject=f": []}
    code, out, _ = run(capsys, "history")
    assert (code, "2.5 s" in out, "crashed" in out, "\x1b" in out) == (0, True, True, False)
    assert "Nothing ran yet." in run(capsys, "history", "f", "--kind", "flow", "-n", "2")[2]
    json.loads(run(capsys, "history", "--json")[1])


def test_bisect_shows_each_trial_and_names_the_pack(host, capsys) -> None:
    error = {"code": "pack_error", "title": "It failed", "detail": "\x1b[31mno"}
    report = {
        "key": "a.b", "verdict": "found", "provider": "a", "packs": ["bad"], "starts": 4, "afresh": False, "flaky": True,
        "trials": [
            {"running": ["bad", "b", "c", "d"], "calls": 3, "failed": 1, "error": error, "not_started": []},
            {"running": [], "calls": 3, "failed": 0, "error": None, "not_started": []},
        ],
        "not_restored": {},
    }  # fmt: skip
    host.answers |= {"POST /api/bisect": report}
    code, out, err = run(capsys, "bisect", "a.b", '{"n": 1}', "--expect", "2", "--repeat", "5")
    assert host.asked[-1].body == {"key": "a.b", "args": {"n": 1}, "repeat": 5, "timeout": 20.0, "expect": 2}
    assert (code, "4 (bad, b, c, …)" in out, "1/3" in out, "\x1b" in out) == (0, True, True, False)
    assert out.splitlines()[-1] == "a.b is broken by: bad. Without, it works."
    assert "the more --repeat" in err
    assert "expect" not in (run(capsys, "bisect", "a.b"), host.asked[-1].body)[1]
    for verdict, words in (("works", "nothing to find"), ("own", "fault lies in"), ("unsure", "Most likely: bad")):
        host.answers |= {"POST /api/bisect": {**report, "verdict": verdict}}
        assert words in run(capsys, "bisect", "a.b")[1]
    host.answers |= {"POST /api/bisect": {**report, "not_restored": {"c": "No room"}}}
    code, _, err = run(capsys, "bisect", "a.b")
    assert (code, "c did not start again: No room" in err) == (codes.FAILED, True)
    json.loads(run(capsys, "bisect", "a.b", "--json")[1])


# -- the whole ----------------------------------------------------------------------------------------------------


def test_help_lists_every_word_and_imports_nothing_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", str(ROOT / "rumi_setup/__main__.py"), "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "RUMI_LANG": "en"}, timeout=60,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"rich", "asyncio", "ssl", "http", "urllib", "email", "msgspec", "starlette", "jinja2"}
    assert all(re.search(rf"^  {word}\s", done.stdout, re.MULTILINE) for word in COMMANDS)
    assert "3    the host does not run" in done.stdout


@pytest.mark.parametrize("word", sorted(set(COMMANDS) - {"setup", "check", "test", "bench"}))
def test_every_word_explains_itself(capsys, word) -> None:
    code, out, _ = run(capsys, word, "--help")
    assert code == 0
    assert len(out) > 80


def test_japanese(host, capsys, monkeypatch) -> None:
    monkeypatch.setenv("RUMI_LANG", "ja")
    host.answers |= {"GET /api/packs/pending": [], "GET /api/packs": []}
    assert run(capsys, "pack", "pending")[2] == "判断待ちのものはありません。\n次: ./rumi pack list\n"
    assert "ホストを停止します" in run(capsys, "--help")[1]


def _said() -> set[str]:
    found = {meaning for _, meaning in codes.MEANING} | {entry[2] for entry in COMMANDS.values()}
    for path in (ROOT / "rumi_setup/cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found |= _texts_of(getattr(node.func, "id", getattr(node.func, "attr", "")), node)
    return found


def _texts_of(name: str, node: ast.Call) -> set[str]:
    first = node.args[0] if node.args else None
    if name in {"say", "section"} and isinstance(first, ast.Constant):
        return {first.value}
    if name == "table" and isinstance(first, ast.Tuple):
        return {element.value for element in first.elts}
    if name == "pairs" and isinstance(first, ast.List):
        return {element.elts[0].value for element in first.elts}
    return set()


def test_every_sentence_has_a_translation_and_none_is_left_over() -> None:
    assert _said() == set(JAPANESE)


def test_places_in_braces_agree() -> None:
    def fields(text: str) -> list[str]:
        return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)

    formatted = {english: japanese for english, japanese in JAPANESE.items() if '{"name"' not in english}
    assert [english for english, japanese in formatted.items() if fields(english) != fields(japanese)] == []


def test_open_prints_the_file_and_never_a_code(host, capsys, monkeypatch, tmp_path) -> None:
    host.answers["POST /api/console/open"] = {"path": str(tmp_path / "open-1.html"), "url": "http://localhost:5000/_rumi/open", "expires_in_s": 60}
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    code, out, err = run(capsys, "open")
    assert (code, out) == (0, f"{tmp_path}/open-1.html\n")
    assert "60 seconds" in err
    assert json.loads(run(capsys, "open", "--json")[1])["expires_in_s"] == 60
    asked = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", lambda url: asked.append(url) or True)
    assert "Your browser opens" in run(capsys, "open")[2]
    assert run(capsys, "open", "--print")[0] == 0
    assert asked == [(tmp_path / "open-1.html").as_uri()]

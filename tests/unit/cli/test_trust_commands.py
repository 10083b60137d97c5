"""Words about single rights, evidence and operations of the host: what they ask, what they say, and in which language."""

from __future__ import annotations

import json
import os
import tempfile
import time

import pytest

from rumi_setup.cli import codes, link
from rumi_setup.cli.developing import _Development
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import main
from tests.support.socket_host import SocketHost, serving

EVIL = "\x1b[2J\u202egpj[red]"
PERMISSIONS = {
    "pack_id": "my_pack", "status": "running",
    "granted": [
        {"type": "interface.call", "keys": ["a.b", "c.d"], "mode": "always", "uses": 3, "ended": False, "unused": ["c.d"],
         "items": {"a.b": {"count": 3, "last_used_at": 1.0}, "c.d": {"count": 0, "last_used_at": None}}},
        {"type": "resources", "memory_mb": 512, "mode": "once", "uses": 0, "ended": True, "unused": [], "items": {}},
    ],
    "withheld": [{"type": "network", "risk": "high", "words": {"en": "talks", "ja": "通信します"}, "note": EVIL}],
    "asked": [{"type": "userdata.read", "params": {"path": EVIL}, "reason": EVIL, "at": 1.0}],
}  # fmt: skip
REVIEW = {
    "pack_id": "my_pack", "state": "modified", "version": "2", "approved_version": "1", "digest": "d", "identity_changed": True,
    "approved_isolation": "docker/standard", "isolation": {"driver": "embedded", "level": "reduced", "findings": ["no limits"]},
    "edges": [{"key": "a.b", "required": True, "provider": "giver"}, {"key": EVIL, "required": False, "provider": ""}],
    "combination": {"labels": ["private-data"], "paths": {"private-data": ["my_pack", EVIL]}, "sentence": "s"},
    "permissions": [{"type": "userdata.read", "risk": "medium", "words": {"en": "reads", "ja": "読みます"}, "reason": "r"}],
    "permission_changes": {"added": [{"type": "network", "domains": ["x.test"]}], "removed": [{"type": "userdata.read"}]},
    "file_changes": {"added": ["new.py"], "removed": ["old.py"], "changed": [EVIL]},
    "packages": [
        {"name": "fast", "version": "1.0", "marker": EVIL, "hashes": ["a" * 64, "b" * 64],
         "wheels": [{"filename": "fast-1.0-py3-none-any.whl", "sha256": "a" * 64, "size": 5, "native": ["fast/c.so", EVIL]},
                    {"filename": EVIL, "sha256": EVIL, "size": 6, "native": []}]},
        {"name": "later", "version": "2", "marker": "", "hashes": ["c" * 64, "d" * 64], "wheels": []}, "odd", {"wheels": "odd"},
    ],
    "package_changes": {"added": ["fast==1.0"], "removed": ["gone==1"], "changed": {"later": ["1", "2"], EVIL: "odd"}},
    "rating": {"score": 80, "grade": "B", "deductions": [{"points": 20, "reason": "why", "reason_ja": "理由です"}]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="r") as short:  # a socket's path has 107 bytes at most
        for name, value in {"XDG_RUNTIME_DIR": short, "RUMI_HOME": str(tmp_path), "RUMI_LANG": "en", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.fixture
def host(tmp_path):
    folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
    with serving(folder / "api.sock", SocketHost()) as found:
        yield found


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert all(ch.isprintable() or ch == "\n" for ch in captured.out + captured.err), "nothing a terminal would act on"
    return code, captured.out, captured.err


def test_permissions_tell_use_time_and_what_was_asked(host, capsys) -> None:
    host.answers["GET /api/packs/my_pack/permissions"] = PERMISSIONS
    code, out, err = run(capsys, "pack", "permissions", "my_pack")
    assert code == 0
    for line in ("interface.call  always", "    a.b  used 3 times", "    c.d  never used", "resources  over  memory_mb=512",
                 "network [high] talks"):  # fmt: skip
        assert f"  {line}" in out, line
    assert "userdata.read" in out
    assert err == "Next: ./rumi pack revoke my_pack --unused\n"
    assert json.loads(run(capsys, "pack", "permissions", "my_pack", "--json")[1]) == PERMISSIONS


@pytest.mark.parametrize(
    ("arguments", "permission"),
    [
        (["interface.call", "a.b"], {"type": "interface.call", "keys": ["a.b"]}),
        (["userdata.read", "shared/x", "shared/y"], {"type": "userdata.read", "paths": ["shared/x", "shared/y"]}),
        (["event.publish", "t.*", "--once"], {"type": "event.publish", "topics": ["t.*"], "mode": "once"}),
        (["userdata.read", "--restart"], {"type": "userdata.read", "mode": "restart"}),
        (['{"type": "resources", "cpu": 2}'], {"type": "resources", "cpu": 2}),
    ],
)
def test_grant_and_revoke_name_the_right_parameter(host, capsys, arguments, permission) -> None:
    host.answers |= {f"{method} /api/packs/my_pack/permissions": PERMISSIONS for method in ("POST", "DELETE")}
    assert run(capsys, "pack", "grant", "my_pack", *arguments)[0] == 0
    assert host.asked[-1].body == {"permissions": [permission]}
    plain = [word for word in arguments if not word.startswith("--")]
    assert run(capsys, "pack", "revoke", "my_pack", *plain, "--unused")[0] == 0
    del_mode = {name: value for name, value in permission.items() if name != "mode"}
    assert host.asked[-1].body == {"permissions": [del_mode], "unused": True}


def test_a_time_is_a_span_or_a_date(host, capsys) -> None:
    host.answers["POST /api/packs/my_pack/permissions"] = PERMISSIONS
    for text, expected in (("90m", time.time() + 5400), ("2d", time.time() + 172_800), ("2030-01-31T18:00:00+00:00", 1_896_112_800)):
        run(capsys, "pack", "grant", "my_pack", "userdata.read", "--until", text)
        [sent] = host.asked[-1].body["permissions"]
        assert sent["mode"] == "until"
        assert abs(sent["until"] - expected) < 30
    asked = len(host.asked)
    for wrong in (["pack", "grant", "my_pack", "x", "--until", "soon"], ["pack", "revoke", "my_pack"], ["pack", "grant", "my_pack", "{"],
                  ["pack", "approve", "my_pack", "--until", "99999999999999999d"], ["privilege", "grant", "my_pack", "x", "-o", "y"],
                  ["privilege", "execute", "my_pack", "x", "{"]):  # fmt: skip
        assert run(capsys, *wrong)[0] == codes.USAGE, wrong
    assert len(host.asked) == asked


@pytest.mark.parametrize(("command", "path"), [("approve", "approve"), ("update", "update/approve")])
def test_approve_can_be_partial_timed_and_take_over(host, capsys, command, path) -> None:
    host.answers[f"POST /api/packs/my_pack/{path}"] = {"pack_id": "my_pack", "status": "running"}
    run(capsys, "pack", command, "my_pack", "-p", "userdata.read", "--replace", "a.b", "--until", "8h", "--accept-weaker")
    body = host.asked[-1].body
    assert abs(body.pop("until") - time.time() - 28_800) < 30
    assert body == {"permissions": [{"type": "userdata.read"}], "replace": ["a.b"], "accept_weaker": True}
    run(capsys, "pack", command, "my_pack", "--permission", "")
    assert host.asked[-1].body == {"permissions": []}


def test_a_weaker_isolation_leads_on(host, capsys) -> None:
    host.answers["POST /api/packs/my_pack/approve"] = {"pack_id": "my_pack", "status": "approved", "cause": "isolation_weaker"}
    assert run(capsys, "pack", "approve", "my_pack")[2] == "Next: ./rumi pack approve my_pack --accept-weaker\n"


@pytest.mark.parametrize("language", ["en", "ja"])
def test_review_and_diff_say_everything_that_the_decision_needs(host, capsys, monkeypatch, language) -> None:
    monkeypatch.setenv("RUMI_LANG", language)
    flows = [{"file": "a.yaml", "adds": ["my.own\x1b"]}, {"file": "b.yaml", "modifies": ["main"]}, {"file": "c.json", "fault": "no JSON"}]
    host.answers["GET /api/packs/my_pack/review"] = {**REVIEW, "flows": flows}
    _, out, err = run(capsys, "pack", "review", "my_pack")
    words = {
        "en": ["docker/standard", "embedded/reduced", "no limits", "a.b → giver (required)", "nobody yet (optional)",
               "reads private data: my_pack → ", "userdata.read [medium]", "-20  why", "+ network domains=x.test", "+ new.py", "80/100 (B)",
               "fast==1.0 ; ", "fast-1.0-py3-none-any.whl (5 bytes, machine code: fast/c.so", "(6 bytes, pure Python)",
               "fetched when approved: sha256:" + "c" * 64 + " (+1)", "adds my.own\\u001b (a.yaml)", "changes main (b.yaml)",
               "c.json would be refused: no JSON"],
        "ja": ["embedded/reduced", "a.b → giver (必須)", "まだなし (任意)", "個人のデータを読む: my_pack → ", "userdata.read [中]", "読みます",
               "-20  理由です", "- old.py", "機械語: fast/c.so", "承認後に取得: sha256:", "main を変更 (b.yaml)"],
    }  # fmt: skip
    assert [word for word in words[language] if word not in out] == []
    assert ("WARNING" in err) == (language == "en")
    _, out, _ = run(capsys, "pack", "diff", "my_pack")
    assert [line for line in ("+ network domains=x.test", "- userdata.read", "+ new.py", "- old.py",
                                  "+ fast==1.0", "- gone==1", "~ later 1 → 2") if line not in out] == []
    assert set(json.loads(run(capsys, "pack", "diff", "my_pack", "--json")[1])) >= {"permission_changes", "file_changes", "package_changes"}
    host.answers["GET /api/packs/my_pack/review"] = {**REVIEW, "permission_changes": None, "file_changes": None, "package_changes": None, "identity_changed": False}
    assert {"en": "Nothing changed.", "ja": "変更はありません。"}[language] in run(capsys, "pack", "diff", "my_pack")[2]


@pytest.mark.parametrize(
    ("language", "told"),
    [("en", ("Your aliases", "not what this Pack provides under it", "once approved, it answers", "take the place of shop")),
     ("ja", ("あなたの別名", "この名前で提供するものには届きません", "承認すると", "shop の置き換えを許可すると"))],
)  # fmt: skip
@pytest.mark.parametrize("command", [("review", "my_pack"), ("update", "my_pack", "--show")])
def test_the_review_tells_which_aliases_concern_the_pack(host, capsys, monkeypatch, command, language, told) -> None:
    monkeypatch.setenv("RUMI_LANG", language)
    aliases = [
        {"alias": "store.get", "key": "db.get", "effect": "hides", "owner": ""},
        {"alias": "old.put", "key": "db.put", "effect": "reaches", "owner": ""},
        {"alias": EVIL, "key": "db.rid", "effect": "reaches", "owner": "shop"}, "odd",
    ]  # fmt: skip
    path = "review" if command[0] == "review" else "update"
    host.answers[f"GET /api/packs/my_pack/{path}"] = {**REVIEW, "aliases": aliases}
    code, out, _ = run(capsys, "pack", *command)
    assert code == 0
    assert [word for word in told if word not in out] == []
    lines = [line for line in out.splitlines() if " → db." in line]
    assert [line.split(":")[0].strip() for line in lines][:2] == ["store.get → db.get", "old.put → db.put"]
    assert len(lines) == 3
    host.answers[f"GET /api/packs/my_pack/{path}"] = {**REVIEW, "aliases": []}
    assert told[0] not in run(capsys, "pack", *command)[1]


def test_development_asks_again_where_a_change_concerns_an_alias(tmp_path, capsys) -> None:
    work = _Development(tmp_path, yes=True)
    work._consent({"pack_identity": "github:me/it"})
    work._yes = False
    work._consent({"pack_identity": "github:me/it", "aliases": []})
    with pytest.raises(Failure) as refused:
        work._consent({"pack_identity": "github:me/it", "aliases": [{"alias": EVIL, "key": "db.get", "effect": "reaches"}]})
    assert refused.value.code == "not_confirmed"
    said = capsys.readouterr().err
    assert said.startswith("+ aliases: ")
    assert not {"\x1b", "\u202e"} & set(said)


def test_fetch_and_where_missing_packages_lead(host, capsys) -> None:
    host.answers["POST /api/packs/my_pack/fetch"] = {"pack_id": "my_pack", "status": "running"}
    assert run(capsys, "pack", "fetch", "my_pack")[0] == 0
    host.answers["POST /api/packs/my_pack/approve"] = {"pack_id": "my_pack", "status": "approved", "cause": "dependencies_missing"}
    assert run(capsys, "pack", "approve", "my_pack")[2] == "Next: ./rumi pack fetch my_pack\n"


def test_the_key_is_rotated_at_the_next_start(host, capsys) -> None:
    host.answers["POST /api/trust/rotate-key"] = {"prepared": True, "takes_effect": "next_start"}
    code, _, told = run(capsys, "trust", "rotate-key")
    assert (code, "the old one holds" in told) == (0, True)


def test_audit(host, capsys) -> None:
    record = {"seq": 7, "ts": 1_700_000_000.0, "prev": "0" * 64, "event": "pack.approved", "pack_id": "p", "actor": "me", "reason": EVIL}
    host.answers["GET /api/audit?lines=5&pack=p&event=pack."] = [record]
    _, out, _ = run(capsys, "audit", "tail", "-n", "5", "--pack", "p", "--event", "pack.")
    assert "7  pack.approved  p  me  reason=" in out
    fine = {"ok": True, "sentence": "3 records", "finding": None, "set_aside": [], "journal": {"ok": True, "sentence": "0 records"}}
    host.answers["GET /api/audit/verify"] = fine
    assert run(capsys, "audit", "verify")[0] == 0
    for bad in ({"ok": False}, {"finding": "Record 3 …"}, {"journal": {"ok": False}}):
        host.answers["GET /api/audit/verify"] = {**fine, **bad}
        assert run(capsys, "audit", "verify")[0] == codes.FAILED
        assert run(capsys, "audit", "verify", "--json")[0] == codes.FAILED
    host.answers["POST /api/audit/acknowledge"] = {"acknowledged": True}
    assert run(capsys, "audit", "acknowledge", "--reason", "why")[0] == 0
    assert host.asked[-1].body == {"reason": "why"}


def test_privileges_are_reset(host, capsys) -> None:
    host.answers["POST /api/privileges/reset"] = {"granted": []}
    code, _, told = run(capsys, "privilege", "reset")
    assert (code, "No Pack holds" in told, "./rumi privilege list" in told) == (0, True, True)


def test_privileges(host, capsys, monkeypatch) -> None:
    host.answers["GET /api/privileges"] = [
        {"id": "file.export", "risk": "medium", "title": {"en": "Put files", "ja": "書き出す"}, "available": True, "granted_to": ["p"],
         "parameters": {"properties": {"name": {}, "text": {}}}, "options": {"properties": {"folder": {}}}}
    ]  # fmt: skip
    _, out, _ = run(capsys, "privilege", "list")
    assert "file.export  medium  Put files  name, text  folder   p           yes" in out
    host.answers["GET /api/privileges"][0] |= {"available": False, "unavailable": {"en": "no desktop\x1b[2J", "ja": "デスクトップなし"}}
    assert "p           no: no desktop\\u001b[2J" in run(capsys, "privilege", "list")[1]
    with monkeypatch.context() as patch:
        patch.setenv("RUMI_LANG", "ja")
        assert "いいえ: デスクトップなし" in run(capsys, "privilege", "list")[1]
    path = "/api/privileges/p/grant/file.export"
    host.answers |= {f"POST {path}": {"pack_id": "p", "privilege": "file.export", "granted": True},
                     f"DELETE {path}": {"pack_id": "p", "privilege": "file.export", "granted": False},
                     "POST /api/privileges/p/execute/file.export": {"result": {"bytes": 1}}}  # fmt: skip
    assert "granted" in run(capsys, "privilege", "grant", "p", "file.export", "-o", "folder=/home/me")[1]
    assert host.asked[-1].body == {"options": {"folder": "/home/me"}}
    run(capsys, "privilege", "grant", "p", "file.export", "-o", 'domains=["a.test", "*.b.test"]')
    assert host.asked[-1].body["options"] == {"domains": ["a.test", "*.b.test"]}
    assert run(capsys, "privilege", "grant", "p", "file.export", "-o", "domains=[")[0] == codes.USAGE
    assert "not granted" in run(capsys, "privilege", "revoke", "p", "file.export")[1]
    assert json.loads(run(capsys, "privilege", "execute", "p", "file.export", '{"name": "x"}')[1])["result"] == {"bytes": 1}
    assert host.asked[-1].body == {"params": {"name": "x"}}


def test_clean_lists_before_it_removes(host, capsys) -> None:
    report = {"success": True, "planned_delete": ["user_data/packs/p/a"], "deleted": [], "skipped": [{"path": EVIL, "reason": "no"}], "errors": []}
    host.answers["POST /api/packs/p/journal/uninstall"] = report
    code, out, err = run(capsys, "pack", "clean", "p")
    assert (code, "user_data/packs/p/a" in out, err) == (0, True, "Next: ./rumi pack clean p --yes\n")
    assert host.asked[-1].body == {"dry_run": True}
    host.answers["POST /api/packs/p/journal/uninstall"] = {**report, "success": False}
    assert run(capsys, "pack", "clean", "p", "--yes")[0] == codes.FAILED
    assert host.asked[-1].body == {"dry_run": False}


def test_egress_shows_connections_against_budgets_and_escapes_what_came_from_outside(host, capsys) -> None:
    found = {
        "pack_id": "my_pack", "budgets": {"connections": 32, "bytes_per_hour": 1 << 30}, "bytes_this_hour": 1536, "hour_ends_in_s": 5,
        "connections": [{"id": 1, "kind": "network", "target": "api.example.com:443", "bytes_up": 10, "bytes_down": 5 << 20, "seconds": 2.5}],
        "destinations": [{"host": "api.example.com", "connections": 3, "bytes_up": 1, "bytes_down": 2}],
        "refused": 7, "recent_refusals": [{"at": 0, "kind": "network", "target": EVIL, "code": "denied", "reason": EVIL}],
    }  # fmt: skip
    host.answers["GET /api/packs/my_pack/egress"] = found
    code, out, err = run(capsys, "pack", "egress", "my_pack")
    assert code == 0
    for text in ("1.5 KiB / 1.0 GiB", "1 / 32", "api.example.com:443  network  ↑ 10 B ↓ 5.0 MiB  2.5 s", "3 connections", "denied: "):
        assert text in out
    assert "\x1b" not in out + err
    assert json.loads(run(capsys, "pack", "egress", "my_pack", "--json")[1]) == found


@pytest.mark.parametrize(("kind", "name"), [("network", "domains"), ("http.fetch", "hosts")])
def test_items_of_ways_out_are_domains_and_hosts(host, capsys, kind, name) -> None:
    host.answers["POST /api/packs/my_pack/permissions"] = PERMISSIONS
    assert run(capsys, "pack", "grant", "my_pack", kind, "api.example.com")[0] == 0
    assert host.asked[-1].body == {"permissions": [{"type": kind, name: ["api.example.com"]}]}
    assert run(capsys, "pack", "grant", "my_pack", "network", "a.example", "10.0.0.1:80", "[::1]:5")[0] == 0
    assert host.asked[-1].body == {"permissions": [{"type": "network", "domains": ["a.example"], "addresses": ["10.0.0.1:80", "[::1]:5"]}]}


@pytest.mark.parametrize(
    ("standing", "told"),
    [("unsigned", "not signed"), ("first_use", "not seen before"), ("known", "publisher of before"), ("publisher_changed", "ANOTHER"),
     ("signature_missing", "NOT SIGNED"), ("signature_invalid", "WRONG"), ("publishers_unknown", "can't be believed"), (EVIL, "\\u001b")],
)  # fmt: skip
def test_a_review_tells_of_the_signature_apart_and_escaped(host, capsys, standing, told) -> None:
    signature = {"standing": standing, "key": "ed25519:ab", "publisher": EVIL, "detail": EVIL, "pinned": {"key": "ed25519:cd", "publisher": EVIL}}
    host.answers["GET /api/packs/my_pack/review"] = {**REVIEW, "signature": signature}
    assert main(["pack", "review", "my_pack"]) == 0
    out = capsys.readouterr().out
    section = out.split("Signature (it approves nothing)\n")[1].split("\n\n")[0]
    assert told in section
    assert "ed25519:ab" in section
    assert ("ed25519:cd" in section) is (standing not in {"unsigned", "first_use", "known"})
    assert "\x1b[2J" not in out
    assert "\u202e" not in out


def test_publishers_are_listed_and_forgotten_on_purpose_only(host, capsys) -> None:
    host.answers |= {
        "GET /api/publishers": [{"pack_id": "my_pack", "key": "ed25519:ab", "publisher": EVIL, "since": "2026-01-01T00:00:00Z"}],
        "DELETE /api/publishers/my_pack": {"pack_id": "my_pack", "key": "ed25519:ab"},
        "POST /api/publishers/reset": {"publishers": []},
    }
    assert main(["publisher", "list"]) == 0
    assert "ed25519:ab" in capsys.readouterr().out
    assert main(["publisher", "forget", "my_pack"]) == codes.USAGE
    assert "DELETE /api/publishers/my_pack" not in host.paths()
    assert main(["publisher", "forget", "my_pack", "--yes"]) == 0
    assert main(["publisher", "reset", "--json"]) == 0
    assert host.paths()[-2:] == ["DELETE /api/publishers/my_pack", "POST /api/publishers/reset"]

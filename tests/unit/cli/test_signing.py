"""`rumi pack sign|verify` and `rumi publisher new` with the real tool behind them; no host runs."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from rumi_setup.cli import codes
from rumi_setup.cli.main import main
from tests.support.archives import PACK, zipped
from tests.support.documents import ROOT, marked_block


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    for name, value in {"RUMI_HOME": str(tmp_path), "RUMI_LANG": "en", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "any name"
    for name, text in PACK.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def test_a_folder_is_signed_verified_changed_and_refused(tmp_path, folder, capsys) -> None:
    key, source = str(tmp_path / "key.pem"), str(folder)
    code, out, _ = run(capsys, "pack", "verify", source)
    assert (code, "not signed" in out) == (codes.FAILED, True)
    code, out, _ = run(capsys, "publisher", "new", key, "--json")
    public = json.loads(out)["key"]
    assert (code, Path(key).stat().st_mode & 0o777) == (0, 0o600)
    assert run(capsys, "publisher", "new", key)[0] != 0
    code, out, _ = run(capsys, "pack", "sign", source, "--key", key, "--as", "A. Uthor")
    assert (code, public in out, "A. Uthor" in out) == (0, True, True)
    found = json.loads(run(capsys, "pack", "verify", source, "--json")[1])
    assert (found["signed"], found["key"], found["publisher"], found["pack_id"]) == (True, public, "A. Uthor", "my_pack")
    assert run(capsys, "pack", "verify", source, "--key", public)[0] == 0
    assert run(capsys, "pack", "verify", source, "--key", "ed25519:" + "0" * 64)[0] == codes.CONFLICT
    packed = zipped(tmp_path / "p.zip", {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert json.loads(run(capsys, "pack", "verify", str(packed), "--json")[1])["digest"] == found["digest"]
    (folder / "backend/more.txt").write_text("x")
    code, _, err = run(capsys, "pack", "verify", source, "--json")
    assert (code, json.loads(err)["code"]) == (codes.CONFLICT, "signature_invalid")


def test_a_key_under_a_password_asks_for_it_on_a_terminal_alone(tmp_path, folder, capsys) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    from rumi_setup.cli import author

    key = tmp_path / "key.pem"
    locked = BestAvailableEncryption(b"secret")
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    key.chmod(0o600)
    assert json.loads(run(capsys, "pack", "sign", str(folder), "--key", str(key), "--json")[2])["code"] == "key_locked"
    asked = {"folder": str(folder), "key": str(key), "publisher": ""}
    with pytest.raises(Exception, match="password is another one"):
        author.ask("sign", **asked, password="wrong")
    assert author.ask("sign", **asked, password="secret")["pack_id"] == "my_pack"


def test_the_guides_commands_sign(tmp_path, folder, capsys, monkeypatch) -> None:
    folder.rename(tmp_path / "my_pack")
    monkeypatch.chdir(tmp_path)
    lines = marked_block(ROOT / "docs/ecosystem.md", "commands: sign")
    assert lines == marked_block(ROOT / "docs/ecosystem.ja.md", "commands: sign")
    for line in lines.splitlines():
        words = shlex.split(line)
        assert words[0] == "./rumi"
        assert run(capsys, *words[1:])[0] == 0


def test_a_bill_of_materials_of_a_folder_and_an_archive(tmp_path, folder, capsys) -> None:
    code, out, _ = run(capsys, "pack", "sbom", str(folder))
    assert (code, json.loads(out)["specVersion"]) == (0, "1.6")
    written = tmp_path / "bill.json"
    assert run(capsys, "pack", "sbom", str(zipped(tmp_path / "p.zip")), "-o", str(written))[0] == 0
    assert json.loads(written.read_text()) == json.loads(out)
    assert run(capsys, "pack", "sbom", str(folder), "--update")[0] == codes.USAGE


def test_what_is_no_pack_or_no_archive_says_so(tmp_path, folder, capsys) -> None:
    shutil.rmtree(folder / "backend")
    assert json.loads(run(capsys, "pack", "verify", str(folder), "--json")[2])["code"] == "ecosystem_missing"
    (tmp_path / "x.zip").write_text("no archive")
    assert json.loads(run(capsys, "pack", "verify", str(tmp_path / "x.zip"), "--json")[2])["code"] == "archive_refused"

"""Operations on the operator's desktop: what really runs, with which arguments and environment, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from backend_core.errors import DeniedError, HostError, RequestError, RumiError
from core_runtime.drivers.desktop import Desktop
from core_runtime.host_privilege_manager import HostPrivilegeManager
from tests.support.trust_home import TrustHome

PROGRAM = """#!{python} -I
import json, os, sys
told = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "input": sys.stdin.read(), "folder": os.getcwd()}}
with open({out!r}, "a") as file:
    file.write(json.dumps(told) + "\\n")
sys.exit({code})
"""
pytestmark = pytest.mark.root  # only programs that root owns are run, which the test must be able to make

ENVIRONMENT = {"DISPLAY": ":7", "HOME": "/home/operator", "RUMI_SECRET": "of the host", "LD_PRELOAD": "/tmp/evil.so", "PATH": "/tmp"}


class Acting:
    """A home whose Pack ``alpha`` declares both operations, over a desktop of the test's own programs."""

    def __init__(self, root: Path, environment=None) -> None:
        self.out = root / "out"
        self.bin = root / "bin"
        self.bin.mkdir(mode=0o755)
        self.home = TrustHome(root / "home")
        self.home.add(permissions=[{"type": f"host.{one}", "reason": "r"} for one in ("open_url", "clipboard.write")])
        self.home.approve()
        self.manager = HostPrivilegeManager(
            self.home.home, self.home.permissions, self.home.audit, clock=self.home.clock, monotonic=self.home.clock.monotonic,
            desktop=Desktop((self.bin,), ENVIRONMENT if environment is None else environment),
        )  # fmt: skip

    def install(self, name: str, code: int = 0, mode: int = 0o755) -> Path:
        path = self.bin / name
        path.write_text(PROGRAM.format(python=sys.executable, out=str(self.out), code=code))
        path.chmod(mode)
        return path

    def told(self) -> list[dict]:
        return [json.loads(line) for line in self.out.read_text().splitlines()] if self.out.exists() else []

    def code(self, privilege: str, **args) -> str:
        self.home.clock.advance(60)
        try:
            self.manager.execute("alpha", privilege, args)
        except RumiError as error:
            return error.code
        return "done"


@pytest.fixture
def acting(tmp_path):
    return Acting(tmp_path)


def test_a_page_of_a_granted_domain_is_opened_with_a_clean_environment(acting):
    acting.install("xdg-open")
    acting.manager.grant("alpha", "open_url", actor="operator", options={"domains": ["example.org", "*.example.net"]})
    url = "https://example.org/a;rm%20-rf%20$HOME?x=$(id)&y=1#part"
    assert acting.manager.execute("alpha", "open_url", {"url": url}) == {"opened": True, "with": "xdg-open"}
    [told] = acting.told()
    assert told["arguments"] == [url]
    assert told["folder"] == "/"
    assert {name: value for name, value in told["environment"].items() if name != "LC_CTYPE"} == {
        "DISPLAY": ":7", "HOME": "/home/operator", "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    assert acting.code("open_url", url="https://deep.example.net/") == "done"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.com/", "domain_denied"), ("https://sub.example.org/", "domain_denied"),
        ("https://example.org.evil.test/", "domain_denied"), ("https://example.net/", "domain_denied"),
        ("https://evilexample.net/", "domain_denied"), ("https://example.org./", "domain_denied"),
        ("http://example.org/", "url_invalid"), ("file:///etc/passwd", "url_invalid"), ("javascript:alert(1)", "url_invalid"),
        ("https://user@example.org/", "url_invalid"), ("https://example.org@evil.test/", "url_invalid"),
        ("https://evil.test\\@example.org/", "url_invalid"), ("https://example.org:8443/", "url_invalid"),
        ("https://EXAMPLE.org/", "url_invalid"), ("https://ex\u0430mple.org/", "url_invalid"), ("https://example.org/\n", "url_invalid"),
        ("--help-me-x", "url_invalid"), ("https:///example.org", "url_invalid"), ("https://[::1]/", "url_invalid"),
        (" https://example.org/", "url_invalid"), ("https://example.org/ x", "url_invalid"), ("https://example.org:99999/", "url_invalid"),
    ],
)  # fmt: skip
def test_other_addresses_and_spellings_open_nothing(acting, url, code):
    acting.install("xdg-open")
    acting.manager.grant("alpha", "open_url", actor="operator", options={"domains": ["example.org", "*.example.net"]})
    assert acting.code("open_url", url=url) == code
    assert acting.told() == []


@pytest.mark.parametrize("domains", [[], ["*"], ["*.org*"], ["org"], ["example.org/x"], ["-x.org"], ["*."], ["EXAMPLE.org"], "example.org"])
def test_domains_of_a_grant_are_domains(acting, domains):
    with pytest.raises(RequestError):
        acting.manager.grant("alpha", "open_url", actor="operator", options={"domains": domains})
    with pytest.raises(DeniedError):
        acting.manager.execute("alpha", "open_url", {"url": "https://example.org/"})


def test_text_reaches_the_clipboard_through_standard_input(acting):
    acting.install("xclip")
    acting.manager.grant("alpha", "clipboard.write", actor="operator")
    assert acting.manager.execute("alpha", "clipboard.write", {"text": "-o $(id)\n\t日本語"}) == {"copied": 19, "with": "xclip"}
    [told] = acting.told()
    assert told["input"] == "-o $(id)\n\t日本語"
    assert told["arguments"] == ["-selection", "clipboard", "-in"]
    for text in ("a\x1b[2J", "a\0b", "a\rb", "あ" * 30_000):
        assert acting.code("clipboard.write", text=text) == "text_invalid"
    assert acting.code("clipboard.write", text="x" * 70_000) == "parameters_invalid"
    assert acting.manager.revoke("alpha", "clipboard.write", actor="operator")
    assert acting.code("clipboard.write", text="x") == "privilege_denied"
    assert len(acting.told()) == 1


def told_by_the_list(manager: HostPrivilegeManager, privilege: str) -> tuple[bool, dict[str, str]]:
    return next((one["available"], one["unavailable"]) for one in manager.list() if one["id"] == privilege)


def test_the_list_tells_what_could_not_be_performed_now_and_why(tmp_path, acting):
    available, why = told_by_the_list(acting.manager, "open_url")
    assert (available, why["en"]) == (False, "None of xdg-open, gio is installed in a trusted folder.")
    assert "xdg-open, gio" in why["ja"]
    acting.install("gio")
    assert told_by_the_list(acting.manager, "open_url") == (True, {})
    assert not told_by_the_list(acting.manager, "clipboard.write")[0]
    (tmp_path / "other").mkdir()
    without = Acting(tmp_path / "other", environment={"HOME": "/home/operator"})
    without.install("xclip")
    available, why = told_by_the_list(without.manager, "clipboard.write")
    assert (available, sorted(why), "neither DISPLAY nor WAYLAND_DISPLAY" in why["en"]) == (False, ["en", "ja"], True)
    assert told_by_the_list(without.manager, "file.export") == (True, {})
    assert not told_by_the_list(without.manager, "notify")[0], "no host runs here"


def test_where_there_is_no_desktop_or_no_program_it_says_so(tmp_path, acting):
    acting.manager.grant("alpha", "clipboard.write", actor="operator")
    assert acting.code("clipboard.write", text="x") == "desktop_unavailable"
    acting.install("xsel", code=3)
    assert acting.code("clipboard.write", text="x") == "desktop_failed"
    (tmp_path / "dark").mkdir()
    dark = Acting(tmp_path / "dark", environment={"HOME": "/root"})
    dark.install("xsel")
    dark.manager.grant("alpha", "clipboard.write", actor="operator")
    with pytest.raises(HostError) as refused:
        dark.manager.execute("alpha", "clipboard.write", {"text": "x"})
    assert refused.value.code == "desktop_unavailable"
    assert "DISPLAY" in refused.value.detail


def test_only_programs_that_nobody_else_could_replace_are_run(acting):
    acting.manager.grant("alpha", "clipboard.write", actor="operator")
    for spoil in (
        lambda path: path.chmod(0o777), lambda path: os.chown(path, 65534, 65534), lambda path: path.chmod(0o644),
        lambda path: path.parent.chmod(0o777), lambda path: os.chown(path.parent, 65534, 65534),
    ):  # fmt: skip
        spoil(acting.install("xclip"))
        assert acting.code("clipboard.write", text="x") == "desktop_unavailable"
        os.chown(acting.bin, 0, 0)
        acting.bin.chmod(0o755)
        (acting.bin / "xclip").unlink()
    acting.install("xclip")
    assert acting.code("clipboard.write", text="x") == "done"


def test_a_browser_that_stays_is_left_alone_and_a_writer_that_hangs_is_not(tmp_path, acting):
    url = "https://example.org/"
    acting.manager.grant("alpha", "open_url", actor="operator", options={"domains": ["example.org"]})
    acting.manager.grant("alpha", "clipboard.write", actor="operator")
    acting.manager._desktop = Desktop((acting.bin,), ENVIRONMENT, limit_s=0.2)
    for name in ("xdg-open", "xclip"):
        path = acting.bin / name
        path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/{name}\nexec sleep 600\n")
        path.chmod(0o755)
    assert acting.code("open_url", url=url) == "done"
    assert acting.code("clipboard.write", text="x") == "desktop_failed"
    opener, writer = (int((tmp_path / name).read_text()) for name in ("xdg-open", "xclip"))
    os.kill(opener, signal.SIGKILL)  # it was still there
    with pytest.raises(ProcessLookupError):
        os.kill(writer, 0)


def test_a_flood_disturbs_nobody_for_long(acting):
    acting.install("xclip")
    acting.manager.grant("alpha", "clipboard.write", actor="operator")
    codes = []
    for _ in range(15):
        try:
            acting.manager.execute("alpha", "clipboard.write", {"text": "x"})
            codes.append("done")
        except DeniedError as error:
            codes.append(error.code)
    assert codes == ["done"] * 5 + ["too_often"] * 10

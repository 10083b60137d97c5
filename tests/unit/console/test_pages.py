"""The console's pages: both languages, hostile text, the policy, what they tell in each state of the host."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from console import overview
from console.app import POLICY, Pages, build_console
from console.pages import amount
from console.text import shown
from console.words import CATALOGUES, language
from core_runtime.api.app import build_api
from core_runtime.api.context import Api, Phase
from core_runtime.pack_api_server import PackApiServer
from core_runtime.rules.approval import State
from core_runtime.rules.frames import BusLimits
from core_runtime.rules.limits_shown import rows
from core_runtime.rules.sandbox import Level, Limits
from tests.support.fake_host_api import FakePacks, fake_host, metadata, not_built
from tests.support.http_faces import Recorder, Served, exchange, run, settings_in

HOSTILE = "<script>alert(1)</script>\"'>\u202egnp.exe\u200b\n\x1b[31m" + "x" * 10_000


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> FakePacks:
    fake = FakePacks()
    monkeypatch.setattr(overview, "packs", fake)
    return fake


@contextlib.asynccontextmanager
async def console_at(home: Path) -> AsyncIterator[Served]:
    settings = settings_in(home)
    faces = PackApiServer(settings)
    faces.bind()
    api = Api(fake_host(settings), settings, faces.web_port, Phase.READY)
    pages = Pages()
    served = Served(settings, api, faces, Recorder(), Recorder())
    try:
        await faces.serve(api, build_api(api), build_console(api, pages), pages.refused)
        yield served
    finally:
        await served.close()
        assert not settings.run_dir.exists()


async def page(served: Served, path: str = "/", accept_language: str = "en", host: str | None = None, method: str = "GET", more: str = "") -> tuple[int, dict[str, str], str]:
    name = host or f"localhost:{served.faces.web_port}"
    raw = f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nAccept-Language: {accept_language}\r\n{more}\r\n"
    status, headers, body = await exchange(served, raw.encode(), port=served.faces.web_port)
    return status, headers, body.decode()


def check(home: Path, test: Any) -> None:
    async def served() -> None:
        async with console_at(home) as console:
            await test(console)

    run(served())


class Outline(HTMLParser):
    """Elements with their attributes, and whether every opened one was closed."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_first_page_in_both_languages(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("my_pack", State.RUNNING)
    packs.add("other", State.MODIFIED, changed_paths=tuple(f"backend/{n}.py" for n in range(8)), cause="changed")
    packs.keys["service.hello"] = lambda args: None

    async def test(served: Served) -> None:
        served.api.host.diagnostics.issue("x", "warn", "other", "Files were changed", "which", "approve again")
        for path in ("/", "/_rumi/"):
            for code, words in CATALOGUES.items():
                status, headers, text = await page(served, path, code)
                assert (status, headers["content-language"], headers["content-type"]) == (200, code, "text/html; charset=utf-8")
                assert headers["content-security-policy"] == POLICY
                assert f'<html lang="{code}">' in text
                for expected in ("my_pack", "service.hello", "embedded", "no engine answers", words["decide"], words["state_modified"], words["level_standard"],
                                 "./rumi pack approve other", f"curl -X POST http://localhost:{served.settings.api_port}/api/packs/other/approve", "Files were changed", "approve again", "backend/4.py"):
                    assert expected in text
                assert "backend/5.py" not in text
                outline = Outline(text)
                assert outline.open == []
                assert [tag for tag, _ in outline.elements].count("h1") == 1

    check(tmp_path, test)


def test_of_many_undecided_packs_the_first_are_shown_with_what_to_do(tmp_path: Path, packs: FakePacks) -> None:
    for number in range(overview.DECISIONS_SHOWN + 7):
        packs.add(f"p{number:02}")

    async def test(served: Served) -> None:
        for code, words in CATALOGUES.items():
            _, _, text = await page(served, "/", code)
            assert text.count("./rumi pack approve") == overview.DECISIONS_SHOWN
            assert f'<span class="count">{overview.DECISIONS_SHOWN + 7}</span>' in text
            assert words["more"].format(count=7) in text
            assert "<code>p26</code>" in text, "the table has them all"

    check(tmp_path, test)


def test_hostile_text_of_a_pack_stays_text(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("p", State.MODIFIED, cause=HOSTILE, metadata=metadata("p", display_name=HOSTILE, description=HOSTILE), changed_paths=(HOSTILE,))
    packs.keys[HOSTILE] = lambda args: None

    async def test(served: Served) -> None:
        served.api.host.diagnostics.issue("x", "error", HOSTILE, HOSTILE, HOSTILE, HOSTILE)
        _, _, text = await page(served)
        assert not re.search(r"<script|\u202e|\u200b|\x1b|x{600}", text)
        for tag, attributes in Outline(text).elements:
            assert tag != "script"
            assert not any(name.startswith("on") or name == "style" for name in attributes)

    check(tmp_path, test)


def test_nothing_of_a_page_comes_from_elsewhere(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        _, _, text = await page(served)
        for tag, attributes in Outline(text).elements:
            for name in ("src", "href", "action"):
                target = attributes.get(name) or "/"
                assert target.startswith(("/", "#")) or (tag == "a" and target.startswith("http://localhost:"))
        for name, kind in (("console.css", "text/css"), ("icon.svg", "image/svg+xml")):
            status, headers, _ = await page(served, f"/_rumi/static/{name}")
            assert (status, headers["content-type"].split(";")[0], headers["content-security-policy"]) == (200, kind, POLICY)
        assert (await page(served, "/_rumi/static/../app.py"))[0] == 400
        assert (await page(served, "/_rumi/static/%2e%2e/app.py"))[0] == 400

    check(tmp_path, test)


def test_empty_states_say_what_to_do(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        served.api.host.isolation = None
        _, _, text = await page(served)
        assert "./rumi pack new my_pack" in text
        assert CATALOGUES["en"]["isolation_none"] in text
        served.api.host.statuses = ()
        served.api.phase = Phase.STARTING
        _, _, text = await page(served, accept_language="ja")
        assert CATALOGUES["ja"]["isolation_wait"] in text
        assert CATALOGUES["ja"]["phase_starting"] in text

    check(tmp_path, test)


def test_an_engine_that_answers_no_more_is_not_shown_as_in_use(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        _, _, text = await page(served)
        assert CATALOGUES["en"]["in_use"] in text
        docker, embedded = served.api.host.statuses
        served.api.host.statuses = (docker, replace(embedded, available=False, level=Level.NONE, reason="it is gone"))
        _, _, text = await page(served)
        assert CATALOGUES["en"]["in_use"] not in text
        assert "it is gone" in text

    check(tmp_path, test)


def test_a_host_that_is_still_starting_has_a_page(tmp_path: Path, packs: FakePacks, monkeypatch: pytest.MonkeyPatch) -> None:
    async def too_early(host: Any) -> Any:
        raise not_built()

    monkeypatch.setattr(packs, "list_packs", too_early)

    async def test(served: Served) -> None:
        served.api.phase = Phase.STARTING
        status, _, text = await page(served)
        assert status == 200
        assert CATALOGUES["en"]["phase_starting"] in text
        assert CATALOGUES["en"]["packs_unknown"] in text

    check(tmp_path, test)


def test_other_answers_are_pages_too(tmp_path: Path, packs: FakePacks, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(served: Served) -> None:
        for path in ("/nothing", "/api/packs", "/_rumi", "/_rumi/static/none"):
            status, headers, text = await page(served, path, "ja")
            assert (status, headers["content-security-policy"]) == (404, POLICY)
            assert CATALOGUES["ja"]["unknown"] in text
        assert (await page(served, method="POST"))[0] == 405
        status, headers, text = await page(served, host="evil.example")
        assert (status, headers["content-security-policy"]) == (421, POLICY)
        assert "my_pack" not in text
        status, _, text = await page(served, more="Authorization: Bearer " + "0" * 64 + "\r\n")
        assert status == 401
        assert "rumi token" in text

        async def bug(host: Any) -> Any:
            raise KeyError("internal secret")

        monkeypatch.setattr(packs, "list_packs", bug)
        status, _, text = await page(served)
        assert status == 500
        assert "secret" not in text

    check(tmp_path, test)


def test_the_catalogues_have_the_same_words_and_cover_every_state() -> None:
    assert CATALOGUES["en"].keys() == CATALOGUES["ja"].keys()
    assert {f"state_{state.value}" for state in State} <= CATALOGUES["en"].keys()
    assert {f"phase_{phase.value}" for phase in Phase} <= CATALOGUES["en"].keys()
    for code, words in CATALOGUES.items():
        assert all(words.values()), code


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", "en"), ("ja", "ja"), ("ja-JP,en;q=0.8", "ja"), ("en;q=0.5,ja;q=0.9", "ja"), ("fr,ja;q=0.1", "ja"), ("fr", "en"), ("ja;q=0", "en"), ("ja;q=x", "en"), ("ja;q=9", "en"), ("ja;q=nan", "en"), ("," * 1000, "en")],
)
def test_the_language_is_the_readers(accept: str, expected: str) -> None:
    assert language(accept) == expected


def test_text_helpers() -> None:
    assert shown(None) == ""
    assert shown("日本語 ok") == "日本語 ok"
    assert shown("a\nb\u202e") == "a\\nb\\u202e"
    assert shown("x" * 400, 10) == "x" * 10 + "…"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(268_435_456, "bytes", "256.0 MiB"), (65_536, "bytes/s", "64.0 KiB/s"), (0.0, "bytes", "0.0 KiB"), (30.0, "s", "30 s"), (0.000523, "s", "0.523 ms"), (2e-7, "s", "0 ms"), (0.0, "s", "0 s"), (128, "", "128"), (0.0342219, "processors", "0.03422")],
)
def test_a_limit_reads_as_a_number_with_its_unit(value: float, unit: str, expected: str) -> None:
    assert amount(value, unit) == expected


def test_every_limit_has_a_name_in_words() -> None:
    shown_rows = rows(Limits(), BusLimits(), quota_bytes=1, used={}, hits={})
    for words in CATALOGUES.values():
        assert {f"limit_{row.name}" for row in shown_rows} <= words.keys()

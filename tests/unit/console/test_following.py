"""The page of events that goes on: rows as events come, how it ends, going on without a gap or a repeat, hostile text."""

from __future__ import annotations

import asyncio
import contextlib
import html
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from console import following
from console.app import POLICY, Pages, build_console
from console.desk import Desk
from console.events import LASTS_S, LIVE_AT
from console.pages import Reader
from console.words import CATALOGUES
from core_runtime.api import live
from core_runtime.api.app import build_api
from core_runtime.api.context import Api, Phase
from core_runtime.event_bus import EventBus
from core_runtime.event_history import EventHistory
from core_runtime.pack_api_server import PackApiServer
from tests.support.fake_host_api import fake_host
from tests.support.http_faces import Recorder, Served, connect, run, settings_in

EN = CATALOGUES["en"]
KEY = "00" * 32
HOSTILE = "<script>alert(1)</script>\"'><!--rows--><!--end-->\u202egnp\x1b[31m"
ROW = re.compile(r"<tr><th scope=\"row\">.*?<code>([0-9a-f]{8}-[0-9]+)</code>.*?<bdi>(.*?)</bdi>", re.DOTALL)


class Hosted:
    """A host with its journal of events, and its two faces."""

    def __init__(self, served: Served, bus: EventBus) -> None:
        self.served = served
        self.bus = bus

    def say(self, *numbers: Any, topic: str = "news.a", source: str = "rumi:pack/speaker") -> None:
        for number in numbers:
            self.bus.publish(topic, number, source=source)

    @contextlib.asynccontextmanager
    async def page(self, path: str = LIVE_AT, language: str = "en", method: str = "GET") -> AsyncIterator[Callable[[str], Any]]:
        """What was read once a text is in it; ``""``: to its end."""
        port = self.served.faces.web_port
        reader, writer = await connect(self.served, port=port)
        writer.write(f"{method} {path} HTTP/1.1\r\nConnection: close\r\nHost: localhost:{port}\r\nAccept-Language: {language}\r\n\r\n".encode())
        read = bytearray()

        async def until(text: str) -> str:
            async with asyncio.timeout(20):
                while (not text or text not in read.decode(errors="replace")) and (piece := await reader.read(65536)):
                    read.extend(piece)
            assert text in read.decode(), (text, read.decode())
            return read.decode()

        yield until
        writer.close()


@contextlib.asynccontextmanager
async def hosted(home: Path) -> AsyncIterator[Hosted]:
    settings = settings_in(home)
    faces = PackApiServer(settings)
    faces.bind()
    host = fake_host(settings)
    host.history = EventHistory(host.diagnostics, host.redactions.hide_any_in)
    host.history.open(home, lambda: KEY)
    host.events = EventBus(host.diagnostics, history=host.history)
    api = Api(host, settings, faces.web_port, Phase.READY)
    pages = Pages()
    served = Served(settings, api, faces, Recorder(), Recorder())
    try:
        await faces.serve(api, build_api(api), build_console(api, pages), pages.refused)
        yield Hosted(served, host.events)
    finally:
        await served.close()
        api.live().close()
        host.history.close()


def check(home: Path, test: Any) -> None:
    async def served() -> None:
        async with hosted(home) as host:
            await test(host)

    run(served())


def payloads(text: str) -> list[str]:
    return [html.unescape(found) for _, found in ROW.findall(text)]


def goes_on_at(text: str) -> str:
    [found] = re.findall(r'id="end".*?href="([^"]+)"', text)
    return html.unescape(found)


def test_events_are_rows_as_they_come_after_the_newest_that_were(tmp_path: Path) -> None:
    async def test(host: Hosted) -> None:
        host.say(*range(following.EARLIER + 3))
        async with host.page(language="ja") as until:
            text = await until(f"<bdi>{following.EARLIER + 2}</bdi>")
            for expected in (f"content-security-policy: {POLICY}", "content-language: ja", "cache-control: no-store", CATALOGUES["ja"]["events_live"], 'role="log"'):
                assert expected in text, expected
            host.say(100)
            await until("<bdi>100</bdi>")
            host.say(101, 102)
            text = await until("<bdi>102</bdi>")
            assert payloads(text) == [*map(str, range(3, following.EARLIER + 3)), "100", "101", "102"]
            assert CATALOGUES["ja"]["events_go_on"] not in text
            assert "</html>" not in text
            assert "<script" not in text

    check(tmp_path, test)


def test_topic_and_pack_choose_and_steps_of_flows_come_only_where_they_are_asked_for(tmp_path: Path) -> None:
    async def test(host: Hosted) -> None:
        async with host.page() as plain, host.page(f"{LIVE_AT}?topic=news.*&pack=speaker") as chosen, host.page(f"{LIVE_AT}?topic=flow.*") as steps:
            for until in (plain, chosen, steps):
                await until(EN["events_live"])
            host.say(1, topic="flow.step", source="rumi:host")
            host.say(2, topic="news.b", source="rumi:pack/other")
            host.say(3, topic="pack.a")
            host.say(4)
            host.say(5, topic="flow.run", source="rumi:host")
            assert payloads(await plain("<bdi>5</bdi>")) == ["2", "3", "4", "5"]
            assert payloads(await steps("<bdi>5</bdi>")) == ["1", "5"]
            text = await chosen("<bdi>4</bdi>")
            assert payloads(text) == ["4"]
            for kept in ('name="topic" maxlength="256" autocomplete="off" value="news.*"', 'name="pack" value="speaker"', f'action="{LIVE_AT}"', 'href="/_rumi/events?topic=news.%2A&amp;pack=speaker"'):
                assert kept in text, kept

    check(tmp_path, test)


@pytest.mark.parametrize("from_ring", [True, False])
def test_a_full_page_ends_and_the_next_goes_on_without_a_gap_or_a_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_ring: bool) -> None:
    """From what is still in memory, and from the journal alone. Others' events in between are not counted."""
    monkeypatch.setattr(following, "ROWS", 7)

    async def test(host: Hosted) -> None:
        seen: list[str] = []
        at = f"{LIVE_AT}?topic=news.*&pack=speaker"
        async with host.page(at) as until:
            await until(EN["events_live"])
            for number in range(20):
                host.say(number)
                host.say("other", topic="other.a")
            text = await until("")
        for _ in range(2):
            assert EN["events_stopped_rows"].format(count=7) in text
            assert text.count("</html>") == 1
            seen += payloads(text)
            assert len(seen) % 7 == 0
            at = goes_on_at(text)
            assert at.startswith(f"{LIVE_AT}?topic=news.%2A&pack=speaker&after=")
            if not from_ring:
                host.served.api.live().close()
            async with host.page(at) as until:
                text = await until("<bdi>19</bdi>" if len(seen) == 14 else "")
                if len(seen) == 14:
                    host.say(20)
                    text = await until("")
        seen += payloads(text)
        assert seen == [str(number) for number in range(21)]
        assert EN["events_gap"] not in text

    check(tmp_path, test)


def test_a_page_ends_after_its_time_and_what_comes_afterwards_is_on_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LASTS_S", 0.3)

    async def test(host: Hosted) -> None:
        host.say("before", topic="other.a")
        async with host.page(f"{LIVE_AT}?topic=news.*") as until:
            text = await until("")
        assert EN["events_stopped_time"].format(minutes=0.0, count=0) in text
        assert EN["events_waiting"] in text
        host.say(1)
        async with host.page(goes_on_at(text)) as until:
            assert payloads(await until("<bdi>1</bdi>")) == ["1"]

    check(tmp_path, test)


def test_a_page_that_the_hosts_stop_ends_goes_on_with_the_next_host(tmp_path: Path) -> None:
    at = ""

    async def stopping(host: Hosted) -> None:
        nonlocal at
        async with host.page(f"{LIVE_AT}?pack=speaker") as until:
            await until(EN["events_live"])
            host.say(1)
            await until("<bdi>1</bdi>")
            await host.served.faces.close(host.served.api)
            text = await until("")
            assert EN["events_stopped_host"].format(count=1) in text
            assert text.count("</html>") == 1
            at = goes_on_at(text)
        host.say(2)

    async def again(host: Hosted) -> None:
        host.say(3)
        async with host.page(at) as until:
            text = await until("<bdi>3</bdi>")
            assert payloads(text) == ["2", "3"]
            assert EN["events_gap"] not in text

    check(tmp_path, stopping)
    check(tmp_path, again)


def test_what_is_missing_stands_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RING_EVENTS", 3)

    async def test(host: Hosted) -> None:
        async with host.page(f"{LIVE_AT}?after=00000000-1") as until:
            text = await until(EN["events_gap"])
            host.say(*range(10))
            text = await until("<bdi>9</bdi>")
            assert payloads(text) == ["7", "8", "9"]
            gap = EN["events_gap_of"].format(count=7)
            assert text.index(EN["events_gap"]) < text.index(gap) < text.index("<bdi>7</bdi>")

    check(tmp_path, test)


def test_what_is_missing_is_a_row_too_and_what_came_since_is_on_the_next_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ROWS", 1)

    async def test(host: Hosted) -> None:
        host.say("before")
        async with host.page(f"{LIVE_AT}?after=00000000-1") as until:
            text = await until("")
        assert EN["events_stopped_rows"].format(count=0) in text
        host.say("since")
        async with host.page(goes_on_at(text)) as until:
            text = await until("")
        assert payloads(text) == ['"since"']
        assert EN["events_gap"] not in text

    check(tmp_path, test)


def test_hostile_topics_and_payloads_stay_text_and_end_nothing(tmp_path: Path) -> None:
    async def test(host: Hosted) -> None:
        async with host.page(f"{LIVE_AT}?topic=%3C%21--rows--%3E%3Cscript%3E*") as chosen, host.page() as until:
            await chosen(EN["events_live"])
            await until(EN["events_live"])
            host.say({HOSTILE: HOSTILE * 40}, topic=HOSTILE, source=f"rumi:pack/{HOSTILE}")
            host.say("<b>x</b>")
            text = await until("&lt;b&gt;x&lt;/b&gt;")
            for forbidden in ("<script", "<b>", "\u202e", "\x1b", "<!--"):
                assert forbidden not in text + await chosen(EN["events_live"]), forbidden
            assert "</html>" not in text

    check(tmp_path, test)


def test_a_page_takes_one_place_of_the_open_streams_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core_runtime.api.sse.STREAM_LIMIT", 1)

    async def test(host: Hosted) -> None:
        streams = host.served.api.streams
        async with host.page() as until:
            await until(EN["events_live"])
            async with host.page() as refused:
                assert "HTTP/1.1 503" in await refused("Too many event streams")
            async with host.page(method="HEAD") as whole:
                assert "200 OK" in await whole("")
        ends = time.monotonic() + 10
        while streams._running:
            assert time.monotonic() < ends, "who leaves gives his place back"
            await asyncio.sleep(0.005)
        async with host.page() as until:
            await until(EN["events_live"])

    check(tmp_path, test)


@pytest.mark.parametrize("query", ["after=x", "after=%3Cb%3E", "after=oldest", "pack=%3Cb%3E"])
def test_what_can_be_no_id_is_refused(tmp_path: Path, query: str) -> None:
    async def test(host: Hosted) -> None:
        async with host.page(f"{LIVE_AT}?{query}") as until:
            text = await until("")
            assert "HTTP/1.1 400" in text
            assert "<b>" not in text

    check(tmp_path, test)


@pytest.mark.parametrize(("left_s", "goes_on"), [(60, True), (LASTS_S - 5, True), (-1, False), (LASTS_S + 60, False), (None, False)])
def test_where_a_script_fetches_whole_pages_it_stops_at_the_moment_of_the_address(tmp_path: Path, left_s: int | None, goes_on: bool) -> None:
    """The same whole page that is answered to HEAD: newest first, and fetched again only while its time is not over."""

    async def test(host: Hosted) -> None:
        host.say(1, 2)
        until = "" if left_s is None else f"?until={int(time.time()) + left_s}"
        page = await following._again(*_asked(host, until))
        text = bytes(page.body).decode()
        assert payloads(text) == ["2", "1"]
        assert ("data-live" in text) is goes_on
        assert (EN["events_go_on"] in text) is not goes_on

    check(tmp_path, test)


def _asked(host: Hosted, query: str) -> tuple[Any, ...]:
    request = Request({"type": "http", "method": "GET", "path": LIVE_AT, "query_string": query[1:].encode(), "headers": []})
    return Desk(host.served.api, Pages()), request, Reader("en"), {"topic": "", "pack": ""}

"""A running Pack puts text that terminals obey and browsers run wherever it may; every face shows it as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import pytest

from console.events import LIVE_AT
from tests.attack.test_redteam_metadata import PAINT, obeyed, rumi
from tests.support.browser_like import Visitor
from tests.support.running_host import RunningHost, one_component_pack

SETUP = f"""
import logging, sys
PAINT = {PAINT!r}
class Painted(Exception):
    pass
Painted.__name__ = Painted.__qualname__ = "Painted" + PAINT
def run(context):
    ir, bus = context["interface_registry"], context["event_bus"]
    def fail(args, ctx):
        raise Painted(PAINT)
    def items(args, ctx):
        yield PAINT
        raise Painted(PAINT)
    schema = {{"type": "object", "title": PAINT, "description": PAINT, "properties": {{"x" + PAINT: {{"type": "string"}}}}, "required": ["x" + PAINT]}}
    ir.register("painter.echo", lambda args, ctx: {{PAINT: PAINT}}, {{"about": PAINT, PAINT: 1}})
    ir.register("painter.fail", fail)
    ir.register("painter.items", items)
    ir.register_handler("painter.strict", lambda args, ctx: args, input_schema=schema)
    ir.register("painter.data", {{PAINT: [PAINT]}})
    for key in (PAINT, "painter." + PAINT, "painter.<b>yes</b>"):
        try:
            ir.register(key, 1)
        except Exception:
            pass
    print(PAINT)
    print(PAINT, file=sys.stderr)
    logging.getLogger(PAINT).error(PAINT)
    logging.getLogger("x").exception(PAINT, exc_info=Painted(PAINT))
    context["diagnostics"].record(phase=PAINT, status="failed", step_id=PAINT, error={{"type": PAINT, "message": PAINT}}, meta={{PAINT: PAINT}})
    bus.publish("painted.now", {{PAINT: PAINT}})
    try:
        context["install_journal"].record(created=[PAINT, "packs/painter/" + PAINT])
    except Exception:
        pass
    def ask(args, ctx):
        done = []
        for do in (
            lambda: context["userdata_manager"].write("packs/painter/" + PAINT, b"x"),
            lambda: context["permission_manager"].request("userdata.read", paths=["shared/" + PAINT]),
            lambda: ir.get("other." + PAINT)(None),
            lambda: bus.publish("not.granted." + PAINT, PAINT),
            lambda: bus.publish(PAINT, PAINT),
        ):
            try:
                do()
            except Exception as error:
                done.append(str(error))
        return done
    ir.register("painter.ask", ask)
"""
FLOW = {
    "flow": "painter.flow",
    "version": 1,
    "about": PAINT,
    "tags": ["a", "b"],
    "input": {"type": "object", "title": PAINT, "description": PAINT, "properties": {"text": {"type": "string", "title": PAINT, "description": PAINT}}},
    "steps": [
        {"id": "say", "about": PAINT, "set": {"x": PAINT}},
        {"id": "ask", "about": PAINT, "call": "painter.fail", "with": {"x": PAINT}, "on_error": "continue"},
        {"id": "quit", "fail": {"type": "painter/quota", "title": PAINT, "detail": PAINT}},
    ],
}
MODIFIER = {
    "modify": "painter.flow",
    "id": "painter.more",
    "about": PAINT,
    "ops": [{"insert": {"after": "say"}, "steps": [{"id": "more", "about": PAINT, "set": {"y": PAINT}}]}, {"patch": PAINT, "json_patch": []}],
}
KEYS = ("painter.echo", "painter.fail", "painter.items", "painter.strict", "painter.ask", "painter.data")
COMMANDS = (
    ("status",), ("doctor",), ("events",), ("events", "--since", "oldest"), ("history",), ("logs", "painter"), ("issue", "list"), ("issue", "history"), ("audit", "tail"),
    ("container", "list"), ("privilege", "list"), ("interface", "edges"), *(("interface", "show", key) for key in KEYS),
    *(("pack", word, "painter") for word in ("show", "review", "permissions", "diff")), ("pack", "list"),
    ("interface", "list"), ("flow", "list"), *(("flow", word, "painter.flow") for word in ("explain", "graph", "plan", "run")), ("flow", "runs"),
    ("call", "painter.fail"), ("call", "painter.items"), ("call", "painter.strict", "{}"), ("call", "painter.echo"), ("call", "painter.ask"),
)  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("text") / "home", "embedded") as running:
        files = one_component_pack("painter", SETUP, provides=KEYS)
        files["backend/flows/painter.yaml"] = json.dumps(FLOW)
        files["backend/flows/more.yaml"] = json.dumps(MODIFIER)
        files["backend/permissions.json"] = json.dumps(
            {"pack_id": "painter", "permissions": [{"type": "event.publish", "topics": ["painted.*"], "reason": PAINT}]}
        )
        running.put_pack("painter", files)
        running.approve("painter")
        for key in KEYS:
            running.call(key, {"text": PAINT})
        running.request("POST", "/api/flows/painter.flow/run", {"input": {"text": PAINT}})
        yield running


@pytest.mark.embedded
def test_no_command_lets_a_terminal_obey_a_running_pack(host: RunningHost) -> None:
    told = {" ".join(words): rumi(host, *words) for words in COMMANDS}
    told |= {f"{name} --json": rumi(host, *words, "--json") for name, words in zip(told, COMMANDS, strict=True)}
    assert {name: obeyed(said) for name, said in told.items() if obeyed(said)} == {}
    # it was there to be shown: what was hidden would make this test prove nothing
    for name in ("logs painter", "call painter.fail", "call painter.items", "pack review painter", "call painter.strict {}", "interface show painter.echo --json", "events", "events --since oldest"):
        assert "safe\\" in told[name], (name, told[name])


@pytest.mark.embedded
def test_no_page_of_the_console_runs_or_obeys_a_running_pack(host: RunningHost) -> None:
    visitor, waiting, pages = Visitor(host.web_port), ["/_rumi/"], {}
    while waiting and len(pages) < 150:
        path = waiting.pop()
        if path.startswith(LIVE_AT):  # it goes on: as far as it tells of what was
            with visitor.going_on(path) as until:
                pages[path] = until('<tr><th scope="row">')
        else:
            answer = visitor.get(path)
            pages[path] = answer.text if answer.header("content-type").startswith("text/html") else ""
        for found in re.findall(r'href="([^"]+)"', pages[path]):
            link = urlsplit(urljoin(path, found.replace("&amp;", "&")))
            there = link.path + (f"?{link.query}" if link.query else "")
            if not link.netloc and there.startswith("/_rumi/") and "static" not in there and "stream" not in there and there not in (*pages, *waiting):
                waiting.append(there)
    assert {"/_rumi/", "/_rumi/audit", "/_rumi/issues", "/_rumi/packs/painter", LIVE_AT} <= pages.keys()
    assert "safe\\" in pages[f"{LIVE_AT}?pack=painter"]
    for path, page in pages.items():
        assert "<script>alert" not in page, path
        assert "<b>yes" not in page, path
        assert obeyed(page) == set(), path
    assert any("safe\\x1b" in page or "safe\\u001b" in page for page in pages.values())


@pytest.mark.embedded
def test_the_hosts_own_log_holds_lines_of_a_running_pack_as_text(host: RunningHost) -> None:
    assert obeyed(host.log.read_text(errors="replace")) == set()

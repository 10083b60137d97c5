"""Secrets searched for in every output: a Pack that shows what it received wherever it can, then a search of all there is.

The values are random for each run. What is searched: the host's files and log, every answer of the API and the console,
the command line's output, the event stream, the environment and command line of every process, the engine's view; while
it runs, after the Pack crashed, and after the host was killed and started again. A word that is no secret goes the same
ways, so that a search that finds nothing is known to have looked in the right places.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

import pytest

from rumi_setup.core.docker_http import Engine
from tests.e2e.conftest import host, isolation  # noqa: F401 - the same two drivers as the end-to-end tests
from tests.support.browser_like import Visitor
from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, one_component_pack

CANARY = "canary-that-is-no-secret"
KEYS = ("leak.say", "leak.fail", "leak.fail_async", "leak.fail_stream", "leak.nested", "leak.ask", "leak.crash", "leak.again")
LEAKY = """
import base64, json, logging, os, sys
from urllib.parse import quote

def spellings(text):
    yield text
    yield json.dumps(text)
    yield repr(text)
    yield quote(text, safe="")
    data = text.encode()
    for before in (b"", b"u", b"u:"):
        yield base64.b64encode(before + data + b"...").decode()
        yield base64.urlsafe_b64encode(before + data + b"...").decode()
    yield data.hex()
    yield data.hex().upper()
    yield from text.splitlines()

class Held:
    value = ""

def run(context):
    ir, bus, files = context["interface_registry"], context["event_bus"], context["userdata_manager"]
    vault, permissions, diagnostics = context["secrets"], context["permission_manager"], context["diagnostics"]
    Held.value = vault.get("token") + "\\n" + vault.get("pem")
    everything = [one for value in Held.value.splitlines() + [Held.value] for one in spellings(value)]
    long = " ".join(everything)

    def say(args, ctx):
        word = args["word"]
        for one in everything:
            print(word, one)
            print(word, one, file=sys.stderr)
            logging.getLogger("pack." + one[:60]).error("%s %s", word, one)
            os.write(1, (word + " raw " + one + "\\n").encode())
            os.write(2, (word + " raw " + one + "\\n").encode())
            diagnostics.record(phase=one[:60], step_id=one, status="failed", error=ValueError(word + one), meta={one: one})
        bus.publish("leak.topic", {"word": word, "value": everything, Held.value: 1})
        ir.register("leak.again", lambda a, c: 1, meta={"word": word, "note": everything})
        return "said"

    def fail(args, ctx):
        raise ValueError(args["word"] + " " + long)

    async def fail_async(args, ctx):
        raise type("X" + Held.value[:40], (Exception,), {})(args["word"] + " " + Held.value)

    def fail_stream(args, ctx):
        yield 1
        raise RuntimeError(args["word"] + " " + Held.value)

    def nested(args, ctx):
        try:
            raise KeyError(Held.value)
        except KeyError as error:
            raise OSError(5, args["word"] + Held.value, Held.value) from error

    def ask(args, ctx):
        told = []
        for attempt in (
            lambda: files.read("shared/" + Held.value[:60]), lambda: files.write("packs/other/" + Held.value[:60], b"x"),
            lambda: permissions.request("userdata.read", path="shared/" + Held.value[:60], reason=args["word"] + long),
            lambda: ir.get(Held.value[:60])({}, ctx), lambda: ir.register("leak." + Held.value[:60], fail),
            lambda: bus.publish("topic." + Held.value[:60], 1), lambda: vault.get("token"), lambda: vault.get(Held.value[:60]),
            lambda: permissions._agent.request(Held.value[:60], {}),
            lambda: permissions._agent.request("privilege.execute", {"privilege": Held.value[:60], "params": {}}),
            lambda: permissions._agent.request("privilege.execute",
                                               {"privilege": "notify", "params": {"title": args["word"], "text": long[:900]}}),
            lambda: permissions._agent.request("privilege.execute", {"privilege": "notify", "params": {long[:90]: 1}}),
        ):
            try:
                attempt()
                told.append("did")
            except Exception as error:
                told.append(getattr(error, "type", type(error).__name__))
        return told

    def crash(args, ctx):
        os.write(2, (args["word"] + " " + long + "\\n").encode())
        try:
            open("/proc/1/fd/2", "w").write(long)
        except OSError:
            pass
        os._exit(3)

    for fn in (say, fail, fail_async, fail_stream, nested, ask, crash):
        ir.register("leak." + fn.__name__, fn)
"""


def spellings(value: str) -> Iterable[bytes]:
    """What is searched for. Written apart from the host's own list, so that a form it forgot is found."""
    data = value.encode()
    yield data
    yield json.dumps(value)[1:-1].encode()
    yield urllib.parse.quote(value, safe="").encode()
    yield data.hex().encode()
    yield data.hex().upper().encode()
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * shift + data + b"\0\0\0")[4 : 4 + len(data) * 4 // 3 - 8]
    yield from (line.encode() for line in value.splitlines() if len(line) > 11)


def everything_shown(host: RunningHost) -> dict[str, bytes]:  # noqa: F811
    """Every output that can be had of a running host, by a name that says where it came from."""
    found: dict[str, bytes] = {}
    document = host.request("GET", "/api/openapi.json")[1]
    found["openapi"] = json.dumps(document).encode()
    for path, methods in document["paths"].items():
        if "get" in methods and path not in {"/api/events", "/api/openapi.json"}:
            asked = path.replace("{id}", "leaky").replace("{key}", "leak.fail").replace("{name}", "token")
            found[f"GET {asked}"] = got(host, host.api_port, asked)
    for page in ("/", "/_rumi/", "/_rumi/interfaces", "/_rumi/interfaces/leak.fail", "/_rumi/events", "/_rumi/events?topic=*leak*"):
        found[f"page {page}"] = html.unescape(got(host, host.web_port, page).decode()).encode()
    with Visitor(host.web_port).going_on("/_rumi/events/live?topic=*leak*") as until:
        found["page that goes on"] = html.unescape(until("<bdi>")).encode()
    for words in (
        "secret list leaky", "pack show leaky", "pack permissions leaky", "logs leaky", "audit tail", "doctor", "interface list",
        "interface edges", "events -n 1000", "interface edges --json", "events -n 1000 --json", "events --since oldest",
        "status", "container list", "secret list leaky --json", "audit tail --json", "logs leaky --json", "doctor --json",
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "rumi_setup.cli", *words.split()], cwd=ROOT, capture_output=True, timeout=60, check=False,
            env={**os.environ, "RUMI_HOME": str(host.home), "RUMI_LANG": "en"},
        )  # fmt: skip
        found[f"rumi {words}"] = done.stdout + done.stderr
    return found | everything_on_disk(host.home) | every_process()


def got(host: RunningHost, port: int, path: str) -> bytes:  # noqa: F811
    """An answer's body: JSON without its escapes, so that a search finds what they spell; anything else as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": f"localhost:{port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    is_json = answer.getheader("content-type", "").startswith("application/json")
    return json.dumps(json.loads(body), ensure_ascii=False).encode() if is_json else body


def everything_on_disk(home: Path) -> dict[str, bytes]:
    return {f"file {path.relative_to(home)}": path.read_bytes() for path in home.rglob("*") if path.is_file() and not path.is_symlink()}


def every_process() -> dict[str, bytes]:
    """Our own command line is left out: it names nothing secret, and a test's failure report may."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            for what in ("environ", "cmdline"):
                try:
                    found[f"{folder / what}"] = (folder / what).read_bytes()
                except OSError:
                    continue
    return found


def engine_view(host: RunningHost) -> dict[str, bytes]:  # noqa: F811
    engine = Engine.from_environment()
    [one] = host.ok("GET", "/api/containers")
    shown = engine.ask("GET", f"/containers/{one['id']}/json", timeout_s=10)
    assert shown["State"]["Running"]
    return {"inspect": json.dumps(shown).encode()}


def watch_events(host: RunningHost, seen: list[bytes]) -> threading.Thread:  # noqa: F811
    """Reads the event stream until the host ends it; returns once it is open."""
    connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=60)
    connection.request("GET", "/api/events", headers={"Host": f"localhost:{host.api_port}", "Accept": "text/event-stream"})
    answer = connection.getresponse()
    assert answer.status == 200
    seen.append(answer.readline())

    def read() -> None:
        try:
            while line := answer.readline():
                seen.append(line)
        except (OSError, http.client.HTTPException):
            pass
        connection.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def leaks(outputs: dict[str, bytes], values: Iterable[str]) -> list[str]:
    return [f"{place}: {needle[:12]!r}…" for value in values for needle in spellings(value) for place, data in outputs.items() if needle in data]


def enter(host: RunningHost, name: str, value: str) -> bytes:  # noqa: F811
    """As an operator would: piped into the command."""
    done = subprocess.run(
        [sys.executable, "-m", "rumi_setup.cli", "secret", "set", "leaky", name], cwd=ROOT, input=value.encode() + b"\n",
        capture_output=True, timeout=60, check=False, env={**os.environ, "RUMI_HOME": str(host.home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.timeout(240)
def test_secrets_are_in_no_output(host: RunningHost, isolation: str) -> None:  # noqa: F811
    token = f'{secrets.token_urlsafe(18)}/+"é{secrets.token_urlsafe(12)}'
    pem = "\n".join(["-----BEGIN THING-----", *(secrets.token_urlsafe(36) for _ in range(3)), "-----END THING-----"])
    replaced = secrets.token_urlsafe(24)
    values = (token, *pem.splitlines()[1:-1], pem, replaced)
    asks = [
        {"type": "secret", "names": ["token", "pem"], "reason": "r"}, {"type": "host.notify", "reason": "r"},
        {"type": "event.publish", "topics": ["leak.topic"], "reason": "r"},
    ]  # fmt: skip
    files = one_component_pack("leaky", LEAKY, provides=KEYS)
    files["backend/permissions.json"] = json.dumps({"pack_id": "leaky", "permissions": asks})
    host.put_pack("leaky", files)
    host.ok("POST", "/api/packs/scan")
    outputs = {"set token": enter(host, "token", replaced), "set again": enter(host, "token", token), "set pem": enter(host, "pem", pem)}
    refused = host.request("PUT", "/api/packs/leaky/secrets/token", {"value": [replaced], replaced: replaced})
    assert refused[0] == 400
    outputs["refused"] = json.dumps(refused[1]).encode()
    types = ["secret", "event.publish"]
    assert host.ok("POST", "/api/packs/leaky/approve", {"permissions": types})["status"] == "running"
    host.ok("POST", "/api/privileges/leaky/grant/notify", {})

    events: list[bytes] = []
    watch_events(host, events)
    assert host.result("leak.say", {"word": CANARY}) == "said"
    for key in ("fail", "fail_async", "nested"):
        status, envelope = host.call(f"leak.{key}", {"word": CANARY})
        assert status == 502
        outputs[f"error of {key}"] = json.dumps(envelope, ensure_ascii=False).encode()
    status, envelope = host.call("leak.fail_stream", {"word": CANARY})
    outputs["error of a stream"] = json.dumps(envelope, ensure_ascii=False).encode()
    told = host.result("leak.ask", {"word": CANARY})
    assert told[6:8] == ["secret_taken", "denied"], told
    host.until(lambda: CANARY.encode() in b"".join(events), 20, "the event")
    outputs |= everything_shown(host)
    if isolation == "docker":
        outputs |= engine_view(host)

    assert host.call("leak.crash", {"word": CANARY})[0] == 502
    host.until(lambda: any(one["restarts"] for one in host.ok("GET", "/api/containers")), 30, "the restart")
    outputs |= {f"after the crash, {place}": data for place, data in everything_shown(host).items()}
    outputs["events"] = b"".join(events)

    host.kill()
    outputs |= {f"after the kill, {place}": data for place, data in (everything_on_disk(host.home) | every_process()).items()}
    host.start()
    host.until(lambda: host.status("leaky")["status"] == "running", 30, "the Pack to run again")
    assert host.result("leak.say", {"word": CANARY}) == "said"
    outputs |= {f"after a restart, {place}": data for place, data in everything_shown(host).items()}

    assert leaks(outputs, values) == []
    marked = {place for place, data in outputs.items() if b"[secret]" in data and CANARY.encode() in data}
    for place in ("GET /api/packs/leaky/logs", "GET /api/issues", "rumi logs leaky", "error of fail", "error of nested", "events",
                  "GET /api/packs/leaky/permissions", "GET /api/interfaces"):  # fmt: skip
        assert place in marked, (place, sorted(marked))
    assert b"[secret]" in outputs["GET /api/audit"]  # names of what was refused
    [kept] = [one for one in json.loads(outputs["rumi secret list leaky --json"])["secrets"] if one["name"] == "token"]
    assert kept["handed_at"] >= kept["set_at"]


def test_a_result_is_the_packs_own_and_carries_what_it_likes(host: RunningHost) -> None:  # noqa: F811
    """The documented limit: values that a Pack returns are data, and go where its permissions let them go."""
    value = secrets.token_urlsafe(24)
    setup = (
        "def run(context):\n    value = context['secrets'].get('token')\n"
        "    context['interface_registry'].register('give.away', lambda args, ctx: value)\n"
    )
    files = one_component_pack("leaky", setup, provides=("give.away",))
    asks = [{"type": "secret", "names": ["token"], "reason": "r"}]
    host.put_pack("leaky", files | {"backend/permissions.json": json.dumps({"pack_id": "leaky", "permissions": asks})})
    host.ok("POST", "/api/packs/scan")
    enter(host, "token", value)
    host.ok("POST", "/api/packs/leaky/approve", {"permissions": ["secret"]})
    assert host.result("give.away") == value
    host.ok("DELETE", "/api/packs/leaky")
    assert not (host.home / "user_data/secrets/leaky").exists()

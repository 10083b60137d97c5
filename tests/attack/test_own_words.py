"""A Pack answers with the words by which the host tells its own decisions: refused, not there, too late, given up."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from backend_core.errors import PackError, PackTimeout
from tests.attack.test_console_calls import called
from tests.e2e.test_cli_reads import rumi
from tests.e2e.test_flows import flow_pack, run
from tests.support.browser_like import Visitor, code_in
from tests.support.raw_agent import CALL, END, ERROR, RESULT, Rig, rig
from tests.support.running_host import RunningHost

HOSTS = (
    "denied", "missing", "timeout", "cancelled", "schema", "unavailable", "depth", "incompatible", "contract", "superseded", "on_trial", "stopping",
    "internal", "ok", "revoked", "not_found",
)  # fmt: skip
AGENTS = ("dead_reference", "limit", "shutting_down", "value.unsupported")
LONGEST = "x" * 100


async def failing(r: Rig, word: str) -> None:
    """The provider of ``k``, which fails every call with that type: it may be any agent, in any language."""
    agent = r.agents[0]
    frame = await agent.until(CALL)
    agent.send(ERROR, frame[1], word, "you may not", "says the Pack", False, "")


@pytest.mark.parametrize(
    ("word", "told"), [*((word, f"error/{word}") for word in HOSTS), *((word, word) for word in AGENTS), (LONGEST, f"error/{LONGEST[:99]}"), ("acme/denied", "acme/denied")]
)
def test_a_failure_is_told_as_its_packs_own_to_everybody(tmp_path: Path, word: str, told: str) -> None:
    async def main() -> None:
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")

            asked = b.call("k")
            await failing(r, word)
            assert (await b.answer(asked))[2:5] == [told, "you may not", "says the Pack"]

            call = asyncio.ensure_future(r.bus.call("k"))
            await failing(r, word)
            with pytest.raises(PackError) as caught:
                await call
            assert (caught.value.code, caught.value.pack_id, caught.value.http_status) == (told, "a", 502)
            assert not isinstance(caught.value, PackTimeout)

            asked = b.call("k")
            frame = await a.until(CALL)
            a.send(RESULT, frame[1], 1, [], None)
            a.send(END, frame[1], [word, "you may not", "", False, ""])
            assert (await b.answer(asked))[0] == RESULT
            assert (await b.until(END))[2][0] == told

            assert r.bus.router.edges["b", "k"].failures == {told: 2}
            assert r.bus.router.edges["", "k"].failures == {told: 1}
            assert session.stats.failures == {told: 3}
            assert r.denials == []

    asyncio.run(main())


def test_what_the_host_decides_keeps_the_hosts_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"gone"})
            await a.registered("k")
            assert (await b.answer(b.call("k")))[2] == "denied"
            assert (await b.answer(b.call("gone")))[2] == "missing"
            assert (r.bus.router.edges["b", "k"].failures, r.bus.router.edges["b", "gone"].failures) == ({"denied": 1}, {"missing": 1})
            assert session.stats.failures == {}
            assert r.denials[0][:3] == ("b", "interface.call", "k")

    asyncio.run(main())


LIAR = """
import sys
agent = sys.modules.get("container_agent") or sys.modules["__main__"]

def run(context):
    def say(args):
        raise agent.Refusal(args["word"], "you may not")
    def pass_on(args):
        raise agent.remote_error([args["word"], "you may not", "", False, ""])
    context["interface_registry"].register("liar.say", say)
    context["interface_registry"].register("liar.pass_on", pass_on)
    context["interface_registry"].register("liar.echo", lambda args: args)
"""
CAUGHT = """
flow: liar.caught
input: {type: object}
output: {caught: "${caught}"}
steps:
  - id: say
    call: liar.say
    with: {word: "${input.word}"}
    catch:
      - do: [{id: note, call: liar.echo, with: "${error.type}", as: caught}]
"""
SKIPPED = """
flow: liar.skipped
input: {type: object}
steps:
  - {id: say, call: liar.say, with: {word: "${input.word}"}, on_error: fail}
"""


@pytest.mark.embedded
def test_no_word_of_a_packs_passes_by_a_catch_or_for_a_refusal_of_the_hosts(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        documents = {"caught.flow.yaml": CAUGHT, "skipped.flow.yaml": SKIPPED}
        host.put_pack("liar", flow_pack("liar", LIAR, documents, provides=("liar.say", "liar.pass_on", "liar.echo")))
        host.approve("liar")
        visitor = Visitor(host.web_port)
        assert visitor.open(code_in(Path(host.ok("POST", "/api/console/open")["path"]))).status == 200
        for word in ("cancelled", "denied", "missing"):
            told = f"error/{word}"
            status, envelope = host.call("liar.say", {"word": word})
            assert (status, envelope["code"], envelope["pack_id"]) == (502, told, "liar"), envelope
            assert f"answered liar.say with {told}" in called(visitor, "liar.say", json.dumps({"word": word})).text

            status, envelope = host.call("liar.pass_on", {"word": word})
            passed_on = {"cancelled": "error/CallCancelled", "denied": "error/Denied", "missing": "error/MissingInterface"}[word]
            assert (status, envelope["code"]) == (502, passed_on), "what it was told itself, and did not catch"

            report = run(host, "liar.caught", {"word": word})
            assert (report["status"], report["output"]) == ("ok", {"caught": told}), report
            status, envelope = host.request("POST", "/api/flows/liar.skipped/run", {"input": {"word": word}})
            assert told in json.dumps(envelope), (status, envelope)
            assert "skipped" not in {one["status"] for one in (envelope["data"] or envelope["fields"]).get("steps", ())}

        ended = rumi(host, "call", "liar.say", '{"word": "denied"}')
        assert ended.returncode == 7, ended
        host.stop()
        trail = map(json.loads, (host.home / "user_data/audit/audit.jsonl").read_text().splitlines())
        records = list(trail)
        assert {one["outcome"].partition("/")[0] for one in records if one["event"] == "interface.called"} == {"error"}
        assert not [one for one in records if "denied" in one["event"]]

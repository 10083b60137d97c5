"""Every command that only reads, asked of a real host with a Pack, a flow that ran and an issue that went: a host of the tests'
own answers whatever a command asks, the real one does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from rumi_setup.cli import codes
from rumi_setup.cli.main import root
from rumi_setup.core.initializer import initialise
from tests.support.running_host import ROOT, RunningHost, one_component_pack

READS = (
    "status", "doctor", "events", "events --since oldest", "history", "history reader", "history --kind flow -n 3", "logs reader",
    "pack list", "pack pending", "pack show reader", "pack review reader", "pack diff reader", "pack permissions reader",
    "pack egress reader", "pack sbom reader", "interface list", "interface show reader.say", "interface edges",
    "interface alias list",
    "flow list", "flow explain reader.greet", "flow graph reader.greet", "flow plan reader.greet", "flow runs",
    "privilege list", "secret list reader", "publisher list", "audit tail", "audit tail --lines 3", "audit verify",
    "container list", "issue list", "issue history", "issue history --subject user_data/shared",
    "issue history --code folder_missing --lines 3",
)  # fmt: skip
SETUP = """
def run(context):
    context["interface_registry"].register("reader.say", lambda args, ctx: args)
"""
FLOW = "flow: reader.greet\nsteps:\n  - {id: say, call: reader.say, with: {n: 1}}\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    files = one_component_pack("reader", SETUP, provides=("reader.say",))
    files["backend/flows/reader.greet.flow.yaml"] = FLOW
    home = tmp_path_factory.mktemp("reads") / "h"
    initialise(home)
    with RunningHost(home, "embedded") as running:
        running.put_pack("reader", files)
        running.approve("reader")
        running.result("reader.say", 1)
        running.ok("POST", "/api/flows/reader.greet/run", {"input": {}})
        (home / "user_data/shared").rmdir()
        running.ok("GET", "/api/doctor")
        running.ok("POST", "/api/doctor/fix", {})
        yield running


def rumi(host: RunningHost, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rumi_setup", *words]
    environment = {**host._environment, "RUMI_LANG": "en"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.embedded
@pytest.mark.parametrize("words", READS)
def test_a_command_that_reads_is_answered(host: RunningHost, words: str) -> None:
    done = rumi(host, *words.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or words in {"pack pending", "issue list", "logs reader", "secret list reader", "publisher list"}
    told = rumi(host, "--json", *words.split())
    assert told.returncode == 0, told.stderr
    if not words.startswith("flow graph"):  # Mermaid's text is what a program wants of it
        json.loads(told.stdout)


@pytest.mark.embedded
def test_what_was_found_and_went_is_in_the_history(host: RunningHost) -> None:
    out = rumi(host, "issue", "history", "--subject", "user_data/shared").stdout
    assert "user_data/shared" in out
    assert "stands" not in out


def test_every_command_called_list_or_show_is_asked() -> None:
    context = click.Context(root)
    asked = {tuple(words.split()[:2]) for words in READS}
    for name in root.list_commands(context):
        group = root.get_command(context, name)
        if isinstance(group, click.Group):
            read = {"list", "show", "history", "runs", "tail", "verify", "pending"} & set(group.list_commands(context))
            assert {(name, one) for one in read} - {("flow", "show"), ("pack", "verify")} <= asked, name


@pytest.mark.embedded
@pytest.mark.parametrize("words", ["run reader.gret", "explain reader.gret", "graph reader.gret", "plan reader.gret"])
def test_an_unknown_flow_is_answered_with_the_nearest_one(host: RunningHost, words: str) -> None:
    done = rumi(host, "flow", *words.split())
    assert (done.returncode, done.stdout) == (codes.NOT_FOUND, "")
    assert "Did you mean 'reader.greet'?" in done.stderr


@pytest.mark.embedded
def test_an_unknown_step_is_answered_with_the_nearest_one(host: RunningHost) -> None:
    [step] = host.ok("GET", "/api/flows/reader.greet/explain")["steps"]
    mistyped = f"{step['path']}s"
    done = rumi(host, "flow", "explain", "reader.greet", mistyped)
    assert (done.returncode, done.stdout) == (codes.NOT_FOUND, "")
    assert f"Did you mean '{step['path']}'?" in done.stderr
    status, envelope = host.request("GET", f"/api/flows/reader.greet/explain?step={mistyped}")
    assert (status, envelope["code"]) == (404, "step_unknown")


@pytest.mark.embedded
def test_events_since_one_are_those_that_came_after_it_and_then_the_command_ends(host: RunningHost) -> None:
    kept = json.loads(rumi(host, "--json", "events", "-n", "1000").stdout)
    ids = [event["id"] for event in kept]
    assert len(ids) > 3
    said = rumi(host, "events", "--since", ids[1])
    assert said.returncode == 0, said.stderr
    shown = [line.split()[1] for line in said.stdout.splitlines()]
    assert shown[: len(ids) - 2] == ids[2:]
    told = rumi(host, "--json", "events", "--since", ids[1])
    assert (told.returncode, told.stderr) == (0, "")
    assert json.loads(told.stdout)[: len(ids) - 2] == kept[2:], "one document, of the same events as without"
    assert [one["id"] for one in json.loads(rumi(host, "--json", "events", "--since", "oldest", "-n", "2").stdout)] == ids[:2]
    of_pack = json.loads(rumi(host, "--json", "events", "--since", "oldest", "--pack", "reader").stdout)
    assert {one["source"] for one in of_pack} <= {"rumi:pack/reader"}


@pytest.mark.embedded
def test_events_since_one_that_nobody_knows_is_an_error(host: RunningHost) -> None:
    done = rumi(host, "events", "--since", "00000000-1")
    assert (done.returncode, done.stdout) == (codes.NOT_FOUND, "")
    assert "No event of this id is known" in done.stderr
    for more in ((), ("--follow",)):
        done = rumi(host, "events", "--since", "説明\x1b[31m", *more)
        assert (done.returncode, done.stdout) == (codes.USAGE, "")
        assert "説明\\u001b[31m is no event's id." in done.stderr

"""Golden documents of the older flow styles: what they are, what they call, and running them on the pure machine.

``tests/vectors/flows/<style>/<name>.golden.json``: ``{files, flow, input, translation, status, steps, notes, output}``.
``files`` are read as they stand, in their order; ``notes`` are what ``old.note`` was called with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.flow_composer import Says, read_document
from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Base, Composition, World, compose
from core_runtime.rules.flow.machine import Machine
from core_runtime.rules.flow.modifier import Modifier
from core_runtime.rules.flow.older.pipelines import Pipelines, merged
from core_runtime.rules.flow.run import Surroundings
from tests.support.documents import ROOT
from tests.support.flows import Fails, Playbook, Takes

FOLDER = ROOT / "tests/vectors/flows"
STYLES = ("pipelines", "registered", "phases", "modifier_files", "registry_modifiers")

HANDLERS = """
import time


def handlers():
    notes, tries = [], {}

    def note(args, ctx):
        notes.append(args)
        return args

    def add(args, ctx):
        return args["a"] + args["b"]

    def fail(args, ctx):
        raise ValueError("on purpose")

    def flaky(args, ctx):
        tries[args["name"]] = tries.get(args["name"], 0) + 1
        if tries[args["name"]] < args["after"]:
            raise ValueError("not yet")
        return tries[args["name"]]

    def slow(args, ctx):
        time.sleep(args["s"])
        return "late"

    def stop(args, ctx):
        return {"__flow_control": "abort", "reason": "enough"}

    def taken(args, ctx):
        found = list(notes)
        notes.clear()
        tries.clear()
        return found

    def thrice(args, ctx):
        return [args["run"]({}) for _ in range(args["config"]["times"])]

    return {
        "old.note": note, "old.add": add, "old.fail": fail, "old.flaky": flaky, "old.slow": slow, "old.stop": stop,
        "old.taken": taken, "flow.construct.thrice": thrice,
    }
"""
KEYS = (
    "old.note", "old.add", "old.fail", "old.flaky", "old.slow", "old.stop", "old.taken", "flow.construct.thrice",
)  # fmt: skip
SHOUT_FILE = """
def run(args, ctx):
    return {"text": args["text"].upper()}
"""
SHOUT_KEY = "old.shout"
"""What the Pack's ``backend/handlers/shout.py`` is called."""
PROVIDED = frozenset({*KEYS, SHOUT_KEY})


@dataclass(frozen=True)
class Golden:
    """One golden document with what is known about it."""

    style: str
    name: str
    known: Mapping[str, Any]

    @property
    def paths(self) -> list[Path]:
        return [FOLDER / self.style / name for name in self.known["files"]]

    def says(self, pack: str = "old") -> list[Says]:
        return [read(path, self.style, pack) for path in self.paths]


def key_of(path: Path, style: str) -> str:
    """The registry's key that a document of this style stands under."""
    if style == "registered":
        return f"flow.{path.name.removesuffix('.flow.json')}"
    return "flow.modifier" if style == "registry_modifiers" and ".modifier." in path.name else ""


def read(path: Path, style: str, pack: str = "old") -> Says:
    """A document as a Pack's."""
    name = f"{pack}:backend/flows/{path.name}"
    return read_document(path.read_bytes(), source=name, layer=model.Layer.ECOSYSTEM, pack=pack, key=key_of(path, style))


def goldens() -> list[Golden]:
    """Every golden document."""
    return [
        Golden(style, path.name.removesuffix(".golden.json"), json.loads(path.read_text(encoding="utf-8")))
        for style in STYLES
        for path in sorted((FOLDER / style).glob("*.golden.json"))
    ]


def compositions(says: list[Says], world: World | None = None) -> dict[str, Composition]:
    """The flows that documents make together."""
    world = world or World(has_interface=PROVIDED.__contains__, may_modify=lambda _pack, _flow: True)
    bases = [one for one in says if isinstance(one, Base)]
    bases += merged([one for one in says if isinstance(one, Pipelines)], world.may_modify).bases
    modifiers = [one for one in says if isinstance(one, Modifier)]
    return {base.flow.id: compose(base, modifiers, world) for base in bases}


def python_handlers() -> dict[str, Callable[[Any], Any]]:
    """The Pack's handlers as the playbook's; waiting costs no time, and failing is data."""
    space: dict[str, Any] = {}
    exec(HANDLERS, space)  # the Pack's own source, so that both ways run the same
    exec(SHOUT_FILE, space)  # the other file of the Pack
    found = {name: _handler(fn) for name, fn in space["handlers"]().items()} | {SHOUT_KEY: _handler(space["run"])}
    found["old.slow"] = lambda args: Takes(args["s"], "late")
    found["flow.construct.thrice"] = lambda args: [{} for _ in range(args["config"]["times"])]
    return found


def _handler(fn: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def call(args: Any) -> Any:
        try:
            return fn(args, {})
        except (ValueError, TypeError) as error:
            raise Fails(f"error/{type(error).__name__}") from error

    return call


def played(flows: Mapping[str, Composition], flow: str, values: Any) -> Playbook:
    """The flow, run to its end."""
    play = Playbook("flow: a.b\nsteps: [{call: k}]", python_handlers())
    play.machine = Machine(
        flows[flow].plan, run_id="run", values=values,
        surroundings=Surroundings(lambda name: flows[name].plan if name in flows else None),
    )  # fmt: skip
    play.run()
    return play


def told(play: Playbook) -> dict[str, Any]:
    """What a golden document knows about a run."""
    outcome = play.machine.outcome
    assert outcome is not None
    return {
        "status": outcome.status.value,
        "steps": {path: result.status.value for path, result in play.results.items()},
        "notes": [args for name, args in play.calls if name == "old.note"],
        "output": outcome.output,
    }

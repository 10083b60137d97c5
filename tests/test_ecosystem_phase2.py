"""Acceptance, phase 2: what a Pack finds when it runs, in both sandboxes.

In the order of the formats: how ``setup.py`` is entered, the keys of its context, phases of any name, custom handlers,
and the folder that the host writes for the operator to read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_host import RunningHost, component

ENTRIES = {
    "with_run": "def run(context):\n    context['interface_registry'].register('way.run', 'run')\n"
                "def main(context):\n    context['interface_registry'].register('way.run', 'main')\n",
    "with_main": "def main(context):\n    context['interface_registry'].register('way.main', 'main')\n",
    "without_parameter": "def run():\n    open('/tmp/ran-bare', 'w').close()\n",
    "import_only": "open('/tmp/imported', 'w').close()\n",
}  # fmt: skip
CONTEXT = """
import os

def run(context):
    seen = {
        "phase": context["phase"], "ts": context["ts"], "ids": context["ids"], "paths": context["paths"],
        "source": context["_source_component"],
        "objects": sorted(key for key in context if hasattr(context[key], "__class__") and key not in
                          ("phase", "ts", "ids", "paths", "_source_component")),
        "here": sorted(os.listdir(context["paths"]["component_runtime_dir"])),
        "bare": os.path.exists("/tmp/ran-bare"), "imported": os.path.exists("/tmp/imported"),
    }
    ir = context["interface_registry"]
    ir.register("seen.context", lambda args, ctx: seen)
    ir.register("seen.files", lambda args, ctx: [os.path.exists("/tmp/ran-bare"), os.path.exists("/tmp/imported")])
"""
BOOT = """
def run(context):
    context["interface_registry"].register("seen.boot", context["phase"])
"""
HANDLERS = {
    "double": "def run(args, ctx):\n    return {'twice': args['n'] * 2, 'caller': ctx['caller']}\n",
    "shout": "def execute(context, args):\n    return {'said': args['text'].upper(), 'who': context['ids']['pack_id']}\n",
    "hidden": "def run(args, ctx):\n    return 'never'\n",
}


def files() -> dict[str, str]:
    found = {"backend/ecosystem.json": json.dumps({
        "pack_id": "way", "version": "1.2.3",
        "connectivity": {"provides": ["way.double", "way.shout"]},
    })}  # fmt: skip
    keys = {"with_run": ("way.run",), "with_main": ("way.main",)}
    for name, text in ENTRIES.items():
        found[f"backend/components/{name}/manifest.json"] = component("entry", name, provides=keys.get(name, ()))
        found[f"backend/components/{name}/setup.py"] = text
    found["backend/components/seen/manifest.json"] = component(
        "entry", "seen", provides=("seen.context", "seen.files", "seen.boot")
    )
    found["backend/components/seen/setup.py"] = CONTEXT
    found["backend/components/seen/runtime_boot.py"] = BOOT
    found |= {f"backend/handlers/{name}.py": text for name, text in HANDLERS.items()}
    reason = "keeps notes"
    asks = {"type": "userdata.read", "paths": ["shared/notes/**"], "reason": reason}
    found["backend/permissions.json"] = json.dumps({"pack_id": "way", "permissions": [asks]})
    return found


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
        pytest.param("embedded", marks=pytest.mark.embedded),
    ],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("phase2"), request.param) as running:
        running.put_pack("way", files())
        running.approve("way")
        running.until(lambda: running.status("way")["status"] == "running", 30, "the Pack to run")
        yield running


@pytest.fixture
def seen(host: RunningHost) -> Any:
    return host.result("seen.context")


def value(host: RunningHost, key: str) -> Any:
    return host.ok("GET", f"/api/interfaces/{key}")


def test_run_goes_before_main_and_main_before_import_alone(host: RunningHost) -> None:
    assert host.status("way")["status"] == "running"
    keys = {one["key"] for one in host.ok("GET", "/api/interfaces")}
    assert {"way.run", "way.main"} <= keys
    assert host.result("seen.files") == [True, True], "a function without a parameter ran, and a file without any"


def test_the_context_has_the_keys_that_packs_know(seen: Any) -> None:
    assert seen["phase"] == "setup"
    assert isinstance(seen["ts"], float)
    assert seen["ids"] == {"component_full_id": "way:entry:seen", "component_type": "entry", "component_id": "seen",
                           "pack_id": "way"}  # fmt: skip
    assert seen["source"] == "way:entry:seen"
    assert set(seen["paths"]) >= {"component_runtime_dir", "mounts"}
    assert "setup.py" in seen["here"]
    assert {"interface_registry", "event_bus", "diagnostics", "install_journal", "permission_manager",
            "userdata_manager"} <= set(seen["objects"])  # fmt: skip


def test_a_phase_is_any_name_and_its_file_is_what_the_flow_says(host: RunningHost) -> None:
    assert "seen.boot" in {one["key"] for one in host.ok("GET", "/api/interfaces")}


def test_custom_handlers_are_registered_under_their_pack_when_they_are_declared(host: RunningHost) -> None:
    assert host.result("way.double", {"n": 21})["twice"] == 42
    assert host.result("way.shout", {"text": "hey"}) == {"said": "HEY", "who": "way"}
    assert host.call("way.hidden")[0] == 404, "the file is there, but its key was not declared"


def test_the_operator_can_read_what_the_host_does_for_the_pack(host: RunningHost) -> None:
    folder = host.home / "ecosystem/docker/way"

    def written() -> bool:
        return {path.name for path in folder.iterdir()} >= {"handlers", "scopes", "grants", "sandbox"} if folder.is_dir() else False

    host.until(written, 20, "the operator's view")
    host.until(lambda: any((folder / "sandbox").iterdir()), 20, "the sandbox's own part")
    told = "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())
    for text in HANDLERS.values():
        assert hashlib.sha256(text.encode()).hexdigest() in told
    assert "userdata.read" in told
    assert "shared/notes/**" in told
    names = {path.name.lower() for path in Path(folder / "sandbox").rglob("*")}
    assert any("seccomp" in name for name in names), names

"""The author's guide, executed: its examples are approved and called as they stand."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from backend_core.ecosystem.requirements import parse_lock
from rumi_setup.core.interpreter import Interpreter
from rumi_setup.core.pip_source import Pips
from rumi_setup.core.progress import Silent
from tests.support import wheels
from tests.support.documents import ROOT, marked_block
from tests.support.package_index import PackageIndex
from tests.support.running_host import RunningHost, one_component_pack

GUIDES = {"en": ROOT / "docs/ecosystem.md", "ja": ROOT / "docs/ecosystem.ja.md"}
GREETER = "example: greeter/setup.py provides example.greet, example.count"
PAINTER = "example: painter/setup.py provides example.paint"
LOCK = "example: painter/requirements.lock"
CALLER = "example: caller/setup.py provides example.report"
ASKER = "example: asker/setup.py provides example.ask"  # executed where there is something to ask: test_egress.py


def test_guides_show_the_same_examples() -> None:
    egress = (ASKER, "example: asker/permissions.json", "example: asked")
    for marker in (GREETER, CALLER, "example: answer", PAINTER, LOCK, *egress):
        assert marked_block(GUIDES["en"], marker) == marked_block(GUIDES["ja"], marker)


def test_the_guides_example_with_a_package_works(host: RunningHost) -> None:
    filename, data = wheels.built("colours", "1.0", {"colours.py": "def name(code):\n    return {'#ff0000': 'red'}[code]\n"})
    lock = marked_block(GUIDES["en"], LOCK)
    assert lock.count("0" * 64) == 1, "the guide shows a hash to be replaced"
    folder = host.put_pack("painter", one_component_pack("painter", marked_block(GUIDES["en"], PAINTER), provides=("example.paint",)))
    (folder / "backend/requirements.lock").write_text(lock.replace("0" * 64, wheels.sha256(data)), encoding="utf-8")
    wheels.write_wheels(folder / "backend/wheels", (filename, data))
    host.approve("painter")
    assert host.result("example.paint", {"hex": "#ff0000"}) == "red"


def test_the_commands_that_make_a_lock_make_one_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_line, download_line = marked_block(ROOT / "docs/reference/dependencies.md", "commands: make a lock").splitlines()
    filename, data = wheels.built("colours", "1.0", {"colours.py": ""})
    (tmp_path / "backend").mkdir()
    (tmp_path / "requirements.in").write_text("colours ; python_version > '3.8'\n", encoding="utf-8")
    uv = next(ROOT.glob(".tools/uv-*/uv"))
    pip = next(iter(Pips(Interpreter(Path(sys.executable).resolve(), sys.version_info[:3]), tmp_path, Silent(), [])))
    for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    with PackageIndex({filename: data}) as index:
        environment = {**os.environ, **index.environment, "UV_DEFAULT_INDEX": index.environment["PIP_INDEX_URL"], "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_NO_CONFIG": "1"}
        for program, line, words in (("uv", compile_line, [str(uv)]), ("python -m pip", download_line, list(pip.argv))):
            assert line.startswith(f"{program} ")
            command = [*words, *shlex.split(line.removeprefix(program))]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 0, done.stderr
    [package] = parse_lock((tmp_path / "backend/requirements.lock").read_bytes(), source="requirements.lock")
    assert (package.pin, package.hashes) == ("colours==1.0", (wheels.sha256(data),))
    assert (tmp_path / "backend/wheels" / filename).read_bytes() == data


def test_the_guide_works(host: RunningHost) -> None:
    keys = ("example.greet", "example.count")
    host.put_pack("greeter", one_component_pack("greeter", marked_block(GUIDES["en"], GREETER), provides=keys))
    caller = marked_block(GUIDES["en"], CALLER)
    host.put_pack("caller", one_component_pack("caller", caller, provides=("example.report",), requires=keys))
    host.approve("greeter")
    host.approve("caller")
    assert host.result("example.report", {"name": "Ada"}) == json.loads(marked_block(GUIDES["en"], "example: answer"))


def test_the_example_of_the_reference_of_interfaces_works(host: RunningHost) -> None:
    document = ROOT / "docs/reference/interfaces.md"
    keys = ("example.colour", "example.mood", "example.tour")
    setup = marked_block(document, "example: skies/setup.py provides " + ", ".join(keys))
    host.put_pack("skies", one_component_pack("skies", setup, provides=keys))
    host.approve("skies")
    assert host.result("example.tour", {}) == json.loads(marked_block(document, "example: tour"))

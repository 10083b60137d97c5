"""An author's way without a host: new, validate, test. The Pack runs in the embedded sandbox, its tests outside of it."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest
import yaml

from core_runtime.drivers import embedded_machine
from rumi_setup.cli import codes
from rumi_setup.cli.main import main
from rumi_testing import NotStarted, RumiError, Stage
from tests.support.documents import ROOT, marked_block
from tests.support.running_host import one_component_pack

pytestmark = [pytest.mark.slow, pytest.mark.embedded, pytest.mark.timeout(180)]

PACK = """
def run(context):
    ir = context["interface_registry"]
    store = ir.get("other.store")
    def count(args, ctx):
        yield from range(args)
    def keep(args, ctx):
        print("keeps", args)
        context["userdata_manager"].write_text("packs/asks/kept.txt", args)
        context["event_bus"].publish("asks.kept", {"text": args})
        return store({"text": args})
    def kept(args, ctx):
        return context["userdata_manager"].read_text("packs/asks/kept.txt")
    def fails(args, ctx):
        raise ValueError("not today")
    for name, fn in (("count", count), ("keep", keep), ("kept", kept), ("fails", fails)):
        ir.register("asks." + name, fn)
    context["event_bus"].subscribe("asked.*", lambda payload: print("heard", payload))
"""
PERMISSIONS = {
    "pack_id": "asks",
    "permissions": [
        {"type": "event.publish", "topics": ["asks.*"], "reason": "tells what it kept"},
        {"type": "event.subscribe", "topics": ["asked.*"], "reason": "hears what is asked"},
    ],
}


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    for name, value in {"RUMI_HOME": str(tmp_path / "home"), "RUMI_LANG": "en", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def asks(tmp_path):
    keys = ("asks.count", "asks.keep", "asks.kept", "asks.fails")
    files = one_component_pack("asks", PACK, provides=keys, uses=("other.store",))
    manifest = json.loads(files["backend/components/main/manifest.json"])
    manifest["connectivity"]["requires"] = ["other.store"]
    files["backend/components/main/manifest.json"] = json.dumps(manifest)
    files["backend/permissions.json"] = json.dumps(PERMISSIONS)
    return put(tmp_path / "asks", files)


def test_a_new_pack_is_valid_and_passes_its_own_test(tmp_path, capfd):
    assert main(["pack", "new", "fresh", "--into", str(tmp_path)]) == 0
    assert main(["pack", "validate", str(tmp_path / "fresh"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out.partition("\n")[2])["problems"] == []
    assert main(["pack", "test", str(tmp_path / "fresh"), "-p", "no:randomly", "tests"]) == 0
    assert "1 passed" in capfd.readouterr().out
    assert sorted(path.name for path in (tmp_path / "fresh").iterdir()) == ["README.md", "backend", "tests"], "left as it was"


def test_a_test_that_fails_and_a_folder_without_tests(tmp_path, capfd):
    assert main(["pack", "new", "fresh", "--into", str(tmp_path)]) == 0
    (tmp_path / "fresh/tests/test_hello.py").write_text("def test_it(rumi):\n    assert rumi.call('fresh.hello', {}) == 1\n")
    assert main(["pack", "test", str(tmp_path / "fresh")]) == codes.FAILED
    assert "Hello, World!" in capfd.readouterr().out
    (tmp_path / "fresh/tests/test_hello.py").unlink()
    (tmp_path / "fresh/tests").rmdir()
    assert main(["pack", "test", str(tmp_path / "fresh")]) == codes.NOT_FOUND


def test_what_is_wrong_is_told_with_its_place(tmp_path, capfd):
    assert main(["pack", "new", "fresh", "--into", str(tmp_path)]) == 0
    (tmp_path / "fresh/backend/components/hello/setup.py").write_text("def run(context)\n    pass\n")
    assert main(["pack", "validate", str(tmp_path / "fresh")]) == codes.PACK_FAILED
    assert "error: backend/components/hello/setup.py:1:" in capfd.readouterr().out
    assert main(["pack", "test", str(tmp_path / "fresh")]) == codes.FAILED
    assert "rumi pack validate" in capfd.readouterr().out


def test_the_test_answers_for_other_packs_and_sees_what_the_pack_does(asks):
    stored = []
    with Stage(asks, interfaces={"other.store": lambda args, ctx: stored.append((args, ctx["caller"])) or len(stored)}) as rumi:
        assert rumi.call("asks.count", 3) == [0, 1, 2]
        assert rumi.call("asks.keep", "a") == 1
        assert stored == [({"text": "a"}, "asks")]
        assert rumi.events("asks.kept") == [{"text": "a"}]
        rumi.publish("asked.that", 7)
        with pytest.raises(RumiError, match="not today"):
            rumi.call("asks.fails")
        rumi.restart()
        assert rumi.call("asks.kept") == "a"
        assert any("keeps a" in line for line in rumi.log())
        assert any("heard 7" in line for line in rumi.log())
        home = rumi.home
        assert home.is_dir()
    assert not home.exists()


@pytest.mark.parametrize("language", ["", ".ja"])
def test_the_guides_own_tests_pass(asks, capfd, language):
    guide = ROOT / f"docs/ecosystem{language}.md"
    put(asks, {"tests/test_orders.py": marked_block(guide, "example: tests/test_orders.py")})
    for line in marked_block(guide, "commands: check").splitlines():
        words = line.replace("my_pack", str(asks)).split()
        assert main([*words[1:], *(["-p", "no:randomly", "tests"] if words[2] == "test" else [])]) == 0
    assert "3 passed" in capfd.readouterr().out


def test_the_editors_settings_name_schemas_that_fit_a_new_pack(tmp_path):
    texts = [marked_block(ROOT / f"docs/ecosystem{language}.md", "example: .vscode/settings.json") for language in ("", ".ja")]
    assert texts[0] == texts[1]
    settings = json.loads(texts[0])
    assert main(["pack", "new", "fresh", "--into", str(tmp_path)]) == 0
    matched = set()
    for one in [*settings["json.schemas"], *({"url": url, "fileMatch": globs} for url, globs in settings["yaml.schemas"].items())]:
        schema = jsonschema_rs.Draft202012Validator(json.loads((ROOT / one["url"]).read_text()))
        for glob in one["fileMatch"]:
            for path in (tmp_path / "fresh").glob(glob):
                schema.validate(json.loads(path.read_text()))
                matched.add(path.name)
    assert matched == {"ecosystem.json", "manifest.json", "permissions.json"}


def test_the_guides_flow_names_its_schema_in_its_first_line(tmp_path):
    file = "my_pack/backend/flows/my_pack.greet.flow.yaml"
    texts = [marked_block(ROOT / f"docs/ecosystem{language}.md", f"example: {file}") for language in ("", ".ja")]
    assert texts[0] == texts[1]
    assert main(["pack", "new", "my_pack", "--into", str(tmp_path)]) == 0
    put(tmp_path / "my_pack", {file.removeprefix("my_pack/"): texts[0]})
    first = texts[0].splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert named != first
    schema = jsonschema_rs.Draft202012Validator(json.loads(((tmp_path / file).parent / named).resolve(strict=True).read_text()))
    schema.validate(yaml.safe_load(texts[0]))
    with Stage(tmp_path / "my_pack") as rumi:
        assert rumi.call("my_pack.hello", {"name": "Rumi"}) == {"message": "Hello, Rumi!"}


def test_without_what_it_requires_it_says_so(asks):
    with pytest.raises(NotStarted) as caught, Stage(asks):
        pass
    assert "waiting for other.store" in caught.value.detail


def test_a_pack_that_fails_at_its_start_says_what_it_printed(tmp_path):
    folder = put(tmp_path / "bad", one_component_pack("bad", "def run(context):\n    print('so far')\n    1 / 0\n", provides=("bad.x",)))
    with pytest.raises(NotStarted) as caught, Stage(folder):
        pass
    assert "ZeroDivisionError" in caught.value.detail
    assert "so far" in caught.value.detail


def test_rights_are_those_that_the_test_grants(asks):
    granted = [{"type": "interface.call", "keys": ["other.store"]}, {"type": "event.subscribe", "topics": ["asked.*"]}]
    with Stage(asks, interfaces={"other.store": lambda args, ctx: 1}, permissions=granted) as rumi:
        with pytest.raises(RumiError, match=r"may not publish|not granted|denied"):
            rumi.call("asks.keep", "a")
        assert rumi.events("asks.kept") == []
        assert [one["code"] for one in rumi.issues()] == ["denied"]


def test_without_bubblewrap_it_says_what_is_missing(asks, monkeypatch, tmp_path):
    monkeypatch.setattr(embedded_machine, "PROGRAM_FOLDERS", (str(tmp_path),))  # where a host looks for it
    with pytest.raises(NotStarted) as caught, Stage(asks):
        pass
    assert "sandbox does not work here" in caught.value.title
    assert "Bubblewrap is not installed" in caught.value.detail
    assert "apt install bubblewrap" in caught.value.hint

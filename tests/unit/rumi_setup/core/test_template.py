import json
import runpy
from pathlib import Path

import jsonschema
import pytest

from backend_core.ecosystem.registry import PackRegistry
from core_runtime.pack_check import check_pack
from rumi_setup.core import template
from rumi_setup.core.problem import SetupError


def test_a_new_pack_is_complete_and_works(tmp_path) -> None:
    pack = template.new_pack("first-one", author="me", home=tmp_path)
    assert pack == tmp_path / "ecosystem/packs/first-one"
    document = json.loads((pack / "backend/ecosystem.json").read_text())
    assert (document["pack_id"], document["pack_identity"]) == ("first-one", "github:me/first-one")
    manifest = json.loads((pack / "backend/components/hello/manifest.json").read_text())
    assert json.loads((pack / "backend/permissions.json").read_text())["pack_id"] == "first-one"
    assert not [p for p in pack.rglob("*") if p.is_file() and "__pack_id__" in p.read_text()]

    registered = {}

    class Registry:
        def register_handler(self, key, fn, **schemas):
            registered[key] = (fn, schemas)

    component = runpy.run_path(str(pack / "backend/components/hello/setup.py"))
    component["run"]({"interface_registry": Registry()})
    assert sorted(registered) == sorted(manifest["connectivity"]["provides"])
    handler, schemas = registered["first-one.hello"]
    assert handler({"name": "Rumi"}, None) == {"message": "Hello, Rumi!"}
    assert schemas["input_schema"]["additionalProperties"] is False


@pytest.mark.parametrize("pack_id", ["", "A", "1a", "a" * 65, "../evil", "a/b", "a\n", "a b", "ａ"])
def test_a_bad_id_is_refused_and_nothing_is_written(tmp_path, pack_id) -> None:
    with pytest.raises(SetupError, match="no Pack id"):
        template.new_pack(pack_id, home=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("author", ["", "a b", '"', "../x", "a\n"])
def test_a_bad_author_is_refused(tmp_path, author) -> None:
    with pytest.raises(SetupError, match="author name"):
        template.new_pack("fine", author=author, home=tmp_path)


def test_what_exists_is_never_overwritten(tmp_path) -> None:
    template.new_pack("one", home=tmp_path)
    mine = tmp_path / "ecosystem/packs/one/mine"
    mine.write_text("mine")
    with pytest.raises(SetupError, match="exists already"):
        template.new_pack("one", home=tmp_path)
    assert mine.read_text() == "mine"
    assert sorted(p.name for p in (tmp_path / "ecosystem/packs").iterdir()) == [template.BESIDE, "one"]


def as_an_editor(file: Path) -> jsonschema.Draft202012Validator:
    """The schema that a file names, found by nothing but the file's own place."""
    document = json.loads(file.read_text())
    schema = json.loads((file.parent / document["$schema"]).resolve(strict=True).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("into", [None, "elsewhere/my packs"])
def test_an_editor_finds_the_schema_of_each_file_without_a_network(tmp_path, into) -> None:
    pack = template.new_pack("one", home=tmp_path, folder=tmp_path / into if into else None)
    (tmp_path / "moved").mkdir()
    pack.parent.rename(tmp_path / "moved/packs")
    files = sorted((tmp_path / "moved/packs/one").rglob("*.json"))
    assert [file.name for file in files] == ["manifest.json", "ecosystem.json", "permissions.json"]
    for file, wrong in zip(files, ({"id": 1}, {"version": "one"}, {"permissions": [{"type": "no such"}]}), strict=True):
        document, editor = json.loads(file.read_text()), as_an_editor(file)
        assert list(editor.iter_errors(document)) == []
        assert list(editor.iter_errors(document | wrong))


def test_what_names_its_schema_is_what_it_would_be_without(tmp_path) -> None:
    pack = template.new_pack("one", folder=tmp_path)
    named = PackRegistry(tmp_path).scan()
    assert list(named) == ["one"], "the schemas beside it are no Pack"
    assert named["one"].metadata is not None
    assert check_pack(pack).problems == ()
    for file in pack.rglob("*.json"):
        document = json.loads(file.read_text())
        del document["$schema"]
        file.write_text(json.dumps(document))
    assert PackRegistry(tmp_path).scan()["one"].metadata == named["one"].metadata


def test_the_schemas_beside_are_the_published_ones_and_are_renewed(tmp_path) -> None:
    template.new_pack("one", folder=tmp_path)
    folder = tmp_path / template.BESIDE
    published = {file.name: file.read_bytes() for file in template.SCHEMAS.glob("*.json")}
    assert {"ecosystem.schema.json", "flow.schema.json", "addon.schema.json"} <= set(published)
    (folder / "flow.schema.json").write_text("{}")
    template.new_pack("two", folder=tmp_path)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == published

import json
import runpy

import pytest

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
    assert [p.name for p in (tmp_path / "ecosystem/packs").iterdir()] == ["one"]

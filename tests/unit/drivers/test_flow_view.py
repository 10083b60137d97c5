"""The operator's view of Packs' flows: whole files, nobody's links, nobody else's files."""

from __future__ import annotations

import pytest
import yaml

from backend_core.errors import HostError
from core_runtime.drivers.flow_view import MARK, FlowView

DOCUMENT = {"flow": "a.b", "steps": [{"call": "k", "with": {"text": "ü: #\n- x"}}]}
SAID = {"flow": "a.b", "from": "acme:x.yaml\n- evil: true"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_flow_is_a_file_that_reads_as_its_document(tmp_path):
    FlowView(tmp_path / "flows").write({("a.b", "acme"): (DOCUMENT, SAID)})
    assert names(tmp_path / "flows") == ["a.b.acme.yaml"]
    text = (tmp_path / "flows" / "a.b.acme.yaml").read_text(encoding="utf-8")
    assert text.startswith(MARK)
    assert yaml.safe_load(text) == DOCUMENT, "what is said above stays a comment"


def test_what_is_gone_is_removed_and_what_others_put_there_stays(tmp_path):
    view = FlowView(tmp_path)
    (tmp_path / "mine.yaml").write_text("flow: mine\n")
    (tmp_path / "README.md").write_text("read me")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "mine.yaml")
    view.write({("a.b", "acme"): (DOCUMENT, SAID), ("a.c", "acme"): (DOCUMENT, SAID)})
    FlowView(tmp_path).write({("a.c", "acme"): (DOCUMENT, SAID)})
    assert names(tmp_path) == ["README.md", "a.c.acme.yaml", "link.yaml", "mine.yaml"]


def test_a_link_is_replaced_and_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "flows"
    folder.mkdir()
    (folder / "a.b.acme.yaml").symlink_to(outside)
    view = FlowView(folder)
    view.write({("a.b", "acme"): (DOCUMENT, SAID)})
    (folder / "a.b.acme.yaml").unlink()
    (folder / "a.b.acme.yaml").symlink_to(outside)
    view.write({("a.b", "acme"): (DOCUMENT, SAID)})
    assert (outside.read_text(), (folder / "a.b.acme.yaml").is_symlink()) == ("precious", False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "linked").symlink_to(elsewhere)
    with pytest.raises(HostError):
        FlowView(tmp_path / "linked").write({("a.b", "acme"): (DOCUMENT, SAID)})
    assert names(elsewhere) == []


def test_a_file_that_is_as_it_should_be_is_left_alone(tmp_path):
    view = FlowView(tmp_path)
    view.write({("a.b", "acme"): (DOCUMENT, SAID)})
    before = (tmp_path / "a.b.acme.yaml").stat().st_ino
    view.write({("a.b", "acme"): (DOCUMENT, SAID)})
    assert (tmp_path / "a.b.acme.yaml").stat().st_ino == before


def test_long_ids_have_names_of_their_own(tmp_path):
    long = ["a" * 300 + tail for tail in ("x", "y")]
    FlowView(tmp_path).write({(flow, "acme"): (DOCUMENT, SAID) for flow in long})
    assert len(names(tmp_path)) == 2

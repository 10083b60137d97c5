"""The bill of materials of a Pack: whole, the same for the same bytes, and valid by the official schema."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from backend_core.ecosystem.requirements import LockedPackage
from backend_core.ecosystem.spec.models import PackMetadata
from core_runtime import author_tools
from core_runtime.drivers.tree import read_tree
from core_runtime.rules.dependencies import SeenPackages, SeenWheel
from core_runtime.rules.digest import FileEntry
from core_runtime.rules.sbom import bill_of_materials, counted
from core_runtime.rules.signing import FILE, Seal
from tests.support import wheels
from tests.support.archives import zipped
from tests.support.signing import Publisher
from tests.support.trust_home import TrustHome

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def valid(document) -> None:
    fault = VALIDATOR.validate_str(json.dumps(document))
    assert fault is None, fault


def test_the_validator_is_the_official_one_and_refuses() -> None:
    assert VALIDATOR.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 0}') is not None
    assert VALIDATOR.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "file"}]}') is not None


@pytest.fixture
def folder(tmp_path) -> Path:
    """A Pack with a wheel of its own, a package that is fetched, another Pack that it needs, and a program."""
    home = TrustHome(tmp_path / "made")
    root = home.add()
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": "", "colours/fast.so": wheels.ELF})
    both = wheels.locked(("unseen", "2.0", b"x")).rstrip() + f" --hash=sha256:{wheels.sha256(b'y')}\n"
    (root / "backend/requirements.lock").write_text(wheels.locked(("colours", "1.0", data)) + both)
    wheels.write_wheels(root / "backend/wheels", (name, data))
    told = json.loads((root / "backend/ecosystem.json").read_text())
    told |= {"dependencies": {"other_pack": ">=1,<2"}, "author": "A. Uthor", "license": "MIT", "description": "does <it>"}
    (root / "backend/ecosystem.json").write_text(json.dumps(told))
    (root / "backend/run.sh").write_text("#!/bin/sh\n")
    (root / "backend/run.sh").chmod(0o755)
    return root


def bill(source: Path):
    return author_tools.sbom({"source": str(source)})


def test_every_file_and_package_is_in_it_with_its_hashes(folder) -> None:
    document = bill(folder)
    valid(document)
    tree = read_tree(folder)
    listed = {one["name"]: one["hashes"][0]["content"] for one in document["components"] if one["type"] == "file"}
    assert listed == {entry.path: entry.sha256 for entry in tree.entries}
    colours, unseen = [one for one in document["components"] if one["type"] == "library"]
    assert (colours["purl"], [one["alg"] for one in colours["hashes"]]) == ("pkg:pypi/colours@1.0", ["SHA-256"])
    [wheel] = colours["components"]
    assert wheel["hashes"][0]["content"] == colours["hashes"][0]["content"]
    assert {"name": "rumi:native", "value": "colours/fast.so"} in wheel["properties"]
    assert "hashes" not in unseen, "two files are admitted, and nobody knows which it will be"
    assert len([one for one in unseen["properties"] if one["name"] == "rumi:admitted-sha256"]) == 2
    [other] = [one for one in document["components"] if one["type"] == "application"]
    assert (other["name"], other["properties"][0]["value"]) == ("other_pack", ">=1,<2")
    subject = document["metadata"]["component"]
    assert (subject["name"], subject["licenses"][0]["license"]["name"]) == ("alpha", "MIT")
    assert {"name": "rumi:digest", "value": tree.digest} in subject["properties"]
    assert document["dependencies"][0]["dependsOn"] == [colours["bom-ref"], unseen["bom-ref"], other["bom-ref"]]
    assert counted(document) == {"library": 2, "application": 1, "file": len(tree.entries)}


def test_the_same_bytes_give_the_same_document_wherever_they_lie(folder, tmp_path) -> None:
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    assert json.dumps(bill(folder)) == json.dumps(bill(again))
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / "backend/run.sh").chmod(0o644)  # as a zip made without modes says
    assert bill(zipped(tmp_path / "p.zip", files)) == bill(folder)
    (again / "backend/run.sh").write_text("#!/bin/sh\n# changed\n")
    assert bill(again)["serialNumber"] != bill(folder)["serialNumber"]


def test_the_publisher_is_named_where_the_signature_is_right(folder) -> None:
    author = Publisher()
    author.sign(folder)
    key = {"name": "rumi:publisher-key", "value": author.key}
    document = bill(folder)
    valid(document)
    assert key in document["metadata"]["component"]["properties"]
    assert FILE in {one["name"] for one in document["components"]}
    (folder / "backend/run.sh").write_text("changed")
    assert key not in bill(folder)["metadata"]["component"]["properties"]


TEXT = st.text(max_size=40)
NAMES = st.text(string.ascii_lowercase + string.digits + "-._", min_size=1, max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.builds(FileEntry, st.text(min_size=1, max_size=30), st.booleans(), st.integers(0, 2**40), st.just("ab" * 32)), unique_by=lambda e: e.path, max_size=5),
    st.lists(st.tuples(NAMES, NAMES, st.lists(st.sampled_from(["0" * 64, "1" * 64]), min_size=1, max_size=2, unique=True)), max_size=4),
    st.dictionaries(NAMES, TEXT, max_size=3), TEXT, TEXT, TEXT,
)  # fmt: skip
def test_whatever_a_pack_says_of_itself_the_document_is_valid(entries, packages, needs, description, author, license_) -> None:
    metadata = PackMetadata("alpha", "local:alpha", "1.0.0", "u", description=description, author=author, license=license_, dependencies=needs)
    locked = tuple(LockedPackage(name, version, tuple(hashes), line) for line, (name, version, hashes) in enumerate(packages, 1))
    seen = SeenPackages("backend/requirements.lock", locked, (SeenWheel("w-1-py3-none-any.whl", "0" * 64, 1),))
    document = bill_of_materials(metadata, entries, "sha256:" + "0" * 64, seen, Seal())
    valid(document)
    every = [one["bom-ref"] for top in document["components"] for one in (top, *top.get("components", ()))]
    assert len(every) == len(set(every))

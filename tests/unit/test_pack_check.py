"""`rumi pack validate`: each mistake at its place, all of them at once, and nothing that a host would refuse is missed."""

import json

import pytest

from backend_core.errors import RequestError
from core_runtime.pack_check import Level, check_pack
from rumi_setup.core.template import new_pack


@pytest.fixture
def folder(tmp_path):
    return new_pack("hello", folder=tmp_path)


def faults(folder, level=Level.ERROR):
    return [(one.code, one.file, one.line, one.pointer) for one in check_pack(folder).problems if one.level is level]


def change(folder, name, value):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))


def test_the_template_is_without_a_fault(folder):
    found = check_pack(folder)
    assert (found.valid, found.problems, found.pack_id) == (True, (), "hello")
    assert found.digest.startswith("sha256:")
    assert found.review["rating"]["grade"] == "A"


def test_each_file_is_told_at_its_place_and_all_at_once(folder):
    change(folder, "backend/ecosystem.json", '{\n "pack_id": "hello",\n "version": 3\n}')
    change(folder, "backend/components/hello/manifest.json", '{"type": "service",\n"id": }')
    change(folder, "backend/permissions.json", {"pack_id": "hello", "permissions": [{"type": "network"}]})
    assert faults(folder) == [
        ("ecosystem_invalid", "backend/ecosystem.json", 3, "/version"),
        ("permissions_invalid", "backend/permissions.json", 4, "/permissions/0"),
        ("json_invalid", "backend/components/hello/manifest.json", 2, ""),
    ]


@pytest.mark.parametrize(
    ("name", "text", "code", "line"),
    [
        ("backend/components/hello/setup.py", "def run(context)\n    pass\n", "syntax", 1),
        ("backend/components/hello/setup.py", "import os\n", "entry_missing", 1),
        ("backend/helper.py", "x = 1\n\nx = = 2\n", "syntax", 3),
        ("backend/flows/f.flow.yaml", "flow: f\nsteps:\n  - cal: a.b\n", "flow_invalid", 3),
    ],
)
def test_files_that_would_fail(folder, name, text, code, line):
    change(folder, name, text)
    [(found, file, at, _)] = faults(folder)
    assert (found, file, at) == (code, name, line)


def test_what_no_approval_takes(folder):
    change(folder, "backend/permissions.json", {
        "pack_id": "hello", "permissions": [{"type": "userdata.write", "paths": ["permissions/**"], "reason": "x"}],
    })  # fmt: skip
    assert [code for code, *_ in faults(folder)] == ["permission_refused"]
    (folder / "link").symlink_to("/etc/passwd")
    assert {code for code, *_ in faults(folder)} == {"permission_refused", "tree_refused"}
    assert check_pack(folder).digest == ""


def test_likely_mistakes_are_warnings(folder):
    document = json.loads((folder / "backend/ecosystem.json").read_text())
    change(folder, "backend/ecosystem.json", {**document, "licence": "MIT"})
    change(folder, "backend/components/hello/setup.py", 'def run(c):\n    ir = c["interface_registry"]\n    ir.get("a.b")\n')
    (folder / "backend/data.bin").write_bytes(b"\x7fELF" + bytes(60))
    assert [code for code, *_ in faults(folder, Level.WARNING)] == ["unknown_field", "undeclared_edge", "native_code"]
    assert check_pack(folder).valid


def test_the_folder_may_have_any_name(folder):
    other = folder.rename(folder.with_name("a checkout"))
    found = check_pack(other)
    assert (found.valid, found.pack_id) == (True, "hello")
    assert [one.code for one in found.problems] == ["folder_name"]


def test_no_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(RequestError) as caught:
        check_pack(tmp_path / "none")
    assert caught.value.code == "not_a_folder"
    assert [one.code for one in check_pack(tmp_path).problems] == ["ecosystem_missing"]

"""Scanning: what is read, what is refused, what is remembered, and that nothing is ever run or followed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from backend_core.ecosystem import uuid_utils
from backend_core.ecosystem.folder import ReadLimits
from backend_core.ecosystem.registry import PackRegistry, scan_folder
from tests.support.packs import manifest, minimal_pack, pack, write_files


def error_of(path: Path) -> dict:
    result = scan_folder(path)
    assert result.metadata is None
    assert result.error is not None
    json.dumps(result.error)
    return dict(result.error)


def test_the_minimal_pack_byte_for_byte(tmp_path) -> None:
    result = scan_folder(minimal_pack(tmp_path, permissions=True))
    assert result.error is None
    found = result.metadata
    assert (found.pack_id, found.version, found.description) == ("my_pack", "1.0.0", "My first pack")
    assert found.pack_identity == "github:author/my_pack"
    assert found.uuid == uuid_utils.pack_uuid("github:author/my_pack")
    assert [component.full_id for component in found.components] == ["my_pack:service:hello"]
    assert found.components[0].directory == "backend/components/hello"
    assert found.provides() == {"service.hello"}
    assert found.notes == ()
    (request,) = found.permissions
    assert (request.type, request.reason) == ("userdata.read", "設定を読み込むため")
    assert dict(request.params) == {"paths": ("settings/my_config.json",)}


def test_every_optional_field_of_the_format(tmp_path) -> None:
    path = pack(
        tmp_path,
        "full",
        pack_uuid="11111111-2222-5333-8444-555555555555",
        display_name="Full",
        author={"name": "A", "email": "a@example.org", "url": "https://example.org"},
        license="MIT",
        dependencies={"other": ">=1.0.0,<2.0.0"},
        pack_type="library",
        vocabulary={"word": ["meaning"]},
        connectivity={"provides": ["full.main"], "uses": ["other.thing"]},
        metadata={"anything": [1]},
        components={"inline": manifest("service", "inline", connectivity={"requires": ["x.y"]})},
        files={
            "components/one/manifest.json": manifest(
                "widget", "one", display_name="One", author="B", entry={"backend": "main.py", "frontend": "ui.js"},
                storage={"uses_mounts": ["data.user"], "layout": {}}, extensions={"a": 1}, settings_schema={},
                addon_policy={"allowed_manifest_paths": ["/extensions"], "deny_all": False, "editable_files": [
                    {"path_glob": "*.json", "allowed_json_pointer_prefixes": ["/x"]}]},
            ),
            "handlers/greet.py": "", "handlers/_helper.py": "", "handlers/notes.txt": "",
            "addons/mine.addon.json": {"addon_id": "mine", "version": "1.0.0", "targets": [
                {"pack_identity": "github:a/b", "component": {"type": "t", "id": "i"},
                 "apply": [{"kind": "manifest_json_patch", "patch": [{"op": "remove", "path": "/extensions/a"}]}]}]},
        },
    )  # fmt: skip
    found = scan_folder(path).metadata
    assert found.pack_identity == "local:full"
    assert found.uuid == "11111111-2222-5333-8444-555555555555"
    assert found.author == "A <a@example.org> (https://example.org)"
    assert found.pack_type == "library"
    assert dict(found.dependencies) == {"other": ">=1.0.0,<2.0.0"}
    assert {component.full_id for component in found.components} == {"full:widget:one", "full:service:inline"}
    assert [handler.name for handler in found.handlers] == ["greet"]
    assert found.handlers[0].path == "backend/handlers/greet.py"
    assert found.addons[0]["addon_id"] == "mine"
    assert (found.provides(), found.requires(), found.uses()) == ({"full.main"}, {"x.y"}, {"other.thing"})
    with pytest.raises(TypeError):
        found.metadata["anything"] = 1  # type: ignore[index]


def test_files_at_the_packs_root_are_read_as_well(tmp_path) -> None:
    write_files(tmp_path / "old", {
        "ecosystem.json": {"pack_id": "old", "pack_version": "2.0.0"},
        "components/c/manifest.json": manifest("service", "c"),
        "permissions.json": {"pack_id": "old", "permissions": []},
    })  # fmt: skip
    found = scan_folder(tmp_path / "old").metadata
    assert found.version == "2.0.0"
    assert found.components[0].directory == "components/c"


def test_the_same_file_at_two_places_is_refused(tmp_path) -> None:
    path = pack(tmp_path, "two", files={"permissions.json": {"pack_id": "two", "permissions": []}})
    write_files(path, {"permissions.json": {"pack_id": "two", "permissions": []}})
    assert error_of(path)["code"] == "ambiguous_file"


@pytest.mark.parametrize(
    ("changes", "pointer", "line"),
    [
        ({"version": "1.0"}, "/version", 3),
        ({"version": 1}, "/version", 3),
        ({"pack_identity": "no colon"}, "/pack_identity", 4),
        ({"pack_identity": "UPPER:x"}, "/pack_identity", 4),
        ({"pack_type": "plugin"}, "/pack_type", 4),
        ({"dependencies": {"a": "what?"}}, "/dependencies/a", 5),
        ({"dependencies": {"A!": "*"}}, "/dependencies", 4),
        ({"connectivity": {"provides": ["a b"]}}, "/connectivity/provides/0", 6),
        ({"author": {"email": "x"}}, "/author", 4),
        ({"pack_uuid": "nope"}, "/pack_uuid", 4),
        ({"description": "x" * 5000}, "/description", 4),
        ({"components": {"c": {"id": "c"}}}, "/components/c", 5),
        ({"components": {"c": 1}}, "/components/c", 5),
    ],
)
def test_a_wrong_field_is_named_with_line_pointer_expected_found_and_hint(tmp_path, changes, pointer, line) -> None:
    path = pack(tmp_path, "p")
    text = json.dumps({"pack_id": "p", "version": "1.0.0", **changes}, indent=1)
    write_files(path, {"backend/ecosystem.json": text})
    fields = error_of(path)["fields"]
    assert (fields["source"], fields["pointer"], fields["line"]) == ("backend/ecosystem.json", pointer, line)
    assert all(fields[name] for name in ("expected", "found", "hint"))


def test_a_missing_field_says_what_to_add(tmp_path) -> None:
    error = error_of(write_files(tmp_path / "p", {"backend/ecosystem.json": {"pack_id": "p"}}))
    assert error["hint"] == 'Add "version" to backend/ecosystem.json, then scan again.'


@pytest.mark.parametrize("pack_id", ["", "A", "1a", "a" * 65, "a b", "a/b", "../x", "a\n", "é"])
def test_a_bad_pack_id_is_refused(tmp_path, pack_id) -> None:
    path = write_files(tmp_path / "p", {"backend/ecosystem.json": {"pack_id": pack_id, "version": "1.0.0"}})
    assert error_of(path)["code"] == "ecosystem_invalid"


def test_no_metadata_at_all(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    assert error_of(tmp_path / "empty")["code"] == "ecosystem_missing"
    assert error_of(tmp_path / "absent")["code"] == "ecosystem_missing"


def test_the_folder_has_the_packs_name(tmp_path) -> None:
    error = error_of(pack(tmp_path, "one").rename(tmp_path / "two"))
    assert error["fields"]["pack_id"] == "one"
    assert error_of(pack(tmp_path, "ok").rename(tmp_path / "Not-An-Id"))["code"] == "pack_id_invalid"


def test_two_folders_with_one_id_are_both_in_error(tmp_path) -> None:
    pack(tmp_path, "mine")
    shutil.copytree(tmp_path / "mine", tmp_path / "rival")
    registry = PackRegistry(tmp_path)
    folders = registry.scan()
    assert {name: folder.error["code"] for name, folder in folders.items()} == dict.fromkeys(
        ("mine", "rival"), "pack_id_shared"
    )
    shutil.rmtree(tmp_path / "rival")
    assert registry.rescan("rival") is None
    assert registry.get("mine").metadata is not None


@pytest.mark.parametrize(
    ("permissions", "pointer"),
    [
        ({"pack_id": "other", "permissions": []}, "/pack_id"),
        ({"pack_id": "p"}, ""),
        ({"pack_id": "p", "permissions": [{"type": "userdata.read", "paths": ["a"]}]}, "/permissions/0"),
        ({"pack_id": "p", "permissions": [{"type": "userdata.read", "reason": "r"}]}, "/permissions/0"),
        ({"pack_id": "p", "permissions": [{"type": "userdata.reed", "reason": "r"}]}, "/permissions/0/type"),
        ({"pack_id": "p", "permissions": [{"type": "host.", "reason": "r"}]}, "/permissions/0/type"),
        ({"pack_id": "p", "permissions": [{"type": "network", "reason": "r" * 10_000}]}, "/permissions/0/reason"),
        ({"pack_id": "p", "permissions": [{"type": "network", "reason": "r", "ports": [0]}]}, "/permissions/0/ports/0"),
    ],
)
def test_bad_permission_requests(tmp_path, permissions, pointer) -> None:
    error = error_of(pack(tmp_path, "p", files={"permissions.json": permissions}))
    assert error["code"] == "permissions_invalid"
    assert error["fields"]["pointer"] == pointer


def test_every_permission_type_of_the_design_is_read(tmp_path) -> None:
    requests = [
        {"type": "userdata.read", "paths": ["a/*"]}, {"type": "userdata.write", "paths": ["a/*"]},
        {"type": "network", "domains": ["*.example.org"], "ports": [443]},
        {"type": "http.fetch", "hosts": ["example.org"], "methods": ["GET"], "path_prefixes": ["/"], "secrets": ["k"]},
        {"type": "http.serve", "routes": ["/x"]}, {"type": "secret", "names": ["k"]},
        {"type": "interface.call", "keys": ["a.b"]}, {"type": "interface.replace", "keys": ["a.b"]},
        {"type": "addon.apply", "targets": ["p:t:i"]}, {"type": "event.publish", "topics": ["a.*"]},
        {"type": "event.subscribe", "topics": ["a.*"]}, {"type": "flow.run", "flows": ["*"]},
        {"type": "flow.modify", "flows": ["*"]}, {"type": "host.notify"}, {"type": "host.clipboard.write"},
        {"type": "resources", "memory_mb": 512, "cpu": 1.5, "pids": 64, "disk_mb": 1024, "tmp_mb": 64},
    ]  # fmt: skip
    document = {"pack_id": "p", "permissions": [{"reason": "r", **request} for request in requests]}
    found = scan_folder(pack(tmp_path, "p", files={"permissions.json": document}))
    assert found.error is None
    assert [request.type for request in found.metadata.permissions] == [request["type"] for request in requests]


def test_a_component_twice_is_refused(tmp_path) -> None:
    files = {"components/a/manifest.json": manifest("t", "c"), "components/b/manifest.json": manifest("t", "c")}
    error = error_of(pack(tmp_path, "p", files=files))
    assert "p:t:c" in error["detail"]
    assert "components/a/manifest.json" in error["detail"]


def test_an_inline_entry_of_a_component_with_its_own_manifest_is_its_index(tmp_path) -> None:
    files = {"components/c/manifest.json": manifest("t", "c", display_name="full")}
    found = scan_folder(pack(tmp_path, "p", files=files, components={"t:c": {}})).metadata
    assert [component.display_name for component in found.components] == ["full"]


def test_a_misspelt_field_is_noted(tmp_path) -> None:
    found = scan_folder(pack(tmp_path, "p", dependancies={}, **{"x-own": 1})).metadata
    (note,) = found.notes
    assert 'did you mean "dependencies"?' in note


def test_both_names_of_the_version_must_agree(tmp_path) -> None:
    assert scan_folder(pack(tmp_path, "p", pack_version="1.0.0")).metadata.version == "1.0.0"
    error = error_of(pack(tmp_path, "p", pack_version="2.0.0"))
    assert error["fields"]["pointer"] == "/pack_version"


# -- hostile folders ----------------------------------------------------------------------------------------------


def test_nothing_is_run_imported_or_written(tmp_path) -> None:
    path = minimal_pack(tmp_path)
    trap = "import pathlib\npathlib.Path(__file__).with_name('ran').write_text('x')\n"
    for name in ("backend/__init__.py", "backend/components/hello/setup.py", "backend/handlers/h.py",
                 "setup.py", "conftest.py", "backend/components/hello/__init__.py", "sitecustomize.py"):  # fmt: skip
        write_files(path, {name: trap})
    before, modules = sorted(tmp_path.rglob("*")), set(sys.modules)
    assert scan_folder(path).error is None
    assert sorted(tmp_path.rglob("*")) == before
    assert not {name for name in set(sys.modules) - modules if "my_pack" in name or name == "sitecustomize"}


@pytest.mark.parametrize(
    "place",
    ["backend/ecosystem.json", "backend", "backend/permissions.json", "backend/components",
     "backend/components/hello", "backend/components/hello/manifest.json", "backend/handlers", "."],
)  # fmt: skip
def test_links_are_refused_wherever_they_stand(tmp_path, place) -> None:
    packs = tmp_path / "packs"
    path = minimal_pack(packs, permissions=True)
    write_files(path, {"backend/handlers/h.py": ""})
    target = path / place
    real = tmp_path / "elsewhere"
    target.rename(real)
    (packs / "my_pack" if place == "." else target).symlink_to(real)
    error = PackRegistry(packs).scan()["my_pack"].error
    assert error is not None
    assert error["code"] == "file_refused"
    assert "symbolic link" in error["detail"]


def test_a_hard_link_to_a_file_of_the_operator_is_refused(tmp_path) -> None:
    path = pack(tmp_path, "p")
    secret = tmp_path / "secret.json"
    secret.write_text('{"pack_id": "p", "permissions": []}')
    os.link(secret, path / "backend/permissions.json")
    assert "hard link" in error_of(path)["detail"]


def test_fifos_sockets_and_folders_in_place_of_files_never_block(tmp_path) -> None:
    for index, make in enumerate((os.mkfifo, os.mkdir, _socket)):
        path = pack(tmp_path, f"p{index}")
        make(path / "backend/permissions.json")
        assert error_of(path)["code"] == "file_refused"


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def test_files_entries_and_bytes_are_bounded(tmp_path) -> None:
    path = pack(tmp_path, "p", files={f"components/c{i}/manifest.json": manifest("t", f"c{i}") for i in range(20)})
    assert scan_folder(path).error is None
    for limits in (ReadLimits(files=10), ReadLimits(entries=10), ReadLimits(limit_bytes=200)):
        assert scan_folder(path, limits).error["code"] == "file_refused"
    write_files(path, {"backend/permissions.json": b" " * (1024 * 1024 + 1)})
    assert "bytes" in error_of(path)["detail"]


@pytest.mark.parametrize("name", ["bad name", "caf\u00e9", "a\u202eb", "x\x1b[31m"])
def test_hostile_folder_names_are_shown_escaped(tmp_path, name) -> None:
    pack(tmp_path, "p").rename(tmp_path / name)
    (result,) = PackRegistry(tmp_path).scan().values()
    assert result.error["code"] == "pack_id_invalid"
    assert "\u202e" not in result.error["detail"]
    assert "\x1b" not in result.error["detail"]


def test_a_folder_name_that_is_no_text(tmp_path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe")).mkdir()
    (result,) = PackRegistry(tmp_path).scan().values()
    json.dumps([result.folder, result.path, result.error]).encode("utf-8")


def test_one_broken_pack_never_hides_the_others(tmp_path) -> None:
    minimal_pack(tmp_path)
    write_files(tmp_path / "bomb", {"backend/ecosystem.json": b"[" * 900_000})
    write_files(tmp_path / "utf16", {"backend/ecosystem.json": '{"pack_id":"utf16"}'.encode("utf-16")})
    folders = PackRegistry(tmp_path).scan()
    assert {name for name, folder in folders.items() if folder.metadata} == {"my_pack"}
    assert folders["bomb"].error["code"] == "too_complex"
    assert folders["utf16"].error["code"] == "encoding"


def test_of_many_folders_with_one_id_the_first_are_named_to_each(tmp_path) -> None:
    for number in range(30):
        write_files(tmp_path / f"rival{number:02}", {"backend/ecosystem.json": {"pack_id": "wanted", "version": "1.0.0"}})
    found = PackRegistry(tmp_path).scan()
    [detail] = {folder.error["detail"] for folder in found.values()}
    assert detail.endswith("rival19' and 10 more.")


# -- remembering --------------------------------------------------------------------------------------------------


class Settled(PackRegistry):
    """With a clock an hour ahead, so that files just written count as settled."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, clock=lambda: time.time() + 3600)


REQUESTS = {"pack_id": "p", "permissions": [{"type": "host.notify", "reason": "r"}]}


def test_unchanged_packs_are_not_read_again(tmp_path, monkeypatch) -> None:
    for index in range(5):
        pack(tmp_path, f"p{index}")
    registry = Settled(tmp_path)
    first = registry.scan()
    monkeypatch.setattr("backend_core.ecosystem.registry.read_metadata", _never)
    second = registry.scan()
    assert all(second[name] is first[name] for name in first)


def _never(*_args: object) -> None:
    raise AssertionError("read again")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: write_files(path, {"backend/ecosystem.json": {"pack_id": "p", "version": "3.0.0"}}),
        lambda path: write_files(path, {"backend/permissions.json": REQUESTS}),
        lambda path: write_files(path, {"backend/components/new/manifest.json": manifest("t", "new")}),
        lambda path: write_files(path, {"backend/handlers/new.py": ""}),
        lambda path: write_files(path, {"backend/addons/x.addon.json": "{"}),
        lambda path: shutil.rmtree(path / "backend/components"),
        lambda path: _same_size_same_mtime(path / "backend/components/c/manifest.json"),
        lambda path: _another_file(path / "backend/components/c/manifest.json"),
        lambda path: _another_folder(path / "backend/components/c"),
        lambda path: _link_in_place(path / "backend/components/c"),
        lambda path: os.link(path / "backend/ecosystem.json", path.parent / ".second-name"),
    ],
    ids=[
        "edit", "permissions", "component", "handler", "addon", "removed", "same size and mtime", "another inode with the times",
        "another folder with the times", "a link in place", "a second name",
    ],
)
def test_any_change_of_metadata_is_seen(tmp_path, change) -> None:
    path = pack(tmp_path, "p", files={"components/c/manifest.json": manifest("t", "c")})
    registry = Settled(tmp_path)
    before = registry.scan()["p"]
    _wait_for_a_tick(tmp_path)
    change(path)
    assert registry.scan()["p"] != before


def _wait_for_a_tick(folder: Path) -> None:
    """Until the file system's clock, which ticks at 100 to 300 Hz, gives a later time than it did."""
    probe, deadline = folder / ".probe", time.monotonic() + 5
    probe.touch()
    first = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == first:
        assert time.monotonic() < deadline
        probe.touch()


def _another_file(path: Path) -> None:
    """Same size, same times, put in place by a rename."""
    status, other = path.stat(), path.with_name(".other")
    other.write_text(path.read_text().replace('"c"', '"d"'))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)
    os.utime(path.parent, ns=(status.st_atime_ns, status.st_mtime_ns))


def _another_folder(path: Path) -> None:
    """A whole folder exchanged, each time of the old one copied, also of the folder around."""
    around = path.parent.stat()
    shutil.copytree(path, path.with_name(".other"))
    _same_size_same_mtime(path.with_name(".other") / "manifest.json")
    shutil.rmtree(path)
    path.with_name(".other").rename(path)
    os.utime(path.parent, ns=(around.st_atime_ns, around.st_mtime_ns))


def _link_in_place(path: Path) -> None:
    path.rename(path.parents[3] / ".elsewhere")
    path.symlink_to(path.parents[3] / ".elsewhere")


def _same_size_same_mtime(path: Path) -> None:
    status = path.stat()
    path.write_text(path.read_text().replace('"c"', '"d"'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_reading_of_fresh_files_is_not_remembered(tmp_path, monkeypatch) -> None:
    pack(tmp_path, "p")
    registry = PackRegistry(tmp_path)
    registry.scan()
    monkeypatch.setattr("backend_core.ecosystem.registry.read_metadata", _never)
    with pytest.raises(AssertionError):
        registry.scan()


def test_what_is_no_pack_folder_is_left_out(tmp_path) -> None:
    minimal_pack(tmp_path)
    write_files(tmp_path, {"README.md": "x", ".staging/p/backend/ecosystem.json": {}})
    registry = PackRegistry(tmp_path)
    assert set(registry.scan()) == {"my_pack"}
    assert registry.get("my_pack").metadata.pack_id == "my_pack"
    assert registry.get("other") is None
    assert set(registry.components()) == {"my_pack:service:hello"}
    assert PackRegistry(tmp_path / "absent").scan() == {}


def test_a_removed_pack_is_gone(tmp_path) -> None:
    path = pack(tmp_path, "p")
    registry = PackRegistry(tmp_path)
    assert registry.get("p") is not None
    shutil.rmtree(path)
    assert registry.scan() == {}
    assert registry.get("p") is None

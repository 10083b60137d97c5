"""Attacks by what a Pack depends on: locks that say too much, wheels that lie, sets that are changed behind the host."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from backend_core.ecosystem.requirements import parse_lock
from backend_core.errors import AuthorError, HostError, TrustError
from core_runtime.drivers import wheel_archive
from core_runtime.drivers.runtime_folder import HOST_ABI
from core_runtime.rules.wheel_layout import LIMITS
from core_runtime.rules.wheels import target_of
from tests.support import wheels
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.trust_home import STANDARD, TrustHome

TARGET = target_of(HOST_ABI.version, HOST_ABI.micro, HOST_ABI.extension_suffix, HOST_ABI.libc)
NAME, DATA = wheels.built("colours", "1.0", {"colours/__init__.py": "VERSION = '1.0'\n"})
HASH = "--hash=sha256:" + "a" * 64


# --- the lock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "colours==1.0",
        "colours",
        f"colours>=1.0 {HASH}",
        f"colours==1.* {HASH}",
        f"colours===1.0 {HASH}",
        "colours==1.0 --hash=md5:" + "a" * 32,
        "colours==1.0 --hash=sha256:" + "a" * 63,
        "colours==1.0 --hash=sha256:" + "A" * 64,
        f"colours==1.0 {HASH} --global-option=x",
        f"colours==1.0 --config-settings=a=b {HASH}",
        f"colours @ https://example.invalid/colours-1.0-py3-none-any.whl {HASH}",
        f"https://example.invalid/colours-1.0-py3-none-any.whl {HASH}",
        f"git+https://example.invalid/colours.git {HASH}",
        f"./colours-1.0-py3-none-any.whl {HASH}",
        "-r other.txt",
        "-e .",
        "--index-url https://example.invalid/simple",
        "--extra-index-url=https://example.invalid/simple",
        "--find-links /etc",
        "--no-binary :all:",
        "--pre",
        "-c constraints.txt",
        f"colours==1.0 ; os.system('id') {HASH}",
        f"colours==1.0 ; extra == 'x' {HASH}",
        f"colours==1.0 ; python_version {HASH}",
        f"col\u200bours==1.0 {HASH}",
        f"colours==1.0/../../etc {HASH}",
        f"colours==${{HOME}} {HASH}",
        f"{HASH} \\",
    ],
)
def test_a_line_that_is_not_pinned_and_hashed_is_refused_by_its_number(line):
    text = f"# made by a tool\nfine==2.0 \\\n    {HASH}\n{line}\n"
    with pytest.raises(AuthorError) as refused:
        parse_lock(text.encode(), source="backend/requirements.lock")
    assert refused.value.code == "lock_invalid"
    assert refused.value.fields["line"] in {4, 5}, refused.value.detail
    assert "backend/requirements.lock:" in refused.value.detail


@pytest.mark.parametrize(
    "text",
    [
        f"a==1 {HASH}\nA==1 {HASH}\n",
        "".join(f"p{n}==1 {HASH}\n" for n in range(301)),
        "a==1 " + " ".join(f"--hash=sha256:{n:064x}" for n in range(301)),
        "\n" * 20_001,
        f"a==1 ; {'(' * 40}python_version < '3'{')' * 40} {HASH}\n",
        f"a==1 ; {' or '.join(['os_name == 1'] * 3)} {HASH}\n",
        "a==1 ; " + " and ".join(["python_version < '4'"] * 200) + f" {HASH}\n",
    ],
)
def test_a_lock_that_is_too_much_is_refused(text):
    with pytest.raises(AuthorError) as refused:
        parse_lock(text.encode(), source="requirements.lock")
    assert refused.value.code == "lock_invalid"


# --- wheels ----------------------------------------------------------------------------------------------------------


def member(path: str, data: bytes = b"x", mode: int = stat.S_IFREG | 0o644, **attributes: int) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(path)
    entry.filename = path  # zipfile would clean some names; an attacker's tool does not
    entry.external_attr = mode << 16
    for name, value in attributes.items():
        setattr(entry, name, value)
    return entry, data


def refused(tmp_path: Path, name: str, data: bytes) -> TrustError:
    """The refusal of a wheel; nothing of it lies outside the folder, nor does anything executable inside."""
    source, into = tmp_path / "in" / name, tmp_path / "out" / "set"
    source.parent.mkdir()
    into.mkdir(parents=True)
    source.write_bytes(data)
    with pytest.raises(TrustError) as caught:
        wheel_archive.unpack(source, wheels.sha256(data), into)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]
    return caught.value


@pytest.mark.parametrize(
    "path",
    [
        "../evil.py", "colours/../../evil.py", "/etc/evil.py", "C:/evil.py", "colours\\..\\evil.py", "colours//evil.py",
        "./evil.py", "colours/.", "colours/\u202eevil.py", "colours/new\nline.py", "colours/cafe\u0301.py",
        "colours/" + "x" * 300 + ".py", "/".join(["d"] * 60) + "/x.py",
        "colours-1.0.data/surprise/evil.py",
    ],
)  # fmt: skip
def test_a_member_that_leaves_its_place_is_refused(tmp_path, path):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": ""}, extra=[member(path)])
    assert refused(tmp_path, name, data).code == "wheel_refused"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": ""}, extra=[member("colours/x", b"/etc/passwd", kind | 0o777)])
    assert "link, a device" in refused(tmp_path, name, data).detail


@pytest.mark.parametrize(
    "paths",
    [("colours/A.py", "colours/a.py"), ("Colours/a.py", "colours/b.py"), ("colours/\u212a.py", "colours/k.py"), ("colours/x", "colours/x/y.py")],
)
def test_twins_and_a_file_where_a_folder_is_are_refused(tmp_path, paths):
    name, data = wheels.built("colours", "1.0", dict.fromkeys(paths, ""))
    assert refused(tmp_path, name, data).code == "wheel_refused"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice_is_refused(tmp_path):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": ""}, extra=[member("colours/__init__.py", b"evil")])
    assert "twice" in refused(tmp_path, name, data).detail


def test_what_its_own_record_does_not_say_is_refused(tmp_path):
    for number, made in enumerate(
        (
            wheels.built("colours", "1.0", {"colours/__init__.py": ""}, extra=[member("colours/more.py")]),
            wheels.built("colours", "1.0", {"colours/__init__.py": "x"}, record={"colours/__init__.py": wheels.digest(b"y")}),
            wheels.built("colours", "1.0", {"colours/__init__.py": ""}, with_record=False),
        )
    ):
        place = tmp_path / str(number)
        place.mkdir()
        assert "RECORD" in refused(place, *made).detail


def test_bombs_are_refused_before_anything_is_written(tmp_path):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": b"\0" * (LIMITS.ratio_from_bytes + 1)})
    assert len(data) < 100_000
    assert "times as much" in refused(tmp_path, name, data).detail
    assert list((tmp_path / "out/set").iterdir()) == []


def test_many_wheels_share_one_budget(tmp_path):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": "x" * 1000})
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TrustError) as caught:
        wheel_archive.unpack(tmp_path / name, wheels.sha256(data), tmp_path, limit_bytes=1000)
    assert "1000 are left for this Pack" in caught.value.detail
    assert not (tmp_path / "colours").exists()


def test_a_list_of_a_million_members_is_refused_before_it_is_read(tmp_path):
    """The end record claims it, so the list is not even looked at."""
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": ""})
    end = bytearray(data)
    struct.pack_into("<HH", end, len(end) - 14, 65000, 65000)
    assert "lists 65000 files" in refused(tmp_path, name, bytes(end)).detail


@pytest.mark.parametrize("behind", [b"comment", b"PK\x05\x06" + b"\0" * 18])
def test_an_archive_with_something_behind_it_is_refused(tmp_path, behind):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": ""})
    if behind == b"comment":
        out = io.BytesIO(data)
        with zipfile.ZipFile(out, "a") as archive:
            archive.comment = behind
        data = out.getvalue()
    else:
        data += behind
    refused(tmp_path, name, data)


def test_encrypted_and_oddly_compressed_members_are_refused(tmp_path):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": "x"})
    at = data.index(b"PK\x01\x02")
    for number, (offset, value) in enumerate(((8, 1), (10, 14))):
        place = tmp_path / str(number)
        place.mkdir()
        changed = bytearray(data)
        struct.pack_into("<H", changed, at + offset, value)
        refused(place, name, bytes(changed))


def test_members_that_overlap_are_refused(tmp_path):
    """Every member points at one compressed block: small on disk, large unpacked."""
    name, data = wheels.built("colours", "1.0", {"colours/a.py": os.urandom(40_000), "colours/b.py": "b", "colours/c.py": "c"})
    changed = bytearray(data)
    first = changed.index(b"PK\x01\x02")
    at = first
    while (at := changed.find(b"PK\x01\x02", at + 1)) > 0:
        changed[at + 20 : at + 28] = changed[first + 20 : first + 28]
        changed[at + 42 : at + 46] = changed[first + 42 : first + 46]
    assert "overlap" in refused(tmp_path, name, bytes(changed)).detail


def test_what_would_run_by_itself_and_scripts_are_left_out(tmp_path):
    files: dict[str, bytes | str] = {
        "colours/__init__.py": "", "evil.pth": "import os; os.system('id')\n", "sitecustomize.py": "raise SystemExit",
        "usercustomize/__init__.py": "", "colours/__pycache__/x.cpython-311.pyc": b"\0", "colours/only.pyc": b"\0",
        "colours-1.0.data/scripts/tool": "#!/bin/sh\n", "colours-1.0.data/headers/x.h": "",
        "colours-1.0.data/purelib/colours/more.py": "", "colours-1.0.data/platlib/colours/deep.py": "",
    }  # fmt: skip
    name, data = wheels.built("colours", "1.0", files)
    (tmp_path / name).write_bytes(data)
    into = tmp_path / "set"
    into.mkdir()
    contents = wheel_archive.unpack(tmp_path / name, wheels.sha256(data), into)
    found = sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.is_file())
    info = "colours-1.0.dist-info"
    assert found == [f"{info}/{n}" for n in ("METADATA", "RECORD", "WHEEL")] + ["colours/__init__.py", "colours/deep.py", "colours/more.py"]
    assert len(contents.layout.left_out) == 7
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in into.rglob("*") if path.is_file())


# --- sets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    return TrustHome(tmp_path / "home")


def pack_of(home: TrustHome, lock: str, *made: tuple[str, bytes], pack_id: str = "alpha") -> None:
    root = home.add(pack_id, files={"backend/requirements.lock": lock})
    wheels.write_wheels(root / "backend/wheels", *made)


def start(home: TrustHome, pack_id: str = "alpha") -> Path:
    copy = home.approvals.open_for_start(pack_id, isolation=STANDARD, target=TARGET)
    assert copy.packages is not None
    return copy.packages


def test_a_set_that_was_changed_in_the_store_never_starts(home):
    pack_of(home, wheels.locked(("colours", "1.0", DATA)), (NAME, DATA))
    home.approve(target=TARGET)
    module = start(home) / "colours/__init__.py"
    before = module.read_bytes()
    for change in (b"VERSION = '6.6'\n", before + b"#"):
        module.chmod(0o644)
        module.write_bytes(change)
        module.chmod(0o444)
        with pytest.raises(TrustError) as caught:
            start(home)
        assert caught.value.code == "store_corrupt"
        assert "rumi pack fetch alpha" in caught.value.hint
    module.chmod(0o644)
    module.write_bytes(before)
    module.chmod(0o444)
    module.parent.chmod(0o755)
    (module.parent / "more.py").write_text("")
    with pytest.raises(TrustError):
        start(home)


def test_an_unpacked_set_is_made_anew_from_the_locked_wheels(home):
    pack_of(home, wheels.locked(("colours", "1.0", DATA)), (NAME, DATA))
    home.approve(target=TARGET)
    module = start(home) / "colours/__init__.py"
    module.chmod(0o644)
    module.write_text("evil")
    home.approvals.renew_packages("alpha", target=TARGET, fetched=None, actor="tester")
    assert (start(home) / "colours/__init__.py").read_text() == "VERSION = '1.0'\n"


def test_bytes_that_a_downloader_brings_count_by_their_hash_only(home, tmp_path):
    pack_of(home, wheels.locked(("colours", "1.0", DATA)))
    lies = tmp_path / "fetched"
    wheels.write_wheels(lies, (NAME, wheels.built("colours", "1.0", {"colours/__init__.py": "evil"})[1]))
    grant = home.approve(target=TARGET, fetched=lies)
    assert grant.dependencies is not None
    assert grant.dependencies.missing == ("colours==1.0",)
    with pytest.raises(HostError) as caught:
        start(home)
    assert caught.value.code == "dependencies_missing"


def test_a_wheel_under_another_packages_name_is_not_that_package(home):
    """The hash stands in the lock, but in the line of another package."""
    other, data = wheels.built("shapes", "1.0", {"colours/__init__.py": "evil"})
    pack_of(home, wheels.locked(("colours", "1.0", data)), (other, data))
    with pytest.raises(AuthorError) as caught:
        home.approve(target=TARGET)
    assert caught.value.code == "wheel_unlocked"


@pytest.mark.parametrize("name", ["colours-1.0.tar.gz", "colours.whl", "setup.py", "x-1-py3-none-any.whl.exe"])
def test_only_locked_wheels_may_lie_in_wheels(home, name):
    pack_of(home, wheels.locked(("colours", "1.0", DATA)), (NAME, DATA), (name, b"PK"))
    with pytest.raises(AuthorError) as caught:
        home.approve(target=TARGET)
    assert caught.value.code == "wheel_unlocked"


def test_two_wheels_that_want_one_file_are_refused(home):
    twin, data = wheels.built("shades", "1.0", {"colours/__init__.py": "evil"})
    pack_of(home, wheels.locked(("colours", "1.0", DATA), ("shades", "1.0", data)), (NAME, DATA), (twin, data))
    with pytest.raises(TrustError) as caught:
        home.approve(target=TARGET)
    assert "also in another wheel" in caught.value.detail


def test_two_wheels_with_names_that_are_twins_are_refused(home):
    twin, data = wheels.built("shades", "1.0", {"Colours/other.py": ""})
    pack_of(home, wheels.locked(("colours", "1.0", DATA), ("shades", "1.0", data)), (NAME, DATA), (twin, data))
    with pytest.raises(TrustError):
        home.approve(target=TARGET)


def test_a_lock_that_is_edited_after_approval_stops_the_pack(home):
    pack_of(home, wheels.locked(("colours", "1.0", DATA)), (NAME, DATA))
    home.approve(target=TARGET)
    lock = home.packs_dir / "alpha/backend/requirements.lock"
    lock.write_text(lock.read_text() + "\n")
    assert home.scan().state.value == "modified"


def test_sets_go_with_their_grant_and_not_before(home):
    pack_of(home, wheels.locked(("colours", "1.0", DATA)), (NAME, DATA))
    pack_of(home, wheels.locked(("colours", "1.0", DATA)), (NAME, DATA), pack_id="beta")
    home.approvals.scan()
    home.approve(target=TARGET)
    home.approve("beta", target=TARGET)
    one, same = start(home), start(home, "beta")
    assert one == same, "one set of the same bytes is kept once"
    home.approvals.mark("alpha", "stopped")
    home.approvals.reject("alpha", reason="", actor="tester")
    assert one.is_dir()
    home.approvals.mark("beta", "stopped")
    home.approvals.reject("beta", reason="", actor="tester")
    assert not one.exists()


# --- inside ----------------------------------------------------------------------------------------------------------

SHADOWS = {
    "json/__init__.py": "raise SystemExit('the json of a package')\n",
    "socket.py": "raise SystemExit('the socket of a package')\n",
    "rumi.py": "raise SystemExit('the rumi of a package')\n",
    "container_agent.py": "raise SystemExit('the agent of a package')\n",
    "msgpack/__init__.py": "WHOSE = 'the packages own'\n",
    "helper.py": "WHOSE = 'the package'\n",
    "sitecustomize.py": "open('/tmp/ran-site', 'w')\n",
    "start.pth": "import os; open('/tmp/ran-pth', 'w')\n",
    "colours/__init__.py": "",
    "colours/tool": "#!/bin/sh\necho ran\n",
}
LOOKING = """
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import helper
import msgpack
import rumi


def importable(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def look(args, ctx):
    try:
        ran = subprocess.run(["/packages/colours/tool"], capture_output=True).returncode == 0
    except OSError:
        ran = False
    try:
        Path("/packages/colours/new.py").write_text("")
        written = True
    except OSError:
        written = False
    return {
        "json": json.dumps([1]), "msgpack": msgpack.WHOSE, "helper": helper.WHOSE, "rumi": rumi.RemoteError.__name__,
        "by_itself": sorted(name for name in os.listdir("/tmp") if name.startswith("ran-")),
        "of_the_host": [name for name in ("msgspec", "starlette", "uvicorn", "psutil", "jinja2", "pip", "cryptography") if importable(name)],
        "executed": ran, "written": written, "last": sys.path[-1], "all": sorted(os.listdir("/packages")),
    }


def run(context):
    context["interface_registry"].register("looking.look", look)
"""


@pytest.fixture(
    params=[pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]), pytest.param("embedded", marks=pytest.mark.embedded)]
)
def host(request, tmp_path):
    with RunningHost(tmp_path / "home", request.param) as running:
        yield running


def test_packages_shadow_nothing_run_by_themselves_never_and_see_nothing_of_the_hosts(host):
    name, data = wheels.built("colours", "1.0", SHADOWS)
    folder = host.put_pack("looking", one_component_pack("looking", LOOKING, provides=("looking.look",)))
    (folder / "backend/components/main/helper.py").write_text("WHOSE = 'the Pack'\n")
    (folder / "backend/requirements.lock").write_text(wheels.locked(("colours", "1.0", data)))
    wheels.write_wheels(folder / "backend/wheels", (name, data))
    assert host.approve("looking")["status"] == "running"
    found = host.result("looking.look")
    assert found.pop("all") == ["colours", "colours-1.0.dist-info", "container_agent.py", "helper.py", "json", "msgpack", "rumi.py", "socket.py"]
    assert found == {
        "json": "[1]", "msgpack": "the packages own", "helper": "the Pack", "rumi": "RemoteError", "by_itself": [],
        "of_the_host": [], "executed": False, "written": False, "last": "/packages",
    }  # fmt: skip


def test_a_pack_without_packages_has_no_place_of_that_name(host):
    setup = "import os\ndef run(context):\n    context['interface_registry'].register('plain.has', lambda a, c: os.path.exists('/packages'))\n"
    host.put_pack("plain", one_component_pack("plain", setup, provides=("plain.has",)))
    host.approve("plain")
    assert host.result("plain.has") is False

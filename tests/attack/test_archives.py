"""Hostile archives and repositories: nothing leaves the folder, fills the disk or the memory, or runs; nothing is kept."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend_core.errors import AuthorError, HostError, RequestError, RumiError
from core_runtime.drivers import archive, git_source
from core_runtime.rules.archive import LIMITS, ArchiveLimits, Collisions, Intake, Kind, Member
from core_runtime.rules.sources import commands
from core_runtime.rules.sources import git_source as source_of
from tests.support.archives import PACK, entry, git, repository, tarred, zip_entry, zipped
from tests.support.trust_home import STANDARD, TrustHome

SMALL = ArchiveLimits(members=50, folders=50, total_bytes=4 << 20, archive_bytes=1 << 20, ratio=20, ratio_from_bytes=1 << 20)


def refused(path: Path, into: Path, limits: ArchiveLimits = LIMITS) -> AuthorError:
    into.mkdir(exist_ok=True)
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(AuthorError) as caught:
        archive.unpack(path, into, limits)
    assert caught.value.code == "archive_refused"
    outside = [found for found in sorted(into.parent.rglob("*")) if found not in before and into not in found.parents]
    assert outside == [], "something was written outside"
    return caught.value


TAR_MEMBERS: dict[str, tuple[tarfile.TarInfo, bytes]] = {
    "a path that climbs": (entry("../evil.py", size=1), b"x"),
    "a path that climbs later": (entry("backend/../../evil.py", size=1), b"x"),
    "an absolute path": (entry("/tmp/evil.py", size=1), b"x"),
    "a path of another system": (entry("backend\\..\\evil.py", size=1), b"x"),
    "a drive": (entry("C:evil.py", size=1), b"x"),
    "a symbolic link": (entry("backend/link", tarfile.SYMTYPE, "/etc/passwd"), b""),
    "a hard link": (entry("backend/hard", tarfile.LNKTYPE, "backend/ecosystem.json"), b""),
    "a device": (entry("backend/zero", tarfile.CHRTYPE), b""),
    "a block device": (entry("backend/disk", tarfile.BLKTYPE), b""),
    "a pipe": (entry("backend/pipe", tarfile.FIFOTYPE), b""),
    "a twin by case": (entry("backend/ECOSYSTEM.json", size=1), b"x"),
    "a twin by Unicode": (entry("backend/e\u0301.py", size=1), b"x"),
    "a file twice": (entry("backend/ecosystem.json", size=1), b"{"),
    "a file where a folder is": (entry("backend/components", size=1), b"x"),
    "a folder where a file is": (entry("backend/ecosystem.json/x", size=1), b"x"),
    "an invisible name": (entry("backend/a\u202eb.py", size=1), b"x"),
    "a line end in a name": (entry("backend/a\nb.py", size=1), b"x"),
    "an empty step": (entry("backend//x.py", size=1), b"x"),
    "a deep path": (entry("/".join(["d"] * 80), size=1), b"x"),
    "a long name": (entry("backend/" + "n" * 300, size=1), b"x"),
}


@pytest.mark.parametrize("what", TAR_MEMBERS)
def test_a_tar_member_that_is_no_plain_file_below(tmp_path, what) -> None:
    (tmp_path / "in").mkdir()
    refused(tarred(tmp_path / "p.tar", extra=[TAR_MEMBERS[what]]), tmp_path / "in" / "to")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../evil.py", 0o100644), ("/tmp/evil.py", 0o100644), ("backend/x/../../../evil.py", 0o100644),
        ("backend/link", stat.S_IFLNK | 0o777), ("backend/pipe", stat.S_IFIFO | 0o644), ("backend/dev", stat.S_IFCHR | 0o644),
        ("backend/ECOSYSTEM.json", 0o100644), ("backend\\evil.py", 0o100644), ("backend/a\u202eb.py", 0o100644),
    ],
)  # fmt: skip
def test_a_zip_member_that_is_no_plain_file_below(tmp_path, name, mode) -> None:
    (tmp_path / "in").mkdir()
    refused(zipped(tmp_path / "p.zip", extra=[(zip_entry(name, mode), b"/etc/passwd")]), tmp_path / "in" / "to")


@pytest.mark.parametrize("pack_with", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"])
def test_a_compression_bomb_costs_no_memory_and_is_ended(tmp_path, pack_with) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as made:
        info = entry("backend/big.bin", size=64 << 20)
        made.addfile(info, io.BytesIO(bytes(64 << 20)))
    bomb = tmp_path / "bomb.tar.x"
    bomb.write_bytes(pack_with(inner.getvalue()))
    tracemalloc.start()
    try:
        refused(bomb, tmp_path / "to", SMALL)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert sum(path.stat().st_size for path in (tmp_path / "to").rglob("*") if path.is_file()) <= SMALL.total_bytes


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {**PACK, "backend/big.bin": bytes(64 << 20)})
    assert bomb.stat().st_size < SMALL.archive_bytes
    refused(bomb, tmp_path / "to", SMALL)
    assert not (tmp_path / "to/backend/big.bin").exists()


def test_an_xz_archive_that_asks_for_memory_gets_none(tmp_path) -> None:
    greedy = lzma.compress(bytes(1000), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    (tmp_path / "greedy.tar.xz").write_bytes(greedy)
    assert "damaged" in refused(tmp_path / "greedy.tar.xz", tmp_path / "to").detail


def test_an_extended_header_of_a_gigabyte_is_not_read(tmp_path) -> None:
    head = tarfile.TarInfo("x")
    head.type, head.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "p.tar").write_bytes(head.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 16))
    tracemalloc.start()
    try:
        refused(tmp_path / "p.tar", tmp_path / "to")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def header(kind: bytes, payload: bytes) -> bytes:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(payload)
    return info.tobuf(tarfile.USTAR_FORMAT) + payload + b"\0" * (-len(payload) % 512)


def records(start: int, count: int) -> bytes:
    return b"".join(b"%d k%08d=\n" % (14, number) for number in range(start, start + count))


COMPRESS = pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"]
)


@COMPRESS
def test_streams_that_unpack_to_nothing_are_counted(tmp_path, compress) -> None:
    """A gigabyte of them kept the host busy for ten minutes: their bytes never came to anything that was bounded."""
    whole = compress(tarred(tmp_path / "p.tar").read_bytes())
    path = tmp_path / "streams"
    path.write_bytes(compress(b"") * archive.MOST_STREAMS + whole)
    assert "compressed streams" in refused(path, tmp_path / "to").detail


@COMPRESS
def test_what_was_compressed_side_by_side_is_taken(tmp_path, compress) -> None:
    whole = tarred(tmp_path / "p.tar").read_bytes()
    path, into = tmp_path / "parts", tmp_path / "to"
    path.write_bytes(b"".join(compress(whole[at : at + 256]) for at in range(0, len(whole), 256)))
    into.mkdir()
    assert (archive.unpack(path, into) / "backend/ecosystem.json").is_file()


def test_headers_for_all_members_fill_no_memory(tmp_path) -> None:
    """Each is small and none is a member, but what they say is kept to the end."""
    path = tmp_path / "p.tar.gz"
    with gzip.open(path, "wb") as file:
        for turn in range(400):
            file.write(header(tarfile.XGLTYPE, records(turn * 4000, 4000)))
            file.write(entry(f"backend/{turn}.py").tobuf())
    tracemalloc.start()
    try:
        assert "extended headers" in refused(path, tmp_path / "to").detail
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_many_headers_before_one_member_are_refused(tmp_path) -> None:
    path = tmp_path / "p.tar"
    path.write_bytes(header(tarfile.XHDTYPE, records(0, 10)) * 50 + entry("backend/x.py").tobuf())
    assert "extended headers" in refused(path, tmp_path / "to").detail


def test_headers_of_many_members_are_bounded_together(tmp_path) -> None:
    """Four megabytes of them kept the host busy for half an hour: they compress well, and each record is parsed."""
    one = header(tarfile.XHDTYPE, b"65535 comment=" + b"x" * 65_520 + b"\n")
    path = tmp_path / "p.tar.gz"
    with gzip.open(path, "wb") as file:
        for number in range(archive.EXTENDED_BYTES // 65_535 + 1):
            file.write(one + entry(f"backend/{number}.py").tobuf())
        file.write(one + entry("backend/ecosystem.json").tobuf() + bytes(1024))
    assert path.stat().st_size < 100_000
    assert "extended headers" in refused(path, tmp_path / "to").detail


def test_every_member_may_have_an_extended_header(tmp_path) -> None:
    path, into = tmp_path / "p.tar", tmp_path / "to"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for number in range(2000):
            one = entry(f"backend/{number}.json" if number else "backend/ecosystem.json")
            one.mtime = 1_700_000_000.123
            one.pax_headers = {"comment": "x" * 300}
            file.addfile(one)
    into.mkdir()
    assert len(list((archive.unpack(path, into) / "backend").iterdir())) == 2000


def test_folders_that_only_paths_name_are_counted(tmp_path) -> None:
    """A few members of many steps each are as many folders as a million members."""
    deep = [(entry(f"{number}/" + "/".join("abcdefghij") + "/x"), b"") for number in range(20)]
    assert "folders" in refused(tarred(tmp_path / "p.tar", extra=deep), tmp_path / "to", SMALL).detail
    assert sum(found.is_dir() for found in (tmp_path / "to").rglob("*")) < 80


def test_the_list_of_a_zip_is_counted_whatever_its_end_tells(tmp_path) -> None:
    """Python's reader believes a large archive's second end record, and reads entries by bytes and not by number."""
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(200):
            file.writestr(f"{number}", b"")
    raw = path.read_bytes()
    at = raw.rfind(b"PK\x05\x06")
    size, offset = struct.unpack_from("<LL", raw, at + 12)
    few = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, offset, 0)
    path.write_bytes(raw[:at] + few)
    assert "lists more than 50 files" in refused(path, tmp_path / "a", SMALL).detail
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 200, 200, size, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 46, offset, 0)
    path.write_bytes(raw[:at] + large + locator + end)
    assert "second list" in refused(path, tmp_path / "b", SMALL).detail


def test_sparse_files_are_refused(tmp_path) -> None:
    head = tarfile.TarInfo("backend/sparse")
    head.type, head.size = tarfile.GNUTYPE_SPARSE, 512
    (tmp_path / "old.tar").write_bytes(head.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    refused(tmp_path / "old.tar", tmp_path / "to")
    modern = entry("backend/sparse", size=512)
    modern.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "backend/sparse", "GNU.sparse.realsize": str(1 << 40)}
    refused(tarred(tmp_path / "new.tar", extra=[(modern, b"1\n0\n512\n".ljust(512, b"\0"))]), tmp_path / "to2")


def test_more_members_than_allowed(tmp_path) -> None:
    many = {f"backend/f{number}": "" for number in range(60)}
    assert "50 files" in refused(tarred(tmp_path / "p.tar", many), tmp_path / "a", SMALL).detail
    assert "50 are allowed" in refused(zipped(tmp_path / "p.zip", many), tmp_path / "b", SMALL).detail


def test_sizes_that_the_list_of_a_zip_lies_about(tmp_path) -> None:
    path = zipped(tmp_path / "p.zip", {**PACK, "backend/data.bin": b"x" * 5000})
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02", 0, raw.rfind(b"backend/data.bin"))
    raw[at + 24 : at + 28] = (10).to_bytes(4, "little")
    path.write_bytes(raw)
    refused(path, tmp_path / "to")


def test_a_truncated_archive_and_one_with_something_behind_it(tmp_path) -> None:
    whole = zipped(tmp_path / "p.zip").read_bytes()
    for name, data in (("cut.zip", whole[:-30]), ("more.zip", whole + b"MZ" * 100), ("text.zip", b"PK\x03\x04 and nothing"), ("no.tar", b"hello"), ("empty.tar", b"")):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, tmp_path / f"to-{name}")
    tar = tarred(tmp_path / "p.tar.gz", mode="w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(tar[: len(tar) // 2])
    refused(tmp_path / "cut.tar.gz", tmp_path / "to-cut")


def test_an_encrypted_member(tmp_path) -> None:
    path = zipped(tmp_path / "p.zip")
    raw = bytearray(path.read_bytes())
    at = raw.find(b"PK\x01\x02")
    raw[at + 8] |= 1
    path.write_bytes(raw)
    assert "encrypted" in refused(path, tmp_path / "to").detail


def test_a_link_or_pipe_in_place_of_the_archive(tmp_path) -> None:
    zipped(tmp_path / "p.zip")
    (tmp_path / "link.zip").symlink_to(tmp_path / "p.zip")
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "to").mkdir()
    with pytest.raises(OSError, match="symbolic"):
        archive.unpack(tmp_path / "link.zip", tmp_path / "to")
    refused(tmp_path / "pipe.zip", tmp_path / "to")


@pytest.mark.parametrize("make", [zipped, tarred])
def test_an_archive_without_a_pack(tmp_path, make) -> None:
    assert "backend/ecosystem.json" in refused(make(tmp_path / "p", {"a/readme": "", "b/readme": ""}), tmp_path / "to").detail


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("top", ["", "my-pack-1.0/"])
def test_well_made_archives_come_in_as_their_folder_would(tmp_path, mode, top) -> None:
    files = {f"{top}{name}": text for name, text in PACK.items()}
    script = entry(f"{top}backend/tool.sh", size=3, mode=0o755)
    (tmp_path / "to").mkdir()
    found = archive.unpack(tarred(tmp_path / "p.tar", files, [(script, b"ls\n")], mode), tmp_path / "to")
    assert {str(path.relative_to(found)): path.read_text() for path in found.rglob("*") if path.is_file()} == {**PACK, "backend/tool.sh": "ls\n"}
    assert (found / "backend/tool.sh").stat().st_mode & 0o777 == 0o700
    assert (found / "backend/ecosystem.json").stat().st_mode & 0o777 == 0o600


def test_an_archive_is_the_same_pack_as_its_folder_and_leaves_nothing(tmp_path) -> None:
    home = TrustHome(tmp_path / "home")
    folder = tmp_path / "folder"
    for name, text in PACK.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    digests = set()
    for source in (folder, zipped(tmp_path / "a.zip"), tarred(tmp_path / "a.tar.gz", mode="w:gz")):
        added = home.approvals.add(source, actor="tester")
        digests.add(home.approvals.review(added.pack_id).digest)
        home.approvals.remove(added.pack_id, actor="tester")
    assert len(digests) == 1
    with pytest.raises(AuthorError):
        home.approvals.add(tarred(tmp_path / "bad.tar", extra=[TAR_MEMBERS["a symbolic link"]]), actor="tester")
    assert [path.name for path in (home.user_data / "staging").iterdir()] == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="ab/.\\:\0\u0301A\u202e", max_size=12), max_size=12))
def test_no_path_that_is_taken_leaves_the_folder_or_meets_another(paths) -> None:
    intake = Intake(1 << 20)
    taken = [path.removesuffix("/") for path in paths if intake.take(Member(path, Kind.FILE)) is None]
    for path in taken:
        assert not Path(path).is_absolute()
        assert os.path.normpath(path) == path
        assert ".." not in path.split("/")
    assert len({path.casefold() for path in taken}) == len(taken)
    names = Collisions()
    assert all(names.add(path) == "" for path in taken)


def test_an_update_takes_nothing_away_that_another_is_at_work_on(tmp_path) -> None:
    """Each Pack has a lock of its own: a copy on its way in, and data kept before its record is written, are others'."""
    home = TrustHome(tmp_path / "home")
    home.approved()
    home.approvals.add(TrustHome(tmp_path / "author").add(version="2.0.0"), actor="tester")
    home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    others = [home.user_data / "staging/.incoming-0", home.user_data / "rollback/alpha-two-0123456789abcdef"]
    own = home.user_data / "rollback/alpha-0123456789abcdef"
    for folder in (*others, own):
        folder.mkdir()
    home.approvals.finish_update("alpha")
    assert all(folder.is_dir() for folder in others)
    assert not own.exists()
    home.reopen()
    assert not any(folder.exists() for folder in others)


# -- repositories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/evil", "http://example.org/x", "git://example.org/x", "-oProxyCommand=evil", "--upload-pack=evil",
        "ssh://-oProxyCommand=evil/x", "ssh://-l@host/x", "https://user:secret@example.org/x", "https:///x", "https://example.org/",
        "https://example.org/x?y", "https://example.org/x#y", "file://host/x", "https://example.org/a b", "https://example.org/\x1b[2J",
        "https://[::1/x", "https://example.org:99999/x", "", "x" * 3000, "https://example.org/" + "x" * 2000, "/a/path",
        "file::/x", "file:x/y",
    ],
)  # fmt: skip
def test_addresses_that_are_not_taken(url) -> None:
    with pytest.raises(RequestError) as caught:
        source_of(url)
    assert caught.value.code == "source_refused"
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("ref", ["-x", "--upload-pack=evil", "a..b", "a b", "a\nb", "x" * 201, "a.lock", "a//b", "refs/heads/", "a:b", "+a", "^a", "a~1", "@{u}"])
def test_names_of_commits_that_are_not_taken(ref) -> None:
    with pytest.raises(RequestError):
        source_of("https://example.org/x", ref)


def test_no_command_takes_an_address_or_a_name_for_an_option() -> None:
    for command in commands("git", source_of("https://example.org/x", "v1"), "/r"):
        assert "https://example.org/x" not in command or command.index("--") < command.index("https://example.org/x")


def test_a_repository_comes_in_as_its_files_and_runs_nothing(tmp_path) -> None:
    evil = tmp_path / "evil"

    def spoil(folder: Path) -> None:
        (folder / ".gitattributes").write_text("* filter=evil diff=evil\nhidden.py export-ignore\n")
        (folder / "hidden.py").write_text("x")
        (folder / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = ext::sh -c "touch {evil}"\n')
        hook = folder / ".git/hooks/post-checkout"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {evil}\n")
        hook.chmod(0o755)
        git(folder, "config", "filter.evil.smudge", f"touch {evil}")
        git(folder, "config", "uploadpack.packObjectsHook", f"touch {evil};")

    origin = repository(tmp_path / "origin", then=spoil)
    (tmp_path / "work").mkdir()
    found = git_source.fetch(source_of(f"file://{origin}"), tmp_path / "work")
    assert found.commit == git(origin, "rev-parse", "HEAD").strip()
    (tmp_path / "to").mkdir()
    folder = archive.unpack(found.archive, tmp_path / "to")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} >= set(PACK)
    assert not evil.exists()


def test_branches_tags_and_commits_are_what_was_asked_for(tmp_path) -> None:
    origin = repository(tmp_path / "origin")
    first = git(origin, "rev-parse", "HEAD").strip()
    git(origin, "tag", "v1")
    (origin / "backend/more.txt").write_text("more")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "second")
    second = git(origin, "rev-parse", "HEAD").strip()
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    for ref, commit in (("", second), ("main", second), ("v1", first), (first, first)):
        work = tmp_path / f"work-{ref or 'head'}"
        work.mkdir()
        assert git_source.fetch(source_of(f"file://{origin}", ref), work).commit == commit


def test_links_and_submodules_in_a_repository_refuse_it(tmp_path) -> None:
    origin = repository(tmp_path / "origin", then=lambda folder: (folder / "link").symlink_to("/etc/passwd"))
    (tmp_path / "work").mkdir()
    refused(git_source.fetch(source_of(f"file://{origin}"), tmp_path / "work").archive, tmp_path / "to")


def test_a_repository_that_is_too_large_or_too_slow_is_ended(tmp_path) -> None:
    origin = repository(tmp_path / "origin", then=lambda folder: (folder / "big.bin").write_bytes(os.urandom(8 << 20)))
    for limits in ({"fetch_bytes": 1 << 20}, {"fetch_s": 0.0}):
        work = tmp_path / f"work-{next(iter(limits))}"
        work.mkdir()
        with pytest.raises(HostError) as caught:
            git_source.fetch(source_of(f"file://{origin}"), work, **limits)
        assert caught.value.code == "git_failed"
        assert not (work / "repository").exists()


def test_a_repository_that_is_not_there_says_so_and_keeps_nothing(tmp_path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(RumiError) as caught:
        git_source.fetch(source_of(f"file://{tmp_path}/nowhere"), tmp_path / "work")
    assert caught.value.code == "git_failed"
    assert "fetch" in caught.value.detail
    assert not (tmp_path / "work/repository").exists()


def test_a_member_name_never_reaches_a_terminal_as_it_is(tmp_path) -> None:
    info = zipfile.ZipInfo("backend/\x1b[2Jevil\u202e.py")
    error = refused(zipped(tmp_path / "p.zip", extra=[(info, b"x")]), tmp_path / "to")
    assert "\x1b" not in str(error)
    assert "\u202e" not in str(error)

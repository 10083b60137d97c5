"""What of an archive is unpacked: each bound at its last allowed value and one beyond it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core_runtime.rules.archive import ArchiveLimits, Collisions, Intake, Kind, Member, Refused, name_fault, root_of

SMALL = ArchiveLimits(
    members=3, folders=2, total_bytes=100, ratio=10, ratio_from_bytes=20, depth=3, path_bytes=12, name_bytes=6
)


def file(path: str, size: int = 0) -> Member:
    return Member(path, Kind.FILE, size)


def taken(*members: Member, archive_bytes: int = 1_000, limits: ArchiveLimits = SMALL) -> list[Refused | None]:
    intake = Intake(archive_bytes, limits)
    return [intake.take(member) for member in members]


@pytest.mark.parametrize(
    "path", ["a", ".git", "a/b/c", "abcdef", "abcdef/ghijk", "a/b:c", "éé", "a b", "..a", "a..", "é/a"]
)
def test_plain_names_are_taken(path: str) -> None:
    assert name_fault(path, SMALL) == ""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is absolute"),
        ("/a", "is absolute"),
        ("a\\b", "is absolute"),
        ("c:/a", "is absolute"),
        ("a//b", "leaves the folder"),
        (".", "leaves the folder"),
        ("./a", "leaves the folder"),
        ("a/..", "leaves the folder"),
        ("../a", "leaves the folder"),
        ("a\0", "has a control"),
        ("a\u202eb", "has a control"),
        ("a\u2028b", "has a control"),
        ("a\u2029b", "has a control"),
        ("a\ud800", "has a control"),
        ("e\u0301", "has a name that is not in the usual Unicode form"),
        ("a/b/c/d", "is deeper than 3"),
        ("abcdef/ghijkl", "is deeper than 3 or longer than 12"),
        ("ééé/ééé", "is deeper than 3 or longer than 12"),
        ("abcdefg", "has a name of more than 6"),
        ("a/éééé", "has a name of more than 6"),
    ],
    ids=ascii,
)
def test_other_names_are_refused(path: str, reason: str) -> None:
    assert name_fault(path, SMALL).startswith(reason)
    [refused] = taken(file(path))
    assert refused is not None
    assert refused.path == path
    assert refused.reason == name_fault(path, SMALL)


def test_a_mark_of_a_folder_is_no_part_of_its_name() -> None:
    assert taken(Member("a/", Kind.FOLDER), file("a/b")) == [None, None]
    [_, twice] = taken(Member("a/", Kind.FOLDER), file("a"))
    assert twice == Refused("a", "is a file where a folder is")


def test_what_is_no_file_is_refused() -> None:
    [refused] = taken(Member("a", Kind.OTHER))
    assert refused is not None
    assert refused.path == "a"


def test_members_are_counted_files_and_folders_alike() -> None:
    *allowed, refused = taken(file("a"), Member("d", Kind.FOLDER), file("c"), file("e"))
    assert allowed == [None, None, None]
    assert refused == Refused("", "holds more than 3 files")


def test_folders_that_only_a_path_names_are_counted() -> None:
    [allowed, refused] = taken(file("a/b/c"), file("d/e"))
    assert allowed is None
    assert refused == Refused("", "holds more than 2 folders")


def test_bytes_are_counted_over_all_files() -> None:
    assert taken(file("a", 60), file("b", 40)) == [None, None]
    [_, refused] = taken(file("a", 60), file("b", 41))
    assert refused == Refused("", "unpacks to more than 100 bytes")


@pytest.mark.parametrize(
    ("archive_bytes", "size", "allowed"),
    [(1, 20, True), (1, 21, False), (3, 30, True), (3, 31, False)],
)
def test_a_bomb_is_known_by_its_ratio_once_it_is_large(archive_bytes: int, size: int, allowed: bool) -> None:
    [answer] = taken(file("a", size), archive_bytes=archive_bytes)
    assert answer == (None if allowed else Refused("", "unpacks to more than 10 times its size"))


def test_only_files_are_listed_and_weighed() -> None:
    intake = Intake(1_000, SMALL)
    assert intake.take(Member("d", Kind.FOLDER, 1_000)) is None
    assert intake.take(file("d/a", 7)) is None
    assert (intake.files, intake.total) == (["d/a"], 7)


def test_a_refused_member_is_not_listed() -> None:
    intake = Intake(1_000, replace(SMALL, members=1))
    assert intake.take(file("a")) is None
    assert intake.take(file("b")) is not None
    assert intake.files == ["a"]


@pytest.mark.parametrize(
    ("paths", "fault"),
    [
        (["a", "a"], "is there twice"),
        (["a", "A"], "and 'a' are one name to some systems"),
        (["d/a", "D/b"], "and 'd' are one name to some systems"),
        (["d/a", "d/A"], "and 'd/a' are one name to some systems"),
        (["ss", "ß"], "and 'ss' are one name to some systems"),
        (["a", "a/b"], "needs a folder where 'a' is a file"),
        (["a", "a/b/c"], "needs a folder where 'a' is a file"),
        (["a/b", "a"], "is a file where a folder is"),
        (["a", "a/"], "needs a folder where 'a' is a file"),
        (["a/", "a/", "a/b"], ""),
        (["a/b", "c/b"], ""),
        (["a/b", "a/c", "b"], ""),
    ],
)
def test_paths_beside_each_other(paths: list[str], fault: str) -> None:
    names = Collisions()
    *before, last = [names.add(path.removesuffix("/"), folder=path.endswith("/")) for path in paths]
    assert before == [""] * len(before)
    assert last == fault


def test_folders_are_counted_once_each() -> None:
    names = Collisions()
    for path in ("a/b/c", "a/b/d", "a/e", "f"):
        assert names.add(path) == ""
    assert names.folders == 2


@pytest.mark.parametrize(
    ("files", "root"),
    [
        (["backend/ecosystem.json", "x/y"], ""),
        (["p/backend/ecosystem.json", "p/x"], "p"),
        (["p/backend/ecosystem.json", "q/x"], None),
        (["p/backend/ecosystem.json", "x"], None),
        (["p/q/backend/ecosystem.json"], None),
        (["p/x"], None),
        ([], None),
    ],
)
def test_the_pack_lies_at_the_top_or_in_the_only_folder(files: list[str], root: str | None) -> None:
    assert root_of(iter(files)) == root


def test_the_bounds_that_are_in_force() -> None:
    limits = ArchiveLimits()
    assert (limits.members, limits.folders, limits.depth) == (20_000, 20_000, 66)
    assert (limits.total_bytes, limits.archive_bytes, limits.ratio_from_bytes) == (2 << 30, 1 << 30, 16 << 20)
    assert (limits.ratio, limits.path_bytes, limits.name_bytes) == (100, 1024, 255)
    assert Intake(0).limits == limits

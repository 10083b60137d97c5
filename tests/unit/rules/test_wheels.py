"""Which wheel runs where, which is the better of two, and what of a wheel is unpacked: the rules of the specifications."""

from __future__ import annotations

import re
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from core_runtime.rules.wheel_layout import LIMITS, Layout, Member, Refused, collision, is_native, lay_out
from core_runtime.rules.wheels import MAX_NAME_CHARS, Target, parse_wheel_name, preference, target_of

MiB = 1024 * 1024
DEBIAN = Target((3, 11, 2), "x86_64", (2, 36))
ALPINE = Target((3, 12, 0), "aarch64", ())
RECORD = Member("x-1.dist-info/RECORD", 1, 1, 0)


def rank(tags: str, target: Target) -> tuple[int, ...] | None:
    wheel = parse_wheel_name(f"x-1.0-{tags}.whl")
    assert wheel is not None
    return preference(wheel, target)


def test_a_target_in_words_tags_and_markers() -> None:
    assert (DEBIAN.words, DEBIAN.abi) == ("cpython-3.11 linux x86_64 glibc-2.36", "cp311")
    assert (ALPINE.words, ALPINE.abi) == ("cpython-3.12 linux aarch64 musl", "cp312")
    assert DEBIAN.environment() == {
        "python_version": "3.11", "python_full_version": "3.11.2", "implementation_version": "3.11.2", "os_name": "posix", "sys_platform": "linux",
        "platform_machine": "x86_64", "platform_system": "Linux", "platform_python_implementation": "CPython", "implementation_name": "cpython",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("minor", "old"),
    [(36, ["manylinux2014", "manylinux2010", "manylinux1"]), (17, ["manylinux2014", "manylinux2010", "manylinux1"]), (16, ["manylinux2010", "manylinux1"]),
     (12, ["manylinux2010", "manylinux1"]), (11, ["manylinux1"]), (5, ["manylinux1"]), (4, [])],
)  # fmt: skip
def test_platforms_of_a_glibc_from_its_own_down_to_the_oldest(minor: int, old: list[str]) -> None:
    found = Target((3, 11, 0), "m", (2, minor)).platforms()
    assert list(found) == [*(f"manylinux_2_{n}_m" for n in range(minor, 4, -1)), *(f"{name}_m" for name in old), "linux_m"]


@given(st.sampled_from([DEBIAN, ALPINE, Target((3, 11, 0), "m", (2, 12))]))
def test_each_platform_that_is_told_is_taken_and_the_better_ones_stand_first(target: Target) -> None:
    ranks = [rank(f"{target.abi}-{target.abi}-{platform}", target) for platform in target.platforms()]
    assert None not in ranks
    modern = [found for found, name in zip(ranks, target.platforms(), strict=True) if re.match(r"(many|musl)linux_", name)]
    assert modern == sorted(set(modern), reverse=True)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("cp311-cp311-any", "cp311-abi3-any"), ("cp311-abi3-any", "cp310-abi3-any"), ("cp38-abi3-any", "cp311-none-any"),
        ("cp311-none-any", "py311-none-any"), ("py311-none-any", "py310-none-any"), ("py31-none-any", "py3-none-any"),
        ("cp311-cp311-linux_x86_64", "cp311-cp311-any"), ("cp311-cp311-manylinux_2_36_x86_64", "cp311-cp311-manylinux_2_35_x86_64"),
        ("cp311-cp311-manylinux1_x86_64", "cp311-cp311-linux_x86_64"), ("cp311-cp311-manylinux2014_x86_64", "cp311-cp311-manylinux2010_x86_64"),
        ("cp311-cp311-manylinux_2_18_x86_64", "cp311-cp311-manylinux2014_x86_64"), ("cp311-cp311-manylinux2014_x86_64", "cp311-cp311-manylinux_2_16_x86_64"),
        # code for just this Python goes before a newer platform; the build decides last, as a number
        ("cp311-cp311-any", "cp311-abi3-manylinux_2_36_x86_64"), ("py3.cp311-none-any", "py3-none-any"), ("py3-none-any.linux_x86_64", "py3-none-any"),
    ],
)  # fmt: skip
def test_the_closer_a_wheel_was_made_for_a_target_the_better(better: str, worse: str) -> None:
    one, other = rank(better, DEBIAN), rank(worse, DEBIAN)
    assert one is not None
    assert other is not None
    assert one > other


def test_builds_of_one_wheel_are_numbers() -> None:
    ranks = []
    for name in ("x-1.0-py3-none-any.whl", "x-1.0-2-py3-none-any.whl", "x-1.0-10b-py3-none-any.whl"):
        wheel = parse_wheel_name(name)
        assert wheel is not None
        ranks.append(preference(wheel, DEBIAN))
    assert ranks == sorted(ranks, key=lambda found: found or ())
    assert len(set(ranks)) == 3


@pytest.mark.parametrize(
    "tags",
    ["cp310-cp310-any", "cp311-cp312-any", "cp312-cp312-any", "cp310-cp311-any", "cp312-abi3-any", "py312-none-any", "cp310-none-any", "cp3-none-any", "py3-cp311-any",
     "py4-none-any", "cp411-cp311-any", "py3-abi3-any", "jy3-none-any", "cp311-cp311-manylinux_2_37_x86_64", "cp311-cp311-manylinux_1_5_x86_64", "cp311-cp311-manylinux_2_5_arm",
     "cp311-cp311-linux_arm", "cp311-cp311-manylinux2014_arm", "cp311-cp311-musllinux_1_0_x86_64", "cp311-cp311-windows_x86_64", "cp311-cp311-manylinux_2_5_x86_64X", "cp311-cp311-manylinux1_x86_64X"],
)  # fmt: skip
def test_what_was_made_for_another_target_does_not_fit(tags: str) -> None:
    assert rank(tags, DEBIAN) is None


@pytest.mark.parametrize(("tag", "fits"), [("musllinux_1_0_aarch64", True), ("musllinux_1_2_aarch64", True), ("musllinux_1_3_aarch64", False),
                                           ("musllinux_1_2_x86_64", False), ("musllinux_2_0_aarch64", False), ("manylinux_2_5_aarch64", False),
                                           ("manylinux1_aarch64", False), ("linux_aarch64", False), ("any", True),
                                           ("musllinux_1_2_aarch64X", False)])  # fmt: skip
def test_what_runs_where_the_c_library_is_musl(tag: str, fits: bool) -> None:
    assert (rank(f"cp312-cp312-{tag}", ALPINE) is not None) is fits


def test_an_old_glibc_takes_no_wheel_of_a_newer_one_under_any_name() -> None:
    old = Target((3, 11, 0), "x86_64", (2, 12))
    assert rank("py3-none-manylinux2010_x86_64", old) is not None
    assert rank("py3-none-manylinux2014_x86_64", old) is None
    assert rank("py3-none-manylinux_2_13_x86_64", old) is None


def test_names_are_taken_apart_in_one_way() -> None:
    found = parse_wheel_name("A.b_C-1.0RC1-3x-py2.py3-none.abi3-linux_m.any.whl")
    assert found is not None
    assert (found.name, found.version, found.build) == ("a-b-c", "1.0rc1", "3x")
    assert (found.pythons, found.abis, found.platforms, found.pure) == (("py2", "py3"), ("none", "abi3"), ("linux_m", "any"), False)
    versions = {"1_2_3": "1+2_3", "1+a_b": "1+a_b", "1.0+LOCAL": "1.0+local"}
    for spelt, meant in versions.items():
        wheel = parse_wheel_name(f"x-{spelt}-py3-none-any.whl")
        assert wheel is not None
        assert (wheel.version, wheel.build, wheel.pure) == (meant, "", True)
    ending = "-py3-none-any.whl"
    longest = "x-" + "1" * 99 + "-" + "1" * 40 + "-" + "p" * 80 + "-" + "n" * 4 + "-" + "a" * (MAX_NAME_CHARS - 233) + ".whl"
    assert len(longest) == MAX_NAME_CHARS == 250
    assert parse_wheel_name(longest) is not None
    assert parse_wheel_name(longest.replace("nnnn", "nnnnn")) is None
    assert parse_wheel_name("x" * 101 + "-1" + ending) is None
    assert parse_wheel_name("x" * 100 + "-1" + ending) is not None


def test_a_python_says_for_which_target_it_is() -> None:
    assert target_of((3, 11), 7, ".cpython-311-x86_64-linux-gnu.so", "glibc-2.36") == Target((3, 11, 7), "x86_64", (2, 36))
    assert target_of((3, 13), 0, ".cpython-313t-aarch64-linux-musl.so", "") == Target((3, 13, 0), "aarch64", ())
    assert target_of((3, 11), 7, ".cpython-311-x86_64-linux-gnu.so\n", "glibc-2.36") is None
    assert target_of((3, 11), 7, ".cpython-311-x86_64-linux-gnu.so", "glibc-2.36.1") is None


# --- what is unpacked ------------------------------------------------------------------------------------------------


def laid(*paths: str, stem: str = "x-1") -> Layout | Refused:
    return lay_out([RECORD, *(Member(path, 1, 1, 0) for path in paths)], 1000, stem)


def test_the_bounds_of_a_wheel_are_these() -> None:
    """``docs/reference/dependencies.md`` promises the first two and the ratio."""
    assert (LIMITS.members, LIMITS.total_bytes, LIMITS.ratio) == (20_000, 1024 * MiB, 100)
    assert (LIMITS.archive_bytes, LIMITS.ratio_from_bytes) == (512 * MiB, 16 * MiB)
    assert (LIMITS.depth, LIMITS.path_bytes, LIMITS.name_bytes) == (40, 900, 200)


def test_a_wheel_may_be_exactly_as_large_as_the_bounds() -> None:
    def decided(size: int, packed: int, archive: int = 1024 * MiB) -> bool:
        return isinstance(lay_out([Member(RECORD.path, size, packed, 0)], archive, "x-1"), Layout)

    assert decided(1024 * MiB, 512 * MiB)
    assert not decided(1024 * MiB + 1, 512 * MiB)
    assert decided(16 * MiB, 1)  # small things may pack as well as they like
    assert not decided(16 * MiB + 1, 1)
    assert decided(100 * MiB, MiB)
    assert not decided(100 * MiB + 1, MiB)
    assert decided(5, 5, archive=5)
    assert not decided(5, 6, archive=5)


def test_a_wheel_may_have_exactly_as_many_members_as_the_bound() -> None:
    tight = replace(LIMITS, members=3)
    files = [RECORD, *(Member(f"m{number}", 0, 0, 0) for number in range(3))]
    assert isinstance(lay_out(files[:3], 10, "x-1", tight), Layout)
    assert lay_out(files, 10, "x-1", tight) == Refused("", "holds more than 3 files")


def test_each_file_goes_where_the_wheel_says_and_what_runs_by_itself_nowhere() -> None:
    found = laid(
        "x/__init__.py", "x/", "x-1.data/purelib/y.py", "x-1.data/platlib/z/w.so", "x-1.data/scripts/run", "x-1.data/headers/h.h", "x-1.data/data/share/f",
        "x-1.data/", "x-1.data/scripts/", "x-1.data/purelib/", "late.pth", "x/late.PTH", "x/a.pyc", "x/a.pyo", "sitecustomize.py", "x/usercustomize.py",
        "SiteCustomize/__init__.py", "x/sitecustomize.cpython-311-x86_64-linux-gnu.so", "usercustomize.so", "x-1.data/purelib/sitecustomize.py",
        "x/sitecustomize.txt", "x/pth", "y.pth.txt",
    )  # fmt: skip
    assert isinstance(found, Layout)
    assert found.files == {
        RECORD.path: RECORD.path, "x/__init__.py": "x/__init__.py", "x-1.data/purelib/y.py": "y.py", "x-1.data/platlib/z/w.so": "z/w.so",
        "x/sitecustomize.txt": "x/sitecustomize.txt", "x/pth": "x/pth", "y.pth.txt": "y.pth.txt",
    }  # fmt: skip
    assert found.left_out == tuple(sorted([
        "x-1.data/scripts/run", "x-1.data/headers/h.h", "x-1.data/data/share/f", "late.pth", "x/late.PTH", "x/a.pyc", "x/a.pyo", "sitecustomize.py",
        "x/usercustomize.py", "SiteCustomize/__init__.py", "x/sitecustomize.cpython-311-x86_64-linux-gnu.so", "usercustomize.so", "x-1.data/purelib/sitecustomize.py",
    ]))  # fmt: skip
    assert (found.record, found.native, found.total_bytes) == (RECORD.path, ("z/w.so",), 24)


@pytest.mark.parametrize("path", ["x-1.data/other/f", "x-1.data/Purelib/f", "x-1.data/include/f"])
def test_a_part_that_nobody_knows_refuses_the_wheel(path: str) -> None:
    assert laid(path) == Refused(path, "lies in a part of a wheel that is unknown")


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (Member("a", 1, 1, stat.S_IFLNK | 0o777), "is a link"), (Member("a", 1, 1, stat.S_IFDIR), "is a link, a device"), (Member("a/", 0, 0, stat.S_IFREG), "is a link"),
        (Member("a", 1, 1, stat.S_IFCHR), "device"), (Member("a", 1, 1, 0, flags=1), "is encrypted"), (Member("a", 1, 1, 0, flags=0x801), "is encrypted"),
        (Member("a", 1, 1, 0, compression=12), "(12)"), (Member("a", 1, 1, 0, compression=1), "(1)"), (Member("../a", 1, 1, 0), "leaves the folder"),
    ],
)  # fmt: skip
def test_a_member_that_is_no_plain_file_refuses_the_wheel(member: Member, says: str) -> None:
    found = lay_out([RECORD, member], 1000, "x-1")
    assert isinstance(found, Refused)
    assert found.path == member.path
    assert says in found.reason


def test_plain_files_and_folders_are_taken_as_any_tool_packs_them() -> None:
    plain = [Member("a", 1, 1, stat.S_IFREG | 0o644, 0x800, 8), Member("b/", 0, 0, stat.S_IFDIR | 0o755), Member("b/c", 1, 1, 0, 0, 0)]
    found = lay_out([RECORD, *plain], 1000, "x-1")
    assert isinstance(found, Layout)
    assert set(found.files) == {RECORD.path, "a", "b/c"}


def test_paths_that_can_not_stand_beside_each_other() -> None:
    assert collision(["a/b", "a/c", "d"]) is None
    for paths, path in ((["a", "A"], "A"), (["a", "a/b"], "a/b"), (["a/b", "a"], "a")):
        found = collision(paths)
        assert found is not None
        assert found[0] == path
        assert isinstance(laid(*paths), Refused)


def test_a_wheel_without_its_own_record_is_none() -> None:
    missing = lay_out([Member("other-1.dist-info/RECORD", 1, 1, 0)], 10, "x-1")
    assert missing == Refused("x-1.dist-info/RECORD", "is missing, so that nothing says what belongs to it")


@pytest.mark.parametrize("name", ["x.so", "libx.so.1", "x.PYD", "a/b.dll", "l.dylib", "x.exe", "x.node"])
def test_machine_code_goes_by_its_name(name: str) -> None:
    assert is_native(name)
    assert is_native(f"so.py/{name}")
    assert not is_native(f"{name}/plain.py")
    assert not is_native(f"{name.partition('.')[0]}.s")

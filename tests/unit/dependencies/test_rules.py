"""Locks, markers, wheel names, choices and differences: what is pure about a Pack's packages, word for word."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend_core.ecosystem.markers import VARIABLES, MarkerError, parse_marker
from backend_core.ecosystem.requirements import normal_name, parse_lock, same_version
from backend_core.errors import AuthorError
from core_runtime.rules.dependencies import (
    ChosenWheel,
    Dependencies,
    Offer,
    SeenPackages,
    SeenWheel,
    applicable,
    choose,
    dependencies_document,
    difference,
    fits,
    read_dependencies,
)
from core_runtime.rules.wheel_layout import Layout, Member, Refused, WheelLimits, lay_out
from core_runtime.rules.wheels import Target, parse_wheel_name, preference, target_of

DEBIAN = Target((3, 11, 2), "x86_64", (2, 36))
ALPINE = Target((3, 12, 0), "x86_64", ())
A, B, C = "a" * 64, "b" * 64, "c" * 64


def lock(text):
    return parse_lock(text.encode(), source="requirements.lock")


def test_a_lock_as_tools_write_it():
    found = lock(
        f"""# made by a tool
Flask_Thing[async,dotenv]==2.0.1 ; python_version >= '3.9' and sys_platform != 'win32' \\
    --hash=sha256:{A} \\
    --hash=sha256:{B} \\
    --hash=sha256:{A}
    # via -r requirements.in
other==1!1.0rc1.post2.dev3+local.1 --hash=sha256:{C}  # inline
\t
"""
    )
    assert [(one.name, one.version, one.hashes, one.line) for one in found] == [
        ("flask-thing", "2.0.1", (A, B), 2),
        ("other", "1!1.0rc1.post2.dev3+local.1", (C,), 7),
    ]
    assert found[0].marker is not None
    assert found[0].marker.text == "python_version >= '3.9' and sys_platform != 'win32'"
    assert found[0].pin == "flask-thing==2.0.1"
    assert lock("") == lock("# nothing\r\n\r\n") == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x", "not pinned"), ("x>=1", "not pinned"), ("x @ https://h/x.whl", "address"), ("git+ssh://h/x", "address"),
        ("./x", "a file"), ("x-1.tar.gz", "a file"), ("-e .", "option"), ("x==1", "without a hash"), ("?", "'?'"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_meant(line, said):
    with pytest.raises(AuthorError) as refused:
        lock(line)
    assert said in refused.value.detail


def test_names_and_versions_that_are_one():
    assert normal_name("A__b.-c") == "a-b-c"
    assert same_version("1.0", "1")
    assert same_version("1.0.0+x.1", "1+x.1")
    assert not same_version("1.0", "1.0.1")
    assert not same_version("1!1.0", "1.0")
    assert not same_version("1.0rc1", "1.0")
    assert not same_version("1.10", "1.1")


ENVIRONMENT = DEBIAN.environment()


@pytest.mark.parametrize(
    ("marker", "holds"),
    [
        ("python_version == '3.11'", True), ("python_version >= '3.9'", True), ("python_version < '3.9'", False),
        ("python_full_version >= '3.11.3'", False), ("python_full_version <= '3.11.2'", True), ("python_version > '3.2'", True),
        ("python_version == '3.*'", True), ("python_version != '3.11.*'", False), ("'3.12' > python_version", True),
        ("'3.11' <= python_version", True), ("python_version in '3.10, 3.11'", True), ("python_version not in '3.10'", True),
        ("sys_platform == 'linux'", True), ("sys_platform != 'linux'", False), ("'lin' in sys_platform", True),
        ("sys_platform in 'linux darwin'", True), ("'win' not in sys_platform", True), ('os_name == "posix"', True),
        ("platform_system == 'Windows' or (python_version > '3' and implementation_name == 'cpython')", True),
        ("platform_machine == 'arm64' and python_version > '3' or os_name == 'posix'", True),
        ("platform_machine == 'arm64' and (python_version > '3' or os_name == 'posix')", False),
        ("platform_python_implementation == 'PyPy'", False), ("implementation_version == '3.11.2'", True),
        ("python_version == '3.11.0'", True),
    ],
)  # fmt: skip
def test_markers_hold_or_not(marker, holds):
    assert parse_marker(marker).holds(ENVIRONMENT) is holds


@pytest.mark.parametrize(
    "marker",
    [
        "", "python_version", "python_version ==", "python_version == '3' and", "(python_version == '3'", "python_version == '3')",
        "'a' == 'b'", "os_name == sys_platform", "extra == 'x'", "evil == 'x'", "python_version ~= '3.11'", "python_version == 'x'",
        "python_version < '3.*'", "sys_platform < 'linux'", "os_name === 'posix'", "python_version in 'x'", "'3' in python_version",
        "python_version == '3' or or os_name == 'a'", "not os_name == 'a'", "os_name == 'a' os_name == 'b'", "x" * 1001, "os_name == 'a\\'",
        "os_name not 'a'", "and",
    ],
)  # fmt: skip
def test_what_is_no_marker_is_refused(marker):
    with pytest.raises(MarkerError):
        parse_marker(marker)


@given(st.lists(st.sampled_from([*"()'\" .<>=!~", "and ", "or ", "in ", "not ", *sorted(VARIABLES), "'3.11'", "'linux'", "=="]), max_size=20).map("".join))
def test_what_parses_as_a_marker_evaluates(text):
    try:
        marker = parse_marker(text)
    except MarkerError:
        return
    assert marker.holds(ENVIRONMENT) in {True, False}


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([*"a=1-[];\\\n #", " --hash=sha256:" + A, "python_version", "x==1"]), max_size=20).map(lambda parts: "".join(parts).encode())
)
def test_a_lock_is_read_whole_or_refused(data):
    try:
        found = parse_lock(data, source="requirements.lock")
    except AuthorError:
        return
    assert all(one.hashes and one.version for one in found)


def test_targets_as_pythons_describe_themselves():
    assert target_of((3, 11), 2, ".cpython-311-x86_64-linux-gnu.so", "glibc-2.36") == DEBIAN
    assert target_of((3, 12), 0, ".cpython-312-x86_64-linux-musl.so", "") == ALPINE
    arm = target_of((3, 13), 1, ".cpython-313-aarch64-linux-gnu.so", "glibc-2.41")
    assert arm is not None
    assert arm.words == "cpython-3.13 linux aarch64 glibc-2.41"
    for suffix, libc in ((".so", "glibc-2.36"), (".cpython-311-darwin.so", ""), (".cpython-311-x86_64-linux-gnu.so", ""), (".cpython-311-x86_64-linux-musl.so", "glibc-2.36")):
        assert target_of((3, 11), 0, suffix, libc) is None
    platforms = DEBIAN.platforms()
    assert platforms[0] == "manylinux_2_36_x86_64"
    assert {"manylinux_2_5_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64"} <= set(platforms)
    assert "manylinux_2_37_x86_64" not in platforms
    assert ALPINE.platforms() == ("musllinux_1_2_x86_64", "musllinux_1_1_x86_64", "musllinux_1_0_x86_64")
    assert ALPINE.words == "cpython-3.12 linux x86_64 musl"


@pytest.mark.parametrize(
    ("tag", "debian", "alpine"),
    [
        ("py3-none-any", True, True), ("py2.py3-none-any", True, True), ("py2-none-any", False, False), ("py312-none-any", False, True),
        ("py30-none-any", True, True), ("cp311-none-any", True, False), ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True, False),
        ("cp311-cp311-manylinux_2_39_x86_64", False, False), ("cp311-cp311-manylinux2014_aarch64", False, False),
        ("cp311-cp311-manylinux_3_1_x86_64", False, False), ("cp311-cp311-linux_x86_64", True, False),
        ("cp39-abi3-manylinux1_x86_64", True, False), ("cp312-abi3-manylinux1_x86_64", False, False), ("cp38-cp38-manylinux1_x86_64", False, False),
        ("cp311-cp311d-manylinux1_x86_64", False, False), ("cp312-cp312-musllinux_1_2_x86_64", False, True),
        ("cp312-cp312-musllinux_1_9_x86_64", False, False), ("cp311-cp311-musllinux_1_1_x86_64", False, False), ("cp311-cp311-win_amd64", False, False),
        ("cp311-cp311-macosx_11_0_arm64", False, False), ("pp39-pypy39_pp73-manylinux2014_x86_64", False, False), ("cp3-none-any", False, False),
        ("py3-none-manylinux2014_x86_64", True, False), ("py3-none-musllinux_1_1_x86_64", False, True), ("cp311-cp311-other_x86_64", False, False),
    ],
)  # fmt: skip
def test_tags_that_fit(tag, debian, alpine):
    name = parse_wheel_name(f"x-1.0-{tag}.whl")
    assert name is not None
    assert (preference(name, DEBIAN) is not None, preference(name, ALPINE) is not None) == (debian, alpine)


def test_names_of_wheels():
    name = parse_wheel_name("My_Thing-1.0+local.1-2build-py3-none-any.whl")
    assert name is not None
    assert (name.name, name.version, name.build, name.pure) == ("my-thing", "1.0+local.1", "2build", True)
    spelt = parse_wheel_name("x-1.0_local-py3-none-any.whl")
    assert spelt is not None
    assert spelt.version == "1.0+local"
    for odd in ("x.whl", "x-1.0.tar.gz", "../x-1-py3-none-any.whl", "x-1-py3-none-any.whl\n", "x" * 300, "x-1-a-b-c-d-e.whl", "-1-py3-none-any.whl"):
        assert parse_wheel_name(odd) is None


def offer(filename, sha256=A):
    name = parse_wheel_name(filename)
    assert name is not None
    return Offer(name, sha256, 1)


def test_the_best_fitting_wheel_is_chosen():
    packages = lock(f"x==1.0 --hash=sha256:{A} --hash=sha256:{B} --hash=sha256:{C}\n")
    pure, native, stable = offer("x-1.0-py3-none-any.whl"), offer("x-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", B), offer("x-1.0-cp38-abi3-manylinux2014_x86_64.whl", C)
    assert choose(packages, DEBIAN, [pure, native, stable]).wheels == (native,)
    assert choose(packages, DEBIAN, [pure, stable]).wheels == (stable,)
    assert choose(packages, ALPINE, [pure, native, stable]).wheels == (pure,)
    assert choose(packages, DEBIAN, [offer("x-1.0-1-py3-none-any.whl", B), pure]).wheels[0].name.build == "1"
    assert choose(packages, DEBIAN, [offer("x-1.0-py3-none-any.whl", "d" * 64), offer("y-1.0-py3-none-any.whl"), offer("x-1.1-py3-none-any.whl")]).missing == packages


def test_lines_that_count():
    text = f"x==1.0 ; python_version < '3.12' --hash=sha256:{A}\nx==2.0 ; python_version >= '3.12' --hash=sha256:{B}\n"
    counted = applicable(lock(text), DEBIAN)
    assert [one.pin for one in counted if not isinstance(one, str)] == ["x==1.0"]
    clash = applicable(lock(text.replace(">=", ">").replace("> '3.12'", "> '3'")), DEBIAN)
    assert clash == "lines 1 and 2 both count for x on cpython-3.11 linux x86_64 glibc-2.36"


HELD = Dependencies(
    ("x==1.0", "y==2"), DEBIAN.words, (ChosenWheel("x-1.0-cp311-cp311-manylinux_2_36_x86_64.whl", "x", "1.0", A, 5, ("x/c.so",), 1),), "sha256:" + C
)  # fmt: skip
X = f"x==1.0 --hash=sha256:{A}\n"


def test_what_is_held_fits_or_not():
    packages = lock(X)
    assert fits(packages, DEBIAN, HELD) == ""
    assert fits(packages, msgspec.structs.replace(DEBIAN, python=(3, 11, 99)), HELD) == ""
    assert "no wheel that fits" in fits(packages, msgspec.structs.replace(DEBIAN, libc=(2, 31)), HELD)
    assert "no wheel that fits" in fits(packages, ALPINE, HELD)
    assert "not there: x==1.0" in fits(packages, DEBIAN, msgspec.structs.replace(HELD, wheels=(), tree="", missing=("x==1.0",)))
    assert "never unpacked" in fits(packages, DEBIAN, msgspec.structs.replace(HELD, tree=""))
    assert "both count" in fits(lock(X + f"x==2 ; os_name == 'posix' --hash=sha256:{B}\n"), DEBIAN, HELD)
    more = msgspec.structs.replace(HELD, wheels=(*HELD.wheels, ChosenWheel("y-2-py3-none-any.whl", "y", "2", B, 1)))
    assert "needs fewer" in fits(lock(X + f"y==2 ; python_version < '3' --hash=sha256:{B}\n"), DEBIAN, more)
    assert fits((), DEBIAN, Dependencies(())) == ""


def test_the_grants_document_comes_back_as_it_was():
    assert read_dependencies(dependencies_document(HELD)) == HELD
    assert read_dependencies(None) is None
    assert dependencies_document(None) is None
    with pytest.raises(ValueError, match="tree"):
        read_dependencies({**(dependencies_document(HELD) or {}), "tree": "sha256:x"})
    with pytest.raises(KeyError):
        read_dependencies({"tree": ""})


def test_differences_name_what_came_went_and_changed():
    twice = f"z==1 ; python_version < '3.12' --hash=sha256:{A}\nz==2 ; python_version >= '3.12' --hash=sha256:{B}\n"
    found = difference(HELD, lock(f"x==1.1 --hash=sha256:{A}\n{twice}"))
    assert (found.added, found.removed, found.changed) == (("z==1, 2",), ("y==2",), {"x": ("1.0", "1.1")})
    assert difference(None, lock(X)).added == ("x==1.0",)
    assert difference(Dependencies(("z==1", "z==2")), ()).removed == ("z==1, 2",)


def test_a_review_tells_machine_code_faults_and_the_unseen():
    native = SeenWheel("x.whl", A, 5, ("a.so", "b.so", "c.so", "d.so"))
    many = "".join(f"p{n}==1 --hash=sha256:{B}\n" for n in range(6))
    seen = SeenPackages("requirements.lock", lock(X + many), (native, SeenWheel("bad.whl", "", 0, fault="is damaged")))
    assert [(one.code, one.path) for one in seen.findings()] == [
        ("native_dependency", "x.whl"), ("unscannable", "bad.whl"), ("unseen_dependency", "requirements.lock")
    ]  # fmt: skip
    assert "a.so, b.so, c.so and 1 more" in seen.findings()[0].detail
    assert "p4==1 and 1 more" in seen.findings()[2].detail
    documents = seen.documents()
    assert documents[0]["wheels"][0]["native_count"] == 4
    assert documents[1]["wheels"] == []
    few = SeenPackages("requirements.lock", lock(X + f"y==1 --hash=sha256:{B}\n"), (SeenWheel("x.whl", A, 5, ("a.so",)),))
    assert [one.detail for one in few.findings()] == [
        "holds machine code: a.so.", "names packages that are fetched once it is approved; nobody has looked at them: y==1."
    ]  # fmt: skip
    assert SeenPackages().findings() == []


def test_a_layout_is_bounded():
    record = Member("x-1.dist-info/RECORD", 1, 1, 0)
    assert isinstance(lay_out([record, Member("x/", 0, 0, 0o040755 << 0)], 10, "x-1"), Layout)
    tight = WheelLimits(members=2, total_bytes=10, ratio=2, ratio_from_bytes=4, depth=2, path_bytes=20, name_bytes=8)
    for members, reason in (
        ([record, record, record], "more than 2 files"),
        ([record, Member("a", 10, 1, 0)], "unpacks to 11 bytes"),
        ([record, Member("a", 5, 1, 0)], "times as much"),
        ([record, Member("a", 1, 100, 0)], "overlap"),
        ([Member("a/b/c", 1, 1, 0)], "deeper than 2"),
        ([Member("abcdefghi", 1, 1, 0)], "more than 8 bytes"),
    ):
        found = lay_out(members, 50, "x-1", tight)
        assert isinstance(found, Refused)
        assert reason in found.reason
    twice = lay_out([record, Member("a", 1, 1, 0), Member("x-1.data/purelib/a", 1, 1, 0)], 50, "x-1")
    assert twice == Refused("a", "is there twice")


def test_spellings_of_the_wheels_own_folders():
    found = lay_out([Member("My.Thing-1.0.dist-info/RECORD", 1, 1, 0), Member("my_thing-1.0.data/purelib/a.py", 1, 1, 0)], 10, "my_thing-1.0")
    assert isinstance(found, Layout)
    assert found.files["my_thing-1.0.data/purelib/a.py"] == "a.py"
    assert found.record == "My.Thing-1.0.dist-info/RECORD"

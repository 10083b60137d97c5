"""Two witnesses, one level: each missing wall lowers it, and says so."""

import pytest
from msgspec.structs import replace

from core_runtime.rules.isolation import CgroupLimits, HostView, judge, parse_status, writable_mounts
from core_runtime.rules.sandbox import DriverKind, Isolation, Level, SandboxSpec, at_least

SPEC = SandboxSpec(
    pack_id="hello", generation=1, installation_id="0123456789abcdef", uid=200001, gid=200001, pack_dir="/store/x",
    runtime_dir="/run/rt", socket_path="/run/s.sock", digest="0" * 64,
)  # fmt: skip
VIEW = HostView(
    pid=10, uids=(200001,) * 4, gids=(200001,) * 4, cap_eff=0, cap_bnd=0, no_new_privs=True, seccomp=2,
    shared_namespaces=frozenset({"user"}), writable=("/tmp", "/dev/shm"), cgroup=CgroupLimits(268435456, 128, 0.5), host_uid=0,
)  # fmt: skip
PROBE = {
    "uid": 200001, "cap_eff": "0000000000000000", "no_new_privs": True, "seccomp": 2, "pid_count": 2, "interfaces": ["lo"],
    "writable": ["/tmp"], "canaries": [], "landlock": 4,
}  # fmt: skip


def level(view=VIEW, **probe):
    return judge(DriverKind.DOCKER, SPEC, view, PROBE | probe).level


def test_everything_in_place_is_standard():
    got = judge(DriverKind.DOCKER, SPEC, VIEW, PROBE)
    assert (got.level, got.source, got.findings) == (Level.STANDARD, "measured", ())


@pytest.mark.parametrize("runtime", ["runsc", "kata"])
def test_a_kernel_of_its_own_is_strong(runtime):
    outside = replace(VIEW, runtime=runtime, kernel="6.1.0 #1 SMP Debian")
    assert level(outside, kernel="4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016") is Level.STRONG
    # what a kernel of its own says of filters inside is its own matter: the host looks at the walls around it
    assert level(outside, kernel="4.4.0 #1", seccomp=0, no_new_privs=False) is Level.STRONG
    assert level(replace(outside, seccomp=0), kernel="4.4.0 #1") is Level.REDUCED


@pytest.mark.parametrize("kernel", ["6.1.0 #1 SMP Debian", "", None, 7, ["4.4.0"]])
def test_a_runtime_that_only_has_the_name_is_not_strong(kernel):
    outside = replace(VIEW, runtime="runsc", kernel="6.1.0 #1 SMP Debian")
    got = judge(DriverKind.DOCKER, SPEC, outside, PROBE | {"kernel": kernel})
    assert got.level is Level.STANDARD
    assert "own kernel" in got.findings[0]
    assert judge(DriverKind.DOCKER, SPEC, outside, PROBE | {"kernel": kernel, "seccomp": 0}).level is Level.REDUCED


def test_another_kernel_without_such_a_runtime_proves_nothing():
    assert level(replace(VIEW, runtime="runc", kernel="6.1.0 #1"), kernel="4.4.0 #1") is Level.STANDARD
    assert judge(DriverKind.DOCKER, SPEC, None, PROBE | {"kernel": "4.4.0 #1"}).level is Level.STANDARD


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({"uids": (0, 0, 0, 0)}, Level.NONE),
        ({"cap_eff": 0x200000}, Level.NONE),
        ({"cap_eff": 0x200000, "shared_namespaces": frozenset()}, Level.REDUCED),
        ({"shared_namespaces": frozenset({"user", "net"})}, Level.NONE),
        ({"shared_namespaces": frozenset({"user", "pid"})}, Level.NONE),
        ({"shared_namespaces": frozenset({"user", "mnt"})}, Level.NONE),
        ({"shared_namespaces": frozenset({"user", "ipc"})}, Level.NONE),
        ({"writable": ("/pack",)}, Level.NONE),
        ({"writable": ("/opt/rumi/msgpack",)}, Level.NONE),
        ({"writable": ("/",)}, Level.REDUCED),
        ({"writable": ("/usr",)}, Level.REDUCED),
        ({"no_new_privs": False}, Level.REDUCED),
        ({"seccomp": 0}, Level.REDUCED),
        ({"cgroup": CgroupLimits(None, 128, 0.5)}, Level.REDUCED),
        ({"cgroup": CgroupLimits(268435456, None, 0.5)}, Level.REDUCED),
        ({"cgroup": CgroupLimits(268435456, 128, None)}, Level.REDUCED),
        ({"cgroup": CgroupLimits(2 * 268435456, 128, 0.5)}, Level.REDUCED),
        ({"host_uid": 200001}, Level.REDUCED),
        ({"host_uid": 200001, "shared_namespaces": frozenset()}, Level.STANDARD),
    ],
)
def test_what_the_host_sees(change, want):
    got = judge(DriverKind.DOCKER, SPEC, replace(VIEW, **change), PROBE)
    assert got.level is want
    assert bool(got.findings) == (want is not Level.STANDARD)


@pytest.mark.parametrize(
    ("probe", "want"),
    [
        ({"uid": 0}, Level.NONE),
        ({"uid": "200001"}, Level.NONE),
        ({"uid": True}, Level.NONE),
        ({"cap_eff": "1"}, Level.REDUCED),
        ({"cap_eff": None}, Level.REDUCED),
        ({"cap_eff": "zz"}, Level.REDUCED),
        ({"no_new_privs": False}, Level.REDUCED),
        ({"seccomp": 0}, Level.REDUCED),
        ({"canaries": ["/root/.ssh"]}, Level.NONE),
        ({"interfaces": ["lo", "eth0"]}, Level.NONE),
        ({"interfaces": ["lo", "sit0"]}, Level.STANDARD),
        ({"writable": ["/pack"]}, Level.NONE),
    ],
)
def test_the_agents_word_can_only_lower(probe, want):
    assert level(VIEW, **probe) is want


def test_a_lying_agent_cannot_raise_what_the_host_saw():
    assert level(replace(VIEW, seccomp=0)) is Level.REDUCED


@pytest.mark.parametrize(
    ("runtime", "outside", "inside", "want"),
    [
        ("runsc", "6.1.0", "4.4.0 #1 SMP", Level.STRONG),
        ("runsc", "6.1.0", "6.1.0 #1 SMP", Level.REDUCED),
        ("runsc", "", "4.4.0 #1", Level.REDUCED),
        ("runc", "6.1.0", "4.4.0 #1", Level.REDUCED),
        ("", "6.1.0", "4.4.0 #1", Level.REDUCED),
        ("runsc", "6.1.0", None, Level.REDUCED),
        ("runsc", "6.1.0", "", Level.REDUCED),
    ],
)
def test_without_a_look_the_engine_is_asked_for_a_kernel_of_its_own(runtime, outside, inside, want):
    probe = PROBE | {"kernel": inside, "seccomp": 0, "no_new_privs": False}
    got = judge(DriverKind.DOCKER, SPEC, None, probe, runtime=runtime, kernel=outside)
    assert (got.level, got.source) == (want, "reported")


def test_without_a_look_it_is_reported():
    got = judge(DriverKind.DOCKER, SPEC, None, PROBE)
    assert (got.level, got.source) == (Level.STANDARD, "reported")
    assert judge(DriverKind.DOCKER, SPEC, None, PROBE | {"pid_count": 300}).level is Level.REDUCED
    assert judge(DriverKind.DOCKER, SPEC, None, PROBE | {"writable": ["/usr"]}).level is Level.REDUCED
    assert judge(DriverKind.DOCKER, SPEC, None, {}).level is Level.NONE


def test_missing_landlock_is_told_for_the_embedded_sandbox():
    assert judge(DriverKind.EMBEDDED, SPEC, VIEW, PROBE | {"landlock": 0}).findings
    assert not judge(DriverKind.DOCKER, SPEC, VIEW, PROBE | {"landlock": 0}).findings


@pytest.mark.parametrize(
    ("have", "need", "good"),
    [
        (("docker", 2), ("docker", 2), True),
        (("docker", 3), ("docker", 2), True),
        (("docker", 2), ("embedded", 2), True),
        (("embedded", 3), ("docker", 2), False),
        (("embedded", 1), ("embedded", 2), False),
        (("docker", 1), ("embedded", 2), False),
    ],
)
def test_driver_and_level_are_compared_separately(have, need, good):
    a, b = (Isolation(DriverKind(kind), Level(value)) for kind, value in (have, need))
    assert at_least(a, b) is good


def test_mountinfo_is_read_as_the_kernel_writes_it():
    text = r"""1 0 0:1 / / ro,relatime - tmpfs tmpfs rw
2 1 0:2 / /tmp rw,nosuid - tmpfs tmpfs rw,size=1k
3 1 0:3 / /sys/fs/cgroup rw - tmpfs tmpfs rw
4 1 0:4 / /sys ro - tmpfs tmpfs ro
5 1 0:5 / /a\040b rw shared:1 - ext4 /dev/sda ro
6 1 0:6 / /c\040d rw - ext4 /dev/sda rw
7 1 0:7 / /proc rw - proc proc rw"""
    assert writable_mounts(text) == ("/tmp", "/c d"), "a covered mount does not count"


def test_status_file():
    assert parse_status("Name:\tpython\nSeccomp:\t2\n") == {"Name": "python", "Seccomp": "2"}

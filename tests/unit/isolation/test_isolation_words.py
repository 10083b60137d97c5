"""Each missing wall in its own sentence, at its own level; the borders of every number; the kernel's text formats."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core_runtime.rules.isolation import (
    KERNEL_TUNNELS,
    NAMESPACES,
    REQUIRED_NAMESPACES,
    SANDBOXED_RUNTIMES,
    WRITABLE_ALLOWED,
    CgroupLimits,
    HostView,
    has_own_kernel,
    judge,
    parse_status,
    writable_mounts,
)
from core_runtime.rules.sandbox import DriverKind, Isolation, Level, Limits, SandboxSpec
from tests.support.names import case

SPEC = SandboxSpec(
    "hello", 1, "0123456789abcdef", 200001, 200002, "/store/x", "/rt", "/s.sock", "0" * 64,
    Limits(memory_bytes=1 << 28, cpus=0.5, pids=128),
)  # fmt: skip
VIEW = HostView(
    pid=10, uids=(200001,) * 4, gids=(200002,) * 4, cap_eff=0, cap_bnd=0, no_new_privs=True, seccomp=2,
    shared_namespaces=frozenset({"user"}), writable=("/tmp", "/dev/shm"), cgroup=CgroupLimits(1 << 28, 128, 0.5),
    kernel="6.1.0 #1",
)  # fmt: skip
PROBE = {
    "uid": 200001, "cap_eff": "0", "no_new_privs": True, "seccomp": 2, "pid_count": 2, "interfaces": ["lo"], "writable": ["/tmp"],
    "canaries": [], "landlock": 4, "kernel": "6.1.0 #1",
}  # fmt: skip
NONE, REDUCED, STANDARD, STRONG = Level.NONE, Level.REDUCED, Level.STANDARD, Level.STRONG


def seen(
    view: HostView | None = VIEW, driver: DriverKind = DriverKind.DOCKER, **probe
) -> tuple[Level, tuple[str, ...]]:
    got = judge(driver, SPEC, view, {**PROBE, **probe})
    assert got.driver is driver
    return got.level, got.findings


def test_the_names_that_the_rules_use():
    assert NAMESPACES == ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
    assert REQUIRED_NAMESPACES == ("mnt", "pid", "net", "ipc")
    assert WRITABLE_ALLOWED == ("/tmp", "/dev/shm", "/dev/pts", "/dev/mqueue", "/dev", "/proc")
    assert {"runsc", "kata", "kata-runtime", "io.containerd.runsc.v1", "io.containerd.kata.v2"} == SANDBOXED_RUNTIMES
    assert seen() == (STANDARD, ())


WRITABLE = "is writable inside the sandbox"


@pytest.mark.parametrize(
    ("change", "level", "findings"),
    [
        ({"uids": (0, 1, 1, 1), "host_uid": 5}, NONE, ["the sandbox runs as root of the host"]),
        ({"uids": (1, 1, 1, 0), "host_uid": 5}, NONE, ["the sandbox runs as root of the host"]),
        ({"uids": (0,) * 4, "shared_namespaces": frozenset()}, STANDARD, []),
        ({"cap_eff": 1}, NONE, ["the sandbox holds capabilities (0x1)"]),
        ({"cap_eff": 1, "shared_namespaces": frozenset()}, REDUCED,
         ["the sandbox holds capabilities in its own user namespace (0x1)"]),
        *[({"shared_namespaces": frozenset({name})}, NONE, [f"the sandbox shares the host's {name} namespace"])
          for name in ("mnt", "pid", "net", "ipc")],
        ({"shared_namespaces": frozenset({"uts", "cgroup"})}, STANDARD, []),
        ({"shared_namespaces": frozenset({"pid", "mnt"})}, NONE,
         ["the sandbox shares the host's mnt namespace", "the sandbox shares the host's pid namespace"]),
        ({"writable": ("/pack", "/pack/x", "/opt/rumi", "/opt/rumi/y")}, NONE,
         [f"{p} {WRITABLE}" for p in ("/pack", "/pack/x", "/opt/rumi", "/opt/rumi/y")]),
        ({"writable": ("/packs", "/opt/rumis", "/")}, REDUCED, [f"{p} {WRITABLE}" for p in ("/packs", "/opt/rumis", "/")]),
        ({"writable": ("/tmp/x", "/dev", "/dev/pts/0", "/proc/1", "/dev/mqueue")}, STANDARD, []),
        ({"writable": ("/tmpx",)}, REDUCED, [f"/tmpx {WRITABLE}"]),
        ({"no_new_privs": False}, REDUCED, ["no_new_privs is not set"]),
        ({"seccomp": 1}, REDUCED, ["no system-call filter is active"]),
        ({"seccomp": 3}, REDUCED, ["no system-call filter is active"]),
        ({"host_uid": 200001}, REDUCED, ["the sandbox has the host's own user id and no user namespace of its own"]),
        ({"host_uid": 200001, "uids": (1, 1, 200001, 1)}, REDUCED,
         ["the sandbox has the host's own user id and no user namespace of its own"]),
        ({"host_uid": 200001, "shared_namespaces": frozenset()}, STANDARD, []),
        ({"cgroup": CgroupLimits(None, None, None)}, REDUCED,
         ["no cgroup limits the sandbox's memory", "no cgroup limits the sandbox's number of processes",
          "no cgroup limits the sandbox's processor time"]),
        ({"cgroup": CgroupLimits((1 << 28) + (1 << 16), 128, 0.51)}, STANDARD, []),
        ({"cgroup": CgroupLimits(0, 0, 0.0)}, STANDARD, []),
        ({"cgroup": CgroupLimits((1 << 28) + (1 << 16) + 1, 128, 0.5)}, REDUCED,
         ["the cgroup's limit of memory is 2.68501e+08, asked for 2.68501e+08"]),
        ({"cgroup": CgroupLimits(1, 129, 0.5)}, REDUCED, ["the cgroup's limit of number of processes is 129, asked for 128"]),
        ({"cgroup": CgroupLimits(1, 1, 0.52)}, REDUCED, ["the cgroup's limit of processor time is 0.52, asked for 0.511"]),
        ({"no_new_privs": False, "cap_eff": 1}, NONE, ["the sandbox holds capabilities (0x1)", "no_new_privs is not set"]),
        *[({"runtime": runtime}, STANDARD, [f"the runtime {runtime} shows this machine's own kernel inside"])
          for runtime in sorted(SANDBOXED_RUNTIMES)],
        ({"runtime": "runc"}, STANDARD, []),
        ({"runtime": "runsc", "no_new_privs": False}, REDUCED,
         ["no_new_privs is not set", "the runtime runsc shows this machine's own kernel inside"]),
    ],
    ids=case,
)  # fmt: skip
def test_what_the_host_sees_and_says(change, level, findings):
    assert seen(replace(VIEW, **change)) == (level, tuple(findings))


@pytest.mark.parametrize(
    ("change", "probe", "level", "findings"),
    [
        *[({"runtime": runtime}, {}, STRONG, []) for runtime in sorted(SANDBOXED_RUNTIMES)],
        ({"runtime": "runsc"}, {"no_new_privs": False, "seccomp": 0}, STRONG, []),
        ({"runtime": "runsc"}, {"cap_eff": "1"}, REDUCED, ["the agent reports capabilities, or could not read them"]),
        ({"runtime": "runsc", "no_new_privs": False}, {}, REDUCED, ["no_new_privs is not set"]),
        # gVisor's monitor, as it is seen from outside; the device files are its kernel's own
        ({"runtime": "runsc", "cap_eff": 0x240000, "shared_namespaces": frozenset({"pid", "cgroup"})}, {}, STRONG, []),
        ({"runtime": "runsc"}, {"canaries": ["/dev/fuse", "/dev/net/tun"]}, STRONG, []),
        ({"runtime": "runsc"}, {"canaries": ["/dev/fuse", "/dev/kvm"]}, NONE, ["a file of the host is visible inside: '/dev/kvm'"]),
        ({"runtime": "runc"}, {"canaries": ["/dev/fuse"]}, NONE, ["a file of the host is visible inside: '/dev/fuse'"]),
        ({"runtime": "runsc", "cap_eff": 0x240000}, {}, NONE, ["the sandbox holds capabilities (0x240000)"]),
        ({"runtime": "runsc", "shared_namespaces": frozenset({"net"})}, {}, NONE, ["the sandbox shares the host's net namespace"]),
        ({"runtime": "runc", "shared_namespaces": frozenset({"pid"})}, {}, NONE, ["the sandbox shares the host's pid namespace"]),
        ({"runtime": "runsc", "uids": (0, 0, 0, 0), "host_uid": 7}, {}, NONE, ["the sandbox runs as root of the host"]),
        ({"runtime": "runsc", "cgroup": CgroupLimits(None, 128, 0.5)}, {}, REDUCED, ["no cgroup limits the sandbox's memory"]),
        ({"runtime": "runsc", "kernel": ""}, {}, STANDARD, ["the runtime runsc shows this machine's own kernel inside"]),
        ({"runtime": "runc"}, {}, STANDARD, []),
        ({"runtime": "runc"}, {"no_new_privs": False}, REDUCED, ["the agent does not see no_new_privs"]),
    ],
    ids=case,
)
def test_what_another_kernel_inside_makes_of_it(change, probe, level, findings):
    assert seen(replace(VIEW, **change), kernel="4.4.0 #1", **probe) == (level, tuple(findings))


@pytest.mark.parametrize(
    ("probe", "level", "findings"),
    [
        ({"uid": 0}, NONE, ["the agent reports uid 0, expected 200001"]),
        ({"uid": "200001"}, NONE, ["the agent reports uid None, expected 200001"]),
        ({"uid": True}, NONE, ["the agent reports uid None, expected 200001"]),
        ({"cap_eff": "0000000000000000"}, STANDARD, []),
        ({"cap_eff": "0" * 32}, STANDARD, []),
        *[({"cap_eff": bad}, REDUCED, ["the agent reports capabilities, or could not read them"])
          for bad in ("1", "a0", "", "0" * 33, "x", 0, None)],
        ({"no_new_privs": False}, REDUCED, ["the agent does not see no_new_privs"]),
        ({"no_new_privs": None}, REDUCED, ["the agent does not see no_new_privs"]),
        *[({"seccomp": bad}, REDUCED, ["the agent does not see a system-call filter"]) for bad in (0, 1, 3, None, "2", True)],
        ({"canaries": ["/etc/x"]}, NONE, ["a file of the host is visible inside: '/etc/x'"]),
        ({"canaries": ["y" * 500]}, NONE, ["a file of the host is visible inside: '" + "y" * 119]),
        ({"canaries": "text", "interfaces": "eth0", "writable": 7}, STANDARD, []),
        ({"canaries": [7], "interfaces": [None]}, STANDARD, []),
        ({"canaries": ["ok"] * 0 + [7] * 64 + ["/late"]}, STANDARD, []),
        ({"canaries": [7] * 63 + ["/late"]}, NONE, ["a file of the host is visible inside: '/late'"]),
        ({"interfaces": ["lo", *sorted(KERNEL_TUNNELS)]}, STANDARD, []),
        ({"interfaces": ["lo", "eth1", "eth0"]}, NONE, ["network interfaces are visible inside: 'eth0, eth1'"]),
        ({"interfaces": ("eth0",)}, NONE, ["network interfaces are visible inside: 'eth0'"]),
        ({"writable": ["/pack/x"]}, NONE, ["the agent can write to /pack/x"]),
        ({"writable": ["/etc"], "pid_count": 99}, STANDARD, []),
        ({"landlock": 0}, STANDARD, []),
    ],
    ids=case,
)  # fmt: skip
def test_what_the_agent_says(probe, level, findings):
    assert seen(**probe) == (level, tuple(findings))


@pytest.mark.parametrize(
    "tunnel", ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"]
)
def test_tunnels_that_the_kernel_makes_by_itself(tunnel):
    assert seen(interfaces=["lo", tunnel]) == (STANDARD, ())


@pytest.mark.parametrize(
    ("probe", "level", "findings"),
    [
        ({}, STANDARD, []),
        ({"writable": ["/etc", "/tmp/x"]}, REDUCED, [f"'/etc' {WRITABLE}"]),
        ({"writable": ["z" * 500]}, REDUCED, ["'" + "z" * 119 + f" {WRITABLE}"]),
        ({"writable": ["/pack"]}, NONE, ["the agent can write to /pack"]),
        ({"pid_count": 8}, STANDARD, []),
        ({"pid_count": 9}, REDUCED, ["the agent sees processes that are not its own"]),
        ({"pid_count": None}, REDUCED, ["the agent sees processes that are not its own"]),
        ({"pid_count": "2"}, REDUCED, ["the agent sees processes that are not its own"]),
    ],
    ids=case,
)  # fmt: skip
def test_where_the_host_can_not_look_the_agent_is_asked_more(probe, level, findings):
    assert seen(None, **probe) == (level, tuple(findings))
    got = judge(DriverKind.DOCKER, SPEC, None, {**PROBE, **probe})
    assert (got.source, dict(got.evidence)) == ("reported", {})


@pytest.mark.parametrize(
    ("landlock", "missing"), [(4, False), (1, False), (0, True), (None, True), ("4", True), (True, True)]
)
def test_a_kernel_without_landlock_is_said_for_the_embedded_sandbox(landlock, missing):
    level, findings = seen(driver=DriverKind.EMBEDDED, landlock=landlock)
    assert level is STANDARD
    assert findings == (
        ("this kernel has no Landlock: programs that a Pack puts into its /tmp can be executed",) if missing else ()
    )


def test_the_evidence():
    got = judge(DriverKind.DOCKER, SPEC, replace(VIEW, cap_eff=0xAB, runtime="runc", seccomp=1), PROBE)
    assert got.source == "measured"
    assert got.evidence == {
        "uid": 200001, "no_new_privs": True, "seccomp": 1, "cap_eff": "ab",
        "namespaces": {"mnt": True, "pid": True, "net": True, "ipc": True, "uts": True, "cgroup": True, "user": False},
        "limits": {"memory_bytes": 1 << 28, "pids": 128, "cpus": 0.5}, "runtime": "runc",
    }  # fmt: skip
    assert judge(DriverKind.DOCKER, SPEC, replace(VIEW, uids=()), PROBE).evidence["uid"] is None
    assert Isolation(DriverKind.DOCKER, STANDARD).evidence == {}
    assert CgroupLimits() == CgroupLimits(None, None, None)
    assert (VIEW.runtime, VIEW.host_uid) == ("", 0)


def test_status_as_the_kernel_writes_it():
    assert parse_status("Name:\tpython3\nUid:\t1\t2\t3\t4\nSeccomp:\t2\nOdd\nTime: 1:2\n") == {
        "Name": "python3", "Uid": "1\t2\t3\t4", "Seccomp": "2", "Odd": "", "Time": "1:2",
    }  # fmt: skip


def mount(point: str, options: str = "rw", kind: str = "tmpfs", flags: str = "rw") -> str:
    return f"1 2 0:3 / {point} {options} shared:1 - {kind} source {flags}"


@pytest.mark.parametrize(
    ("lines", "writable"),
    [
        ([mount("/a")], ["/a"]),
        ([mount("/a", "rw,nosuid"), mount("/b", "ro,nosuid"), mount("/c", "rw", flags="ro,size=1")], ["/a"]),
        ([mount("/a", "rw,rox"), mount("/b", flags="rw,errors=remount-ro")], ["/a", "/b"]),
        (
            [
                mount("/a", kind="proc"),
                mount("/b", kind="devpts"),
                mount("/c", kind="mqueue"),
                mount("/d", kind="sysfs"),
            ],
            ["/d"],
        ),
        ([mount("/a"), mount("/a", "ro")], []),
        ([mount("/a", "ro"), mount("/a")], ["/a"]),
        ([mount("/a/b"), mount("/ab"), mount("/a", "ro")], ["/ab"]),
        ([mount("/a"), mount("/a/b", "ro")], ["/a"]),
        ([mount(r"/a\040b\011c\012d\134e")], ["/a b\tc\nd\\e"]),
        (["", "1 2 3", "1 2 0:3 / /a rw", "1 2 0:3 / /a rw - tmpfs s", mount("/b")], ["/b"]),
        (["1 2 0:3 / /a rw - tmpfs source rw"], ["/a"]),
        (["1 2 0:3 / /a - tmpfs source rw"], []),
    ],
    ids=range(12),
)
def test_which_mounts_are_writable(lines, writable):
    assert list(writable_mounts("\n".join(lines))) == writable


@pytest.mark.parametrize("runtime", sorted(SANDBOXED_RUNTIMES))
@pytest.mark.parametrize(
    ("outside", "inside", "own"),
    [
        ("6.1", "4.4", True),
        ("6.1", "6.1", False),
        ("", "4.4", False),
        ("6.1", "", False),
        ("6.1", None, False),
        ("6.1", 4.4, False),
    ],
)
def test_a_kernel_of_its_own_is_one_that_is_seen_inside(runtime, outside, inside, own):
    assert has_own_kernel(runtime, outside, inside) is own
    assert not has_own_kernel("runc", outside, inside)
    level, findings = seen(replace(VIEW, runtime=runtime, kernel=outside), kernel=inside)
    assert level is (STRONG if own else STANDARD)
    assert findings == (() if own else (f"the runtime {runtime} shows this machine's own kernel inside",))

"""One sandbox spelt out: what the engine, bubblewrap and the operator are given for it, word for word; and its borders."""

from __future__ import annotations

import json

import pytest

from core_runtime.rules import bwrap_argv, docker_config, seccomp
from core_runtime.rules.operator_view import fill, isolation_json, render_operator_view
from core_runtime.rules.sandbox import (
    AGENT_COMMAND,
    CEILING,
    ENVIRONMENT,
    FLOOR,
    MAX_ID,
    MIB,
    DriverKind,
    Isolation,
    Level,
    Limits,
    MachineLimits,
    SandboxSpec,
    build_spec,
    limits_from_grant,
    within,
)

FIELDS = {
    "pack_id": "hello", "generation": 7, "installation_id": "0123456789abcdef", "uid": 1001, "gid": 1002,
    "pack_dir": "/store/trees/a b", "runtime_dir": "/rt", "socket_path": "/run/x/bus.sock", "digest": "0" * 64,
}  # fmt: skip
LIMITS = Limits(memory_bytes=100 * MIB, cpus=1.5, pids=50, files=60, tmp_bytes=10 * MIB)
SPEC = SandboxSpec(**FIELDS, limits=LIMITS)
COMMAND = [
    "-I", "-S", "-c", "import sys; sys.path.insert(0, '/opt/rumi'); import container_agent; container_agent.main()",
    "--socket", "/run/rumi/bus.sock",
]  # fmt: skip


def subset(document, expected):
    """Of ``document`` what ``expected`` names."""
    return {name: document[name] for name in expected}


def test_constants_of_every_sandbox():
    assert list(AGENT_COMMAND) == COMMAND
    assert dict(ENVIRONMENT) == {
        "HOME": "/tmp", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": "/tmp",
    }  # fmt: skip
    assert Limits() == Limits(256 * 2**20, 0.5, 128, 256, 64 * 2**20, 65536, 2**20)
    assert Limits(2**25, 0.01, 8, 32, 2**20, 1024, 4096) == FLOOR
    assert Limits(2**40, 1024.0, 65536, 65536, 2**36, 2**26, 2**28) == CEILING
    assert (MIB, MAX_ID) == (1048576, 2147483646)
    assert [(level.name, level.value) for level in Level] == [
        ("NONE", 0),
        ("REDUCED", 1),
        ("STANDARD", 2),
        ("STRONG", 3),
    ]
    assert [(kind.value, kind.rank) for kind in DriverKind] == [("docker", 2), ("embedded", 1)]
    assert Isolation(DriverKind.DOCKER, Level.NONE).source == "measured"


def test_the_engines_document():
    expected = {
        "Image": "sha256:1", "User": "1001:1002", "Entrypoint": ["python3"], "Cmd": COMMAND,
        "Env": ["HOME=/tmp", "LANG=C.UTF-8", "PATH=/usr/local/bin:/usr/bin:/bin", "TMPDIR=/tmp"],
        "WorkingDir": "/", "Hostname": "pack", "Tty": False, "OpenStdin": False, "AttachStdin": False,
        "NetworkDisabled": True, "StopSignal": "SIGTERM", "Healthcheck": {"Test": ["NONE"]},
        "Labels": {"rumi.installation": "0123456789abcdef", "rumi.pack": "hello", "rumi.generation": "7"},
    }  # fmt: skip
    document = docker_config.create_document(SPEC, "sha256:1")
    assert subset(document, expected) == expected
    profile = f"seccomp={seccomp.docker_profile_json()}"
    bind = {"Type": "bind", "ReadOnly": True, "BindOptions": {"Propagation": "rprivate", "NonRecursive": True}}
    host = {
        "Privileged": False, "ReadonlyRootfs": True, "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", profile],
        "NetworkMode": "none", "IpcMode": "private", "CgroupnsMode": "private", "Init": True,
        "Mounts": [
            {**bind, "Source": "/store/trees/a b", "Target": "/pack"},
            {**bind, "Source": "/rt", "Target": "/opt/rumi"},
            {**bind, "Source": "/run/x/bus.sock", "Target": "/run/rumi/bus.sock"},
        ],
        "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=10485760,mode=1777,nr_inodes=16384"},
        "MaskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/pressure",
            "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys",
        ],
        "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        "ShmSize": 16777216, "Memory": 104857600, "MemorySwap": 104857600, "MemorySwappiness": 0,
        "NanoCpus": 1500000000, "PidsLimit": 50,
        "Ulimits": [{"Name": "nofile", "Soft": 60, "Hard": 60}, {"Name": "core", "Soft": 0, "Hard": 0}],
        "LogConfig": {"Type": "none", "Config": {}}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False, "OomScoreAdj": 500,
    }  # fmt: skip
    assert subset(document["HostConfig"], host) == host
    assert "Runtime" not in document["HostConfig"]
    other = docker_config.create_document(SPEC, "sha256:1", runtime="runsc", apparmor=True)["HostConfig"]
    assert other["Runtime"] == "runsc"
    assert other["SecurityOpt"] == [*host["SecurityOpt"], "apparmor=docker-default"]
    assert docker_config.container_name(SPEC) == "rumi-0123456789ab-hello-7"


MACHINE = bwrap_argv.EmbeddedMachine(
    "/usr/bin/bwrap", "/usr/bin/python3", ("/usr/bin", "/usr/lib"), (("usr/bin", "/bin"), ("usr/lib", "/lib")),
    {"/etc/passwd": "etc/passwd", "/etc/hosts": "etc/hosts"},
)  # fmt: skip


def test_the_arguments_of_bubblewrap():
    assert bwrap_argv.options(SPEC, MACHINE, seccomp_fd=4, status_fd=5) == [
        "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup",
        "--hostname", "pack", "--new-session", "--die-with-parent", "--clearenv",
        "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin",
        "--setenv", "TMPDIR", "/tmp",
        "--ro-bind", "/usr/bin", "/usr/bin", "--ro-bind", "/usr/lib", "/usr/lib",
        "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
        "--symlink", "/opt/rumi/etc/hosts", "/etc/hosts", "--symlink", "/opt/rumi/etc/passwd", "/etc/passwd",
        "--proc", "/proc", "--dev", "/dev",
        "--perms", "1777", "--size", "16777216", "--tmpfs", "/dev/shm",
        "--perms", "1777", "--size", "10485760", "--tmpfs", "/tmp",
        "--ro-bind", "/store/trees/a b", "/pack", "--ro-bind", "/rt", "/opt/rumi",
        "--ro-bind", "/run/x/bus.sock", "/run/rumi/bus.sock",
        "--remount-ro", "/dev", "--remount-ro", "/proc", "--remount-ro", "/",
        "--chdir", "/", "--json-status-fd", "5", "--seccomp", "4",
    ]  # fmt: skip
    bare = bwrap_argv.EmbeddedMachine("b", "p", ())
    assert bwrap_argv.options(SPEC, bare, seccomp_fd=1, status_fd=2).count("--ro-bind") == 3
    assert bwrap_argv.command_line(MACHINE, 9) == ["/usr/bin/bwrap", "--args", "9", "--", "/usr/bin/python3", *COMMAND]
    assert bwrap_argv.command_line(MACHINE, 9, ["-V"])[-2:] == ["/usr/bin/python3", "-V"]


MOUNTS = """volumes:
      - type: bind
        source: "/store/trees/a b"
        target: /pack
        read_only: true
      - type: bind
        source: "/rt"
        target: /opt/rumi
        read_only: true
      - type: bind
        source: "/run/x/bus.sock"
        target: /run/rumi/bus.sock
        read_only: true"""


def test_the_operators_view():
    everything = (
        "{{ pack_id }}|{{ installation_id }}|{{ generation }}|{{ digest }}|{{ image }}|{{ uid }}|{{ gid }}|{{ memory_bytes }}|"
        "{{ tmp_options }}|{{ cpus }}|{{ pids }}|{{ files }}|{{ bus }}|{{ command }}|{{ mounts }}"
    )
    isolation = Isolation(DriverKind.EMBEDDED, Level.STANDARD, "reported", ("one",), {"b": 1, "a": 2})
    view = render_operator_view(
        SPEC, {"args.txt": "x"}, templates={"Dockerfile": everything}, image="base:1", isolation=isolation
    )
    assert view == {
        "sandbox/Dockerfile": (
            f"hello|0123456789abcdef|7|{'0' * 64}|base:1|1001|1002|104857600|"
            f"rw,noexec,nosuid,nodev,size=10485760,mode=1777,nr_inodes=16384|1.5|50|60|"
            f"/run/rumi/bus.sock|{json.dumps(COMMAND)}|{MOUNTS}"
        ),
        "sandbox/args.txt": "x",
        "sandbox/isolation.json": (
            '{\n "driver": "embedded",\n "evidence": {\n  "a": 2,\n  "b": 1\n },\n "findings": [\n  "one"\n ],\n'
            ' "level": "standard",\n "source": "reported"\n}\n'
        ),
    }
    assert isolation_json(isolation) == view["sandbox/isolation.json"]
    assert render_operator_view(SPEC, {}, templates={}, image="x", isolation=None) == {}
    assert fill("{{ a }}{{ b }}", {"a": "{{ b }}", "b": "x"}) == "{{ b }}x"
    with pytest.raises(KeyError):
        fill("{{ unknown }}", {})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("pack_id", ["a", "a" * 64, "a-b_c9"], ["", "A", "9a", "-a", "a" * 65, "a b", "a\n", "a/b", 7, None]),
        ("installation_id", ["a" * 8, "0" * 64], ["a" * 7, "a" * 65, "A" * 8, "a" * 7 + "-", None]),
        ("digest", ["f" * 64, "sha256:" + "0" * 64], ["f" * 63, "f" * 65, "F" * 64, "md5:" + "f" * 64, "g" * 64]),
        ("generation", [1, 2**53], [0, -1, 2**53 + 1, True, "1", None, float("nan")]),
        ("uid", [1, MAX_ID], [0, -1, MAX_ID + 1, True, "1", float("nan")]),
        ("gid", [1, MAX_ID], [0, -1, MAX_ID + 1, True, "1"]),
        *[
            (
                name,
                ["/a", "/a/b c", "/" + "x" * 3999],
                [
                    "",
                    "a",
                    "/",
                    "//a",
                    "/a/",
                    "/a/../b",
                    "/a//b",
                    "/a\nb",
                    "/a\u202eb",
                    "/a\0",
                    "/" + "x" * 4000,
                    None,
                    b"/a",
                ],
            )
            for name in ("pack_dir", "runtime_dir", "socket_path")
        ],
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_not_be_said_can_not_be_rendered(field, good, bad):
    for value in good:
        assert getattr(SandboxSpec(**{**FIELDS, field: value}), field) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"^{field}: expected "):
            SandboxSpec(**{**FIELDS, field: value})


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_each_limit_has_a_floor_and_a_ceiling(name):
    low, high = getattr(FLOOR, name), getattr(CEILING, name)
    for value in (low, high):
        SandboxSpec(**FIELDS, limits=Limits(**{name: value}))
    for value in (low - low / 2, high + 1, True, "1", float("nan"), -1):
        with pytest.raises(ValueError, match=f"^limits.{name}: expected "):
            SandboxSpec(**FIELDS, limits=Limits(**{name: value}))


MACHINE_LIMITS = MachineLimits(1024 * MIB, 4)


@pytest.mark.parametrize(
    ("limits", "machine", "expected"),
    [
        (Limits(), MACHINE_LIMITS, Limits()),
        (Limits(cpus=8.0, pids=300), MACHINE_LIMITS, Limits(cpus=4.0, pids=300)),
        (Limits(memory_bytes=2048 * MIB), MACHINE_LIMITS, Limits(memory_bytes=1024 * MIB)),
        (Limits(memory_bytes=64 * MIB, cpus=2.0), MachineLimits(1, 0), Limits(memory_bytes=FLOOR.memory_bytes, cpus=1.0)),
    ],
)
def test_an_engine_is_asked_for_no_more_than_it_has(limits, machine, expected):
    assert within(limits, machine) == expected


@pytest.mark.parametrize(
    ("resources", "changed"),
    [
        ({}, {}),
        ({"memory_mb": 512}, {"memory_bytes": 512 * MIB}),
        ({"memory_mb": 0.5}, {"memory_bytes": MIB // 2}),
        ({"memory_mb": 4096}, {"memory_bytes": 1024 * MIB}),
        ({"tmp_mb": 100}, {"tmp_bytes": 100 * MIB}),
        ({"tmp_mb": 4096}, {"tmp_bytes": 1024 * MIB}),
        ({"cpu": 2}, {"cpus": 2.0}),
        ({"cpu": 64}, {"cpus": 4.0}),
        ({"pids": 300}, {"pids": 300}),
        ({"pids": 0}, {"pids": 0}),
        ({"disk_mb": 7, "other": "x"}, {}),
        ({"memory_mb": 2.0**60}, {"memory_bytes": 1024 * MIB}),
        ({"pids": 2.0**60}, {"pids": 2**50}),
    ],
    ids=str,
)
def test_a_grant_raises_limits_up_to_the_machine(resources, changed):
    base = Limits(files=99, log_bytes_per_s=5000, log_bytes_kept=6000)
    for start in (None, base):
        expected = start or Limits()
        fields = {name: getattr(expected, name) for name in Limits.__struct_fields__} | changed
        assert limits_from_grant(resources, MACHINE_LIMITS, start) == Limits(**fields)


@pytest.mark.parametrize("name", ["memory_mb", "tmp_mb", "cpu", "pids"])
@pytest.mark.parametrize("value", [-1, True, "1", None, float("nan")])
def test_a_grant_that_is_no_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^resources.{name}: expected a number"):
        limits_from_grant({name: value}, MACHINE_LIMITS)


def test_the_one_way_to_a_spec():
    spec = build_spec(**FIELDS, machine=MACHINE_LIMITS, resources={"cpu": 2}, defaults=Limits(pids=99))
    assert spec == SandboxSpec(**FIELDS, limits=Limits(pids=99, cpus=2.0))
    assert build_spec(**FIELDS, machine=MACHINE_LIMITS) == SandboxSpec(**FIELDS)

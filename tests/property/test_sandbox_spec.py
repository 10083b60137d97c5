"""No spec whatever renders privileged mode, a host namespace, an engine socket, a capability or a writable Pack."""

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules import bwrap_argv, docker_config
from core_runtime.rules.docker_transport import Transport
from core_runtime.rules.operator_view import render_operator_view
from core_runtime.rules.sandbox import CEILING, FLOOR, Limits, MachineLimits, SandboxSpec, build_spec, limits_from_grant

HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["hello", "--privileged", "a\0b", "x:y", "../../etc", "/", "//etc", "/a/../b", "/x\n--bind / /", "a,b=c", "/var/run/docker.sock:rw", "=", "", "\u202e"]
    ),
)  # fmt: skip
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans())
PATHS = st.one_of(HOSTILE, st.from_regex(r"/[a-z0-9._ :,=-]{1,20}(/[a-z0-9._ :,=-]{1,20}){0,3}", fullmatch=True))
GOOD_LIMITS = st.builds(
    Limits,
    memory_bytes=st.integers(FLOOR.memory_bytes, CEILING.memory_bytes),
    cpus=st.floats(FLOOR.cpus, CEILING.cpus),
    pids=st.integers(FLOOR.pids, CEILING.pids),
    files=st.integers(FLOOR.files, CEILING.files),
    tmp_bytes=st.integers(FLOOR.tmp_bytes, CEILING.tmp_bytes),
)
GOOD = st.builds(
    SandboxSpec,
    pack_id=st.from_regex(r"[a-z][a-z0-9_-]{0,63}", fullmatch=True),
    generation=st.integers(1, 2**53),
    installation_id=st.from_regex(r"[a-z0-9]{8,64}", fullmatch=True),
    uid=st.integers(1, 2**31 - 2),
    gid=st.integers(1, 2**31 - 2),
    pack_dir=st.from_regex(r"(/[a-zA-Z0-9_ :,=-]{1,20}){1,4}", fullmatch=True),
    runtime_dir=st.from_regex(r"(/[a-zA-Z0-9_ :,=-]{1,20}){1,4}", fullmatch=True),
    socket_path=st.from_regex(r"(/[a-zA-Z0-9_ :,=-]{1,20}){1,4}", fullmatch=True),
    digest=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    limits=GOOD_LIMITS,
    packages_dir=st.one_of(st.just(""), st.from_regex(r"(/[a-zA-Z0-9_ :,=-]{1,20}){1,4}", fullmatch=True)),
)
ANY = st.fixed_dictionaries(
    {
        "pack_id": HOSTILE, "generation": NUMBERS, "installation_id": st.one_of(HOSTILE, st.just("0123456789abcdef")), "uid": NUMBERS,
        "gid": NUMBERS, "pack_dir": PATHS, "runtime_dir": PATHS, "socket_path": PATHS, "digest": st.one_of(HOSTILE, st.just("0" * 64)),
        "packages_dir": PATHS,
        "limits": st.one_of(GOOD_LIMITS, st.builds(Limits, memory_bytes=NUMBERS, cpus=NUMBERS, pids=NUMBERS, tmp_bytes=NUMBERS)),
    }
)  # fmt: skip
MACHINE = bwrap_argv.EmbeddedMachine(
    "/usr/bin/bwrap", "/usr/bin/python3", ("/usr/bin", "/usr/lib"), (("usr/bin", "/bin"),), {"/etc/hosts": "etc/hosts"}
)
TAKES = {
    "--unshare-user": 0, "--unshare-ipc": 0, "--unshare-pid": 0, "--unshare-net": 0, "--unshare-uts": 0, "--unshare-cgroup": 0,
    "--hostname": 1, "--new-session": 0, "--die-with-parent": 0, "--clearenv": 0, "--setenv": 2, "--ro-bind": 2, "--symlink": 2,
    "--proc": 1, "--dev": 1, "--perms": 1, "--size": 1, "--tmpfs": 1, "--remount-ro": 1, "--chdir": 1, "--json-status-fd": 1, "--seccomp": 1,
}  # fmt: skip
"""Every option that may appear, with its number of values; `--bind`, `--share-net`, `--cap-add` are not among them."""


WAYS = [
    {},
    {"transport": Transport.STDIO},
    {"runtime": "runsc", "apparmor": True},
    {"transport": Transport.STDIO, "runtime": "runsc", "apparmor": True},
]


def check_docker(spec, **way):
    document = json.loads(json.dumps(docker_config.create_document(spec, "sha256:" + "0" * 64, **way)))
    host = document["HostConfig"]
    attached = way.get("transport") is Transport.STDIO
    assert host.get("Runtime", "") == way.get("runtime", "")
    assert ("apparmor=docker-default" in host["SecurityOpt"]) is way.get("apparmor", False)
    assert {document[name] for name in ("AttachStdin", "OpenStdin", "StdinOnce")} == {attached}
    assert document["NetworkDisabled"] is True
    assert host["Privileged"] is False
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not any("unconfined" in option for option in host["SecurityOpt"])
    assert (host["NetworkMode"], host["IpcMode"], host["CgroupnsMode"]) == ("none", "private", "private")
    assert not {"CapAdd", "Binds", "Devices", "DeviceRequests", "PidMode", "UTSMode", "UsernsMode", "VolumesFrom", "GroupAdd",
                "PortBindings", "PublishAllPorts", "ExtraHosts", "CgroupParent", "DeviceCgroupRules", "Links", "Sysctls"} & set(host)  # fmt: skip
    assert [(m["Type"], m["Source"], m["Target"], m["ReadOnly"]) for m in host["Mounts"]] == [
        ("bind", spec.pack_dir, "/pack", True),
        ("bind", spec.runtime_dir, "/opt/rumi", True),
        *([("bind", spec.packages_dir, "/packages", True)] if spec.packages_dir else []),
        ("bind", spec.socket_path, "/run/rumi/bus.sock", True),
    ] * (not attached)
    assert set(host["Tmpfs"]) == {"/tmp"}
    assert {"noexec", "nosuid", "nodev"} <= set(host["Tmpfs"]["/tmp"].split(","))
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    assert document["User"].split(":") == [str(spec.uid), str(spec.gid)]
    assert spec.uid != 0
    assert spec.gid != 0
    assert set(document["Labels"]) == {"rumi.installation", "rumi.pack", "rumi.generation"}
    environment = " ".join(document["Env"])
    assert not any(
        path in environment for path in (spec.pack_dir, spec.runtime_dir, spec.socket_path) if len(path) > 20
    )
    assert {entry.partition("=")[0] for entry in document["Env"]} == {"HOME", "LANG", "PATH", "TMPDIR"}


def check_bwrap(spec):
    options = bwrap_argv.options(spec, MACHINE, seccomp_fd=4, status_fd=5)
    seen, at = [], 0
    while at < len(options):
        seen.append(
            (options[at], *options[at + 1 : at + 1 + TAKES[options[at]]])
        )  # KeyError = an option nobody may pass
        at += 1 + TAKES[options[at]]
    names = {option[0] for option in seen}
    assert {name for name in TAKES if name.startswith("--unshare")} <= names
    assert {"--die-with-parent", "--new-session", "--clearenv", "--seccomp"} <= names
    assert ("--ro-bind", spec.pack_dir, "/pack") in seen
    assert (("--ro-bind", spec.packages_dir, "/packages") in seen) is bool(spec.packages_dir)
    assert [option[-1] for option in seen if option[0] == "--ro-bind"].count("/packages") == bool(spec.packages_dir)
    assert seen.index(("--remount-ro", "/")) > max(
        i for i, option in enumerate(seen) if option[0] in {"--ro-bind", "--tmpfs", "--dev"}
    )
    assert [option for option in seen if option[0] == "--tmpfs"] == [("--tmpfs", "/dev/shm"), ("--tmpfs", "/tmp")]
    for i, option in enumerate(seen):
        if option[0] == "--tmpfs":
            assert seen[i - 1][0] == "--size"
    assert not any("\0" in value for option in seen for value in option)
    assert all(spec.pack_dir not in part for part in bwrap_argv.command_line(MACHINE, 3)) or len(spec.pack_dir) < 8


@given(spec=GOOD, way=st.sampled_from(WAYS))
def test_every_valid_spec_is_safe_in_both_renderings(spec, way):
    check_docker(spec, **way)
    check_bwrap(spec)


@given(fields=ANY)
def test_hostile_values_are_refused_or_harmless(fields):
    with contextlib.suppress(ValueError):
        spec = SandboxSpec(**fields)
        check_docker(spec)
        check_bwrap(spec)


@given(
    resources=st.dictionaries(st.sampled_from(["memory_mb", "cpu", "pids", "tmp_mb", "privileged", "user"]), st.one_of(NUMBERS, st.text(max_size=5), st.none())),
    memory=st.integers(64 * 2**20, 2**40),
    cpus=st.integers(1, 512),
)  # fmt: skip
def test_a_resources_grant_never_exceeds_the_machine(resources, memory, cpus):
    with contextlib.suppress(ValueError):
        limits = limits_from_grant(resources, MachineLimits(memory, cpus))
        assert limits.memory_bytes <= memory
        assert limits.cpus <= cpus
        build_spec(
            pack_id="hello", generation=1, installation_id="0123456789abcdef", uid=5, gid=5, pack_dir="/a", runtime_dir="/b",
            socket_path="/c", digest="0" * 64, machine=MachineLimits(memory, cpus), resources=resources,
        )  # fmt: skip


@given(spec=GOOD, way=st.sampled_from(WAYS))
def test_the_compose_file_for_the_operator_is_yaml_with_the_same_facts(spec, way):
    import yaml

    from core_runtime.container_orchestrator import TEMPLATES

    template = (TEMPLATES / "docker-compose.pack.template.yml").read_text(encoding="utf-8")
    document = docker_config.create_document(spec, "rumi-pack-base:1", **way)
    view = render_operator_view(
        spec, {"container.json": json.dumps(document)}, templates={"docker-compose.yml": template}, image="rumi-pack-base:1",
        isolation=None, attached=way.get("transport") is Transport.STDIO,
    )  # fmt: skip
    service = yaml.safe_load(view["sandbox/docker-compose.yml"])["services"][spec.pack_id]
    host = document["HostConfig"]
    said = {
        "Image": service["image"], "User": service["user"], "Entrypoint": service["entrypoint"], "Cmd": service["command"],
        "Env": [f"{name}={value}" for name, value in service["environment"].items()], "WorkingDir": service["working_dir"],
        "Hostname": service["hostname"], "OpenStdin": service.get("stdin_open", False), "Labels": service["labels"],
        "StopSignal": service["stop_signal"], "Healthcheck": {"Test": ["NONE"]} if service["healthcheck"] == {"disable": True} else {},
    }  # fmt: skip
    assert said == {name: document[name] for name in said}
    said = {
        "ReadonlyRootfs": service["read_only"], "CapDrop": service["cap_drop"], "NetworkMode": service["network_mode"],
        "IpcMode": service["ipc"], "CgroupnsMode": service["cgroup"], "Init": service["init"], "ShmSize": service["shm_size"],
        "Memory": service["mem_limit"], "MemorySwap": service["memswap_limit"], "MemorySwappiness": service["mem_swappiness"],
        "PidsLimit": service["pids_limit"], "OomScoreAdj": service["oom_score_adj"], "LogConfig": {"Type": service["logging"]["driver"], "Config": {}},
        "Tmpfs": dict(one.split(":", 1) for one in service["tmpfs"]), "Runtime": service.get("runtime"),
        "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in service["ulimits"].items()],
        "RestartPolicy": {"Name": service["restart"], "MaximumRetryCount": 0},
        "Mounts": sorted((one["type"], one["source"], one["target"], one["read_only"]) for one in service.get("volumes", [])),
    }  # fmt: skip
    ours = dict(host, Mounts=sorted((one["Type"], one["Source"], one["Target"], one["ReadOnly"]) for one in host["Mounts"]))
    assert said == {name: ours.get(name) for name in said}
    assert abs(service["cpus"] - host["NanoCpus"] / 1e9) <= 1e-5 * max(1, service["cpus"])
    options = {option.partition("=")[0].partition(":")[0]: option for option in host["SecurityOpt"]}
    named = {option.partition(":")[0] for option in service["security_opt"]}
    assert named == options.keys()
    unsaid = ours.keys() - said.keys() - {"NanoCpus", "SecurityOpt", "Privileged", "AutoRemove"}
    assert unsaid == {"MaskedPaths", "ReadonlyPaths"}, "what compose has no word for, and the file says so"

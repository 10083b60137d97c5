"""An approved Pack without any permission turns on its host: a real host, its own agent replaced or circumvented."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_host import RunningHost, one_component_pack
from tests.support.sandboxes import DRIVERS

GOOD = """
def run(context):
    context["interface_registry"].register("good.echo", lambda args, ctx: args)
"""

EVIL = r"""
import json, os, socket, struct, sys, time
sys.path.append("/opt/rumi")  # the agent's own MessagePack: Packs can read it, though it is on no path of theirs
import msgpack

OPTIONS = {"if_absent": False, "ttl_ms": None, "override": False, "source": None}

def attempt(fn):
    try:
        return "did " + repr(fn())[:200]
    except BaseException as error:
        return "refused " + type(error).__name__

def write(path, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)

def frame(*fields):
    body = msgpack.packb(list(fields))
    return struct.pack("<I", len(body)) + body

def bus():
    '''The agent's own connection, taken from under it.'''
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if fd > 2 and os.readlink("/proc/self/fd/%d" % fd).startswith("socket"):
                taken = socket.socket(fileno=os.dup(fd))
                taken.setblocking(True)
                return taken
        except OSError:
            pass

FLOODS = {
    "log": lambda n: frame(23, 0, 20, "stdout", "\x1b[2J\u202e" * 200) * 50,
    "publish": lambda n: frame(50, 0, "a.b", [], None) * 200,
    "call": lambda n: frame(1, 0, "good.echo", 0, 0, 0, None, [], None) * 200,
    "distinct calls": lambda n: b"".join(frame(1, n + i, "k%d.x" % (n + i), 0, 0, 0, None, [], None) for i in range(200)),
    "ask": lambda n: b"".join(frame(64, n + i, "permission.request", 0, [], {"type": "network", "params": {"domains": ["d%d.example" % (n + i)]}}) for i in range(100)),
    "diagnose": lambda n: b"".join(frame(64, n + i, "diagnostics.record", 0, [], {"title": "t%d" % (n + i), "detail": "x" * 500, "level": "error"}) for i in range(100)),
    "journal": lambda n: b"".join(frame(64, n + i, "journal.record", 0, [], {"created": ["packs/evil/%d" % (n + i)], "modified": []}) for i in range(50)),
    "write": lambda n: b"".join(frame(64, n + i, "userdata.write", 0, [], {"path": "packs/evil/%d" % (i % 50), "data": b"z" * 100}) for i in range(50)),
    "register": lambda n: b"".join(frame(32, n + i, "evil.other", OPTIONS, {"m": "x" * 100}, None, [], n) for i in range(50)),
    "release": lambda n: frame(37, 0, list(range(1000))) * 5,
    "cancel": lambda n: frame(4, 1234567) * 200,
    "credit": lambda n: frame(7, 5, 1 << 31) * 200,
}

def run(context):
    ir, data = context["interface_registry"], context["userdata_manager"]
    journal, permissions = context["install_journal"], context["permission_manager"]

    def flood(args, ctx):
        taken, end, number = bus(), time.monotonic() + args["s"], 1 << 24
        while time.monotonic() < end:
            number += 1000
            taken.sendall(FLOODS[args["kind"]](number))
        return True

    def writes(args, ctx):
        return {path: attempt(lambda: write(path, text.encode())) for path, text in args.items()}

    def userdata(args, ctx):
        seen = {}
        for path in args:
            for name, fn in (("read", data.read), ("delete", data.delete), ("list", data.list)):
                seen[name + " " + repr(path)[:60]] = attempt(lambda: fn(path))
            seen["write " + repr(path)[:60]] = attempt(lambda: data.write(path, b"x"))
        return seen

    ir.register("evil.flood", flood)
    ir.register("evil.writes", writes)
    ir.register("evil.userdata", userdata)
    ir.register("evil.journal", lambda args, ctx: {repr(v)[:60]: attempt(lambda: journal.record(created=v, modified=[])) for v in args})
    ir.register("evil.has", lambda args, ctx: [attempt(lambda: permissions.has(kind, **more)) for kind, more in args])
    ir.register("evil.connect", lambda args, ctx: attempt(lambda: socket.socket(socket.AF_UNIX).connect("/run/rumi/bus.sock")))
    ir.register("evil.memory", lambda args, ctx: len(bytearray(args["bytes"])))

    def replace(args, ctx):
        '''The process goes on as a program of the Pack's own, which holds the bus.'''
        taken = bus()
        os.set_inheritable(taken.fileno(), True)
        os.execv("/proc/self/exe", ["python3", "-I", "-c", args["program"], str(taken.fileno())])

    ir.register("evil.replace", replace)
"""
KEYS = tuple(
    f"evil.{name}"
    for name in ("flood", "writes", "userdata", "journal", "has", "connect", "memory", "replace", "other")
)


@pytest.fixture(params=DRIVERS, scope="module")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("redteam") / "home", str(request.param)) as running:
        running.put_pack("good", one_component_pack("good", GOOD, provides=("good.echo",)))
        running.put_pack("evil", one_component_pack("evil", EVIL, provides=KEYS))
        running.approve("good")
        running.approve("evil")
        yield running


def serving(host: RunningHost) -> None:
    host.until(lambda: host.call("evil.has", [])[0] == 200, 40, "the hostile Pack to serve (again)")


def resident_mib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.parametrize(
    "kind",
    [
        "log",
        "publish",
        "call",
        "distinct calls",
        "ask",
        "diagnose",
        "journal",
        "write",
        "register",
        "release",
        "cancel",
        "credit",
    ],
)
def test_a_flood_leaves_the_host_to_the_others(host: RunningHost, kind: str) -> None:
    serving(host)
    before = resident_mib(host.pid)
    flood = threading.Thread(target=host.call, args=("evil.flood", {"kind": kind, "s": 1.5}))
    flood.start()
    slowest = 0.0
    while flood.is_alive():
        started = time.monotonic()
        assert host.result("good.echo", 1) == 1
        slowest = max(slowest, time.monotonic() - started)
    flood.join(30)
    assert slowest < 2.0, "somebody else's call waited for the flood"
    assert resident_mib(host.pid) - before < 64
    assert len(host.ok("GET", "/api/issues")) < 100, "a flood is one line with a number, not a flood of lines"


def test_the_kernels_switches_are_out_of_reach(host: RunningHost) -> None:
    serving(host)
    tried = {
        "/proc/pressure/memory": "some 150000 2000000\0",
        "/proc/sys/kernel/msgmax": "8192",
        "/proc/sys/kernel/pid_max": "400",
        "/proc/sys/kernel/ns_last_pid": "4000",
        "/proc/sys/kernel/core_pattern": "|/pack/x",
        "/proc/sysrq-trigger": "b",
        "/proc/self/oom_score_adj": "-1000",
        "/proc/1/oom_score_adj": "0",
        "/proc/self/uid_map": "0 0 1",
        "/proc/self/setgroups": "allow",
        "/proc/self/loginuid": "0",
        "/proc/1/mem": "x",
        "/proc/self/mem": "x",
        "/sys/fs/cgroup/cgroup.procs": "0",
        "/pack/backend/ecosystem.json": "{}",
        "/opt/rumi/container_agent.py": "",
    }
    outcome = host.result("evil.writes", tried)
    assert {path: what for path, what in outcome.items() if not what.startswith("refused")} == {}


def test_userdata_is_the_packs_own_folder_whatever_the_path(host: RunningHost) -> None:
    serving(host)
    paths: list[Any] = [
        "packs/evil/../../permissions/.secret_key",
        "permissions/.secret_key",
        "permissions/evil.grants.json",
        "flows/x.flow.yaml",
        "mounts.json",
        "audit",
        "store",
        "/etc/passwd",
        "packs/good/x",
        "packs/EVIL/x",
        "packs/evil/\x00x",
        "packs/evil/\u202ex",
        "packs/evil/x\n",
        "packs//evil/x",
        "packs/evil/.",
        "packs/evil/" + "a/" * 3000 + "x",
        "packs/evil/" + "b" * 300,
        5,
        None,
        True,
        [],
        {"a": 1},
        2**53 - 1,
        1.5,
    ]
    outcome = host.result("evil.userdata", paths)
    # an empty list is no news: what a Pack may not read is not there for it
    told = {what: result for what, result in outcome.items() if not result.startswith("refused") and result != "did []"}
    assert told == {}


def test_the_journal_takes_no_foreign_files(host: RunningHost) -> None:
    serving(host)
    outcome = host.result(
        "evil.journal",
        [
            ["packs/good/x"],
            ["/etc/passwd"],
            ["../../x"],
            ["packs/evil/../good/x"],
            ["packs/evil/x"] * 10_000,
            [["packs/evil/x"]],
            [{"a": 1}],
            "x",
            None,
        ],
    )
    assert {what: result for what, result in outcome.items() if not result.startswith("refused")} == {}


def test_odd_questions_about_permissions_are_answered_no(host: RunningHost) -> None:
    serving(host)
    odd: list[Any] = [["network", {"domains": "\x1b[31m\u202e" * 900}], ["host.shell", {}], ["x" * 5000, {}], [5, {}]]
    odd += [
        [None, {}],
        ["network", {"a" * 500: [[[[]]]]}],
        ["secret", {"names": ["x"] * 10_000}],
        ["userdata.write", {}],
    ]
    for answer in host.result("evil.has", odd):
        assert answer.startswith("refused") or answer == "did False"


def test_the_bus_takes_no_second_connection(host: RunningHost) -> None:
    serving(host)
    assert host.result("evil.connect").startswith("refused")


@pytest.mark.parametrize(
    "program",
    [
        # garbage; the end of every right: frames of the host's own kinds; silence; a reader that never reads
        "import os, sys; os.write(int(sys.argv[1]), os.urandom(65536)); import time; time.sleep(60)",
        "import os, sys; os.write(int(sys.argv[1]), b'\\x05\\0\\0\\0\\x94\\x22\\0\\xa1x'); import time; time.sleep(60)",
        "import os, sys; os.write(int(sys.argv[1]), b'\\xff\\xff\\xff\\xff'); import time; time.sleep(60)",
    ],
)
def test_a_replaced_agent_harms_its_own_pack_only(host: RunningHost, program: str) -> None:
    serving(host)
    restarts = host.ok("GET", "/api/containers")
    answer, envelope = host.call("evil.replace", {"program": program}, 15)
    assert answer in {502, 504}, envelope
    assert host.result("good.echo", 2) == 2
    mine = {one["pack_id"]: one for one in restarts}
    assert {one["pack_id"]: one["generation"] for one in host.ok("GET", "/api/containers")}["good"] == mine["good"][
        "generation"
    ]
    serving(host)


def test_memory_beyond_the_limit_ends_the_pack_and_nobody_else(host: RunningHost) -> None:
    serving(host)
    status, envelope = host.call("evil.memory", {"bytes": 512 << 20}, 15)
    assert status != 200, envelope
    assert host.result("good.echo", 3) == 3
    serving(host)
    assert host.result("evil.memory", {"bytes": 1 << 20}) == 1 << 20


def test_nothing_of_the_host_is_in_what_the_pack_was_told(host: RunningHost) -> None:
    serving(host)
    status, envelope = host.call("evil.userdata", ["x/../y"])
    assert status == 200
    assert str(host.home) not in json.dumps(envelope), "a refusal names the Pack's own words, no path of the host"

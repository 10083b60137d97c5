"""Ways into the kernel past the filter of socket families, and out of sight of the memory sampler. Real sandboxes."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core_runtime.rules.seccomp import ARCHITECTURES
from tests.support import ordinary, sandboxes
from tests.support.sandboxes import DRIVERS, cell

NUMBERS = ARCHITECTURES[platform.machine()].numbers
ROOT = Path(__file__).resolve().parents[2]
PRELUDE = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
    return errno.errorcode[ctypes.get_errno()] if result == -1 else "works"
pair = (ctypes.c_int * 2)()
"""


@pytest.fixture(params=DRIVERS, scope="module")
def one(request):
    with sandboxes.yard(request.param) as made, cell(made) as inside:
        inside.run(PRELUDE)
        yield inside


@pytest.mark.parametrize("kind", [1, 2, 5])
def test_a_pair_of_sockets_makes_no_socket_of_a_refused_family(one, kind):
    # the kernel makes both sockets, and loads the family's module, before it finds out that the family has no pairs
    number = NUMBERS["socketpair"]
    got = one.run(
        f"answer = {{str(family): call({number}, family, {kind}, 0, ctypes.addressof(pair)) for family in range(46)}}"
    )
    assert got.pop("1") == "works"
    assert set(got.values()) == {"EPERM"}, {family: result for family, result in got.items() if result != "EPERM"}


@pytest.mark.parametrize(("kind", "protocol"), [(2, 1), (1, 132), (5, 132), (6, 33), (2, 136), (1, 262), (3, 255)])
@pytest.mark.parametrize("family", [2, 10])
def test_internet_protocols_that_nobody_here_needs(one, family, kind, protocol):
    assert one.run(f"answer = call({NUMBERS['socket']}, {family}, {kind}, {protocol})") == "EPERM"


def test_ordinary_sockets_still_work(one):
    assert one.run("""
        import socket
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                socket.socket(family, kind).close()
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP).close()
        answer = [name for _, name in socket.if_nameindex()]
    """) == ["lo"]  # fmt: skip


def test_loading_a_line_discipline(one):
    number = NUMBERS["ioctl"]
    assert one.run(f"answer = call({number}, 0, 0x5423, ctypes.addressof(pair))") == "EPERM"
    assert one.run(f"answer = call({number}, 0, 0x100005423, ctypes.addressof(pair))") == "EPERM"


HIDDEN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from core_runtime.rules.sandbox import Limits
from tests.support.sandboxes import InsideError, Yard
yard = Yard("embedded", use_cgroups=False)
if not yard.status.available:
    print(json.dumps({"unavailable": yard.status.reason}))
else:
    one = yard.cell(limits=Limits(memory_bytes=64 << 20, pids=24, tmp_bytes=8 << 20))
    try:
        one.run('''
import ctypes, os, time
for _ in range(6):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/<pid> belongs to root from now on
        x = bytearray(40 << 20); time.sleep(20); os._exit(0)
''')
        ended = yard.run(one.sandbox.wait(), 10)
        print(json.dumps({"cause": ended.cause}))
    except (TimeoutError, InsideError) as error:
        print(json.dumps({"cause": "not ended: " + type(error).__name__}))
    one.close()
yard.close()
"""


@pytest.mark.embedded
def test_hiding_memory_from_a_host_without_root():
    who: dict[str, Any] = {"user": 54321, "group": 54321, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, str(ROOT)], capture_output=True, text=True, timeout=60, cwd="/", check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}, **who,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout)
    ordinary.skip_where_refused(got)
    assert got["cause"] == "oom"


ORPHANS = """
import ctypes, json, os, sys
sys.path.insert(0, sys.argv[1])
from tests.support.sandboxes import InsideError, Yard
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: this process stands for a process 1 that buries nobody
yard = Yard("embedded")
if not yard.status.available:
    print(json.dumps({"unavailable": yard.status.reason}))
else:
    for crash in (True, False, True, False):
        one = yard.cell()
        try:
            if crash:
                one.run("import os; os._exit(3)")
        except InsideError:
            pass
        one.close()
    mine = [int(pid) for pid in open("/proc/self/task/%d/children" % os.getpid()).read().split()]
    print(json.dumps({"zombies": [open("/proc/%d/comm" % pid).read() for pid in mine if "State:\tZ" in open("/proc/%d/status" % pid).read()]}))
yard.close()
"""


@pytest.mark.embedded
def test_crashing_on_purpose_leaves_no_zombies():
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS, str(ROOT)], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"zombies": []}

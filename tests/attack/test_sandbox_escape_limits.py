"""A Pack eats the machine: memory in every form, processes, files, disk. Real sandboxes of both drivers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core_runtime.rules.sandbox import Level, Limits
from tests.support import ordinary, sandboxes
from tests.support.sandboxes import DRIVERS, InsideError, cell

SMALL = Limits(memory_bytes=64 << 20, pids=24, tmp_bytes=8 << 20)


@pytest.fixture(params=DRIVERS, scope="module")
def yard(request):
    with sandboxes.yard(request.param) as made:
        yield made


def killed(one, source):
    with pytest.raises(InsideError, match=r"gone|MemoryError|Connection reset"):
        one.run(source)
    return one.yard.run(one.sandbox.wait())


def test_memory(yard):
    with cell(yard, limits=SMALL) as one:
        assert killed(one, "x = bytearray(200 << 20)").cause == "oom"


def test_memory_in_a_memfd(yard):
    with cell(yard, limits=SMALL) as one:
        assert killed(one, """
            import os
            held = [os.memfd_create('bomb') for _ in range(60)]
            for fd in held: os.write(fd, bytes(4 << 20))
        """).cause == "oom"  # fmt: skip


def test_memory_spread_over_processes(yard):
    with cell(yard, limits=SMALL) as one:
        one.run("""
            import os, time
            for _ in range(6):
                if os.fork() == 0:
                    x = bytearray(30 << 20); time.sleep(30); os._exit(0)
        """)
        end = time.monotonic() + 10
        while yard.run(one.sandbox.usage()).get("memory_bytes", 0) > SMALL.memory_bytes and time.monotonic() < end:
            time.sleep(0.05)
        assert yard.run(one.sandbox.usage()).get("memory_bytes", 0) <= SMALL.memory_bytes


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_tmp_is_limited(yard, folder):
    with cell(yard, limits=SMALL) as one, pytest.raises(InsideError, match=r"No space|File too large|gone"):
        one.run(f"""
                for n in range(64):
                    with open('{folder}/f%d' % n, 'wb') as file: file.write(bytes(1 << 20))
            """)


def test_dev_itself_holds_no_files(yard):
    with cell(yard, limits=SMALL) as one, pytest.raises(InsideError, match=r"Read-only|Permission"):
        one.run("open('/dev/bomb', 'wb')")


def test_fork_bomb(yard):
    with cell(yard, limits=SMALL) as one:
        made = one.run("""
            import os, time
            answer = 0
            try:
                for _ in range(500):
                    if os.fork() == 0: time.sleep(60); os._exit(0)
                    answer += 1
            except OSError:
                pass
        """)
        assert made <= SMALL.pids


def test_thread_bomb(yard):
    with cell(yard, limits=SMALL) as one:
        made = one.run("""
            import threading, time
            answer = 0
            try:
                for _ in range(500):
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); answer += 1
            except RuntimeError:
                pass
        """)
        assert made <= SMALL.pids


def test_descriptors(yard):
    with cell(yard) as one:
        assert one.run("""
            import os
            held = []
            try:
                while len(held) < 100000: held.append(os.open('/dev/null', os.O_RDONLY))
            except OSError:
                pass
            answer = len(held)
            for fd in held: os.close(fd)
        """) <= 256  # fmt: skip


def test_processor_time_is_shared(yard):
    with cell(yard, limits=Limits(cpus=0.2)) as one:
        one.run("import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: pass")
        before = yard.run(one.sandbox.usage())["cpu_s"]
        one.run("import time; end = time.monotonic() + 2\nwhile time.monotonic() < end: pass")
        used = yard.run(one.sandbox.usage())["cpu_s"] - before
        assert used < 0.2 * 2 * 1.6


@pytest.mark.embedded
def test_memory_without_any_cgroup():
    with sandboxes.yard("embedded", use_cgroups=False) as made:
        assert made.status.level is Level.REDUCED
        with cell(made, limits=SMALL) as one:
            assert made.run(one.sandbox.measure(one.probe)).level is Level.REDUCED
            with pytest.raises(InsideError, match="PermissionError"):
                one.run("import os; os.memfd_create('bomb')")
            one.run("""
                import os, time
                for _ in range(4):
                    if os.fork() == 0:
                        x = bytearray(40 << 20); time.sleep(60); os._exit(0)
            """)
            assert made.run(one.sandbox.wait()).cause == "oom"


UNPRIVILEGED = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from tests.support.sandboxes import Yard
yard = Yard("embedded")
if not yard.status.available:
    print(json.dumps({"unavailable": yard.status.reason}))
else:
    one = yard.cell()
    got = yard.run(one.sandbox.measure(one.probe))
    print(json.dumps({"level": got.level.name, "uid": one.probe["uid"], "findings": got.findings,
                      "seen": one.run("import os; answer = os.path.exists('/home') or len(os.listdir('/proc')) > 80")}))
    one.close()
yard.close()
"""


@pytest.mark.embedded
def test_a_host_without_root_isolates_and_says_what_is_weaker():
    who: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(Path(__file__).resolve().parents[2])], capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}, cwd="/", check=False, **who,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout)
    ordinary.skip_where_refused(got)
    assert got["level"] in {"STANDARD", "REDUCED"}
    assert (got["level"] == "REDUCED") == bool([f for f in got["findings"] if "cgroup" in f])
    assert got["seen"] is False


def test_core_dumps_go_nowhere(yard):
    with cell(yard) as one:
        assert one.run("import resource; answer = resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]

"""One suite for both isolation drivers: whatever runs a Pack keeps these promises."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from aiodocker.exceptions import DockerError
from msgspec.structs import replace

from backend_core.errors import HostError, TrustError
from core_runtime.containers import _admit
from core_runtime.drivers import cgroup_watch, docker_sandbox, proc_view
from core_runtime.rules.sandbox import DriverKind, Level, Limits
from tests.support import sandboxes
from tests.support.sandboxes import DOCKER, EVERYWHERE, STDIO, TRANSPORTS, InsideError, cell

ROOT = Path(__file__).resolve().parents[2]


everywhere = pytest.mark.parametrize("yard", EVERYWHERE, indirect=True)
"""Where a kernel of its own could make a difference, too: it is that kernel which is asked to end what runs on it."""


@pytest.fixture(params=TRANSPORTS, scope="module")
def yard(request):
    with sandboxes.yard(request.param) as made:
        yield made


def until(condition, deadline_s=10.0):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


def test_probe_names_version_and_level(yard):
    assert yard.status.available
    assert yard.status.version
    assert yard.status.level is Level.STANDARD, yard.status.reason


def test_agent_starts_connects_and_reports(yard):
    with cell(yard) as one:
        assert one.probe["uid"] == one.spec.uid
        assert one.run("answer = open('/pack/marker.txt').read()") == "approved"


def test_measured_isolation_is_standard(yard):
    with cell(yard) as one:
        got = yard.run(one.sandbox.measure(one.probe))
        # a host without root may not look into processes of other users, and an engine runs Packs under such
        looks = os.geteuid() == 0 or yard.kind is DriverKind.EMBEDDED
        source = "measured" if looks else "reported"
        assert (got.driver, got.level, got.source) == (yard.kind, Level.STANDARD, source), got.findings
        assert yard.status.source == source  # what a grant that is made before the first start records
        assert got.evidence.get("uid") == (one.spec.uid if looks else None)


def test_measure_does_not_believe_an_agent_that_hides_a_leak(yard):
    with cell(yard) as one:
        assert yard.run(one.sandbox.measure(one.probe | {"canaries": ["/root/x"]})).level is Level.NONE
        assert yard.run(one.sandbox.measure({})).level is Level.NONE


def test_more_than_the_machine_has_is_all_of_it(yard):
    # a grant is held against the host's machine; an engine's may be smaller, and would refuse it
    with cell(yard, limits=replace(Limits(), cpus=512.0, memory_bytes=1 << 40)) as one:
        assert one.run("answer = 1") == 1
        assert yard.run(one.sandbox.measure(one.probe)).level is Level.STANDARD


def test_exit_is_told_with_its_code(yard):
    with cell(yard) as one:
        with pytest.raises(InsideError):
            one.run("import os; os._exit(7)")
        ended = yard.run(one.sandbox.wait())
        assert (ended.code, ended.cause) == (7, "exited")


@everywhere
def test_death_by_signal_is_told(yard):
    with cell(yard) as one:
        with pytest.raises(InsideError):
            one.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        assert yard.run(one.sandbox.wait()).cause == "signal"


def test_stop_lets_a_cooperative_agent_finish(yard):
    with cell(yard) as one:
        one.run("import signal, os; signal.signal(signal.SIGTERM, lambda *a: os._exit(3))")
        ended = yard.run(one.sandbox.stop(5.0))
        assert (ended.code, ended.cause) == (3, "killed")


@everywhere
def test_stop_is_bounded_against_an_agent_that_ignores_it(yard):
    with cell(yard) as one:
        one.run(
            "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]"
        )
        began = time.monotonic()
        ended = yard.run(one.sandbox.stop(0.3))
        assert ended.cause == "killed"
        assert time.monotonic() - began < 8


@everywhere
def test_stop_ends_every_process_of_the_sandbox(yard):
    with cell(yard) as one:
        one.run("import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        os.setsid(); time.sleep(600)")
        below = proc_view.descendants(one.sandbox.pid)
        assert len(below) >= 5
        yard.run(one.sandbox.stop(0))
        until(lambda: not any(proc_view.start_time(pid) for pid in below))


def test_methods_are_safe_after_the_end(yard):
    with cell(yard) as one:
        first = yard.run(one.sandbox.stop(0))
        assert yard.run(one.sandbox.stop(0)) == first
        assert yard.run(one.sandbox.wait()) == first
        assert yard.run(one.sandbox.usage()) == {}
        assert isinstance(yard.run(one.sandbox.output_tail()), str)


FORKS = """
    import os, time
    refused, end = 0, time.monotonic() + {seconds}
    while time.monotonic() < end or not refused:
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            refused += 1
            time.sleep(0.01)
    answer = refused
"""


@pytest.mark.parametrize("by_itself", [True, False], ids=["it ends", "it is stopped"])
def test_the_end_tells_what_was_counted_last(yard, by_itself):
    with cell(yard, limits=replace(Limits(), pids=20)) as one:
        # what an engine removes by itself is looked at every second
        refused = one.run(FORKS.format(seconds=2 * cgroup_watch.SAMPLE_S if by_itself else 0))
        if by_itself:
            with contextlib.suppress(InsideError):
                one.run("import os\nos._exit(0)")
            ended = yard.run(one.sandbox.wait())
        else:
            ended = yard.run(one.sandbox.stop(0))
        assert 0 < ended.counted["pids_refused"] <= refused
        assert by_itself or ended.counted["pids_refused"] == refused


def test_usage_tells_when_no_further_file_can_be_opened(yard):
    with cell(yard, limits=replace(Limits(), files=200)) as one:
        before = yard.run(one.sandbox.usage())
        if "files" not in before:
            assert os.geteuid() != 0, "only an ordinary user may not look"
            return
        assert before["files"] < 200
        assert before["files_full"] == 0
        one.run("""
            import os
            globals()["held"] = []
            try:
                while True:
                    held.append(os.dup(2))
            except OSError as error:
                answer = error.errno
        """)
        after = yard.run(one.sandbox.usage())
        assert (after["files"], after["files_full"]) == (200, 1)
        one.run("for fd in held: os.close(fd)")


def test_usage_counts_memory_and_processes(yard):
    with cell(yard) as one:
        used = yard.run(one.sandbox.usage())
        assert used["memory_bytes"] > 1_000_000
        assert used["pids"] >= 1


def test_output_outside_the_bus_is_kept_bounded_and_escaped(yard):
    with cell(yard) as one:
        one.run(r"""
            import os
            os.write(1, b"x" * 200_000)
            os.write(1, b"\x1b[2Jend of it\xff\n")
        """)
        until(lambda: "end of it" in yard.run(one.sandbox.output_tail()))
        tail = yard.run(one.sandbox.output_tail())
        assert len(tail) < 80_000
        assert "\x1b" not in tail
        assert "\\x1b[2Jend of it\\xff" in tail


@everywhere
def test_a_flood_of_output_does_not_block_the_sandbox(yard):
    with cell(yard) as one:
        assert one.run("import os\nfor _ in range(200): os.write(1, b'x' * 65536)\nanswer = 'through'", 60) == "through"


def test_what_died_at_once_left_its_words(yard):
    spec = replace(yard.spec(), socket_path=str(yard.state / "nobody.sock"))
    words = "ConnectionRefused"
    if yard.driver.attaches:  # no socket that could refuse: an agent that is not there
        (yard.base / "nothing").mkdir(exist_ok=True)
        spec, words = replace(spec, runtime_dir=str(yard.base / "nothing")), "ModuleNotFound"
    else:
        Path(spec.socket_path).touch()
        _admit(spec)
    sandbox = yard.run(yard.driver.start(spec))
    ended = yard.run(sandbox.wait())
    assert ended.code not in {0, None}
    assert words in yard.run(sandbox.output_tail())


def test_a_start_that_fails_leaves_nothing(yard):
    spec = replace(yard.spec(), pack_dir=str(yard.base / "is-not-there"))
    with contextlib.suppress(HostError, TrustError):  # an engine refuses at once; any other exception fails this test
        sandbox = yard.run(yard.driver.start(spec))
        assert yard.run(sandbox.wait()).code != 0  # bubblewrap tells when it looks
    assert yard.run(yard.driver.remove_leftovers(yard.installation)) == []


def test_render_shows_what_is_started(yard):
    spec = yard.spec()
    rendered = yard.driver.render(spec)
    text = "\n".join(rendered.values())
    assert spec.pack_dir in text
    assert "io_uring" in rendered["seccomp.json"]
    if yard.kind is DriverKind.DOCKER:
        assert json.loads(rendered["container.json"])["HostConfig"]["ReadonlyRootfs"] is True


def test_leftovers_of_this_installation_go_and_others_stay(yard):
    with sandboxes.yard(yard.kind.value, installation="anotherinstallation") as other, cell(other) as theirs:
        assert yard.run(yard.driver.remove_leftovers(yard.installation)) == []
        assert theirs.run("answer = 1") == 1


def test_probe_and_clean_up_beside_a_running_sandbox_leave_it_alone(yard):
    async def twice():
        return await asyncio.gather(yard.driver.probe(), yard.driver.probe())

    with cell(yard) as one:
        assert all(status.available for status in yard.run(twice()))
        assert yard.run(yard.driver.remove_leftovers(yard.installation)) == []
        assert one.run("answer = 1") == 1


CRASHING_HOST = """
import asyncio, os, sys, json
sys.path.insert(0, sys.argv[1])
from tests.support.sandboxes import Yard
yard = Yard(sys.argv[2], installation="crashinstallation")
one = yard.cell()
one.run("import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGTERM, signal.SIGHUP)]")
print(json.dumps([one.sandbox.id, one.sandbox.pid, str(yard.base), str(yard.state)]), flush=True)
sys.stdin.read()
"""


@everywhere
def test_after_a_killed_host_nothing_runs_once_the_next_one_booted(yard):
    host = subprocess.Popen(
        [sys.executable, "-c", CRASHING_HOST, str(ROOT), yard.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert host.stdin is not None
    assert host.stdout is not None
    try:
        name, pid, base, state = json.loads(host.stdout.readline())
        host.send_signal(signal.SIGKILL)
        host.wait()
    finally:
        host.stdin.close()
        host.stdout.close()
    if yard.kind is DriverKind.EMBEDDED:
        until(lambda: proc_view.start_time(pid) is None)
    elif os.geteuid() == 0:
        os.kill(pid, signal.SIGSTOP)  # nor does one that answers nobody
    with sandboxes.yard(yard.name, installation="crashinstallation") as next_boot:
        removed = next_boot.run(next_boot.driver.remove_leftovers("crashinstallation"))
        if yard.kind is DriverKind.DOCKER:
            assert removed == [name]
        assert next_boot.run(next_boot.driver.remove_leftovers("crashinstallation")) == []
    until(lambda: proc_view.start_time(pid) is None)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert not any(word in mounts for word in (base, state, "/run/rumi-sandbox")), "a crash left a mount"
    for folder in (base, state):
        subprocess.run(["rm", "-r", folder], check=True)


@pytest.mark.parametrize("yard", [DOCKER, STDIO], indirect=True)
def test_what_nobody_can_end_is_given_up_in_bounded_time(yard, monkeypatch):
    with cell(yard) as one:
        container = one.sandbox._container
        kill = container.kill

        async def never(**_):
            await asyncio.Event().wait()

        monkeypatch.setattr(container, "kill", never)
        monkeypatch.setattr(one.sandbox, "pid", 0)  # as where the engine is another machine's
        monkeypatch.setattr(docker_sandbox, "KILL_S", 0.1)
        monkeypatch.setattr(docker_sandbox, "QUERY_S", 0.1)
        assert yard.run(one.sandbox.stop(0.1)).cause == "lost"
        with contextlib.suppress(DockerError):  # its input has ended: it may have gone by itself
            yard.run(kill(signal="SIGKILL"))
    assert yard.run(yard.driver.remove_leftovers(yard.installation)) == [one.sandbox.id]


def test_several_start_at_once(yard):
    specs = [yard.spec(limits=Limits(memory_bytes=64 << 20)) for _ in range(4)]

    for spec in specs:
        Path(spec.socket_path).touch()

    async def all_at_once():
        started = await asyncio.gather(*(yard.driver.start(spec) for spec in specs))
        await asyncio.gather(*(one.stop(0) for one in started))
        return {one.id for one in started}

    assert len(yard.run(all_at_once())) == 4
    for spec in specs:
        with contextlib.suppress(FileNotFoundError):
            Path(spec.socket_path).unlink()

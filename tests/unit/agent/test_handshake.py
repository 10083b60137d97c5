from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core_runtime.drivers.runtime_folder import NETWORK_FILES
from tests.support.fake_host import AGENT, FakeHost, Peer, wait_until


def test_hello_tells_what_the_sandbox_looks_like_before_the_pack_is_read(start, tmp_path: Path) -> None:
    peer = start("raise SystemExit('this must not run')", run=False)
    hello = peer.hello
    assert hello["protocols"] == [1]
    assert hello["codec"] == "c"
    probe = hello["probe"]
    assert set(probe) == {
        "uid", "gid", "groups", "cap_eff", "cap_bnd", "no_new_privs", "seccomp", "pid_count", "interfaces", "writable",
        "env_names", "canaries", "landlock", "rlimits", "python", "kernel",
    }  # fmt: skip
    assert probe["uid"] == os.geteuid()
    assert int(probe["cap_bnd"], 16) >= 0
    assert probe["seccomp"] in {0, 1, 2}
    assert "lo" in probe["interfaces"]
    assert probe["pid_count"] >= 1
    assert probe["rlimits"]["open files"][0] > 0
    assert probe["python"] == hello["python"]


def test_without_msgpack_beside_it_the_slow_codec_is_announced_and_works(start, host: FakeHost) -> None:
    peer = start(
        "def run(context): context['interface_registry'].register('k', lambda args, ctx: {'got': args})", agent=AGENT
    )
    assert peer.hello["codec"] == "pure"
    assert host.call("k", {"a": [1, 2.5, None, b"x", "ü" * 400, -(2**40)]}) == {
        "got": {"a": [1, 2.5, None, b"x", "ü" * 400, -(2**40)]}
    }


def test_pack_keeps_its_own_msgpack(start) -> None:
    start("""
        import sys
        def run(context):
            assert "msgpack" not in sys.modules, "the agent's codec must not be the Pack's"
    """)


def test_landlock_leaves_tmp_writable_and_nothing_else_and_no_program_there(start, host: FakeHost) -> None:
    target = Path.home() / f"rumi-landlock-{os.getpid()}"
    peer = start("""
        import os, subprocess
        def probe(args, ctx):
            try:
                open(args, "w").close()
                return "written"
            except OSError as exc:
                return type(exc).__name__
        def execute(args, ctx):
            path = "/tmp/rumi-true-%d" % os.getpid()
            with open("/bin/true", "rb") as source, open(path, "wb") as copy:
                copy.write(source.read())
            os.chmod(path, 0o755)
            try:
                return subprocess.call([path])
            except OSError as exc:
                return type(exc).__name__
            finally:
                os.unlink(path)
        def run(context):
            context["interface_registry"].register("probe", probe)
            context["interface_registry"].register("execute", execute)
            context["interface_registry"].register("null", lambda: subprocess.call(["/bin/true"], stdout=subprocess.DEVNULL))
    """)
    if not peer.hello["probe"]["landlock"]:
        pytest.skip("this kernel has no Landlock")
    allowed = f"/tmp/rumi-landlock-{os.getpid()}"
    try:
        assert host.call("probe", str(target)) == "PermissionError"
        assert host.call("probe", allowed) == "written"
        assert host.call("execute") == "PermissionError"
        assert host.call("null") == 0
    finally:
        Path(allowed).unlink(missing_ok=True)
        target.unlink(missing_ok=True)


def test_the_end_of_the_connection_ends_the_process(start) -> None:
    peer = start("import threading\nthreading.Thread(target=threading.Event().wait).start()")
    peer.sock.shutdown(socket.SHUT_RDWR)
    assert peer.process.wait(5) == 3


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((2 * 1024 * 1024).to_bytes(4, "little") + b"\x93", id="oversize"),
        pytest.param(b"\x00\x00\x00\x00", id="empty"),
        pytest.param(b"\x01\x00\x00\x00\xc0", id="no array"),
        pytest.param(b"\x03\x00\x00\x00\x92\x4d\x00", id="unknown kind"),
        pytest.param(b"\x04\x00\x00\x00\x92\x15\x01\x01", id="bytes after the array"),
    ],
)
def test_what_is_no_frame_ends_the_connection(start, data: bytes) -> None:
    peer = start("")
    peer.sock.sendall(data)
    assert peer.process.wait(5) == 4
    peer.wait_for_log(lambda log: log[0] == 50 and "connection ends" in log[2])


def test_shutdown_answers_what_runs_refuses_what_comes_and_exits_with_0(start, host: FakeHost, tmp_path: Path) -> None:
    peer = start("""
        import atexit, os, time
        def slow(args, ctx):
            print("entered", flush=True)
            while not os.path.exists(args):
                time.sleep(0.005)
            return "done"
        def run(context):
            atexit.register(lambda: print("farewell"))
            context["interface_registry"].register("slow", slow)
            context["interface_registry"].register("other", lambda: None)
    """)
    running = host.start_call("slow", str(tmp_path / "go"))
    peer.wait_for_log(lambda log: "entered" in log[2])
    late_ref = host.entry("other").refs[0][1]
    peer.send(20, 0, 5_000)
    late = peer.start_call(late_ref, None)
    assert late.frame()[2] == "shutting_down"
    (tmp_path / "go").touch()
    assert running.result() == "done"
    assert peer.process.wait(5) == 0
    peer.closed.wait(5)
    assert any("farewell" in text for _, _, text in peer.logs)


def test_shutdown_refuses_new_calls(start, host: FakeHost) -> None:
    peer = start("""
        import time
        def slow(args, ctx):
            print("entered", flush=True)
            while not ctx.cancelled():
                time.sleep(0.005)
        def run(context):
            context["interface_registry"].register("slow", slow)
    """)
    running = host.start_call("slow")
    peer.wait_for_log(lambda log: "entered" in log[2])
    peer.send(20, 0, 5_000)
    refused = host.start_call("slow")
    assert refused.frame()[2] == "shutting_down"
    running.cancel()
    assert peer.process.wait(5) == 0


def test_shutdown_does_not_wait_longer_than_its_grace(start, host: FakeHost) -> None:
    peer = start("""
        import threading
        def run(context):
            context["interface_registry"].register("never", lambda: threading.Event().wait())
    """)
    host.start_call("never")
    assert peer.stop(grace_ms=100) == 0


def test_a_unix_socket_and_attached_stdio_carry_the_same_frames(host: FakeHost, runtime: Path, tmp_path: Path) -> None:
    files = {"backend/components/one/setup.py": "def run(c): c['interface_registry'].register('k', lambda a: [a])\n"}
    stdio = host.start(files, tmp_path / "p", agent=runtime / "container_agent.py", how="--stdio")
    stdio.good_phase("one")
    assert host.call("k", "x" * 100_000) == ["x" * 100_000]
    listener = socket.socket(socket.AF_UNIX)
    path = tmp_path / "bus.sock"
    listener.bind(str(path))
    listener.listen(1)
    command = [
        sys.executable, "-I", "-S", "-c",
        f"import sys; sys.path.insert(0, {str(runtime)!r}); import container_agent; container_agent.main()",
        "--socket", str(path),
    ]  # fmt: skip
    with subprocess.Popen(command) as process, listener:
        listener.settimeout(10)
        accepted, _ = listener.accept()
        with accepted:
            size = int.from_bytes(accepted.recv(4), "little")
            assert 0 < size < 65_536
        assert process.wait(5) == 3


def test_bad_arguments_are_named(runtime: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(runtime / "container_agent.py"), "--what"],
        capture_output=True,
        check=False,
        timeout=10,
    )
    assert done.returncode == 2
    assert b"usage" in done.stderr


def test_ping_is_answered_while_every_handler_is_stuck(start, host: FakeHost) -> None:
    peer = start("""
        import threading
        def run(context):
            context["interface_registry"].register("never", lambda: threading.Event().wait())
    """)
    calls = [host.start_call("never", deadline_ms=20) for _ in range(5)]
    wait_until(lambda: peer.ping()["stuck"] == 5, "five stuck calls")
    state = peer.ping()
    assert state["calls"] == 5
    assert state["threads"] >= 5
    assert all(call.answers.empty() for call in calls)


@pytest.mark.parametrize("name", [AGENT.name, *NETWORK_FILES])
def test_parses_as_python_39(name: str) -> None:
    text = AGENT.with_name(name).read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 9))


def _old_python() -> str | None:
    """A Python 3.9 that starts (a name on the path may be a stand-in that does not), by its real path."""
    found = shutil.which("python3.9")
    if found is None:
        return None
    command = [found, "-c", "import sys; print(sys.executable)"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    return done.stdout.strip() if done.returncode == 0 else None


def test_runs_on_python_39(start, host: FakeHost) -> None:
    python = _old_python()
    if python is None:
        pytest.skip("no Python 3.9 on this machine; the syntax was checked")
    peer: Peer = start(
        """
        import asyncio
        async def double(args, ctx):
            await asyncio.sleep(0)
            return args * 2
        def run(context):
            context["interface_registry"].register("double", double)
            context["interface_registry"].register("count", lambda n: iter(range(n)))
        """,
        agent=AGENT,
        python=python,
    )
    assert peer.hello["python"].startswith("3.9.")
    assert host.call("double", 21) == 42
    call = host.start_call("count", 40)
    call.result()
    assert list(call.items()) == list(range(40))

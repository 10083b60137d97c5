"""A Pack reaches for the host's files, processes, environment and sockets. Real sandboxes of both drivers."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import sandboxes
from tests.support.sandboxes import DRIVERS, InsideError, cell


@pytest.fixture(params=DRIVERS, scope="module")
def yard(request):
    with sandboxes.yard(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def one(yard):
    with cell(yard) as made:
        yield made


@pytest.fixture
def canary(yard):
    """A file of the host that is readable for everyone, in a folder that everyone may pass."""
    path = yard.state / "canary"
    path.write_text("secret of the host")
    path.chmod(0o644)
    yield path
    path.unlink()


@pytest.mark.parametrize("path", ["/pack/marker.txt", "/opt/rumi/container_agent.py", "/usr/bin/python3", "/etc/hosts"])
def test_writing_to_what_runs(one, path):
    with pytest.raises(InsideError, match=r"Permission|Read-only|No such"):
        one.run(f"open({path!r}, 'w').write('x')")


@pytest.mark.parametrize(
    "folder", ["/", "/pack", "/opt/rumi", "/usr", "/etc", "/dev", "/run", "/run/rumi", "/var", "/home", "/sys"]
)
def test_making_files_outside_tmp(one, folder):
    with pytest.raises(InsideError, match=r"Permission|Read-only|No such"):
        one.run(f"open({folder!r} + '/planted', 'w')")


def test_renaming_or_deleting_the_pack(one):
    for source in ("import os; os.rename('/pack/marker.txt', '/pack/x')", "import os; os.unlink('/pack/marker.txt')",
                   "import os; os.chmod('/pack/marker.txt', 0o777)", "import os; os.link('/pack/marker.txt', '/tmp/x')"):  # fmt: skip
        with pytest.raises(InsideError):
            one.run(source)
    assert one.run("answer = open('/pack/marker.txt').read()") == "approved"


def test_reading_a_file_of_the_host(one, canary):
    assert one.run(f"import os; answer = os.path.exists({str(canary)!r})") is False


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/etc/machine-id", "/root", "/home", "/boot", "/var/lib", "/srv", "/mnt", "/proc/kcore"]
)
def test_reading_the_machines_private_places(one, path):
    assert one.run(f"""
        import os
        try:
            answer = len(os.listdir({path!r})) if os.path.isdir({path!r}) else len(open({path!r}, 'rb').read(1))
        except OSError:
            answer = 0
    """) == 0  # fmt: skip


def test_canary_files_by_name_anywhere_in_the_visible_tree(one, canary):
    found = one.run("""
        import os
        answer = [os.path.join(d, f) for d, ds, fs in os.walk('/') for f in fs if f == 'canary' and not d.startswith('/proc')]
    """)
    assert found == []


def test_walking_back_out_through_proc(one, canary):
    found = one.run(f"""
        import os
        answer = []
        for pid in [n for n in os.listdir('/proc') if n.isdigit()]:
            for way in ('root', 'cwd'):
                for path in ('/proc/%s/%s' % (pid, way) + {str(canary)!r}, '/proc/%s/%s/../../../..' % (pid, way) + {str(canary)!r}):
                    if os.path.exists(path): answer.append(path)
            try:
                for fd in os.listdir('/proc/%s/fd' % pid):
                    target = os.readlink('/proc/%s/fd/%s' % (pid, fd))
                    if target.startswith('/') and not target.startswith(('/dev/null', '/memfd', '/dev/pts', '/tmp', '/proc', '/opt', '/pack')):
                        answer.append(target)
            except OSError:
                pass
    """)
    assert found == []


def test_environment_of_the_host_in_every_process(one, monkeypatch):
    os.environ["RUMI_TEST_CANARY"] = "secret-of-the-host"
    try:
        seen = one.run("""
            import os
            answer = {}
            for pid in [n for n in os.listdir('/proc') if n.isdigit()]:
                for name in ('environ', 'cmdline'):
                    try:
                        answer[pid + name] = open('/proc/%s/%s' % (pid, name), 'rb').read().decode('latin-1')
                    except OSError:
                        pass
        """)
    finally:
        del os.environ["RUMI_TEST_CANARY"]
    text = "\n".join(seen.values())
    for name in (
        "RUMI_TEST_CANARY",
        "secret-of-the-host",
        "DOCKER_HOST",
        "SSH_",
        "PYTEST",
        str(one.yard.base),
        str(one.yard.state),
    ):
        assert name not in text, name


@pytest.mark.embedded
def test_environment_of_a_host_started_with_secrets():
    # the host's environment at its *start* is what the kernel shows as environ: a process of its own is needed
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support.sandboxes import Yard
yard = Yard("embedded")
if not yard.status.available:
    print("unavailable: " + yard.status.reason)
else:
    one = yard.cell()
    print(one.run('''
import os
answer = ""
for number in filter(str.isdigit, os.listdir("/proc")):
    try:
        answer += open("/proc/%s/environ" % number).read()
    except OSError:
        answer += "refused "  # Landlock keeps even the sandbox's own init out of reach
'''))
    one.close()
yard.close()
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)],
        env=dict(os.environ, API_TOKEN="hunter2-canary"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "HOME=/tmp" in done.stdout
    assert "hunter2-canary" not in done.stdout


def test_other_processes_are_neither_visible_nor_reachable_by_signal(one):
    assert one.run("import os; answer = len([n for n in os.listdir('/proc') if n.isdigit()])") <= 3
    survivor = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(InsideError, match=r"ProcessLookup|Permission"):
            one.run(f"import os, signal; os.kill({survivor.pid}, signal.SIGKILL)")
        assert survivor.poll() is None
    finally:
        survivor.kill()
        survivor.wait()


def test_signalling_everyone(yard):
    survivor = subprocess.Popen(["sleep", "60"])
    try:
        with cell(yard) as bad:
            bad.run(
                "import os, signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\ntry: os.kill(-1, signal.SIGUSR1)\nexcept OSError: pass"
            )
            assert survivor.poll() is None
    finally:
        survivor.kill()
        survivor.wait()


def test_engine_and_host_sockets(one):
    found = one.run("""
        import os, stat
        answer = []
        for d, ds, fs in os.walk('/'):
            if d.startswith('/proc'): ds[:] = []; continue
            for f in fs:
                try:
                    if stat.S_ISSOCK(os.lstat(os.path.join(d, f)).st_mode): answer.append(os.path.join(d, f))
                except OSError: pass
    """)
    assert found == ["/run/rumi/bus.sock"]


def test_another_packs_socket(yard, one):
    with cell(yard, pack_id="other") as other:
        with pytest.raises(InsideError):
            one.run(f"import socket; socket.socket(socket.AF_UNIX).connect({other.spec.socket_path!r})")
        if os.geteuid() == 0:
            found = Path(other.spec.socket_path).stat()
            assert (found.st_uid, found.st_mode & 0o777) == (other.spec.uid, 0o600)
            assert other.spec.uid != one.spec.uid


def test_abstract_sockets_of_the_host(one):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0rumi-test-abstract")
        server.listen()
        with pytest.raises(InsideError, match="Refused"):
            one.run("import socket; socket.socket(socket.AF_UNIX).connect('\\0rumi-test-abstract')")


def test_replacing_the_bus_socket(one):
    with pytest.raises(InsideError):
        one.run("import os; os.unlink('/run/rumi/bus.sock')")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback_of_the_host(one, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(InsideError, match=r"refused|Cannot assign|unreachable"):
            one.run(f"import socket; socket.create_connection(({address!r}, {port}), 2)")


@pytest.mark.parametrize("address", ["192.0.2.1", "169.254.169.254", "10.0.0.1", "8.8.8.8"])
def test_any_network(one, address):
    with pytest.raises(InsideError, match="unreachable"):
        one.run(f"import socket; socket.create_connection(({address!r}, 80), 2)")


def test_packets_without_a_connection(one):
    with pytest.raises(InsideError, match="unreachable"):
        one.run("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))")


def test_only_the_loopback_interface_exists(one):
    assert one.run("import socket; answer = [name for _, name in socket.if_nameindex()]") == ["lo"]


def test_names_do_not_resolve(one):
    with pytest.raises(InsideError, match="gaierror"):
        one.run("import socket; socket.getaddrinfo('example.org', 80)")


def test_set_user_id_programs_give_nothing(one):
    assert one.run("""
        import os, stat, subprocess
        answer = []
        for path in ('/usr/bin/su', '/usr/bin/mount', '/usr/bin/passwd', '/bin/su'):
            if os.path.exists(path):
                done = subprocess.run([path, '--version'], capture_output=True)
        answer = open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0]
    """) == "1"  # fmt: skip


def test_descriptors_of_the_host_are_not_inherited(one):
    kinds = one.run("""
        import os
        answer = sorted({os.readlink('/proc/self/fd/' + fd).split(':')[0] for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd) or True and fd.isdigit() and int(fd) < 3})
    """)
    assert set(kinds) <= {"/dev/null", "pipe", "socket", "/proc/2/fd", "/proc/7/fd", "anon_inode"} | {
        k for k in kinds if k.startswith("/proc/")
    }

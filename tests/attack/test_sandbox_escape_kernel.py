"""A Pack turns to the kernel: system calls that have broken sandboxes before. Real sandboxes of both drivers."""

import platform

import pytest

from core_runtime.rules.seccomp import ARCHITECTURES
from tests.support import sandboxes
from tests.support.sandboxes import DRIVERS, InsideError, cell

NUMBERS = ARCHITECTURES[platform.machine()].numbers
PRELUDE = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result
"""


@pytest.fixture(params=DRIVERS, scope="module")
def one(request):
    with sandboxes.yard(request.param) as made, cell(made) as inside:
        inside.run(PRELUDE)
        yield inside


def syscall(one, name, *args):
    return one.run(f"answer = call({NUMBERS[name]}, *{args!r})")


def test_keyctl(one):
    assert syscall(one, "keyctl", 0, -3, 0) == "EPERM"
    assert syscall(one, "add_key", 0, 0, 0, 0, -3) == "EPERM"


def test_io_uring(one):
    assert syscall(one, "io_uring_setup", 8, 0) == "EPERM"


def test_ptrace_of_the_init(one):
    assert syscall(one, "ptrace", 16, 1, 0, 0) == "EPERM"


def test_reading_another_processs_memory(one):
    assert syscall(one, "process_vm_readv", 1, 0, 0, 0, 0, 0) == "EPERM"
    with pytest.raises(InsideError):
        one.run("open('/proc/1/mem', 'rb').read(1)")


@pytest.mark.parametrize(
    "name", ["mount", "umount2", "move_mount", "fsopen", "open_tree", "mount_setattr", "pivot_root", "chroot"]
)
def test_mounts(one, name):
    assert syscall(one, name, 0, 0, 0, 0, 0) == "EPERM"


@pytest.mark.parametrize("flag", [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_unshare(one, flag):
    assert syscall(one, "unshare", flag) == "EPERM"


@pytest.mark.parametrize("flag", [0x00020000, 0x10000000, 0x40000000])
def test_clone_into_new_namespaces(one, flag):
    assert syscall(one, "clone", flag | 17, 0, 0, 0, 0) == "EPERM"


def test_clone3_is_unknown_so_that_its_flags_cannot_hide(one):
    assert syscall(one, "clone3", 0, 0) == "ENOSYS"


def test_setns(one):
    assert syscall(one, "setns", 0, 0) == "EPERM"


@pytest.mark.parametrize("family", [40, 17, 38, 31, 44, 29, 21, 3])
def test_socket_families_beyond_the_network_namespace(one, family):
    # 40 vsock (ignores network namespaces), 17 packet, 38 alg, 31 bluetooth, 44 xdp, 29 can, 21 rds, 3 ax25
    assert syscall(one, "socket", family, 1, 0) in {"EPERM", "ENOSYS"}


def test_netlink_other_than_route(one):
    assert syscall(one, "socket", 16, 3, 9) in {"EPERM", "ENOSYS"}  # audit
    assert isinstance(syscall(one, "socket", 16, 3, 0), int)


@pytest.mark.parametrize("name", ["bpf", "perf_event_open", "userfaultfd", "kexec_load", "init_module", "open_by_handle_at",
                                  "name_to_handle_at", "personality", "swapon", "reboot", "settimeofday", "sethostname", "syslog",
                                  "acct", "quotactl", "fanotify_init", "pidfd_getfd", "kcmp", "memfd_secret", "seccomp"])  # fmt: skip
def test_calls_that_nobody_here_needs(one, name):
    assert syscall(one, name, 0, 0, 0, 0, 0) == "EPERM"


def test_typing_into_a_terminal(one):
    assert syscall(one, "ioctl", 0, 0x5412, 0) in {"EPERM", "ENOSYS"}
    assert syscall(one, "ioctl", 0, 0x1_0000_5412, 0) in {"EPERM", "ENOSYS"}


def test_becoming_root(one):
    assert syscall(one, "setuid", 0) == "EPERM"
    assert syscall(one, "setgroups", 0, 0) == "EPERM"
    assert syscall(one, "capset", 0, 0) == "EPERM"


def test_raising_limits(one):
    with pytest.raises(InsideError, match=r"ValueError|Permission"):
        one.run("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100000, 100000))")


def test_device_nodes(one):
    assert syscall(one, "mknodat", -100, 0, 0o020666, 259) == "EPERM"
    allowed = {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "ptmx",
        "console",
        "core",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "shm",
        "pts",
        "mqueue",
    }
    assert set(one.run("import os; answer = os.listdir('/dev')")) <= allowed


def test_kernel_settings(one):
    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/hostname",
        "/proc/self/oom_score_adj",
    ):
        with pytest.raises(InsideError, match=r"Permission|Read-only|No such"):
            one.run(f"os.write(os.open({path!r}, os.O_WRONLY), b'-999')")


def test_sysfs_is_empty(one):
    assert one.run("import os; answer = os.listdir('/sys') if os.path.exists('/sys') else []") == []


def test_cgroup_files_are_out_of_reach(one):
    assert one.run("""
        import os
        answer = [os.path.join(d, f) for d, _, fs in os.walk('/') for f in fs if f in ('cgroup.procs', 'release_agent') and not d.startswith('/proc')]
    """) == []  # fmt: skip


def test_ipc_of_the_host(one):
    assert syscall(one, "shmget", 0, 4096, 0o1600) == "EPERM"
    assert syscall(one, "mq_open", 0, 0, 0, 0) == "EPERM"
    assert syscall(one, "msgget", 0, 0o1600) == "EPERM"


def test_python_still_works_inside(one):
    # the walls must not take away what every Pack needs
    assert one.run("""
        import asyncio, subprocess, threading, tempfile, sqlite3, ssl, socket, multiprocessing, json
        done = []
        thread = threading.Thread(target=lambda: done.append(1)); thread.start(); thread.join()
        assert subprocess.run(['/usr/bin/env', 'true'] if False else ['/bin/sh', '-c', 'exit 0']).returncode == 0
        with tempfile.TemporaryFile() as file: file.write(b'x')
        sqlite3.connect(':memory:').execute('select 1')
        ssl.create_default_context()
        multiprocessing.get_context('fork').Lock()
        a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'
        async def main():
            await asyncio.sleep(0); return 'works'
        answer = asyncio.run(main())
    """) == "works"  # fmt: skip

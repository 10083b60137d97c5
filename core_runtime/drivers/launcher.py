"""The launcher: a small process that starts bubblewrap for the host. Runs as a script; nothing of the host is imported.

Why a process of its own: ``--die-with-parent`` follows the *thread* that spawned, and this process has exactly one; a
fork here is safe and cheap (no threads, small memory); and what only root may do before the uid is dropped (enter the
cgroup, make a private mount namespace) happens in a forked child, never in the host.

Protocol: one ``SOCK_SEQPACKET`` pair, JSON messages. Host → launcher: ``{"prepare": job, "join": […]}``, ``{"start":
job, …}`` with two descriptors (output, status; ``join`` is null after a ``prepare``), or ``{"signal": job, "number":
n}``. Launcher → host: ``{"job", "pid"}``, the answer to a start, then ``{"job", "status"}``. That answer means that the
child has *taken* its order: of one that died before, the host hears its status alone, and nothing was begun.

``prepare`` is the part of a start that names no Pack: the child is forked, enters its cgroup and waits. Entering costs
ten milliseconds and more, since the kernel waits for every processor; nothing else of a start has to. A prepared child
is this script and nothing more: it has no descriptor but the end of its own socket, and no order yet.

Invariants:
  * When the socket closes (the host died, however), every child is killed and the launcher ends. When the launcher is
    killed, so is every child, prepared or started.
  * A child is signalled before it is reaped only, so never a stranger with a recycled pid.
  * Orphans of its children become its own and are reaped: nothing of a sandbox stays behind, not even as a zombie.
  * The order in the child: cgroup, mounts, rlimits, uid and gids, no_new_privs, exec with an *empty* environment.
    A step that fails ends the child before exec: a sandbox that starts has all of them.
"""

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any

ARGS_FD, SECCOMP_FD, STATUS_FD = 3, 4, 5
"""Descriptor numbers that bubblewrap gets; the host renders its arguments with them."""
ORDER_FD = 3
"""Where a child waits for its order; closed by exec."""

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
MESSAGE_LIMIT_BYTES = 128 * 1024
EXIT_NOT_STARTED = 126
TAKEN = b"taken"
OOM_SCORE = "500"  # when the machine runs out of memory, a Pack ends before anything of the operator

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Turn a C library's -1 into an ``OSError`` that names the step."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """The system call; ``OSError`` names both places."""
    checked(
        libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()), f"mount {source} on {target}"
    )


def stage(folder: str, binds: dict[str, str]) -> None:
    """Show ``binds`` (name → source) below ``folder``, in a mount namespace that only this child has.

    The dropped uid can't pass a 0700 folder such as ``/root``; here it needs to pass ``folder`` only. The namespace and
    its mounts vanish with the last process in it, so that no crash can leave one behind.
    """
    checked(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    # opened before the tmpfs covers ``folder``, in case a source lies below it
    sources = {name: os.open(source, os.O_PATH | os.O_CLOEXEC) for name, source in binds.items()}
    mount("rumi", folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0711")
    for name, fd in sources.items():
        target = f"{folder}/{name}"
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112 - this file loads no pathlib
            os.mkdir(target, 0o711)  # noqa: PTH102
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        mount(f"/proc/self/fd/{fd}", target, "none", MS_BIND)
        os.close(fd)


def memory_file(name: str, data: bytes) -> int:
    """A descriptor that reads ``data`` from its beginning."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def enter(groups: list[str]) -> None:
    """Join the cgroups, before any limit is theirs to feel; and be what the machine ends first."""
    for path in groups:
        write(path, "0")
    write("/proc/self/oom_score_adj", OOM_SCORE)


def write(path: str, text: str) -> None:
    """One system call with all of ``text``, as the kernel's files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def become(order: dict[str, Any], output: int, status: int, parent: int) -> None:
    """In the forked child: every step after the cgroup, then exec. Returns never."""
    if order["stage"] is not None:
        os.umask(0)  # the modes given to the staged folders must hold
        stage(order["stage"]["folder"], order["stage"]["binds"])
    os.umask(0o077)
    for name, value in order["rlimits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    args = memory_file("args", b"".join(arg.encode() + b"\0" for arg in order["options"]))
    seccomp = memory_file("seccomp", base64.b64decode(order["seccomp"]))
    if order["uid"] is not None:
        os.setgroups([])
        os.setresgid(order["gid"], order["gid"], order["gid"])
        os.setresuid(order["uid"], order["uid"], order["uid"])
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    die_with(parent)  # again: the kernel forgets it when the uid changes
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDONLY)
    arrange([null, output, output, args, seccomp, status])
    os.execve(order["command"][0], order["command"], {})  # noqa: S606


def die_with(parent: int) -> None:
    """Be killed when the launcher ends, also if it has ended already."""
    checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")
    if os.getppid() != parent:
        raise OSError(0, "the launcher ended")


def arrange(wanted: list[int]) -> None:
    """Make ``wanted[n]`` descriptor ``n``, inheritable; everything else stays close-on-exec."""
    high = [os.dup2(fd, 64 + index, inheritable=False) for index, fd in enumerate(wanted)]
    for index, fd in enumerate(high):
        os.dup2(fd, index, inheritable=True)


def fork(groups: list[str]) -> tuple[int, socket.socket]:
    """A child that has entered ``groups`` and waits for its order; its pid, and where the order goes."""
    parent = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid != 0:
        theirs.close()
        return pid, ours
    try:
        await_order(groups, theirs, parent)
    finally:
        os._exit(EXIT_NOT_STARTED)


def await_order(groups: list[str], control: socket.socket, parent: int) -> None:
    """The life of a child up to exec. What failed before the order came is told when it is known to whom."""
    failure = ""
    try:
        die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(control.fileno(), ORDER_FD, inheritable=False)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the host's socket and other children's are not ours
            if int(name) > ORDER_FD:
                with contextlib.suppress(OSError):  # the one that listed them is closed already
                    os.close(int(name))
        enter(groups)
    except OSError as error:
        failure = f"{error.filename or ''} {error}"
    with socket.socket(fileno=ORDER_FD) as orders:
        message, fds, _, _ = socket.recv_fds(orders, MESSAGE_LIMIT_BYTES, 2)
        if len(fds) != 2:  # the launcher closed its end
            return
        orders.send(TAKEN)
    try:
        if failure:
            raise OSError(0, failure)  # noqa: TRY301
        become(json.loads(message), fds[0], fds[1], parent)
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happened
        os.write(fds[0], f"launcher: {error}\n".encode()[:2000])


class Children:
    """What was forked and has not been reaped, by the host's numbers."""

    def __init__(self, control: socket.socket, poller: select.poll) -> None:
        self.pids: dict[int, int] = {}
        self.waiting: dict[int, socket.socket] = {}
        """Those without an order: where it goes."""
        self.ordered: dict[int, socket.socket] = {}
        """Those that were sent one: where it is acknowledged."""
        self._control = control
        self._poller = poller

    def report(self, job: int, **what: int) -> None:
        """Tell the host."""
        self._control.send(json.dumps({"job": job, **what}).encode())

    def fork(self, job: int, groups: list[str]) -> None:
        """Another child."""
        self.pids[job], self.waiting[job] = fork(groups)

    def order(self, job: int, message: bytes, fds: list[int]) -> None:
        """Hand a child its order; nothing for one that was reaped, of which the host knows."""
        child = self.waiting.pop(job, None)
        if child is None:
            return
        with contextlib.suppress(OSError):  # it has just died: its status is the answer
            socket.send_fds(child, [message], fds)
        self.ordered[job] = child
        self._poller.register(child, select.POLLIN)

    def look(self, ready: set[int]) -> None:
        """Whoever among ``ready`` (descriptors) has taken its order, or died over it."""
        for job, child in list(self.ordered.items()):
            if child.fileno() in ready:
                self._taken(job)

    def _taken(self, job: int) -> None:
        child = self.ordered.pop(job, None)
        if child is None:
            return
        self._poller.unregister(child)
        with child, contextlib.suppress(OSError):  # it ended before it took the job: its exit tells
            if child.recv(len(TAKEN), socket.MSG_DONTWAIT) == TAKEN:
                self.report(job, pid=self.pids[job])

    def reap(self) -> None:
        """Report every child that has ended, and bury what a killed bubblewrap left to us."""
        owner = {pid: job for job, pid in self.pids.items()}
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not ended:
                return
            job = owner.get(ended)
            if job is not None:
                self._taken(job)  # what it said before it died comes first
                del self.pids[job]
                if job in self.waiting:
                    self.waiting.pop(job).close()
                self.report(job, status=os.waitstatus_to_exitcode(status))


def obey(message: bytes, fds: list[int], children: Children) -> None:
    """One message of the host."""
    order = json.loads(message)
    if "signal" in order:
        if order["signal"] in children.pids:
            os.kill(children.pids[order["signal"]], order["number"])
        return
    job = order["start"] if "start" in order else order["prepare"]
    if order["join"] is not None:
        children.fork(job, order["join"])
    if "start" in order:
        children.order(job, message, fds)
    for fd in fds:
        os.close(fd)


def main() -> None:
    """Serve until the host's end of the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to handle
    # A killed bubblewrap leaves its sandbox's init behind for a moment. Where the machine's process 1 buries nobody (a
    # container without an init), each would stay a zombie, and a Pack that crashes on purpose would use up the pids.
    checked(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
    poller = select.poll()
    children = Children(control, poller)
    poller.register(control, select.POLLIN)
    poller.register(wake_read, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if wake_read in ready:
                os.read(wake_read, 4096)
                children.reap()
            children.look(ready)
            if control.fileno() in ready:
                message, fds, _, _ = socket.recv_fds(control, MESSAGE_LIMIT_BYTES, 2)
                if not message:
                    return
                obey(message, fds, children)
    except OSError:
        return  # the host is gone in the middle of a report
    finally:
        for pid in children.pids.values():
            os.kill(pid, signal.SIGKILL)
        for pid in children.pids.values():
            os.waitpid(pid, 0)  # not left to an init that may not reap


if __name__ == "__main__":
    main()

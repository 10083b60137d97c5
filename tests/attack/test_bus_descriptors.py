"""A Pack sends descriptors over its bus, which the protocol has no use for: the host takes none, and holds none.

Whether one is still held is seen from the Pack: with each message goes the write end of a pipe, of which the reader sees
the end only when nobody has it any more, neither the host's process nor the kernel for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running_host import RunningHost, one_component_pack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ISOLATIONS = [pytest.param("docker", marks=pytest.mark.docker), pytest.param("embedded", marks=pytest.mark.embedded)]
SENDER = """
import array, errno, fcntl, os, resource, select, socket, struct, sys, time
sys.path.append("/opt/rumi")
import msgpack

BAIT = "rumi-bait"
LOG = msgpack.packb([23, 0, 20, "log:sender", "a frame in good order"])
FRAME = struct.pack("<I", len(LOG)) + LOG

def memory(size, seals):
    fd = os.memfd_create(BAIT, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd

# empty pages of 1 TiB, where the sandbox's limit of a file's size does not refuse that
LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
HUGE = 1 << 40 if LIMIT == resource.RLIM_INFINITY else min(1 << 40, LIMIT)
ALL = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
KINDS = {
    "a sealed memory file": lambda: memory(4096, ALL),
    "a memory file without seals": lambda: memory(4096, 0),
    "a huge memory file": lambda: memory(HUGE, ALL),
    "a folder": lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY),
    "a file": lambda: os.open("/proc/self/status", os.O_RDONLY),
    "a device": lambda: os.open("/dev/zero", os.O_RDONLY),
    "a socket": lambda: socket.socketpair()[0].detach(),
}

def put(sock, data, fds):
    carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    until = time.monotonic() + 20
    while True:
        try:
            return sock.sendmsg([data], carried)
        except OSError as error:
            # the socket is full, or as many descriptors are under way as the kernel lets one user have
            if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS) or time.monotonic() > until:
                raise
            time.sleep(0.01)

def run(context):
    module = sys.modules.get("container_agent") or sys.modules["__main__"]
    sock = socket.socket(fileno=os.dup(module.CURRENT.get().agent.link.sock.fileno()))

    def send(args, ctx):
        reader, writer = os.pipe()
        bait = KINDS[args["kind"]]()
        try:
            for _ in range(args["messages"]):
                # with the first half of a frame, so that they come in the middle of one
                fds = [writer, *[bait] * (args["each"] - 1)]
                assert put(sock, FRAME[:9], fds) == 9
                assert put(sock, FRAME[9:], fds) == len(FRAME) - 9
        finally:
            os.close(bait)
            if not args["keep"]:
                os.close(writer)
        return bool(select.select([reader], [], [], 0.5 if args["keep"] else 10)[0]) and os.read(reader, 1) == b""

    ir = context["interface_registry"]
    ir.register("sender.send", send)
    ir.register("sender.kinds", lambda args, ctx: list(KINDS))
    ir.register("sender.echo", lambda args, ctx: args)
"""
KEYS = ("sender.send", "sender.kinds", "sender.echo")
MOST = 253
"""How many descriptors Linux lets one message carry."""


@pytest.fixture(scope="module", params=ISOLATIONS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("fds") / "home", request.param) as running:
        running.put_pack("sender", one_component_pack("sender", SENDER, provides=KEYS))
        running.approve("sender")
        running.until(lambda: running.call("sender.echo", 1)[0] == 200, 60, "the Pack to serve")
        yield running


def held(host: RunningHost) -> list[str]:
    """What the host's descriptors stand for; those that end while they are read are left out."""
    found = []
    for entry in Path(f"/proc/{host.pid}/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found


def generation(host: RunningHost) -> int:
    return next(int(one["generation"]) for one in host.ok("GET", "/api/containers") if one["pack_id"] == "sender")


def sent(host: RunningHost, kind: str, *, messages: int, each: int, keep: bool = False) -> bool:
    """Whether nobody holds the pipe any more."""
    return bool(host.result("sender.send", {"kind": kind, "messages": messages, "each": each, "keep": keep}))


def test_descriptors_that_a_pack_sends_over_its_bus_are_held_by_nobody(host: RunningHost) -> None:
    at_first = generation(host)
    before = len(held(host))
    kinds = host.result("sender.kinds")
    assert len(kinds) == 7
    for kind in kinds:
        assert sent(host, kind, messages=5, each=20), kind
        assert not [name for name in held(host) if "rumi-bait" in name], kind
    assert len(held(host)) < before + 20, "of 1,400 descriptors"
    assert host.result("sender.echo", [1]) == [1]
    assert generation(host) == at_first, "frames in good order: the connection goes on"


def test_as_many_descriptors_as_a_message_carries_are_held_by_nobody(host: RunningHost) -> None:
    before = len(held(host))
    assert sent(host, "a sealed memory file", messages=40, each=MOST)
    assert len(held(host)) < before + MOST, "of 20,240 descriptors"
    assert host.result("sender.echo", [1]) == [1]


def test_a_pipe_that_somebody_holds_is_seen(host: RunningHost) -> None:
    """What the tests above look at would tell a host that keeps them."""
    assert not sent(host, "a folder", messages=1, each=2, keep=True)

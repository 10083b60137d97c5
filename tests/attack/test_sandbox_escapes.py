"""Every escape of `tests.support.escapes`, carried out from inside a sandbox of each driver.

The host's side holds bait: a readable file, a secret in the environment, sockets, shared memory, a process, and another
Pack with a file, an abstract socket and shared memory of its own. Whoever answers is named in the document
`docs/reference/isolation.md`; `tests/contract/test_ordinary_user.py` runs this again for a host without root.
"""

import contextlib
import os
import secrets
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import sandboxes
from tests.support.escapes import ESCAPES, PRELUDE
from tests.support.sandboxes import TRANSPORTS, InsideError, cell

BAIT_OF_ANOTHER = """
import socket
open('/tmp/of-another-pack', 'w').write('x')
open('/dev/shm/of-another-pack-shm', 'w').write('x')
held = socket.socket(socket.AF_UNIX); held.bind(chr(0) + 'of-another-pack'); held.listen()
"""


@pytest.fixture(scope="module")
def bait():
    """What an escape would find on the host."""
    word = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        survivor = subprocess.Popen(["sleep", "600"])
        stack.callback(survivor.wait)
        stack.callback(survivor.kill)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0rumi-{word}")
        abstract.listen()
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        shm = Path(f"/dev/shm/rumi-{word}")
        shm.write_text("of the host")
        stack.callback(shm.unlink)
        # what a careless host leaves open for whatever it starts: one that is a folder, one that is a file
        for left in (os.open("/etc", os.O_RDONLY), os.open("/etc/passwd", os.O_RDONLY)):
            os.set_inheritable(left, True)
            stack.callback(os.close, left)
        os.environ["RUMI_TEST_SECRET"] = word
        stack.callback(os.environ.pop, "RUMI_TEST_SECRET")
        yield {
            "secret": word,
            "abstract": f"rumi-{word}",
            "port": port.getsockname()[1],
            "shm": shm.name,
            "host_pid": survivor.pid,
        }
        assert survivor.poll() is None


@pytest.fixture(params=TRANSPORTS, scope="module")
def attacker(request, bait):
    """A running Pack, and the values of `{name}` in an escape's source."""
    with sandboxes.yard(request.param) as yard:
        canary = yard.state / f"canary-{bait['secret']}"
        canary.write_text("of the host")
        canary.chmod(0o644)
        with cell(yard, pack_id="victim") as other, cell(yard) as one:
            other.run(BAIT_OF_ANOTHER)
            one.run(PRELUDE)
            values = bait | {
                "canary": str(canary),
                "base": str(yard.base),
                "state": str(yard.state),
                "other_pid": other.sandbox.pid,
                "other_socket": other.spec.socket_path,
            }
            yield yard, one, values
            assert other.run("answer = 'alive'") == "alive"


def filled(source, values):
    """`source` with the values that it names; a source that names none may hold braces of its own."""
    for name, value in values.items():
        source = source.replace(f"{{{name}!r}}", repr(value)).replace(f"{{{name}}}", str(value))
    return source.replace("{{", "{").replace("}}", "}")


@pytest.mark.parametrize("escape", [e for e in ESCAPES if e.possible], ids=lambda escape: escape.name)
def test_escape(attacker, escape):
    yard, one, values = attacker
    try:
        answer = one.run(filled(escape.source, values))
    except InsideError as error:
        pytest.fail(f"the attempt itself broke: {error}")
    assert answer in escape.expected(yard.kind.value).split(" / "), f"{escape.en}: {answer}"


def test_the_bait_is_there(attacker):
    # an escape that looks for nothing proves nothing: from outside, each bait can be taken
    yard, one, values = attacker
    assert Path(values["canary"]).read_text(encoding="utf-8") == "of the host"
    assert Path("/dev/shm", values["shm"]).exists()
    with socket.socket(socket.AF_UNIX) as abstract, socket.create_connection(("127.0.0.1", values["port"]), 3):
        abstract.connect(f"\0{values['abstract']}")
    os.kill(values["host_pid"], 0)
    assert Path(values["other_socket"]).is_socket() is not yard.driver.attaches
    assert one.run("answer = len(list(everywhere())) > 100") is True

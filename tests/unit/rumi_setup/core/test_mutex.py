"""The lock outlives the process that took it for as long as an installer it started still works."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rumi_setup.core import places
from rumi_setup.core.mutex import only_one
from rumi_setup.core.problem import SetupError
from rumi_setup.core.progress import Silent

HOLDER = """
import subprocess, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from rumi_setup.core.mutex import only_one
from rumi_setup.core.progress import Silent
with only_one(Path({lock!r}), Silent()) as held:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=0, pass_fds=[held])
    print(child.pid, flush=True)
    child.wait()
"""


def _holder(lock):
    code = HOLDER.format(root=str(places.ROOT), lock=str(lock))
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_second_setup_waits_and_says_so(tmp_path) -> None:
    lock = tmp_path / "lock"
    with _holder(lock) as first:
        assert first.stdout.readline()
        with pytest.raises(SetupError, match="has been working"), only_one(lock, Silent(), limit_s=0.3):
            pass
        first.stdin.close()
    with only_one(lock, Silent(), limit_s=5.0):
        assert lock.exists()


def test_an_orphaned_installer_still_holds_it(tmp_path) -> None:
    lock = tmp_path / "lock"
    with _holder(lock) as first:
        orphan = int(first.stdout.readline())
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        with pytest.raises(SetupError), only_one(lock, Silent(), limit_s=0.3):
            pass
        os.kill(orphan, signal.SIGKILL)
        began = time.monotonic()
        with only_one(lock, Silent(), limit_s=10.0):
            assert time.monotonic() - began < 10


def test_a_link_in_place_of_the_lock_is_refused(tmp_path) -> None:
    (tmp_path / "target").write_text("not yours")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(SetupError, match="can not be written"), only_one(tmp_path / "lock", Silent()):
        pass

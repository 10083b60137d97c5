"""Both drivers, run by a host that is an ordinary user: the same contract suite and the same escape suite as for root.

The embedded sandbox then stands on user namespaces, and on control groups that were handed to the user; Docker on a
socket that the user's group may use. Nothing of the inner run may be left out, but for ``LEFT_OUT``: a skip there is a
failure here.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import engine, ordinary, relay

ROOT = Path(__file__).resolve().parents[2]
USER, ENGINE_GROUP = 61_184, 61_185
SUITES = ["tests/contract/test_sandbox_drivers.py", "tests/contract/test_orchestrated_packs.py", "tests/attack/test_sandbox_escapes.py"]
LEFT_OUT = "not root and not gvisor"
"""What root does to a sandbox from outside; and gVisor, for which tests need an engine of their own, as root starts it."""
SUITE_S = 400.0


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="rumi-u-", dir="/tmp") as made:
        path = Path(made)
        path.chmod(0o711)
        (path / "home").mkdir()
        os.chown(path / "home", USER, USER)
        yield path


@pytest.mark.docker
@pytest.mark.embedded
@pytest.mark.root  # a run that is an ordinary user's does the same directly
@pytest.mark.timeout(SUITE_S + 60)
def test_an_ordinary_user_gets_the_same_sandboxes(folder):
    with relay.for_group(engine.address(), folder, ENGINE_GROUP) as address, ordinary.delegated(USER) as joins:
        done = ordinary.run(
            [sys.executable, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", LEFT_OUT, *SUITES],
            uid=USER,
            group=ENGINE_GROUP,
            joins=joins,
            environment={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": str(folder / "home"),
                "TMPDIR": str(folder / "home"),
                "DOCKER_HOST": address,
                "RUMI_BASE_IMAGE": engine.base_image(),
                "RUMI_TEST_REQUIRE": "docker,embedded",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd=ROOT,
            timeout_s=SUITE_S,
        )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    summary = done.stdout.strip().splitlines()[-1]
    assert "passed" in summary
    assert "skipped" not in summary

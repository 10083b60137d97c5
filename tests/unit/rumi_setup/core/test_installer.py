"""Real installs of one tiny wheel into a project of its own: no network, no mocks."""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from rumi_setup.core import installer, places
from rumi_setup.core.problem import SetupError
from rumi_setup.core.progress import Silent


def _wheel(folder, name: str = "tiny", version: str = "1.0"):
    """A pure wheel, written by hand; returns its path and sha256."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    members = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{member},sha256={digest},{len(text)}\n"
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose locks hold the tiny wheel, with the real project's installer where it has one."""
    root = tmp_path / "project"
    (root / "locks").mkdir(parents=True)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _, digest = _wheel(wheels)
    for lock, extra in (("runtime", ""), ("dev", "# dev\n"), ("bench", "# bench\n")):
        (root / "locks" / f"{lock}.lock").write_text(f"{extra}tiny==1.0 --hash=sha256:{digest}\n")
    shutil.copy(places.lock_file("uv"), root / "locks/uv.lock")
    for kept in places.tools().glob("uv-*"):
        (root / ".tools").mkdir(exist_ok=True)
        (root / ".tools" / kept.name).symlink_to(kept)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return root


def _ensure(project, lock: str = "runtime"):
    return installer.ensure(lock, project.parent / "wheels", Silent(), project)


def _installed(project) -> str:
    code = "import tiny; print(tiny.VERSION)"
    python = places.venv_python(project)
    return subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_makes_the_environment_and_then_does_nothing(project) -> None:
    made = _ensure(project)
    assert (made.changed, made.lock, _installed(project)) == (True, "runtime", "1.0")
    again = _ensure(project)
    assert (again.changed, again.took_s < 0.5) == (False, True)


def test_a_larger_environment_serves_the_smaller_lock_but_not_the_other_way(project) -> None:
    _ensure(project, "dev")
    assert installer.current("runtime", project) == "dev"
    assert installer.current("bench", project) is None
    assert _ensure(project).changed is False


def test_a_changed_lock_makes_it_stale(project) -> None:
    _ensure(project)
    with (project / "locks/runtime.lock").open("a") as lock:
        lock.write("# changed\n")
    assert installer.current("runtime", project) is None
    assert _ensure(project).changed


def test_an_environment_whose_python_went_away_is_stale(project) -> None:
    _ensure(project)
    python = places.venv_python(project)
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    assert installer.current("runtime", project) is None
    assert _ensure(project).changed


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_stamped(project) -> None:
    wheel = next((project.parent / "wheels").glob("tiny*"))
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(SetupError) as caught:
        _ensure(project)
    assert len(caught.value.next_steps) == 3
    assert "uv" in str(caught.value)
    assert installer.current("runtime", project) is None
    assert not places.stamp(project).exists()


def test_a_missing_wheelhouse_is_named(project) -> None:
    with pytest.raises(SetupError, match="no folder of wheels"):
        installer.ensure("runtime", project / "nowhere", Silent(), project)


def test_a_lock_that_does_not_exist_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no lock is called"):
        places.lock_file("production")


def test_what_a_killed_run_left_is_removed(project) -> None:
    left = project / ".tools/work-abc"
    left.mkdir(parents=True)
    _ensure(project)
    assert not left.exists()


RUN = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from rumi_setup.core import installer
print("begin", flush=True)
installer.ensure("runtime", Path({wheels!r}), None, Path({project!r}))
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.25, 0.4])
def test_killed_at_any_point_the_next_run_mends_it(project, delay_s) -> None:
    code = RUN.format(root=str(places.ROOT), wheels=str(project.parent / "wheels"), project=str(project))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as killed:
        killed.stdout.readline()
        time.sleep(delay_s)  # not to wait for something: the moment of the kill is what is varied
        os.kill(killed.pid, signal.SIGKILL)
    _ensure(project)
    assert _installed(project) == "1.0"
    assert places.stamp(project).read_bytes() == places.lock_file("runtime", project).read_bytes()

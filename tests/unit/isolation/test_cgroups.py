"""Version 2 on a copy of its file tree, version 1 for real where this machine has it (the contract suite uses it too)."""

import os
from pathlib import Path

import pytest

from backend_core.errors import HostError
from core_runtime.drivers import cgroup_reading, cgroups
from core_runtime.drivers.cgroups import Cgroups
from core_runtime.rules.isolation import CgroupLimits
from core_runtime.rules.sandbox import Limits

MOUNTS_V1 = """\
30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 20 0:27 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
MOUNTS_V2 = "30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "cgroup.subtree_control").write_text("cpu")
    installation = tmp_path / "rumi-0123456789abcdef"
    installation.mkdir()
    (installation / "cgroup.subtree_control").write_text("")
    return tmp_path


def make(tree):
    made = Cgroups(dict.fromkeys(cgroup_reading.CONTROLLERS, tree), 2, "0123456789abcdef")
    made.prepare()
    return made


def test_version_2_hands_controllers_down_and_sets_limits(tree):
    group = make(tree).create("hello-1", Limits())
    assert (tree / "cgroup.subtree_control").read_text() == "+memory +pids"
    assert (tree / "rumi-0123456789abcdef/cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    folder = tree / "rumi-0123456789abcdef/hello-1"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "memory.max": "268435456", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "128", "cpu.max": "50000 100000",
    }  # fmt: skip
    assert group.join_files == (str(folder / "cgroup.procs"),)


def test_version_2_usage_and_memory_kills(tree):
    made = make(tree)
    group = made.create("hello-1", Limits())
    folder = group.folders["memory"]
    (folder / "memory.current").write_text("5000\n")
    (folder / "pids.current").write_text("3\n")
    (folder / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert made.usage(group) == {"memory_bytes": 5000.0, "pids": 3.0, "cpu_s": 2.5, "oom_kills": 1.0}


def test_a_name_in_use_is_an_error_that_says_so(tree):
    made = make(tree)
    made.create("hello-1", Limits())
    with pytest.raises(HostError) as caught:
        made.create("hello-1", Limits())
    assert caught.value.code == "cgroup_failed"
    assert "hello-1" in caught.value.detail
    assert (tree / "rumi-0123456789abcdef/hello-1").exists(), "the group of the running sandbox stays"


def test_leftovers_are_only_this_installations(tree):
    made = make(tree)
    made.create("hello-1", Limits())
    (tree / "rumi-ffffffffffffffff").mkdir()
    assert [name for name, _ in made.leftovers()] == ["hello-1"]


def test_paths_of_a_process_in_both_versions():
    v1 = cgroup_reading.groups_of(
        "9:pids:/docker/abc/x\n4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/u\n", cgroup_reading.mounts_of(MOUNTS_V1)
    )
    assert v1["memory"] == Path("/sys/fs/cgroup/memory/a/b")
    assert v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct/c")
    assert v1["pids"] == Path("/sys/fs/cgroup/pids/x"), "a mount that shows only a part"
    v2 = cgroup_reading.groups_of("0::/user.slice/s\n", cgroup_reading.mounts_of(MOUNTS_V2))
    assert v2["memory"] == v2["pids"] == v2["cpu"] == Path("/sys/fs/cgroup/user.slice/s")


def test_a_group_outside_of_what_is_mounted_is_the_top():
    assert cgroup_reading._below("/../other", "/") == ""


def test_limits_are_the_smallest_on_the_way_up(tmp_path):
    proc, top = tmp_path / "proc", tmp_path / "cg"
    inner = top / "a/b"
    inner.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "7").mkdir()
    (proc / "self/mountinfo").write_text(f"30 20 0:25 / {top} rw - cgroup2 cgroup2 rw\n")
    (proc / "7/cgroup").write_text("0::/a/b\n")
    for folder in (top, top / "a", inner):
        (folder / "cgroup.procs").touch()
    (inner / "memory.max").write_text("1000\n")
    (top / "a/memory.max").write_text("900\n")
    (inner / "pids.max").write_text("max\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (top / "a/cpu.max").write_text("50000 100000\n")
    assert cgroup_reading.read_limits(7, proc=proc) == CgroupLimits(memory_bytes=900, pids=None, cpus=0.5)


def test_nothing_is_found_without_proc(tmp_path):
    assert cgroups.find("0123456789abcdef", proc=tmp_path) is None


def test_what_is_found_here_can_be_entered_and_leaves_nothing():
    found = cgroups.find("unittestinstallation")
    if found is None:
        assert os.geteuid() != 0, "root of a machine with cgroups must find a place"
        return
    group = found.create("hello-1", Limits())
    assert all(Path(path).exists() for path in group.join_files)
    found.remove(group)
    found.remove_parents()
    assert not any(folder.exists() or folder.parent.exists() for folder in group.folders.values())

import marshal
import os
import subprocess
import sys

import pytest

from backend_core.errors import HostError
from core_runtime.drivers.runtime_folder import HOST_ABI, PythonAbi, RuntimeFolder, compiler_for, probe_python

SOURCE = "def main():\n    return 'agent'\n"


@pytest.fixture
def made(tmp_path):
    packages = tmp_path / "packages/msgpack"
    packages.mkdir(parents=True)
    (packages / "__init__.py").write_text("x = 1\n")
    (packages / f"_cmsgpack{HOST_ABI.extension_suffix}").write_bytes(b"elf")
    (packages / "_cmsgpack.cpython-38-other.so").write_bytes(b"elf")
    agent = tmp_path / "container_agent.py"
    agent.write_text(SOURCE)
    return RuntimeFolder(tmp_path / "rt", agent=agent, packages=tmp_path / "packages"), agent


def test_holds_agent_bytecode_and_the_fitting_c_module(made):
    folder = made[0].build(HOST_ABI)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    tag = HOST_ABI.cache_tag
    assert {"container_agent.py", f"__pycache__/container_agent.{tag}.pyc", "msgpack/__init__.py", "etc/hosts"} <= names
    assert [name for name in names if name.endswith(".so")] == [f"msgpack/_cmsgpack{HOST_ABI.extension_suffix}"]


def test_another_abi_gets_no_foreign_c_module(made):
    folder = made[0].build(PythonAbi("", (3, 9), "cpython-39", ".cpython-39-none.so"))
    assert not list(folder.rglob("*.so"))
    assert not list(folder.rglob("*.pyc")), "nothing here can compile for it"


def test_bytecode_is_unchecked_and_runs(made):
    folder = made[0].build(HOST_ABI)
    data = (folder / f"__pycache__/container_agent.{HOST_ABI.cache_tag}.pyc").read_bytes()
    assert int.from_bytes(data[4:8], "little") == 0b01, "hash-based, never checked"
    assert marshal.loads(data[16:]).co_filename == "/opt/rumi/container_agent.py"
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import container_agent as c; print(c.main(), c.__cached__)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("agent ")


def test_bytecode_carries_no_docstrings_and_no_annotations(made):
    folder, agent = made
    agent.write_text('"""Module."""\ndef main(a: int, *b: str) -> str:\n    """Function."""\n    return "agent"\n')
    data = (folder.build(HOST_ABI) / f"__pycache__/container_agent.{HOST_ABI.cache_tag}.pyc").read_bytes()
    names: dict = {}
    exec(marshal.loads(data[16:]), names)
    assert (names.get("__doc__"), names["main"].__doc__, names["main"].__annotations__) == (None, None, {})
    assert names["main"](1) == "agent"


def test_modes_let_a_dropped_uid_read_whatever_the_umask_is(made):
    before = os.umask(0o077)
    try:
        folder = made[0].build(HOST_ABI)
    finally:
        os.umask(before)
    assert folder.parent.stat().st_mode & 0o777 == 0o711
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_same_content_same_folder_other_content_another(made):
    runtime, agent = made
    first = runtime.build(HOST_ABI)
    assert runtime.build(HOST_ABI) == first
    agent.write_text(SOURCE + "#\n")
    assert runtime.build(HOST_ABI) != first


@pytest.mark.parametrize("damage", ["edit", "add", "remove", "link"])
def test_an_edited_runtime_is_made_anew(made, damage):
    runtime, _ = made
    folder = runtime.build(HOST_ABI)
    target = folder / "container_agent.py"
    match damage:
        case "edit":
            target.write_text(SOURCE.replace("agent", "evil!"))
        case "add":
            (folder / "evil.py").touch()
        case "remove":
            target.unlink()
        case "link":
            target.unlink()
            target.symlink_to("/etc/passwd")
    assert runtime.build(HOST_ABI) == folder
    assert target.read_text() == SOURCE
    assert not (folder / "evil.py").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_missing_agent_is_a_host_error(tmp_path):
    with pytest.raises(HostError) as caught:
        RuntimeFolder(tmp_path / "rt", agent=tmp_path / "none.py").build(HOST_ABI)
    assert "none.py" in caught.value.detail


def test_python_is_asked_what_it_is():
    assert probe_python(sys.executable) == HOST_ABI
    with pytest.raises(OSError, match="no working Python"):
        probe_python("/bin/true")


def test_compiler_is_found_by_the_kind_of_bytecode():
    inside = PythonAbi("", (3, 11), HOST_ABI.cache_tag, ".so")
    assert compiler_for(inside).executable == sys.executable
    assert compiler_for(PythonAbi("", (3, 8), "cpython-38", ".so")).executable == ""

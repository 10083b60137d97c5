import io
import subprocess
import tarfile

import pytest

from rumi_setup.core import base_image
from rumi_setup.core.docker_http import Engine
from rumi_setup.core.progress import Silent


def test_closure_follows_dependencies_and_leaves_the_package_manager_out() -> None:
    database = {
        "python3": [("python3", ["libc6", "perl"])],
        "libc6": [("libc6:amd64", ["libgcc-s1"]), ("libc6:i386", [])],
        "libgcc-s1": [("libgcc-s1:amd64", ["libc6"])],
        "perl": [("perl", ["everything"])],
        "unrelated": [("unrelated", [])],
    }
    assert base_image._closure(database, ["python3", "absent"]) == [
        "libc6:amd64", "libc6:i386", "libgcc-s1:amd64", "python3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"),
    [("/lib/x/y.so", "usr/lib/x/y.so"), ("/usr/lib/x", "usr/lib/x"), ("/bin/sh", "usr/bin/sh"), ("/bin", "bin"),
     ("/etc/lib/x", "etc/lib/x")],
)  # fmt: skip
def test_names_lie_in_the_merged_tree(path, name) -> None:
    assert base_image._merged_name(path) == name


def test_the_archive_has_no_set_uid_file_no_duplicate_and_only_root(tmp_path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"x" * 300_000)
    program.chmod(0o6755)
    (tmp_path / "link").symlink_to("program")
    paths = [str(program), str(program), str(tmp_path / "link")]
    raw = b"".join(base_image._archive(paths))
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        members = archive.getmembers()
        kept = {m.name: m for m in members}
        assert len(kept) == len(members)
        assert all((m.uid, m.gid, m.mtime) == (0, 0, 0) for m in members)
        assert not any(m.mode & 0o6000 for m in members)
        found = kept[str(program).lstrip("/")]
        assert (found.mode, archive.extractfile(found).read()) == (0o755, b"x" * 300_000)
        assert kept[str(tmp_path / "link").lstrip("/")].linkname == "program"
        assert kept["usr/bin/python"].linkname == "python3"


@pytest.mark.docker
@pytest.mark.slow
def test_a_container_of_the_local_image_runs_python() -> None:
    engine = Engine.from_environment()
    base_image.build_local(engine, Silent())
    again = base_image.build_local(engine, Silent())
    assert again.changed is False
    code = "import ssl, sqlite3, ctypes, asyncio, lzma, bz2, zlib, os; print('runs as', os.getuid())"
    argv = ["docker", "-H", engine.address, "run", "--rm", "--network", "none", "--read-only", "--user", "4242:4242",
            base_image.LOCAL_NAME, "python3", "-I", "-c", code]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "runs as 4242"), done.stderr


@pytest.mark.docker
@pytest.mark.slow
def test_the_official_base_is_built_once() -> None:
    engine = Engine.from_environment()
    base_image.build_local(engine, Silent())
    made = base_image.build_official_base(engine, Silent())
    assert all(engine.has_image(name) for name in made.names)
    assert base_image.build_official_base(engine, Silent()).changed is False

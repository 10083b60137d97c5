"""A signed Pack is one folder whichever way it comes in: the same digest and the same right signature."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core_runtime.drivers import git_source, oci_source
from core_runtime.drivers.tree import read_tree
from core_runtime.rules.addresses import Machine
from core_runtime.rules.oci import reference
from core_runtime.rules.sources import git_source as source_of
from tests.support.archives import git
from tests.support.registry import Registry
from tests.support.signing import Publisher
from tests.support.trust_home import TrustHome


def as_zip(folder: Path, into: Path) -> Path:
    with zipfile.ZipFile(into / "p.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return into / "p.zip"


def as_tar(folder: Path, into: Path) -> Path:
    with tarfile.open(into / "p.tar.xz", "w:xz") as archive:
        archive.add(folder, "alpha-1.0.0")
    return into / "p.tar.xz"


def as_git(folder: Path, into: Path) -> Path:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    (into / "fetched").mkdir()
    return git_source.fetch(source_of(f"file://{folder}"), into / "fetched").archive


def as_registry(folder: Path, into: Path) -> Path:
    with Registry() as registry:
        registry.push("alpha", "1", as_tar(folder, into).read_bytes())
        (into / "fetched").mkdir()
        return oci_source.fetch(reference(f"oci://{registry.at}/alpha:1"), into / "fetched", Machine()).archive


@pytest.mark.parametrize("way", [lambda folder, _: folder, as_zip, as_tar, as_git, as_registry], ids=["folder", "zip", "tar", "git", "registry"])
def test_it_is_the_same_by_every_way(tmp_path, way: Callable[[Path, Path], Path]) -> None:
    home, author = TrustHome(tmp_path / "home"), Publisher()
    folder = home.add(files={"backend/run.sh": "#!/bin/sh\n", "backend/日本語.txt": "text"})
    (folder / "backend/run.sh").chmod(0o755)
    source = tmp_path / "alpha"
    folder.rename(source)
    author.sign(source)
    digest = read_tree(source).digest
    (tmp_path / "way").mkdir()
    home.approvals.add(way(source, tmp_path / "way"), actor="tester", fetched=True, publisher=author.key)
    found = home.approvals.review("alpha")
    assert found.digest == digest
    assert (found.signature["standing"], found.signature["key"]) == ("first_use", author.key)

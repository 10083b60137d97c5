"""Makes the sandbox's base image where no registry can be reached: from this machine's own Debian files.

Two steps. `build_local` packs the files that dpkg lists for Python and what it depends on into an image.
`build_official_base` builds `docker/core/base/Dockerfile` upon it. Both talk to the engine over HTTP, need no docker
command and no network.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from rumi_setup.core import places
from rumi_setup.core.docker_http import Engine, EngineError
from rumi_setup.core.problem import Attempt, SetupError
from rumi_setup.core.process import run
from rumi_setup.core.progress import Progress, reporting
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOCAL_NAME = "rumi-base:local"
PUBLIC_NAME = "python:3.11-slim"
OFFICIAL_REPOSITORY = "rumi-pack-base"
OFFICIAL_NAME = f"{OFFICIAL_REPOSITORY}:1"
_PUBLIC_VERSION = (3, 11)

_PYTHON = Path("/usr/bin/python3")
_WANTED = ("python3", "dash", "coreutils", "base-files", "libstdc++6", "ca-certificates", "tzdata", "media-types")
# needed to install packages, never to run them
_LEFT_OUT = frozenset({
    "debconf", "debconf-2.0", "dpkg", "perl-base", "perl", "adduser", "passwd", "openssl", "cdebconf", "login",
})  # fmt: skip
_NOT_PACKED = re.compile(r"^/usr/share/(doc|man|locale|lintian|zoneinfo/(posix|right))(/|$)")
_MERGED = ("bin", "sbin", "lib", "lib64")
_FOLDERS = {
    "proc": 0o555, "sys": 0o555, "dev": 0o755, "run": 0o755, "root": 0o700,
    "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "usr/local": 0o755, "usr/local/bin": 0o755,
}  # fmt: skip
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BLOCK_BYTES = 1 << 18
_IMPORT_LIMIT_S = 300.0


@dataclass(frozen=True)
class Built:
    """Which names the engine now has, and whether something was made for them."""

    names: tuple[str, ...]
    changed: bool


def build_local(engine: Engine | None = None, progress: Progress | None = None) -> Built:
    """Imports this machine's Python as `rumi-base:local`, and as `python:3.11-slim` where that is absent and it is one.

    Raises SetupError where there is no engine or no Debian Python.
    """
    with reporting(progress) as reporter:
        target = engine if engine is not None else _engine()
        version = _debian_python()
        names = [LOCAL_NAME]
        try:
            made = not target.has_image(LOCAL_NAME)
            if made:
                shown = ".".join(map(str, version))
                reporter.step(say("Packing this machine's Python {v} into an image", v=shown), 1, 2)
                files = _files(_closure(_dpkg_dependencies(), _WANTED))
                query = [("fromSrc", "-"), ("repo", "rumi-base"), ("tag", "local"), ("changes", 'CMD ["python3"]'),
                         ("changes", "ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8")]  # fmt: skip
                target.feed(f"/images/create?{urlencode(query)}", _archive(files), timeout_s=_IMPORT_LIMIT_S)
            if version == _PUBLIC_VERSION and not target.has_image(PUBLIC_NAME):
                target.tag(LOCAL_NAME, *PUBLIC_NAME.split(":"))
                names.append(PUBLIC_NAME)
                made = True
        except EngineError as error:
            raise _refused(str(error)) from error
    return Built(tuple(names), made)


def build_official_base(
    engine: Engine | None = None, progress: Progress | None = None, root: Path = places.ROOT
) -> Built:
    """Builds `docker/core/base/Dockerfile` as `rumi-pack-base:<its hash>` and `:1`, unless that hash is there.

    Upon `python:3.11-slim` where the engine has it, else upon what `build_local` made; with the engine's classic
    builder and without a network. Raises SetupError.
    """
    context = root / "docker" / "core" / "base"
    content = (context / "Dockerfile").read_bytes()
    exact = f"{OFFICIAL_REPOSITORY}:{hashlib.sha256(content).hexdigest()[:12]}"
    with reporting(progress) as reporter:
        target = engine if engine is not None else _engine()
        try:
            if target.has_image(exact):
                target.tag(exact, *OFFICIAL_NAME.split(":"))
                return Built((exact, OFFICIAL_NAME), changed=False)
            reporter.step(say("Building the sandbox's base image"), 2, 2)
            names = [("t", exact), ("t", OFFICIAL_NAME)]
            base = [] if target.has_image(PUBLIC_NAME) else [("buildargs", json.dumps({"BASE": LOCAL_NAME}))]
            query = urlencode([*names, *base, ("version", "1"), ("networkmode", "none"), ("rm", "1")])
            target.feed(f"/build?{query}", _folder_archive(context), timeout_s=_IMPORT_LIMIT_S)
        except EngineError as error:
            raise _refused(str(error)) from error
    return Built((exact, OFFICIAL_NAME), changed=True)


def _engine() -> Engine:
    try:
        engine = Engine.from_environment()
        engine.version(timeout_s=10.0)
    except EngineError as error:
        raise _refused(str(error)) from error
    return engine


def _refused(why: str) -> SetupError:
    return SetupError(
        say("The base image could not be made: {why}", why=why),
        left=say("No image was changed."),
        next_steps=(
            say("Start Docker, or set DOCKER_HOST, then `./rumi setup --local-base`."),
            say("Where a registry can be reached: `docker pull {name}`.", name=PUBLIC_NAME),
            say("Use the embedded sandbox: `RUMI_ISOLATION=embedded ./rumi up`."),
        ),
    )


def _debian_python() -> tuple[int, int]:
    shown = run([_PYTHON, "-I", "-S", "-c", "import sys;print(*sys.version_info[:2])"], timeout_s=20)
    listed = run(["dpkg-query", "--version"], timeout_s=10)
    if not shown.ok or not listed.ok:
        raise SetupError(
            say("A local base image needs a Debian or Ubuntu with its own python3."),
            attempts=(Attempt(str(_PYTHON), shown.why()), Attempt("dpkg-query", listed.why())),
            next_steps=(say("Where a registry can be reached: `docker pull {name}`.", name=PUBLIC_NAME),),
        )
    major, minor = shown.text.split()[-2:]
    return int(major), int(minor)


def _dpkg_dependencies() -> dict[str, list[tuple[str, list[str]]]]:
    """Package name → (name with architecture, names it may depend on), for all that is installed."""
    database = _lines("dpkg-query", "-W", "-f", "${binary:Package}\t${Pre-Depends}, ${Depends}\n")
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for line in database:
        package, _, wishes = line.partition("\t")
        names = [w.split()[0].split(":")[0] for group in wishes.split(",") for w in group.split("|") if w.strip()]
        found.setdefault(package.split(":")[0], []).append((package, names))
    return found


def _closure(database: dict[str, list[tuple[str, list[str]]]], wanted: Iterable[str]) -> list[str]:
    """Every installed package that the wanted ones need, by breadth."""
    queue, seen, packages = list(wanted), set(_LEFT_OUT), []
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        for package, needs in database.get(name, ()):
            packages.append(package)
            queue += needs
    return sorted(packages)


def _files(packages: list[str]) -> list[str]:
    listed = {p for p in _lines("dpkg", "-L", *packages) if p.startswith("/") and not _NOT_PACKED.match(p)}
    # thousands of them
    return sorted(p for p in listed if os.path.islink(p) or os.path.isfile(p))  # noqa: PTH113, PTH114


def _lines(*argv: str) -> list[str]:
    """All that a dpkg tool says; `process.run` keeps only the end."""
    import subprocess

    done = subprocess.run(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        timeout=60, check=False, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace").splitlines()


def _archive(files: list[str]) -> Iterator[bytes]:
    """The image as one tar, block by block; every entry belongs to root and has no time, so equal input is equal."""
    buffer = io.BytesIO()
    written: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in _entries(files):
            if entry.name in written:
                continue
            written.add(entry.name)
            with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as content:
                tar.addfile(entry, content if entry.isreg() else None)
            if buffer.tell() > _BLOCK_BYTES:
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()


def _entries(files: list[str]) -> Iterator[tuple[tarfile.TarInfo, Path | bytes]]:
    for name in _MERGED:
        yield _folder(f"usr/{name}", 0o755), b""
        yield _link(name, f"usr/{name}"), b""
    for name, mode in _FOLDERS.items():
        yield _folder(name, mode), b""
    for name, text in _ACCOUNTS.items():
        yield _regular(name, len(text), 0o644), text.encode()
    if _CERTIFICATES.exists():
        size_bytes = _CERTIFICATES.stat().st_size
        yield _regular(str(_CERTIFICATES).lstrip("/"), size_bytes, 0o644), _CERTIFICATES
    for path in files:
        name = _merged_name(path)
        if name in _MERGED:
            continue
        if os.path.islink(path):  # noqa: PTH114
            yield _link(name, os.readlink(path)), b""  # noqa: PTH115
            continue
        seen = os.stat(path)  # noqa: PTH116
        mode = stat.S_IMODE(seen.st_mode) & 0o755  # no set-uid bit enters a sandbox's image
        yield _regular(name, seen.st_size, mode), Path(path)
    yield _link("usr/bin/sh", "dash"), b""
    yield _link("usr/bin/python", "python3"), b""
    yield _link("usr/local/bin/python3", "/usr/bin/python3"), b""
    yield _link("usr/local/bin/python", "/usr/bin/python3"), b""


def _merged_name(path: str) -> str:
    """`/lib/x` is `usr/lib/x`: dpkg's lists may still name the folders that are links today."""
    name = path.lstrip("/")
    head, _, rest = name.partition("/")
    return f"usr/{name}" if head in _MERGED and rest else name


def _folder(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry


def _link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    return entry


def _regular(name: str, size_bytes: int, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size_bytes, mode
    return entry


def _folder_archive(folder: Path) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
            with path.open("rb") as data:
                tar.addfile(_regular(path.relative_to(folder).as_posix(), path.stat().st_size, 0o644), data)
    yield buffer.getvalue()

"""The read-only runtime that every sandbox sees at ``/opt/rumi``: agent, bytecode, MessagePack, three files of /etc.

Invariants:
  * Content-addressed: the folder's name is the digest of its files, so that two hosts, or two versions, never mix.
  * Bytecode is *unchecked-hash*: Python inside compares no time stamps and never wants to write.
  * Folders 0711 or 0755, files 0644, whatever the umask: a dropped uid and a container's user can read them.
  * A folder appears whole (rename of a finished one) or not at all.

Not here: what the agent does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from backend_core.errors import HostError

AGENT_SOURCE = Path(__file__).resolve().parents[2] / "docker/core/runtime/container_agent.py"
AGENT_FILE = "container_agent.py"
NETWORK_FILES = ("container_network.py", "container_channel.py", "container_message.py", "container_proxy.py")
"""What the agent loads from beside itself when its Pack declares a way out."""
FILE_LIMIT_BYTES = 8 * 1024 * 1024
ETC_FILES = {
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
}
"""Stand-ins for the host's own files: names resolve to the loopback only, no account of the machine is visible."""

COMPILE = """
import ast, importlib.util, sys
from importlib._bootstrap_external import _code_to_hash_pyc as pyc
data = sys.stdin.buffer.read()
tree = ast.parse(data)
for node in ast.walk(tree):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        node.returns = None
    elif isinstance(node, ast.arg):
        node.annotation = None
code = compile(tree, sys.argv[1], "exec", dont_inherit=True, optimize=2)
sys.stdout.buffer.write(pyc(code, importlib.util.source_hash(data), False))
"""
"""Without docstrings and annotations, which nobody reads inside: a tenth less to load and to keep, in every sandbox."""


class PythonAbi(Struct, frozen=True):
    """A sandbox's Python: ``cpython-311``, the suffix of extension modules that it loads, and on *this* machine an
    executable of the same kind that compiles for it; empty when there is none (the agent then starts slower).
    """

    executable: str
    version: tuple[int, int]
    cache_tag: str
    extension_suffix: str
    micro: int = 0
    libc: str = ""
    """``glibc-2.36``; empty where the C library does not say (musl)."""


_LIBC_NAME = "CS_GNU_LIBC_VERSION"
HOST_ABI = PythonAbi(
    sys.executable,
    (sys.version_info.major, sys.version_info.minor),
    sys.implementation.cache_tag or "",
    importlib.machinery.EXTENSION_SUFFIXES[0],
    sys.version_info.micro,
    (os.confstr(_LIBC_NAME) or "").replace(" ", "-") if _LIBC_NAME in os.confstr_names else "",
)
ABI_QUESTION = (
    "import sys, os, importlib.machinery as m;"
    "n = 'CS_GNU_LIBC_VERSION'; c = os.confstr(n) if n in os.confstr_names else None;"
    "print(*sys.version_info[:2], sys.implementation.cache_tag, m.EXTENSION_SUFFIXES[0], sys.version_info[2],"
    " (c or '-').replace(' ', '-'))"
)


class RuntimeFolder:
    """Builds runtimes below one folder of the host.

    Args:
        root: where the runtimes are; made when missing.
        agent: the agent's source.
        packages: folder that holds ``msgpack`` for this host's Python; found by import when ``None``.
    """

    def __init__(self, root: Path, *, agent: Path = AGENT_SOURCE, packages: Path | None = None) -> None:
        self._root = root
        self._agent = agent
        self._packages = packages
        self._compiled: dict[tuple[str, str, bytes], bytes] = {}
        self._built: dict[PythonAbi, tuple[Path, object]] = {}
        self._building = threading.Lock()

    def build(self, abi: PythonAbi) -> Path:
        """The runtime for one Python: an existing one when its content is the same. Blocks; call it in a thread.

        Content is compared at first, and again when a stat of any source or of anything inside differs: reading a
        megabyte for each start would cost a tenth of it.

        Raises:
            HostError: the agent is missing, or its folder can't be written.
        """
        try:
            with self._building:
                known, seen = self._built.get(abi, (None, None))
                if known is not None and seen == self._witness(abi, known):
                    return known
                files = self._files(abi)
                folder = self._root / _digest(files)[:32]
                self._root.mkdir(parents=True, exist_ok=True)
                self._root.chmod(0o711)
                if not _intact(folder, files):
                    _write_whole(folder, files)
                self._built[abi] = folder, self._witness(abi, folder)
        except OSError as error:
            raise HostError(
                "The sandbox runtime can't be made",
                code="runtime_failed",
                detail=f"{error.filename or self._root}: {error.strerror or error}",
                hint="rumi doctor",
            ) from error
        return folder

    def _witness(self, abi: PythonAbi, folder: Path) -> object:
        """Equal while nobody touched the runtime or what it is made of: change times can't be set back."""
        paths = [*self._sources().values(), *self._msgpack(abi), folder, *sorted(folder.rglob("*"))]
        seen = ((path, path.lstat()) for path in paths)
        return [(path, s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in seen]

    def _sources(self) -> dict[str, Path]:
        """The agent, under the name that it is started by, and what it loads when that is needed."""
        beside = {name: self._agent.with_name(name) for name in NETWORK_FILES}
        return {AGENT_FILE: self._agent} | {name: path for name, path in beside.items() if path.is_file()}

    def _files(self, abi: PythonAbi) -> dict[str, bytes]:
        sources = {place: _read(path) for place, path in self._sources().items()}
        for path in self._msgpack(abi):
            sources[f"msgpack/{path.name}"] = _read(path)
        files = dict(sources) | {name: text.encode() for name, text in ETC_FILES.items()}
        for name, data in sources.items():
            if name.endswith(".py") and abi.executable:
                folder, _, module = name.removesuffix(".py").rpartition("/")
                cache = "/".join(filter(None, (folder, "__pycache__", f"{module}.{abi.cache_tag}.pyc")))
                files[cache] = self._bytecode(data, f"/opt/rumi/{name}", abi)
        return files

    def _bytecode(self, source: bytes, shown_as: str, abi: PythonAbi) -> bytes:
        """Compiled once for each content: compiling costs more than the rest of a start."""
        wanted = (abi.cache_tag, shown_as, hashlib.sha256(source).digest())
        if wanted not in self._compiled:
            self._compiled[wanted] = _bytecode(source, shown_as, abi)
        return self._compiled[wanted]

    def _msgpack(self, abi: PythonAbi) -> list[Path]:
        """Its Python files, and the C module where it fits; without that the agent runs slower and says so."""
        folder = self._packages / "msgpack" if self._packages else _package_folder("msgpack")
        if folder is None:
            return []
        names = [path for path in sorted(folder.iterdir()) if path.suffix == ".py"]
        return names + [path for path in folder.glob(f"*{abi.extension_suffix}") if path.is_file()]


def probe_python(executable: str) -> PythonAbi:
    """Ask a Python what it is. Blocks, at most 10 s.

    Raises:
        OSError: it does not run, or answers something else.
    """
    status = Path(executable).stat()
    return _answer(executable, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=8)
def _answer(executable: str, _identity: tuple[int, ...]) -> PythonAbi:
    """Asked again only when the file at that path is another one: an answer costs as much as half a start."""
    try:
        done = subprocess.run(
            [executable, "-I", "-S", "-c", ABI_QUESTION], capture_output=True, timeout=10, check=True, env={}, cwd="/"
        )
        return parse_abi(done.stdout.decode("ascii"), executable)
    except (subprocess.SubprocessError, ValueError) as error:
        raise OSError(f"{executable} is no working Python: {error}") from error


def parse_abi(answer: str, executable: str) -> PythonAbi:
    """The answer to ``ABI_QUESTION``. ``ValueError`` when it is none."""
    major, minor, tag, suffix, micro, libc = answer.split()
    return PythonAbi(executable, (int(major), int(minor)), tag, suffix, int(micro), libc.strip("-"))


def compiler_for(abi: PythonAbi, candidates: Sequence[PythonAbi] = (HOST_ABI,)) -> PythonAbi:
    """``abi`` with an executable of this machine that makes the same bytecode, for a Python that lives in an image."""
    same = (c.executable for c in candidates if c.cache_tag == abi.cache_tag)
    return replace(abi, executable=next(same, ""))


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(FILE_LIMIT_BYTES + 1)
    if len(data) > FILE_LIMIT_BYTES:
        raise OSError(f"{path} is larger than {FILE_LIMIT_BYTES} bytes")
    return data


def _bytecode(source: bytes, shown_as: str, abi: PythonAbi) -> bytes:
    """Compiled by the Python that will run it: bytecode of another version would only be ignored."""
    try:
        done = subprocess.run(
            # lines stay in its tracebacks; columns would be a tenth of the bytecode
            [abi.executable, "-X", "no_debug_ranges", "-I", "-S", "-c", COMPILE, shown_as],
            input=source,
            capture_output=True,
            timeout=30,
            check=True,
            env={},
            cwd="/",
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"{abi.executable} can't compile {shown_as}: {error}") from error
    return done.stdout


def _digest(files: dict[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name, data in sorted(files.items()):
        whole.update(f"{len(name.encode())}:{name}:{len(data)}:".encode() + data)
    return whole.hexdigest()


def _intact(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the folder holds exactly these bytes. A name alone proves nothing: somebody may have edited inside."""
    if not folder.is_dir():
        return False
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    return found == set(files) and all(_same(folder / name, data) for name, data in files.items())


def _same(path: Path, data: bytes) -> bool:
    return not path.is_symlink() and path.stat().st_size == len(data) and path.read_bytes() == data


def _write_whole(folder: Path, files: dict[str, bytes]) -> None:
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        for name, data in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o644)
        for made in [work, *(path for path in work.rglob("*") if path.is_dir())]:
            made.chmod(0o755)
        if folder.exists():
            folder.replace(f"{work}.old")
        try:
            work.replace(folder)
        except OSError:
            if not _intact(folder, files):  # otherwise another host of this home was faster with the same bytes
                raise
    finally:
        for rest in (work, Path(f"{work}.old")):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(rest)

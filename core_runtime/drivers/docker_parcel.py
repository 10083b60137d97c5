"""A Pack and the agent carried into an engine that can't mount this machine's folders.

The bytes go as a tar archive into a container that never runs, which is then made an image: immutable, named by its
content, and read-only in the sandbox like every root there. Before the sandbox starts, what the engine holds is read
back from the very container that will run, and hashed here.

Invariants:
  * Nothing starts whose read-back files differ from the approved digest, in content, executable bit or kind.
  * Files belong to root and are writable for nobody. Whatever fails, the carrier is removed; the image goes with its
    sandbox.

Not here: mounts, for engines that can (``rules.docker_config``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from msgspec import Struct

from backend_core.errors import HostError, TrustError, quote
from core_runtime.drivers.docker_client import EngineClient, delete_container
from core_runtime.drivers.tree import Tree, read_tree
from core_runtime.rules import docker_config
from core_runtime.rules.digest import FileEntry, normal_digest, tree_digest
from core_runtime.rules.sandbox import PACK_MOUNT, PACKAGES_MOUNT, RUNTIME_MOUNT, SandboxSpec

TRANSFER_S = 300.0
FOLDER_MODE, FILE_MODE, PROGRAM_MODE = 0o555, 0o444, 0o555
OVERHEAD_BYTES = 4096
"""What an archive adds for a file, at most: heads, a long name, padding."""
CHUNK_BYTES = 256 * 1024


class Parcel(Struct, frozen=True):
    """An image that holds a sandbox's files, and what they must be."""

    image_id: str
    contents: dict[str, Tree]


async def send(engine: EngineClient, spec: SandboxSpec, base_image: str, *, approved: str) -> Parcel:
    """Make the image.

    Args:
        engine: where.
        spec: whose folders.
        base_image: id of the image that it stands on.
        approved: the Pack's digest; empty = anything (a trial, whose Pack is an empty folder).

    Raises:
        TrustError: the copy in the store is not the approved one.
        HostError: the engine refuses, or the disk is full; nothing is left then.
    """
    contents = await asyncio.to_thread(_read, spec)
    if approved and contents[PACK_MOUNT].digest != normal_digest(approved):
        raise _differs(spec, f"the copy has the digest {contents[PACK_MOUNT].digest}")
    docker = await engine.docker()
    with tempfile.TemporaryFile() as archive:
        await asyncio.to_thread(_write_archive, archive, spec, contents)
        async with engine.translated("take a Pack's files"):
            carrier = await docker.containers.create(
                docker_config.carrier_document(spec, base_image), name=f"{docker_config.container_name(spec)}-carrier"
            )
            try:
                async with asyncio.timeout(TRANSFER_S):
                    await carrier.put_archive("/", archive)  # type: ignore[no-untyped-call]
                    made = await carrier.commit(pause=False)
            finally:
                await delete_container(carrier)
    return Parcel(str(made["Id"]), contents)


async def verify(engine: EngineClient, spec: SandboxSpec, container_id: str, parcel: Parcel) -> None:
    """Read the container's files back and compare. ``TrustError`` when they are not what was sent."""
    for place, tree in parcel.contents.items():
        limit = tree.total_bytes + OVERHEAD_BYTES * (4 * len(tree.entries) + 16)
        with tempfile.TemporaryFile() as archive:
            async with engine.translated("show a Pack's files"), asyncio.timeout(TRANSFER_S):
                await _fetch(engine, container_id, place, archive, limit)
            try:
                entries = await asyncio.to_thread(_entries, archive, place)
            except (tarfile.TarError, ValueError) as error:
                raise _differs(spec, f"{place} in the engine: {error}") from error
        if tree_digest(entries) != tree.digest:
            raise _differs(spec, f"{place} in the engine has the digest {tree_digest(entries)}, sent was {tree.digest}")


async def discard(engine: EngineClient, image_id: str) -> None:
    """Remove a sandbox's image. One that is gone, or that a container still uses, is left to the next boot."""
    with contextlib.suppress(HostError):  # left to the next boot
        async with engine.translated("remove an image"):
            await (await engine.docker()).images.delete(image_id, force=False)


async def leftovers(engine: EngineClient, installation_id: str) -> list[tuple[str, Mapping[str, str]]]:
    """Images that carry this installation's label: id and labels."""
    wanted = f"{docker_config.LABEL_INSTALLATION}={installation_id}"
    async with engine.translated("list images"):
        found = await (await engine.docker()).images.list(filters={"label": [wanted]})
    # judged again here: a proxy or another engine may read filters as substrings
    return [
        (str(image["Id"]), image["Labels"])
        for image in found
        if (image.get("Labels") or {}).get(docker_config.LABEL_INSTALLATION) == installation_id
    ]


# ---- inside


def _sources(spec: SandboxSpec) -> dict[str, Path]:
    """What is carried, by its place in the sandbox."""
    found = {PACK_MOUNT: Path(spec.pack_dir), RUNTIME_MOUNT: Path(spec.runtime_dir)}
    return {**found, PACKAGES_MOUNT: Path(spec.packages_dir)} if spec.packages_dir else found


def _read(spec: SandboxSpec) -> dict[str, Tree]:
    return {place: read_tree(path) for place, path in _sources(spec).items()}


def _write_archive(out: IO[bytes], spec: SandboxSpec, contents: dict[str, Tree]) -> None:
    sources = _sources(spec)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for place, tree in contents.items():
            root = place.lstrip("/")
            for folder in sorted({root, *(f"{root}/{name}" for name in _folders(tree.entries))}):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, FOLDER_MODE
                tar.addfile(entry)
            for file in tree.entries:
                entry = tarfile.TarInfo(f"{root}/{file.path}")
                entry.size, entry.mode = file.size, PROGRAM_MODE if file.executable else FILE_MODE
                with (sources[place] / file.path).open("rb") as data:
                    tar.addfile(entry, data)
    out.seek(0)


def _folders(entries: Iterable[FileEntry]) -> set[str]:
    return {str(parent) for entry in entries for parent in Path(entry.path).parents if str(parent) != "."}


async def _fetch(engine: EngineClient, container_id: str, place: str, out: IO[bytes], limit_bytes: int) -> None:
    """An archive of one folder, onto the disk: a Pack may be larger than what memory should hold."""
    query = (await engine.docker())._query(  # noqa: SLF001 - the library's own call would hold it all in memory
        f"containers/{container_id}/archive", method="GET", params={"path": place}
    )
    size = 0
    async with query as response:
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > limit_bytes:
                raise OSError(f"the engine sends more than the {limit_bytes} bytes that {place} can have")
            await asyncio.to_thread(out.write, chunk)
    out.seek(0)


def _entries(archive: IO[bytes], place: str) -> list[FileEntry]:
    """The files of an archive. ``ValueError`` for anything that is no plain file or folder of root."""
    root = place.rpartition("/")[2]
    found: list[FileEntry] = []
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        for member in tar:
            path = member.name.rstrip("/")
            if path != root and not path.startswith(f"{root}/"):
                raise ValueError(f"{quote(path)} lies outside")
            if member.uid or member.gid or member.mode & 0o222:
                raise ValueError(f"{quote(path)} belongs to {member.uid}:{member.gid} with mode {member.mode:o}")
            if member.isdir():
                continue
            data = tar.extractfile(member) if member.isreg() and not member.issym() else None
            if data is None:
                raise ValueError(f"{quote(path)} is no plain file")
            found.append(FileEntry(path[len(root) + 1 :], bool(member.mode & 0o111), member.size, _sha256(data)))
    return found


def _sha256(data: IO[bytes]) -> str:
    sha256 = hashlib.sha256()
    while chunk := data.read(CHUNK_BYTES):
        sha256.update(chunk)
    return sha256.hexdigest()


def _differs(spec: SandboxSpec, detail: str) -> TrustError:
    return TrustError(
        f"What would run of {spec.pack_id} is not what was approved",
        code="copy_differs",
        detail=detail,
        hint="Start it again; if that repeats, look at the engine's machine and its disk: rumi doctor",
    )

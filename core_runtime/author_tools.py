"""What an author does with a Pack's folder where no host runs: signing it, and looking at what it carries and holds.

Started as a process (``python -m core_runtime.author_tools``) by the command line, which may not import the host's
code: one JSON request on standard input, one JSON answer on standard output, ``{"error": …}`` where it was refused.

Invariants: nothing of the Pack is run; a folder is changed only by ``sign``, in the one file of the signature.

Not here: commands and their words (``rumi_setup.cli``), what a host remembers of publishers (``drivers.publishers``).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec.structs import asdict

from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.metadata import PACK_ID, read_metadata
from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import AuthorError, HostError, RequestError, RumiError, quote
from core_runtime.drivers import archive, signatures
from core_runtime.drivers.packages import look
from core_runtime.drivers.tree import read_tree
from core_runtime.pack_check import check_pack
from core_runtime.rules.sbom import bill_of_materials
from core_runtime.rules.signing import FILE, check_seal

Request = Mapping[str, Any]


def new_key(request: Request) -> dict[str, Any]:
    """``{file}``: a new private key there."""
    path = Path(request["file"])
    return {"file": str(path), "key": signatures.new_key(path)}


def sign(request: Request) -> dict[str, Any]:
    """``{folder, key, publisher, password}``: write the signature into the folder."""
    folder = Path(request["folder"])
    key = signatures.read_key(Path(request["key"]), request.get("password", ""))
    metadata, tree = _metadata(folder), read_tree(folder)
    named = request.get("publisher") or metadata.author
    made = signatures.sign(
        folder, tree, key, pack_id=metadata.pack_id, version=metadata.version, publisher=named
    )
    after = read_tree(folder)
    seal = signatures.seal_of(folder, after, pack_id=metadata.pack_id, version=metadata.version)
    check_seal(metadata.pack_id, seal, None)  # a folder that changed meanwhile is not signed
    return {**asdict(made), "file": str(folder / FILE), "digest": after.digest, "signed_digest": made.digest}


def verify(request: Request) -> dict[str, Any]:
    """``{source}``, a folder or an archive: who signed it. Raises ``TrustError`` where the signature is wrong."""
    return _inside(Path(request["source"]), _verified)


def sbom(request: Request) -> dict[str, Any]:
    """``{source}``, a folder or an archive: its bill of materials, a wrong signature or none all the same."""
    return _inside(Path(request["source"]), _bill)


def validate(request: Request) -> dict[str, Any]:
    """``{source}``, a folder or an archive: what is wrong with it, and what an operator would see of it."""
    return _inside(Path(request["source"]), lambda folder: check_pack(folder).as_dict())


TOOLS: Final[Mapping[str, Callable[[Request], dict[str, Any]]]] = {
    "new_key": new_key, "sign": sign, "verify": verify, "sbom": sbom, "validate": validate,
}  # fmt: skip


def main() -> int:
    """One request; 0 when it was answered, 1 when it was refused."""
    request = json.load(sys.stdin)
    try:
        answer = {"data": TOOLS[request["do"]](request)}
    except RumiError as error:
        answer = {"error": {**error.as_dict(), "status": error.http_status}}
    json.dump(answer, sys.stdout)
    return 1 if "error" in answer else 0


def _inside(source: Path, look: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Look into a folder, or into an archive unpacked for as long as that takes."""
    if source.is_dir():
        return look(source)
    with tempfile.TemporaryDirectory(prefix="rumi-look-") as scratch:
        try:
            return look(archive.unpack(source, Path(scratch)))
        except OSError as error:
            raise HostError(
                "The archive can't be read", code="storage", detail=f"{error.strerror} ({quote(str(source))})",
                hint="Check its name, and the room on the disk.",
            ) from error  # fmt: skip


def _bill(folder: Path) -> dict[str, Any]:
    metadata, tree = _metadata(folder), read_tree(folder)
    seal = signatures.seal_of(folder, tree, pack_id=metadata.pack_id, version=metadata.version)
    return bill_of_materials(metadata, tree.entries, tree.digest, look(metadata, folder, None), seal)


def _verified(folder: Path) -> dict[str, Any]:
    metadata, tree = _metadata(folder), read_tree(folder)
    seal = signatures.seal_of(folder, tree, pack_id=metadata.pack_id, version=metadata.version)
    check_seal(metadata.pack_id, seal, None)
    found = seal.statement
    return {
        "pack_id": metadata.pack_id,
        "version": metadata.version,
        "digest": tree.digest,
        "signed_digest": seal.signed_digest,
        "signed": found is not None,
        "key": found.key if found else "",
        "publisher": found.publisher if found else "",
    }


def _metadata(folder: Path) -> PackMetadata:
    """The Pack's metadata, whatever its folder is called."""
    if not folder.is_dir():
        raise RequestError(
            "There is no such folder", code="not_a_folder", detail=f"{quote(str(folder))} is none.",
            hint="Name the folder that holds the Pack (it contains backend/ecosystem.json).",
        )  # fmt: skip
    reader = FolderReader(str(folder), READ_LIMITS)
    try:
        return read_metadata(reader, folder.name)
    except AuthorError as error:
        named = str(error.fields.get("pack_id", ""))
        if not PACK_ID.fullmatch(named) or named == folder.name:
            raise
        return read_metadata(FolderReader(str(folder), READ_LIMITS), named)


if __name__ == "__main__":
    sys.exit(main())

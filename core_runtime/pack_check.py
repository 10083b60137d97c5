"""Everything that can be told of a Pack's folder before anybody runs it: what would be refused, and likely mistakes.

Invariants:
  * The readers, rules and limits are those of a scan and an approval: what is no error here is not refused there for
    the files' sake (what depends on the other Packs of a machine is not known here).
  * Nothing of the Pack is executed, and its folder is left as it is.

Not here: other Packs, the operator's decision, running the Pack (``rumi pack test``), words of faces.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.metadata import PACK_ID, faults, read_metadata
from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import RequestError, RumiError, quote
from core_runtime.drivers.findings import scan_contents
from core_runtime.drivers.packages import look, wheels_folder
from core_runtime.drivers.signatures import seal_of
from core_runtime.drivers.tree import Tree, read_tree
from core_runtime.flow_composer import FOLDER as FLOWS
from core_runtime.flow_composer import brought, fault_of
from core_runtime.rules.approval import State
from core_runtime.rules.findings import Finding
from core_runtime.rules.permissions import request_fault, requests_of, withheld_reason
from core_runtime.rules.review import ReviewFacts, build_review
from core_runtime.rules.signing import FILE as SIGNATURE
from core_runtime.rules.signing import seal_document
from core_runtime.rules.source_check import ENTRIES, check_source

MAX_SOURCE_BYTES: Final = 1024 * 1024
MAX_PROBLEMS: Final = 500
SETUP: Final = "setup.py"


class Level(StrEnum):
    """``error``: refused as it is. ``warning``: likely a mistake, or what an operator asks about. ``note``: fine."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Problem(Struct, frozen=True):
    """One thing at one place; ``line`` and ``column`` count from 1, 0 where the file as a whole is meant."""

    level: Level
    code: str
    title: str
    file: str = ""
    line: int = 0
    column: int = 0
    pointer: str = ""
    expected: str = ""
    found: str = ""
    hint: str = ""


class Checked(Struct, frozen=True):
    """``review`` is what an operator with no other Pack would see; ``{}`` where the metadata can't be read."""

    pack_id: str
    version: str
    digest: str
    problems: tuple[Problem, ...]
    review: dict[str, Any]

    @property
    def valid(self) -> bool:
        """Whether nothing in the folder is refused."""
        return not any(one.level is Level.ERROR for one in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """JSON for the faces."""
        return {**asdict(self), "problems": [asdict(one) for one in self.problems], "valid": self.valid}


def check_pack(folder: Path) -> Checked:
    """Look at a folder, whatever it is called. What is bad in it is in ``problems``.

    Raises ``RequestError`` where there is no folder, ``HostError`` where the machine can't read it.
    """
    if not folder.is_dir():
        raise RequestError(
            "There is no such folder", code="not_a_folder", detail=f"{quote(str(folder))} is none.",
            hint="Name the folder that holds the Pack (it contains backend/ecosystem.json).",
        )  # fmt: skip
    problems: list[Problem] = []
    named, metadata = _metadata(folder, problems)
    tree = _tree(folder, problems)
    review: dict[str, Any] = {}
    if metadata is not None:
        problems += _declared(metadata)
        problems += _flows(folder, metadata)
        if tree is not None:
            problems += _sources(folder, tree, metadata)
            review = _review(folder, tree, metadata, problems)
    return Checked(
        pack_id=metadata.pack_id if metadata else named,
        version=metadata.version if metadata else "",
        digest=tree.digest if tree else "",
        problems=tuple(sorted(problems[:MAX_PROBLEMS], key=lambda one: list(Level).index(one.level))),
        review=review,
    )


def _metadata(folder: Path, problems: list[Problem]) -> tuple[str, PackMetadata | None]:
    named = folder.name
    found = faults(str(folder), named)
    if len(found) == 1:  # its id may be right and its folder's name of no account
        own = str(found[0].fields.get("pack_id", ""))
        if PACK_ID.fullmatch(own) and own != named:
            named, found = own, faults(str(folder), own)
            problems.append(
                Problem(
                    Level.NOTE, "folder_name", "The folder has another name than the Pack", expected=quote(own),
                    found=quote(folder.name),
                    hint="rumi pack add takes it as it is; below ecosystem/packs it must match.",
                )
            )  # fmt: skip
    problems += (_of_error(error) for error in found)
    if found:
        return named, None
    metadata = read_metadata(FolderReader(str(folder), READ_LIMITS), named)
    problems += (Problem(Level.WARNING, "unknown_field", note) for note in metadata.notes)
    return named, metadata


def _tree(folder: Path, problems: list[Problem]) -> Tree | None:
    try:
        return read_tree(folder)
    except RumiError as error:
        if error.code != "tree_refused":
            raise
        problems.append(_of_error(error, file=str(error.fields.get("path", ""))))
        return None


def _declared(metadata: PackMetadata) -> Iterator[Problem]:
    for request in requests_of(metadata):
        fault = request_fault(request, metadata.pack_id)
        if fault:
            yield Problem(
                Level.ERROR, "permission_refused", "A permission that can't be granted",
                file="backend/permissions.json",
                found=fault, hint="Correct it, or leave it out: one such permission refuses the Pack.",
            )  # fmt: skip
            continue
        withheld = withheld_reason(request)
        if withheld:
            yield Problem(Level.NOTE, "permission_withheld", f"{request.type}: {withheld}")
        if not request.reason.strip():
            yield Problem(
                Level.WARNING, "reason_missing", f"{request.type} has no reason", file="backend/permissions.json",
                hint="Say in a sentence what it is for: the operator reads it before deciding.",
            )  # fmt: skip


def _flows(folder: Path, metadata: PackMetadata) -> Iterator[Problem]:
    for one in brought(folder, metadata.pack_id):
        path = f"{FLOWS}{one.file}"
        error = fault_of(folder / path, metadata.pack_id) if one.fault else None
        if error is not None:
            yield _of_error(error, file=path)


def _sources(folder: Path, tree: Tree, metadata: PackMetadata) -> Iterator[Problem]:
    setups = {f"{component.directory}/{SETUP}" for component in metadata.components}
    handlers = {handler.path for handler in metadata.handlers}
    reaches = metadata.requires() | metadata.uses()
    for entry in tree.entries:
        if not entry.path.endswith(".py") or entry.size > MAX_SOURCE_BYTES:
            continue
        entries = ENTRIES if entry.path in setups else ENTRIES[:1] if entry.path in handlers else ()
        try:
            text = (folder / entry.path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            yield Problem(
                Level.ERROR, "encoding", "It is no UTF-8", file=entry.path, found=str(error),
                hint="Save the file as UTF-8.",
            )  # fmt: skip
            continue
        for fault in check_source(
            text, entry.path, entries=entries, provides=metadata.provides(), reaches=reaches
        ):
            yield Problem(
                Level.ERROR if fault.refused else Level.WARNING, fault.code, fault.title, entry.path, fault.line,
                fault.column, "", fault.expected, fault.found, fault.hint,
            )  # fmt: skip


def _review(folder: Path, tree: Tree, metadata: PackMetadata, problems: list[Problem]) -> dict[str, Any]:
    packages = look(metadata, folder, None)
    examined = {f"{wheels_folder(metadata)}/{wheel.filename}" for wheel in packages.wheels}
    findings = tuple(
        one for one in scan_contents(folder, tree.entries) if one.code != "unscannable" or one.path not in examined
    )
    problems += (_of_finding(one) for one in findings)
    seal = seal_of(folder, tree, pack_id=metadata.pack_id, version=metadata.version)
    if seal.flaw is not None:
        problems.append(
            Problem(
                Level.ERROR, seal.flaw.code, "Its signature is wrong", SIGNATURE, found=seal.flaw.detail,
                hint="Sign it again when everything else is done: rumi pack sign FOLDER --key FILE",
            )
        )  # fmt: skip
    facts = ReviewFacts(
        pack_id=metadata.pack_id, state=State.PENDING, cause="", digest=tree.digest, entries=tree.entries,
        metadata=metadata, before=None, owners={}, findings=findings, packages=packages,
        brought=brought(folder, metadata.pack_id), signature=seal_document(seal, None),
    )  # fmt: skip
    return build_review(facts).as_dict()


def _of_finding(one: Finding) -> Problem:
    return Problem(Level.WARNING, one.code, f"{one.path} {one.detail}", file=one.path)


def _of_error(error: RumiError, *, file: str = "") -> Problem:
    fields = error.fields
    return Problem(
        Level.ERROR,
        error.code,
        error.title,
        file or str(fields.get("source", "")),
        _number(fields.get("line")),
        _number(fields.get("column")),
        str(fields.get("pointer", "")),
        str(fields.get("expected", "")) or ("" if fields.get("found") else error.detail),
        str(fields.get("found", "")),
        error.hint,
    )


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0

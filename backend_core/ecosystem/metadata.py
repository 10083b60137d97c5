"""From the files of one Pack folder to ``PackMetadata``: read, modernise, check, freeze. Nothing is run or imported.

Invariants:
  * A file stands at one place: below ``backend/`` (the specification's) or at the Pack's root (older), never at both.
  * ``permissions.json`` speaks for the Pack it lies in; the folder has the Pack's name.
  * What is handed out is frozen to the bottom.

Not here: whether anything may run (trust), which folders there are (``registry``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from backend_core.document import Document, Path
from backend_core.ecosystem import compat, uuid_utils
from backend_core.ecosystem.connectivity import read_connectivity, same_contracts
from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.requirements import LOCK_NAME, LockedPackage, parse_lock
from backend_core.ecosystem.spec.models import (
    ComponentManifest,
    Connectivity,
    HandlerFile,
    PackMetadata,
    PermissionRequest,
)
from backend_core.ecosystem.spec.validate import Kind, check, check_part, invalid, unknown_fields
from backend_core.ecosystem.versions import is_version_range
from backend_core.errors import AuthorError, quote
from backend_core.parsing import load_json

PACK_ID: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
RESERVED_IDS: Final = frozenset({"audit", "host", "isolation", "kernel", "operator", "rumi", "startup"})
"""Names by which the host speaks of itself: a Pack of that name could be taken for it in an issue, a log or a trace."""
_FOLDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HANDLER_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def read_metadata(reader: FolderReader, folder: str) -> PackMetadata:
    """Everything that is known of the Pack in ``folder`` without running it. Raises ``AuthorError``."""
    document = _read(reader, "ecosystem.json", Kind.ECOSYSTEM)
    if document is None:
        raise AuthorError(
            "No Pack metadata",
            code="ecosystem_missing",
            detail="expected backend/ecosystem.json, found none.",
            hint=f"Write {folder}/backend/ecosystem.json with at least pack_id and version, then scan again.",
            fields={"source": "backend/ecosystem.json", "line": 1, "column": 1, "pointer": "",
                    "expected": "a JSON object with pack_id and version", "found": "no file"},
        )  # fmt: skip
    value = document.value
    pack_id: str = value["pack_id"]
    if pack_id != folder:
        refusal = invalid(
            Kind.ECOSYSTEM, document, ("pack_id",), expected=f"the folder's name, {quote(folder)}",
            found=quote(pack_id), hint=f'Rename the folder to "{pack_id}", or correct pack_id.',
        )  # fmt: skip
        refusal.fields = MappingProxyType({**refusal.fields, "pack_id": pack_id})  # the registry looks for rivals
        raise refusal
    if pack_id in RESERVED_IDS:
        raise document.error(
            "The id is a name of the host", ("pack_id",), expected=f"none of {', '.join(sorted(RESERVED_IDS))}",
            found=quote(pack_id), hint="Give the Pack another id, and its folder the same.", code="pack_id_reserved",
        )  # fmt: skip
    _check_ranges(document, "dependencies", Kind.ECOSYSTEM)
    identity = value.get("pack_identity", f"local:{pack_id}")
    pack_uuid = value.get("pack_uuid", "").lower() or uuid_utils.pack_uuid(identity)
    notes = list(unknown_fields(Kind.ECOSYSTEM, document, value))
    connectivity = read_connectivity(Kind.ECOSYSTEM, document, value)
    components = tuple(_components(reader, document, pack_id, pack_uuid, notes))
    same_contracts(document, connectivity, components)
    permissions = _permissions(reader, pack_id, notes)
    lock_file, packages = _lock(reader)
    return PackMetadata(
        pack_id=pack_id,
        pack_identity=identity,
        version=value["version"],
        uuid=pack_uuid,
        pack_type=value.get("pack_type", "pack"),
        display_name=value.get("display_name", ""),
        description=value.get("description", ""),
        author=_author(value.get("author", "")),
        license=value.get("license", ""),
        dependencies=MappingProxyType(dict(value.get("dependencies", {}))),
        connectivity=connectivity,
        components=components,
        handlers=tuple(_handlers(reader)),
        permissions=permissions,
        addons=tuple(_addons(reader, notes)),
        packages=packages,
        lock_file=lock_file,
        metadata=freeze(value.get("metadata", {})),
        vocabulary=freeze(value.get("vocabulary", {})),
        notes=tuple(notes),
    )


def faults(root: str, folder: str) -> tuple[AuthorError, ...]:
    """What is wrong with the Pack at ``root``: the first fault of each file by itself, then of all of them together."""
    found: dict[str, AuthorError] = {}
    reader = FolderReader(root, READ_LIMITS)
    for path, kind in _described(reader):
        try:
            _load(reader, path, kind)
        except AuthorError as error:
            found[path] = error
    try:
        read_metadata(FolderReader(root, READ_LIMITS), folder)
    except AuthorError as error:
        found.setdefault(str(error.fields.get("source", "")), error)
    return tuple(found.values())


def _described(reader: FolderReader) -> Iterator[tuple[str, Kind]]:
    """Each file that has a schema, at each place where it may stand."""
    for place in ("backend/", ""):
        yield f"{place}ecosystem.json", Kind.ECOSYSTEM
        yield f"{place}permissions.json", Kind.PERMISSIONS
        for name in _names(reader, f"{place}components"):
            yield f"{place}components/{name}/manifest.json", Kind.MANIFEST
        for name in _names(reader, f"{place}addons"):
            if name.endswith(".addon.json"):
                yield f"{place}addons/{name}", Kind.ADDON


def _names(reader: FolderReader, folder: str) -> tuple[str, ...]:
    try:
        return tuple(reader.names(folder)) if reader.is_folder(folder) else ()
    except AuthorError:
        return ()  # a link or a device: reading all of it says so


# -- files --------------------------------------------------------------------------------------------------------


def _placed(reader: FolderReader, name: str, *, folder: bool = False) -> str | None:
    """Where ``name`` stands in the Pack: below ``backend/`` or at its root."""
    places = [path for path in (f"backend/{name}", name) if reader.exists(path)]
    if folder:
        places = [path for path in places if reader.is_folder(path)]
    if len(places) > 1:
        raise AuthorError(
            "The same file at two places",
            code="ambiguous_file",
            detail=f"expected {name} at one place, found both {places[0]} and {places[1]}.",
            hint=f"Keep {places[0]}, remove {places[1]}, then scan again.",
            fields={"source": places[1], "line": 1, "column": 1, "pointer": "", "expected": f"only {places[0]}",
                    "found": places[1]},
        )  # fmt: skip
    return places[0] if places else None


def _load(reader: FolderReader, path: str, kind: Kind) -> Document | None:
    data = reader.read(path)
    if data is None:
        return None
    document = compat.modernise(kind, load_json(data, source=path))
    check(kind, document)
    return document


def _read(reader: FolderReader, name: str, kind: Kind) -> Document | None:
    path = _placed(reader, name)
    return _load(reader, path, kind) if path else None


def _components(
    reader: FolderReader, document: Document, pack_id: str, pack_uuid: str, notes: list[str]
) -> Iterator[ComponentManifest]:
    """Components with their own manifest, then those written only inline in ecosystem.json; each id once."""
    taken: dict[str, str] = {}
    root = _placed(reader, "components", folder=True)
    for name in reader.names(root) if root else ():
        if not _FOLDER_NAME.fullmatch(name) or not reader.is_folder(f"{root}/{name}"):
            continue
        found = _load(reader, f"{root}/{name}/manifest.json", Kind.MANIFEST)
        if found is None:
            continue
        notes.extend(unknown_fields(Kind.MANIFEST, found, found.value))
        links = read_connectivity(Kind.MANIFEST, found, found.value)
        component = _component(found.value, links, pack_id, pack_uuid, f"{root}/{name}")
        if component.full_id in taken:
            raise _twice(Kind.MANIFEST, found, ("id",), component.full_id, taken[component.full_id])
        taken[component.full_id] = found.source
        yield component
    for name, given in document.value.get("components", {}).items():
        path: Path = ("components", name)
        value = inline_value(document.value, name, given)
        check_part(Kind.MANIFEST, document, value, path)
        links = read_connectivity(Kind.MANIFEST, document, value, path)
        component = _component(value, links, pack_id, pack_uuid, f"{root or 'backend/components'}/{value['id']}")
        other = taken.get(component.full_id)
        if other == document.source:
            raise _twice(Kind.ECOSYSTEM, document, path, component.full_id, other)
        if other is None:  # else this is the index entry of a component whose own manifest says more
            taken[component.full_id] = document.source
            yield component


def inline_value(pack: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that an entry of ``components`` in ecosystem.json stands for."""
    kind, _, own = name.rpartition(":")
    return {"id": own, "version": pack["version"], **({"type": kind} if kind else {}), **given}


def _twice(kind: Kind, document: Document, path: Path, name: str, other: str) -> AuthorError:
    return invalid(kind, document, path, expected="each of them once", found=f"{quote(name)} also in {quote(other)}")


def _component(
    value: Mapping[str, Any], links: Connectivity, pack_id: str, pack_uuid: str, directory: str
) -> ComponentManifest:
    kind, name = value["type"], value["id"]
    return ComponentManifest(
        type=kind,
        id=name,
        version=value["version"],
        full_id=uuid_utils.component_full_id(pack_id, kind, name),
        uuid=value.get("component_uuid", "").lower() or uuid_utils.component_uuid(pack_uuid, kind, name),
        directory=directory,
        connectivity=links,
        display_name=value.get("display_name", ""),
        description=value.get("description", ""),
        author=_author(value.get("author", "")),
        extensions=freeze(value.get("extensions", {})),
        settings_schema=freeze(value.get("settings_schema", {})),
        addon_policy=freeze(value.get("addon_policy", {})),
        storage=freeze(value.get("storage", {})),
        entry=freeze(value.get("entry", {})),
        metadata=freeze(value.get("metadata", {})),
    )


def _author(value: str | Mapping[str, str]) -> str:
    """One line: the text, or ``name <email> (url)``."""
    if isinstance(value, str):
        return value
    email, url = value.get("email"), value.get("url")
    return value["name"] + (f" <{email}>" if email else "") + (f" ({url})" if url else "")


def _handlers(reader: FolderReader) -> Iterator[HandlerFile]:
    root = _placed(reader, "handlers", folder=True)
    for name in reader.names(root) if root else ():
        path = PurePosixPath(f"{root}/{name}")
        # A leading underscore marks a helper module of the Pack's own.
        if path.suffix == ".py" and _HANDLER_NAME.fullmatch(path.stem):
            yield HandlerFile(name=path.stem, path=str(path))


def _permissions(reader: FolderReader, pack_id: str, notes: list[str]) -> tuple[PermissionRequest, ...]:
    document = _read(reader, "permissions.json", Kind.PERMISSIONS)
    if document is None:
        return ()
    value = document.value
    if value["pack_id"] != pack_id:
        raise invalid(
            Kind.PERMISSIONS, document, ("pack_id",), expected=f"this Pack's id, {quote(pack_id)}",
            found=quote(value["pack_id"]),
        )  # fmt: skip
    notes.extend(unknown_fields(Kind.PERMISSIONS, document, value))
    return tuple(
        PermissionRequest(
            type=entry["type"],
            reason=entry["reason"],
            params=freeze({key: item for key, item in entry.items() if key not in {"type", "reason"}}),
        )
        for entry in value["permissions"]
    )


def _lock(reader: FolderReader) -> tuple[str, tuple[LockedPackage, ...]]:
    path = _placed(reader, LOCK_NAME)
    data = reader.read(path) if path else None
    return (path or "", parse_lock(data, source=path or "")) if data is not None else ("", ())


def _addons(reader: FolderReader, notes: list[str]) -> Iterator[Mapping[str, Any]]:
    root = _placed(reader, "addons", folder=True)
    seen: dict[str, str] = {}
    for name in reader.names(root) if root else ():
        if not name.endswith(".addon.json"):
            continue
        document = _load(reader, f"{root}/{name}", Kind.ADDON)
        if document is None:
            continue
        _check_ranges(document, "conditions", Kind.ADDON)
        notes.extend(unknown_fields(Kind.ADDON, document, document.value))
        other = seen.setdefault(document.value["addon_id"], document.source)
        if other != document.source:
            raise _twice(Kind.ADDON, document, ("addon_id",), document.value["addon_id"], other)
        yield freeze(document.value)


def _check_ranges(document: Document, field: str, kind: Kind) -> None:
    for name, wanted in document.value.get(field, {}).items():
        if not is_version_range(wanted):
            raise invalid(
                kind, document, (field, name), expected="a range of versions such as >=1.0.0,<2.0.0",
                found=quote(wanted, 80),
            )  # fmt: skip

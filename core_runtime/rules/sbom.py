"""The bill of materials of a Pack: every file and every locked package with its hashes, as CycloneDX 1.6. Pure.

Invariants:
  * The same bytes give the same document: nothing of the machine, no time, and a serial number that follows from the
    digest.
  * Only what is known is said. A package whose wheel nobody has seen is listed with the hashes that its lock admits.

Not here: reading the Pack (``drivers``), vulnerabilities, and what a Pack fetches while it runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote as percent

from backend_core.ecosystem.requirements import LockedPackage
from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.ecosystem.uuid_utils import NAMESPACE
from core_runtime.rules.dependencies import SeenPackages, SeenWheel
from core_runtime.rules.digest import FileEntry
from core_runtime.rules.signing import Seal

SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"
MEDIA_TYPE: Final = "application/vnd.cyclonedx+json; version=1.6"
PACK_REF: Final = "pack"

Component = dict[str, Any]


def bill_of_materials(
    metadata: PackMetadata, entries: Iterable[FileEntry], digest: str, packages: SeenPackages, seal: Seal
) -> dict[str, Any]:
    """The document. ``packages``: what is known of the wheels; ``seal``: of the signature."""
    libraries = [_library(package, packages.of(package)) for package in packages.packages]
    needed = [_pack(name, wanted) for name, wanted in sorted(metadata.dependencies.items())]
    files = [_file(entry) for entry in entries]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, f'bill of materials:{digest}')}",
        "version": 1,
        "metadata": {"component": _subject(metadata, digest, seal)},
        "components": [*libraries, *needed, *files],
        "dependencies": [
            {"ref": PACK_REF, "dependsOn": [one["bom-ref"] for one in (*libraries, *needed)]},
            *({"ref": one["bom-ref"]} for one in (*libraries, *needed)),
        ],
    }


def counted(document: Mapping[str, Any]) -> dict[str, int]:
    """How many components of each type it lists."""
    found: dict[str, int] = {}
    for one in document["components"]:
        found[one["type"]] = found.get(one["type"], 0) + 1
    return found


def _subject(metadata: PackMetadata, digest: str, seal: Seal) -> Component:
    facts = {
        "rumi:digest": digest,
        "rumi:identity": metadata.pack_identity,
        "rumi:lock-file": metadata.lock_file,
        "rumi:publisher-key": seal.key,
        "rumi:signed-digest": seal.signed_digest if seal.statement else "",
    }
    subject: Component = {
        "type": "application",
        "bom-ref": PACK_REF,
        "name": metadata.pack_id,
        "version": metadata.version,
        "properties": _properties(facts),
    }
    if metadata.description:
        subject["description"] = metadata.description
    if metadata.author:
        subject["authors"] = [{"name": metadata.author}]
    if metadata.license:  # its author's words; whether they are a known licence's is not for us to say
        subject["licenses"] = [{"license": {"name": metadata.license, "acknowledgement": "declared"}}]
    return subject


def _library(package: LockedPackage, wheels: tuple[SeenWheel, ...]) -> Component:
    """One line of the lock, with the wheels that are known of it inside."""
    admitted = [_sha256(value) for value in package.hashes]
    library: Component = {
        "type": "library",
        "bom-ref": f"lock:{package.line}",
        "name": package.name,
        "version": package.version,
        "purl": f"pkg:pypi/{percent(package.name, safe='')}@{percent(package.version, safe='')}",
        "properties": _properties({"rumi:marker": package.marker.text if package.marker else ""}),
    }
    if len(admitted) == 1:
        library["hashes"] = admitted
    else:
        library["properties"] += [{"name": "rumi:admitted-sha256", "value": value} for value in package.hashes]
    if wheels:
        library["components"] = [
            {
                "type": "file",
                "bom-ref": f"lock:{package.line}:{wheel.filename}",
                "name": wheel.filename,
                "hashes": [_sha256(wheel.sha256)],
                "properties": _properties({"rumi:bytes": str(wheel.size), "rumi:native": ", ".join(wheel.native[:20])}),
            }
            for wheel in wheels
        ]
    return library


def _pack(name: str, wanted: str) -> Component:
    """Another Pack that it needs: named, not contained."""
    return {
        "type": "application",
        "bom-ref": f"needs:{name}",
        "name": name,
        "properties": _properties({"rumi:version-range": wanted, "rumi:contained": "false"}),
    }


def _file(entry: FileEntry) -> Component:
    return {
        "type": "file",
        "bom-ref": f"file:{entry.path}",
        "name": entry.path,
        "hashes": [_sha256(entry.sha256)],
        "properties": _properties(
            {"rumi:bytes": str(entry.size), "rumi:executable": "true" if entry.executable else ""}
        ),
    }


def _sha256(value: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": value}


def _properties(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in facts.items() if value]

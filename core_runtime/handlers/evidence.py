"""Opening the audit trail, finding that somebody changed it, and going on only when the operator has said so.

Invariants:
  * The trail is checked before the first line of this run is written: writing signs a new head, which would hide that
    lines were taken away.
  * A changed trail is set aside, never continued or deleted. The new one begins with what was found, so the finding
    outlasts restarts, and ends only with a record of who acknowledged it.
  * Until then nothing of any Pack starts and nothing is granted; taking rights away always works.
  * A torn last line, and lines that a power cut took, are what a crash leaves: no fault.
  * A key that can't be used makes no finding: it voids every grant by itself, and the causes there say so.

Not here: the chain (``drivers.audit``), what else needs evidence (each use case asks ``Host.require_evidence``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from backend_core.errors import ConflictError, HostError, quote
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.side_work import Report, unheard
from core_runtime.handlers.host import Host
from core_runtime.install_journal import InstallJournal
from core_runtime.rules.chain import AuditReport

AUDIT_BROKEN = "audit_broken"
JOURNAL_BROKEN = "journal_broken"
BROKEN = "evidence.broken"
ACKNOWLEDGED = "evidence.acknowledged"
_KEY_CAUSES = "key_"
_HASH_BLOCK_BYTES = 1 << 20


class Evidence(Struct, frozen=True):
    """What was opened. ``fault`` is the sentence of a finding that nobody has acknowledged yet, or ``""``."""

    audit: AuditLog
    journal: InstallJournal
    fault: str
    journal_fault: str


def open_evidence(
    home: Path, conceal: Callable[[Any], Any] | None = None, report: Report = unheard
) -> Evidence:
    """Check, set aside what was changed, begin. Raises ``HostError`` where the trail can't be written. Blocks.

    ``conceal`` hides known secrets in what is recorded; ``report`` is told of what can't be recorded.
    """
    audit, journal = AuditLog(home, conceal=conceal, report=report), InstallJournal(home, report=report)
    found = audit.verify()
    if found.ok or found.problem.startswith(_KEY_CAUSES):
        fault = _open_finding(audit.path)
    else:
        fault = found.sentence()
        _set_aside(audit, found)
    audit.append("host.started", evidence=fault or "verified")
    kept = journal.verify()
    return Evidence(audit, journal, fault, "" if kept.ok else kept.sentence())


def tell(host: Host, found: Evidence) -> None:
    """The finding as issues that every face shows."""
    host.evidence_fault = found.fault
    if found.fault:
        _issue(
            host,
            f"{found.fault} Nothing of any Pack starts and nothing is granted until you acknowledge it. "
            "The changed trail was set aside in user_data/audit.",
        )
    if found.journal_fault:
        host.diagnostics.issue(
            JOURNAL_BROKEN,
            "warn",
            "journal",
            "The install journal was changed by something else than this host",
            f"{found.journal_fault} Uninstalling removes nothing that is recorded from there on.",
            "Remove such files by hand.",
        )


def acknowledge(host: Host, *, actor: str, reason: str = "") -> None:
    """The operator goes on in spite of the finding, on record. ``ConflictError`` when there is none."""
    if not host.evidence_fault:
        raise ConflictError(
            "There is nothing to acknowledge",
            code="audit_intact",
            detail="The audit trail verified when the host started.",
            hint="Check it again with: rumi audit verify",
        )
    host.audit.append(ACKNOWLEDGED, actor=actor, reason=quote(reason, 1000), finding=host.evidence_fault)
    host.evidence_fault = ""
    host.diagnostics.resolve(AUDIT_BROKEN, "audit")


def describe(host: Host) -> dict[str, Any]:
    """The trail and the journal, checked now: ``GET /api/audit/verify``.

    A trail that was changed while this host writes it is told as an issue; the next start finds and blocks it.
    """
    report, journal = host.audit.verify(), host.journal.verify()
    if not report.ok:
        _issue(host, report.sentence())
    return {
        **_described(report),
        "path": str(host.audit.path),
        "finding": host.evidence_fault or None,
        "set_aside": sorted(path.name for path in host.audit.path.parent.glob("*.broken-*")),
        "journal": _described(journal),
    }


# -- inside -----------------------------------------------------------------------------------------------------------


def _issue(host: Host, detail: str) -> None:
    host.diagnostics.issue(
        AUDIT_BROKEN,
        "error",
        "audit",
        "The audit trail was changed by something else than this host",
        detail,
        "Look at it (rumi audit verify); after the next start of the host: rumi audit acknowledge",
    )


def _described(report: AuditReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "records": report.records,
        "problem": report.problem or None,
        "bad_record": report.bad_record or None,
        "torn_bytes": report.torn_bytes,
        "lost": report.lost,
        "sentence": report.sentence(),
    }


def _set_aside(audit: AuditLog, report: AuditReport) -> None:
    """A crash after the rename leaves a missing file and a head that knows better: found again at the next start."""
    path = audit.path
    name, digest = "", ""
    try:
        if path.exists():
            digest = _sha256(path)
            aside = path.with_name(f"{path.name}.broken-{int(time.time())}-{digest[:8]}")
            path.rename(aside)
            name = aside.name
    except OSError as error:
        raise HostError(
            "The changed audit trail can't be set aside",
            code="audit_unwritable",
            detail=f"{path}: {error.strerror or error}",
            hint="Make user_data/audit writable for the user that runs the host, then start again.",
        ) from error
    audit.append(
        BROKEN,
        problem=report.problem,
        bad_record=report.bad_record,
        sentence=report.sentence(),
        set_aside=name,
        sha256=digest,
    )


def _open_finding(path: Path) -> str:
    """The newest finding of a verified trail that has no acknowledgement after it."""
    fault = ""
    for record in _events(path):
        if record["event"] == BROKEN:
            fault = str(record.get("sentence", "The audit trail was changed."))
        elif record["event"] == ACKNOWLEDGED:
            fault = ""
    return fault


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """Only lines that may matter are parsed: a trail may have a million."""
    try:
        with path.open("rb") as file:
            for line in file:
                if b'"evidence.' in line:
                    try:
                        record = json.loads(line)
                    except ValueError:
                        continue  # a torn last line; the rest of the trail was verified
                    if isinstance(record, dict) and isinstance(record.get("event"), str):
                        yield record
    except FileNotFoundError:
        return


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()

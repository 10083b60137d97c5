"""Looking at one Pack: its folder, its grant, and whether the files are the granted ones.

Invariants: that approved files changed is persisted before it is reported; an interrupted approval is finished on
the way; what can't be read counts as changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from backend_core.ecosystem.spec.models import PackFolder
from backend_core.errors import HostError, TrustError
from core_runtime.drivers.counters import Counters
from core_runtime.drivers.grants import GrantFiles, Loaded
from core_runtime.drivers.tree import Tree, read_tree
from core_runtime.rules.approval import Facts, Mark, Verdict
from core_runtime.rules.digest import TreeLimits, difference, fingerprints
from core_runtime.rules.grants import Grant, Mode
from core_runtime.rules.permissions import forbidden
from core_runtime.rules.seals import Fault

AMBIGUOUS = "pack_id_shared"


class Packs(Protocol):
    """What trust needs of the registry of folders."""

    @property
    def packs_dir(self) -> Path:
        """The folder of the Packs."""

    def scan(self) -> dict[str, PackFolder]:
        """Every folder, read where it changed."""

    def rescan(self, pack_id: str) -> PackFolder | None:
        """One folder, read now."""


class Inspection(Struct, frozen=True):
    """What was found. ``changed`` names the paths that differ from the grant; ``news`` that they did not before."""

    loaded: Loaded
    folder: PackFolder | None
    tree: Tree | None
    changed: tuple[str, ...]
    news: bool = False

    def facts(self, *, reviewed: str, running: bool, run_fault: str) -> Facts:
        """Everything that decides the state."""
        error: Mapping[str, Any] = (self.folder.error if self.folder else None) or {}
        fault = str(error.get("code", "pack_invalid")) if error else ""
        metadata = self.folder.metadata if self.folder else None
        if metadata is not None and forbidden(metadata):
            fault = "permission_forbidden"
        return Facts(
            self.loaded.verdict,
            cause=self.loaded.cause,
            mark=self.loaded.mark,
            folder_fault=fault,
            ambiguous=fault == AMBIGUOUS,
            differs=bool(self.changed),
            reviewed=self.tree is not None and self.tree.digest == reviewed,
            running=running,
            run_fault=run_fault,
        )


class Inspector:
    """Reads Packs for the approval manager, which holds the lock of each."""

    def __init__(self, packs: Packs, grants: GrantFiles, limits: TreeLimits, instance: str) -> None:
        self._packs = packs
        self._grants = grants
        self._limits = limits
        self._instance = instance

    def inspect(
        self, pack_id: str, folder: PackFolder | None, counters: Counters | Fault | None, *, reviewed: str
    ) -> Inspection:
        """Look at one Pack now. ``reviewed``: the digest that its review showed, ``""`` without one."""
        loaded = self._grants.load(pack_id, counters)
        tree, refused = None, None
        if folder is not None and (loaded.verdict is Verdict.VALID or reviewed):
            tree, refused = self._read(pack_id)
        changed = _changes(loaded.grant, tree, refused)
        if loaded.grant is not None and loaded.grant.counter > loaded.counter:
            self._grants.heal(pack_id, loaded.grant)
            loaded = replace(loaded, counter=loaded.grant.counter)
        news = bool(changed) and loaded.mark is not Mark.MODIFIED
        if news:
            self._grants.mark_modified(pack_id)
            loaded = replace(loaded, mark=Mark.MODIFIED)
        return Inspection(self._without_past_runs(loaded), folder, tree, changed, news)

    def _read(self, pack_id: str) -> tuple[Tree | None, TrustError | None]:
        try:
            return read_tree(self._packs.packs_dir / pack_id, limits=self._limits), None
        except TrustError as error:
            return None, error
        except HostError as error:  # what can't be read can't be shown to be the approved files
            return None, TrustError(error.title, code=error.code, detail=error.detail, hint=error.hint)

    def _without_past_runs(self, loaded: Loaded) -> Loaded:
        """Permissions "until restart" of an earlier run are over; they keep their place, since places are numbered."""
        if loaded.grant is None:
            return loaded
        permissions = tuple(
            replace(p, mode=Mode.UNTIL, until=0.0, instance="")
            if p.mode is Mode.RESTART and p.instance != self._instance
            else p
            for p in loaded.grant.permissions
        )
        return replace(loaded, grant=replace(loaded.grant, permissions=permissions))


def _changes(grant: Grant | None, tree: Tree | None, refused: TrustError | None) -> tuple[str, ...]:
    """The paths in which the folder differs from the grant; empty without a grant."""
    if grant is None:
        return ()
    if refused is not None:
        return (str(refused.fields.get("path") or "."),)
    found = difference(grant.files, fingerprints(tree.entries) if tree else {})
    if found:
        return found.paths
    return () if tree is not None and tree.digest == grant.digest else (".",)

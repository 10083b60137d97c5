"""The Python packages of Packs on disk: wheels gathered, unpacked as one set, kept and verified like a Pack's own copy.

``user_data/store/packages/trees/<digest>/`` holds one unpacked set under the digest of its files; two Packs with the
same set share it, and each sandbox sees only its own. ``user_data/store/fetched/<token>/`` holds wheels that were just
fetched, until they are unpacked.

Invariants:
  * Only bytes whose SHA-256 stands in the lock are unpacked; a set appears complete or not at all.
  * ``verify`` reads every byte again, before each start. What does not match is never handed out.
  * A wheel that lies in a Pack's ``wheels/`` and that its lock does not name refuses the Pack.

Not here: fetching (``wheel_fetch``), what a grant makes of it (``approvals``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from backend_core.ecosystem.requirements import WHEELS_NAME, LockedPackage
from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import AuthorError, HostError, TrustError, quote
from backend_core.files import private_folder
from core_runtime.drivers import pack_folders, wheel_archive
from core_runtime.drivers.store import Stored, TreeStore, discard
from core_runtime.rules.dependencies import (
    ChosenWheel,
    Dependencies,
    Offer,
    SeenPackages,
    SeenWheel,
    applicable,
    belongs,
    choose,
    fits,
)
from core_runtime.rules.digest import TreeLimits
from core_runtime.rules.wheels import Target, parse_wheel_name

MAX_NATIVE_NAMED = 20
MAX_VENDORED = 1000


class Vendored(Struct, frozen=True):
    """A wheel that came with the Pack or was fetched: what it is, and where it lies."""

    offer: Offer
    path: Path


class Packages:
    """Sets of packages below one folder. Thread-safe."""

    def __init__(self, store: Path) -> None:
        private_folder(store, 0o711)
        self._trees = TreeStore(store / "packages")
        self._fetched = private_folder(store / "fetched")
        for left in self._fetched.iterdir():
            discard(left)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for wheels that are being fetched; gone afterwards."""
        folder = self._fetched / secrets.token_hex(8)
        folder.mkdir(0o700)
        try:
            yield folder
        finally:
            discard(folder)

    def resolve(
        self,
        metadata: PackMetadata,
        copy: Path,
        *,
        target: Target | None,
        fetched: Path | None,
        before: Dependencies | None,
    ) -> tuple[Dependencies | None, str]:
        """What a grant made now holds, and the pinned set's digest (``""`` without one; the caller releases it).

        Raises:
            AuthorError: two lines of the lock count at once, or a vendored wheel is not locked.
            TrustError: a wheel is refused, or two of them want the same file.
        """
        if not metadata.lock_file:
            return None, ""
        pins = tuple(one.pin for one in metadata.packages)
        vendored = vendored_wheels(metadata, copy)
        if target is None:
            return Dependencies(pins, missing=pins), ""
        counted = _counted(metadata, target)
        if (
            before is not None
            and before.tree
            and not fits(metadata.packages, target, before)
            and self._is_whole(before)
        ):
            return Dependencies(pins, target.words, before.wheels, before.tree), ""
        there = [*vendored, *(_wheels_in(fetched) if fetched else ())]
        choice = choose(counted, target, [one.offer for one in there])
        if choice.missing:
            return Dependencies(pins, target.words, missing=tuple(one.pin for one in choice.missing)), ""
        paths = {one.offer.sha256: one.path for one in there}
        wheels, stored = self._unpack([(offer, paths[offer.sha256]) for offer in choice.wheels])
        return Dependencies(
            pins, target.words, wheels, stored.digest if stored else ""
        ), stored.digest if stored else ""

    def wanted(
        self, metadata: PackMetadata, copy: Path, *, target: Target, before: Dependencies | None
    ) -> tuple[LockedPackage, ...]:
        """The packages for which no wheel is here: what has to be fetched."""
        counted = _counted(metadata, target)
        if (
            before is not None
            and before.tree
            and not fits(metadata.packages, target, before)
            and self._is_whole(before)
        ):
            return ()
        return choose(counted, target, [one.offer for one in vendored_wheels(metadata, copy)]).missing

    def open(
        self, pack_id: str, metadata: PackMetadata, held: Dependencies | None, target: Target | None
    ) -> Path | None:
        """The verified folder of the Pack's packages, None for a Pack that has none.

        Raises:
            HostError: ``dependencies_missing``: they are not here, or not for this Python.
            TrustError: ``store_missing``, ``store_corrupt``: what is here is not what was unpacked.
        """
        if not metadata.lock_file:
            return None
        why = "its approval was made without them" if held is None else ""
        if held is not None and target is not None:
            why = fits(metadata.packages, target, held)
        elif target is None:
            why = "the sandbox's Python is of a kind for which no wheel is chosen"
        if why or held is None:
            raise HostError(
                f"Python packages of {pack_id} are missing",
                code="dependencies_missing",
                detail=f"{why}.",
                hint=f"rumi pack fetch {pack_id}   (or put wheels into {wheels_folder(metadata)}/ and approve again)",
                fields={"missing": list(held.missing) if held else []},
            )
        if not held.wheels:
            return None
        try:
            return self._trees.verify(held.tree).path
        except TrustError as error:
            raise TrustError(
                f"The unpacked packages of {pack_id} do not verify",
                code=error.code,
                detail=error.detail,
                hint=f"rumi pack fetch {pack_id}   (they are then unpacked anew)",
                fields=error.fields,
            ) from error

    def release(self, digest: str) -> None:
        """Undo the pin of ``resolve``."""
        if digest:
            self._trees.release(digest)

    @contextmanager
    def pinned(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep these sets for as long as the block lasts."""
        with self._trees.pinned(digests):
            yield

    def collect(self, keep: Callable[[], Iterable[str] | None]) -> None:
        """Drop every set that is neither kept nor pinned; None: it can't be told."""
        self._trees.collect(keep)

    def _is_whole(self, held: Dependencies) -> bool:
        try:
            self._trees.verify(held.tree)
        except (TrustError, HostError):  # unpacked anew
            return False
        return True

    def _unpack(self, wheels: Sequence[tuple[Offer, Path]]) -> tuple[tuple[ChosenWheel, ...], Stored | None]:
        if not wheels:
            return (), None
        chosen, left = [], TreeLimits().total_bytes
        with self.scratch() as folder, _writing():
            for offer, path in wheels:
                contents = wheel_archive.unpack(path, offer.sha256, folder, limit_bytes=left)
                native = contents.native
                left -= contents.layout.total_bytes
                name = offer.name
                chosen.append(
                    ChosenWheel(
                        name.filename, name.name, name.version, offer.sha256, offer.size,
                        native[:MAX_NATIVE_NAMED], len(native),
                    )
                )  # fmt: skip
            return tuple(chosen), self._trees.ingest(folder)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise pack_folders.storage_error(error, "The packages could not be unpacked; nothing changed.") from error


def look(metadata: PackMetadata, copy: Path, before: Dependencies | None) -> SeenPackages:
    """What can be known before a decision: the wheels that the Pack brings, and those that are approved already."""
    folder = copy / wheels_folder(metadata)
    seen = [_seen(path) for path in sorted(folder.iterdir())] if metadata.lock_file and folder.is_dir() else []
    known = {wheel.sha256 for wheel in seen}
    for held in before.wheels if before else ():
        if held.sha256 not in known:
            more = [f"… {held.native_count} in all"] if held.native_count > len(held.native) else []
            seen.append(SeenWheel(held.filename, held.sha256, held.size, (*held.native, *more)))
    return SeenPackages(metadata.lock_file, metadata.packages, tuple(seen))


def wheels_folder(metadata: PackMetadata) -> str:
    """Where a Pack's own wheels lie: beside its lock."""
    folder = metadata.lock_file.rpartition("/")[0]
    return f"{folder}/{WHEELS_NAME}" if folder else WHEELS_NAME


def vendored_wheels(metadata: PackMetadata, copy: Path) -> list[Vendored]:
    """The wheels that came with the Pack, hashed. ``copy`` is a stored tree: it holds neither links nor devices."""
    folder = copy / wheels_folder(metadata)
    if not metadata.lock_file or not folder.is_dir():
        return []
    found = list(_wheels_in(folder))
    for one in found:
        if not any(belongs(package, one.offer) for package in metadata.packages):
            raise AuthorError(
                "A wheel of the Pack is not in its lock",
                code="wheel_unlocked",
                detail=f"No line of {metadata.lock_file} names {quote(one.path.name)} with SHA-256 {one.offer.sha256}.",
                hint=f"Add its hash to {metadata.lock_file}, or remove the wheel.",
                fields={"wheel": quote(one.path.name), "sha256": one.offer.sha256},
            )
    return found


def _seen(path: Path) -> SeenWheel:
    try:
        contents = wheel_archive.examine(path)
    except TrustError as error:
        return SeenWheel(path.name, "", 0, fault=error.detail)
    return SeenWheel(path.name, contents.sha256, contents.size, contents.native, contents.layout.left_out)


def _wheels_in(folder: Path) -> Iterator[Vendored]:
    paths = sorted(folder.iterdir())
    if len(paths) > MAX_VENDORED:
        raise TrustError("Too many wheels", code="wheel_refused", detail=f"More than {MAX_VENDORED} lie there.")
    for path in paths:
        name = parse_wheel_name(path.name)
        if name is None:
            raise AuthorError(
                "Only wheels may lie there",
                code="wheel_unlocked",
                detail=f"{quote(path.name)} has no wheel's name; nothing is ever built for a Pack.",
                hint="Keep only .whl files there: download them with their usual names.",
                fields={"wheel": quote(path.name)},
            )
        sha256, size = wheel_archive.sha256_of(path)
        yield Vendored(Offer(name, sha256, size), path)


def _counted(metadata: PackMetadata, target: Target) -> tuple[LockedPackage, ...]:
    counted = applicable(metadata.packages, target)
    if isinstance(counted, str):
        raise AuthorError(
            "The lock file contradicts itself",
            code="lock_invalid",
            detail=f"{metadata.lock_file}: {counted}.",
            hint="Make their markers exclude each other.",
        )
    return counted

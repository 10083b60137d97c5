"""Which wheels a Pack gets, and what its grant remembers of them. Pure.

A lock says what may be used (names, versions, hashes of every acceptable file); a sandbox's Python says what can be
used. ``choose`` puts both together; a grant keeps the outcome, so that a start needs no decision any more.

Invariants:
  * A wheel is chosen only when its hash stands in the line of its package, and name and version agree.
  * An outcome names what is missing; one that misses something lets nothing start.

Not here: files (``drivers.packages``), the form of a lock (``backend_core.ecosystem.requirements``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from backend_core.ecosystem.requirements import LockedPackage, same_version
from core_runtime.rules.digest import normal_digest
from core_runtime.rules.findings import Finding
from core_runtime.rules.wheels import Target, WheelName, parse_wheel_name, preference


class Offer(Struct, frozen=True):
    """A wheel that is there: its name taken apart, its bytes' SHA-256 and size."""

    name: WheelName
    sha256: str
    size: int


class ChosenWheel(Struct, frozen=True):
    """One wheel of a grant. ``native`` names its files with machine code, at most a few."""

    filename: str
    name: str
    version: str
    sha256: str
    size: int
    native: tuple[str, ...] = ()
    native_count: int = 0


class Dependencies(Struct, frozen=True):
    """What a grant says about a Pack's packages.

    ``locked``: every ``name==version`` of the lock. ``target``: the Python that wheels were chosen for, in words.
    ``tree``: digest of the unpacked set, ``""`` while something is ``missing`` (pins, each a sentence's subject).
    """

    locked: tuple[str, ...]
    target: str = ""
    wheels: tuple[ChosenWheel, ...] = ()
    tree: str = ""
    missing: tuple[str, ...] = ()


class Choice(Struct, frozen=True):
    """``wheels``: one for each package that counts on the target; ``missing``: those without one."""

    wheels: tuple[Offer, ...]
    missing: tuple[LockedPackage, ...]


class PackageDifference(Struct, frozen=True):
    """Packages against the approved version. ``changed``: name → (old, new) versions."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[str, str]]


def applicable(packages: Sequence[LockedPackage], target: Target) -> tuple[LockedPackage, ...] | str:
    """The lines that count on a target, or why the lock is of no use there."""
    environment = target.environment()
    counted = [one for one in packages if one.marker is None or one.marker.holds(environment)]
    seen: dict[str, LockedPackage] = {}
    for one in counted:
        other = seen.setdefault(one.name, one)
        if other is not one:
            return f"lines {other.line} and {one.line} both count for {one.name} on {target.words}"
    return tuple(counted)


def choose(packages: Sequence[LockedPackage], target: Target, offers: Iterable[Offer]) -> Choice:
    """The best fitting wheel of each package. ``packages`` are those that count (``applicable``)."""
    there = list(offers)
    chosen, missing = [], []
    for package in packages:
        ranked = [
            (rank, offer.name.filename, offer)
            for offer in there
            if belongs(package, offer) and (rank := preference(offer.name, target)) is not None
        ]
        if ranked:
            chosen.append(max(ranked, key=lambda one: one[:2])[2])
        else:
            missing.append(package)
    return Choice(tuple(chosen), tuple(missing))


def belongs(package: LockedPackage, offer: Offer) -> bool:
    """Whether a wheel is one of those that the package's line admits."""
    same = offer.name.name == package.name and same_version(offer.name.version, package.version)
    return same and offer.sha256 in package.hashes


def fits(packages: Sequence[LockedPackage], target: Target, held: Dependencies) -> str:
    """Why what a grant holds can't be used on this target now; ``""`` when it can."""
    counted = applicable(packages, target)
    if isinstance(counted, str):
        return counted
    if held.missing:
        return f"not there: {', '.join(held.missing[:5])}"
    offers = [
        Offer(name, wheel.sha256, wheel.size)
        for wheel in held.wheels
        if (name := parse_wheel_name(wheel.filename)) is not None
    ]
    choice = choose(counted, target, offers)
    if choice.missing:
        return f"no wheel that fits {target.words}: {', '.join(one.pin for one in choice.missing[:5])}"
    if len(choice.wheels) != len(held.wheels):
        return f"chosen for {held.target}, but {target.words} needs fewer of them"
    return "" if held.tree or not held.wheels else "they were never unpacked"


class SeenWheel(Struct, frozen=True):
    """A wheel that was looked at before a decision. ``fault``: why approving it will be refused."""

    filename: str
    sha256: str
    size: int
    native: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    fault: str = ""


class SeenPackages(Struct, frozen=True):
    """What a review knows of a Pack's packages. ``wheels``: those that it brings or that an approval has seen."""

    lock_file: str = ""
    packages: tuple[LockedPackage, ...] = ()
    wheels: tuple[SeenWheel, ...] = ()

    def of(self, package: LockedPackage) -> tuple[SeenWheel, ...]:
        """The wheels that are known of one line."""
        return tuple(wheel for wheel in self.wheels if wheel.sha256 in package.hashes)

    def findings(self) -> list[Finding]:
        """What the operator should know: machine code, refusals to come, and what nobody has looked at."""
        found = []
        for wheel in self.wheels:
            if wheel.fault:
                found.append(Finding("unscannable", wheel.filename, f"can't be used: {wheel.fault}"))
            if wheel.native:
                more = f" and {len(wheel.native) - 3} more" if len(wheel.native) > 3 else ""
                names = ", ".join(wheel.native[:3])
                found.append(Finding("native_dependency", wheel.filename, f"holds machine code: {names}{more}."))
        unseen = [package.pin for package in self.packages if not self.of(package)]
        if unseen:
            more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
            what = "names packages that are fetched once it is approved; nobody has looked at them"
            found.append(Finding("unseen_dependency", self.lock_file, f"{what}: {', '.join(unseen[:5])}{more}."))
        return found

    def documents(self) -> list[dict[str, Any]]:
        """For the faces, one entry a line of the lock."""
        return [
            {
                "name": package.name,
                "version": package.version,
                "line": package.line,
                "marker": package.marker.text if package.marker else "",
                "hashes": list(package.hashes),
                "wheels": [
                    {
                        "filename": wheel.filename, "sha256": wheel.sha256, "size": wheel.size,
                        "native": list(wheel.native[:20]), "native_count": len(wheel.native),
                        "left_out": list(wheel.left_out[:20]), "fault": wheel.fault,
                    }
                    for wheel in self.of(package)
                ],
            }
            for package in self.packages
        ]  # fmt: skip


def difference(before: Dependencies | None, packages: Sequence[LockedPackage]) -> PackageDifference:
    """What a lock says against what was approved."""
    old: dict[str, str] = {}
    for pin in before.locked if before else ():
        name, _, version = pin.partition("==")
        old[name] = f"{old[name]}, {version}" if name in old else version
    new: dict[str, str] = {}
    for one in packages:
        new[one.name] = f"{new[one.name]}, {one.version}" if one.name in new else one.version
    return PackageDifference(
        added=tuple(f"{name}=={new[name]}" for name in sorted(new.keys() - old.keys())),
        removed=tuple(f"{name}=={old[name]}" for name in sorted(old.keys() - new.keys())),
        changed={name: (old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]},
    )


def dependencies_document(held: Dependencies | None) -> dict[str, Any] | None:
    """As it stands in the grant."""
    if held is None:
        return None
    return {
        "locked": list(held.locked),
        "target": held.target,
        "tree": held.tree,
        "missing": list(held.missing),
        "wheels": [
            {
                "filename": one.filename, "name": one.name, "version": one.version, "sha256": one.sha256,
                "size": one.size, "native": list(one.native), "native_count": one.native_count,
            }
            for one in held.wheels
        ],
    }  # fmt: skip


def read_dependencies(document: Any) -> Dependencies | None:
    """The reverse; ``KeyError``, ``TypeError`` or ``ValueError`` for another shape."""
    if document is None:
        return None
    tree = normal_digest(str(document["tree"])) if document["tree"] else ""
    if bool(tree) is not bool(document["tree"]):
        raise ValueError("dependencies.tree")
    return Dependencies(
        locked=tuple(str(item) for item in document["locked"]),
        target=str(document["target"]),
        tree=tree,
        missing=tuple(str(item) for item in document["missing"]),
        wheels=tuple(
            ChosenWheel(
                filename=str(item["filename"]),
                name=str(item["name"]),
                version=str(item["version"]),
                sha256=str(item["sha256"]),
                size=int(item["size"]),
                native=tuple(str(path) for path in item["native"]),
                native_count=int(item["native_count"]),
            )
            for item in document["wheels"]
        ),
    )

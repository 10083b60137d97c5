"""``requirements.lock`` of a Pack: which Python packages it needs, each pinned to a version and to the bytes of wheels.

The form is pip's for hashes, and nothing else of pip's: ``name==version --hash=sha256:…``, continued over lines with a
backslash, with comments, and with an environment marker (``markers``). What pip also understands but what names a place
or builds something (URLs, ``-r``, ``-e``, ``--index-url``, version control, paths, options) is refused with its line.
Extras are read and mean nothing: a lock names each package by itself.

Invariants:
  * Every package that is handed out is pinned and has at least one SHA-256; a lock is read whole or refused.
  * Pure and bounded: text in, frozen values out. No path, no address and no option of the Pack's travels on.

Not here: which wheels fit a machine and whether they are there (``core_runtime.rules``), fetching and unpacking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from msgspec import Struct
from typing import Final

from backend_core.document import Limits, Position, decode, located_error
from backend_core.ecosystem.markers import Marker, MarkerError, parse_marker
from backend_core.errors import AuthorError, quote

LOCK_NAME: Final = "requirements.lock"
WHEELS_NAME: Final = "wheels"
MAX_PACKAGES: Final = 300
MAX_HASHES: Final = 300
_LIMITS: Final = Limits(limit_bytes=1024 * 1024)
_MAX_LINES: Final = 20_000
_PIN: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)"
    r"(?P<extras>\[[A-Za-z0-9._,\- ]{0,200}\])?"
    r"\s*==\s*(?P<version>[^\s;]{1,100})\s*(?:;(?P<marker>.*))?",
    re.DOTALL,
)
_CANONICAL: Final = re.compile(
    r"(?:[0-9]{1,6}!)?[0-9]{1,9}(?:\.[0-9]{1,9}){0,8}(?:(?:a|b|rc)[0-9]{1,9})?(?:\.post[0-9]{1,9})?(?:\.dev[0-9]{1,9})?"
    r"(?:\+[a-z0-9]{1,30}(?:\.[a-z0-9]{1,30}){0,8})?"
)
_OPTION: Final = re.compile(r"\s--?[A-Za-z]")
_HASH: Final = re.compile(r"--hash=(?P<kind>[a-z0-9]+):(?P<value>[^\s]+)")
_COMMENT: Final = re.compile(r"(^|\s)#.*$")


class LockedPackage(Struct, frozen=True):
    """One line of a lock. ``name`` is normal (lower case, ``-``); ``hashes`` are 64 hex digits each."""

    name: str
    version: str
    hashes: tuple[str, ...]
    line: int
    marker: Marker | None = None

    @property
    def pin(self) -> str:
        """``name==version``."""
        return f"{self.name}=={self.version}"


def normal_name(name: str) -> str:
    """One spelling for all that an index takes for one package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def same_version(first: str, second: str) -> bool:
    """Whether two canonical versions are one: ``1.0`` and ``1.0.0`` are."""
    return _padded(first) == _padded(second)


def parse_lock(data: bytes, *, source: str) -> tuple[LockedPackage, ...]:
    """Every package of a lock. ``AuthorError`` ``lock_invalid`` names the line of the first thing that is refused."""
    text = decode(data, source=source, limits=_LIMITS)
    if text.count("\n") > _MAX_LINES:
        raise _refused(source, 1, f"at most {_MAX_LINES} lines", "more")
    packages: list[LockedPackage] = []
    for number, line in _logical(text, source):
        packages.append(_package(line, source, number))
        if len(packages) > MAX_PACKAGES:
            raise _refused(source, number, f"at most {MAX_PACKAGES} packages", "more")
    seen: dict[tuple[str, str], int] = {}
    for one in packages:
        other = seen.setdefault((one.name, one.marker.text if one.marker else ""), one.line)
        if other != one.line:
            raise _refused(source, one.line, "each package once", f"{quote(one.name)} as in line {other}")
    return tuple(packages)


def _logical(text: str, source: str) -> Iterator[tuple[int, str]]:
    """Lines joined at backslashes, without comments and empty ones, each with the number of its first line."""
    begun, parts = 0, list[str]()
    number = 0
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r")
        if not line.replace("\t", " ").isprintable():
            raise _refused(source, number, "printable text", "a control or invisible character")
        bare = _COMMENT.sub("", line)
        open_end = bare.endswith("\\")
        if not parts and not bare.strip():
            continue
        begun = begun if parts else number
        parts.append(bare[:-1] if open_end else bare)
        if not open_end:
            yield begun, " ".join(parts).strip()
            parts = []
    if parts:
        raise _refused(source, number, "a line that ends", "a backslash at the end of the file")


def _package(line: str, source: str, number: int) -> LockedPackage:
    if line.startswith("-"):
        raise _refused(source, number, "a pinned package", f"the option {quote(line.split(' ', 1)[0], 40)}")
    option = _OPTION.search(line)
    head, tail = (line[: option.start()], line[option.start() :]) if option else (line, "")
    pin = _PIN.fullmatch(head.strip())
    if pin is None:
        raise _refused(source, number, "name==version", _what(head))
    version = pin["version"].lower()
    if not _CANONICAL.fullmatch(version):
        raise _refused(source, number, "one exact version in its normal form", quote(pin["version"], 60))
    marker = None
    if pin["marker"] is not None:
        try:
            marker = parse_marker(pin["marker"])
        except MarkerError as error:
            raise _refused(source, number, str(error), f"the marker {quote(pin['marker'].strip(), 80)}") from error
    return LockedPackage(normal_name(pin["name"]), version, _hashes(tail, source, number, pin["name"]), number, marker)


def _hashes(tail: str, source: str, number: int, name: str) -> tuple[str, ...]:
    found: list[str] = []
    for word in tail.split():
        match = _HASH.fullmatch(word)
        if match is None:
            raise _refused(source, number, "--hash=sha256:… and no other option", quote(word, 60))
        if match["kind"] != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", match["value"]):
            raise _refused(source, number, "--hash=sha256: with 64 small hexadecimal digits", quote(word, 90))
        found.append(match["value"])
    if not found:
        raise _refused(source, number, "at least one --hash=sha256:…", f"{quote(name, 60)} without a hash")
    if len(found) > MAX_HASHES:
        raise _refused(source, number, f"at most {MAX_HASHES} hashes", "more")
    return tuple(dict.fromkeys(found))


def _what(head: str) -> str:
    """What somebody who wrote such a line meant, in words."""
    if "://" in head or re.search(r"\s@\s|^[\w.\-]+@|^(git|hg|svn|bzr)\+", head):
        return f"an address ({quote(head, 60)})"
    if re.fullmatch(r"[./~].*|.*\.(whl|tar\.gz|zip)", head.strip()):
        return f"a file ({quote(head, 60)})"
    if re.fullmatch(r"[A-Za-z0-9._-]+(\[.*\])?\s*([<>~!=].*)?", head.strip(), re.DOTALL):
        return f"a package that is not pinned ({quote(head, 60)})"
    return quote(head, 60)


def _padded(version: str) -> tuple[str, str, str]:
    """Epoch, release without trailing zeros, and the rest."""
    epoch, _, rest = version.rpartition("!")
    match = re.match(r"[0-9]+(\.[0-9]+)*", rest)
    numbers = match.group() if match else ""
    bare = re.sub(r"(\.0+)+$", "", ".".join(str(int(part)) for part in numbers.split("."))) if numbers else ""
    return epoch.lstrip("0"), bare, rest[len(numbers) :]


def _refused(source: str, line: int, expected: str, found: str) -> AuthorError:
    return located_error(
        "The lock file is refused", source=source, at=Position(line, 1), expected=expected, found=found,
        hint=f"Write each package as name==version --hash=sha256:… in {source}; see docs/reference/dependencies.md.",
        code="lock_invalid",
    )  # fmt: skip

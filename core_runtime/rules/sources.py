"""Where a Pack may be fetched from by Git: which addresses and names are taken, and the words of the commands. Pure.

Invariants:
  * Only the transports of ``SCHEMES``; an address never begins like an option and carries no password.
  * The commands read no configuration that a repository could bring, run no hook, filter or submodule, and check out
    nothing: what is taken is what ``git archive`` writes of one commit.

Not here: running them (``drivers.git_source``), unpacking (``drivers.archive``).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from backend_core.errors import RequestError, quote

SCHEMES: Final = ("https", "ssh", "file")
MAX_URL_CHARS: Final = 2_000
_REF: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}\Z")
_CONFIG: Final = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "fetch.fsckObjects=true",
    "transfer.fsckObjects=true", "protocol.allow=never", *(f"protocol.{scheme}.allow=always" for scheme in SCHEMES),
    "submodule.recurse=false", "gc.auto=0", "maintenance.auto=false", "advice.detachedHead=false",
)  # fmt: skip


class GitSource(Struct, frozen=True):
    """A repository and what of it: a branch, a tag, a commit, or ``HEAD``."""

    url: str
    ref: str = "HEAD"

    @property
    def shown(self) -> str:
        """For records and people; the user's name in the address is left out. Printable, since the address is."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} {self.ref}"


def git_source(url: str, ref: str = "") -> GitSource:
    """Raises ``RequestError`` ``source_refused``."""
    try:
        parts = urlsplit(url)
        port, password = parts.port, parts.password  # both are read on the way: an odd port raises
    except ValueError:
        raise _refused(f"{quote(url, 200)} is no address.") from None
    del port
    if parts.scheme in SCHEMES and not url.startswith(f"{parts.scheme}://"):
        raise _refused("It is no address with // behind its transport; Git would read it as something else.")
    if parts.scheme not in SCHEMES:
        raise _refused(f"Its transport is {quote(parts.scheme or 'none', 40)}; taken are {', '.join(SCHEMES)}.")
    if len(url) > MAX_URL_CHARS or not url.isprintable() or any(character.isspace() for character in url):
        raise _refused("It is too long, or holds spaces or control characters.")
    if password is not None:
        raise _refused("It holds a password, which would end up in records. Let Git's own credential helper know it.")
    host = parts.hostname or ""
    if parts.scheme == "file" and host:
        raise _refused("A file address names a path of this machine and no host.")
    if parts.scheme != "file" and (not host or host.startswith("-") or (parts.username or "").startswith("-")):
        raise _refused("It names no host.")
    if not parts.path.strip("/") or parts.query or parts.fragment:
        raise _refused("It names no repository, or more than one.")
    wanted = ref or "HEAD"
    if not _REF.match(wanted) or ".." in wanted or wanted.endswith((".lock", "/", ".")) or "//" in wanted:
        raise _refused(f"{quote(ref, 100)} is no name of a branch, tag or commit.")
    return GitSource(url, wanted)


def commands(git: str, source: GitSource, repository: str) -> tuple[list[str], list[str], list[str], list[str]]:
    """(make an empty repository, fetch one commit, tell which it is, write it as tar to standard output)."""
    base = [git, *(word for setting in _CONFIG for word in ("-c", setting))]
    here = [*base, f"--git-dir={repository}"]
    return (
        [*base, "init", "--quiet", "--bare", "--template=", "--", repository],
        [
            *here, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-commit-graph",
            "--", source.url, source.ref,
        ],
        [*here, "rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}"],
        [*here, "archive", "--format=tar", "FETCH_HEAD"],
    )  # fmt: skip


def _refused(detail: str) -> RequestError:
    return RequestError(
        "That repository can't be added from",
        code="source_refused",
        detail=detail,
        hint="Name it as https://HOST/PATH, ssh://USER@HOST/PATH or file:///PATH, or clone it and add the folder.",
    )

"""What Packs read and write below ``user_data``: through the host, over the bus, never by a mounted folder.

Invariants:
  * Each access is judged by the permission manager on the parsed path, then done by ``Confined`` on the same
    components: no link, mount, device, FIFO or hard link is passed, whatever changes on disk in between.
  * Writes are atomic, and bounded by the Pack's quota: its own folder as it is on disk, and what it wrote elsewhere.
  * ``packs/<pack_id>/`` is the Pack's own without asking, while it is approved.
  * A version on trial (``trial``) sees what is there and changes nothing of it before ``settle``, which refuses when
    anything that the trial depends on was changed by its Pack since.

Not here: the bus operations that carry these calls (``handlers``).
"""

from __future__ import annotations

import contextlib
import copy
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, Self

from msgspec import Struct, field

from backend_core.errors import ConflictError, DeniedError, HostError, NotFoundError, RumiError, TooLargeError, quote
from backend_core.files import Confined, private_folder, read_bounded, split_path, write_atomic
from core_runtime.drivers.overlay import Overlay
from core_runtime.drivers.store import discard
from core_runtime.generations import ACTING, DECIDE_S, Stage, Standing
from core_runtime.rules.grants import Grant
from core_runtime.rules.permissions import Allow, Deny, protected_fault

MIB: Final = 1024 * 1024
DEFAULT_QUOTA_BYTES: Final = 64 * MIB
MAX_FILE_BYTES: Final = 16 * MIB
MAX_FILES: Final = 10_000
FILE_COST_BYTES: Final = 512
"""What each file counts beside its content, so that a million empty files are no free ride."""


class Judge(Protocol):
    """What this module needs of the permission manager."""

    def check(self, pack_id: str, kind: str, /, **params: Any) -> Allow | Deny:
        """Whether the Pack may do this to that path now."""

    def has(self, pack_id: str, kind: str, /, **params: Any) -> bool:
        """Like ``check``, asked without doing anything."""

    def resources(self, pack_id: str) -> Mapping[str, Any]:
        """The limits that are raised for it now."""

    def grant(self, pack_id: str) -> Grant | None:
        """The grant in force."""


class _Usage(Struct):
    """Sizes by path of what a Pack has written. ``own`` is counted once, then kept up to date."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    own: dict[str, int] | None = None
    elsewhere: dict[str, int] = field(default_factory=dict)

    def total(self) -> int:
        sizes = [*(self.own or {}).values(), *self.elsewhere.values()]
        return sum(sizes) + FILE_COST_BYTES * len(sizes)

    def files(self) -> int:
        return len(self.own or {}) + len(self.elsewhere)


class UserdataManager:
    """File access for Packs. Thread-safe; every method raises ``RumiError`` only."""

    def __init__(
        self,
        home: Path,
        permissions: Judge,
        *,
        quota_bytes: int = DEFAULT_QUOTA_BYTES,
    ) -> None:
        """``quota_bytes`` is what each Pack may keep; a granted ``resources.disk_mb`` raises it."""
        root = home / "user_data"
        root.mkdir(parents=True, exist_ok=True)
        self._accounts = private_folder(private_folder(root / "packs") / ".accounts")
        self._trials = private_folder(root / "packs" / ".trials")
        for left in self._trials.iterdir():
            discard(left)
        self._files: Confined | Overlay = Confined(root)
        self._changes: dict[str, set[str]] = {}
        self._permissions = permissions
        self._quota_bytes = quota_bytes
        self._mutex = threading.Lock()
        self._usage: dict[str, _Usage] = {}

    def close(self) -> None:
        """Give the folder's descriptor back; a trial leaves nothing behind."""
        self._files.close()
        if isinstance(self._files, Overlay):
            discard(self._accounts.parent)

    def trial(self, pack_id: str) -> Self:
        """The access of a version of ``pack_id`` on trial; ``settle`` or ``close`` it. One at a time for each Pack."""
        assert isinstance(self._files, Confined)
        folder = self._trials / secrets.token_hex(8)
        folder.mkdir(0o700)
        usage = self._account(pack_id)
        with usage.lock:
            counted = _Usage(own=dict(self._own(pack_id, usage)), elsewhere=dict(usage.elsewhere))
            self._changes[pack_id] = set()
        trial = copy.copy(self)  # judged and bounded as this one is
        vars(trial).update(
            _files=Overlay(self._files, private_folder(folder / "files")),
            _accounts=private_folder(folder / "accounts"),
            _usage={pack_id: counted},
            _mutex=threading.Lock(),
            _changes={},
        )
        return trial

    def settle(self, pack_id: str, trial: UserdataManager, begin: Callable[[], object]) -> None:
        """Make what ``trial`` wrote true, after ``begin``; meanwhile the Pack writes nothing else.

        ``ConflictError`` ``data_changed``, with nothing done, when the trial depends on what its Pack changed since.
        """
        usage = self._account(pack_id)
        with usage.lock:
            stale = sorted(path for path in self._changes.get(pack_id, ()) if trial.touched(path))
            if stale:
                raise ConflictError(
                    "The data changed while the new version was on trial",
                    code="data_changed",
                    detail=f"{quote(stale[0])} was written by the version that serves, after the trial had seen it.",
                    hint="Both can't work on it at the same time; the new one starts after the old one has stopped.",
                )
            begin()
            usage.own, usage.elsewhere = None, trial.settled(pack_id)
            self._save(pack_id, usage)

    def settled(self, pack_id: str) -> dict[str, int]:
        """Of a trial: make what it wrote true; sizes by path of what it keeps outside its own folder."""
        if isinstance(self._files, Overlay):
            self._files.settle()
        return dict(self._account(pack_id).elsewhere)

    def touched(self, path: str) -> bool:
        """Of a trial: whether what it did depends on ``path``."""
        return isinstance(self._files, Overlay) and self._files.touched(path)

    def drop(self, pack_id: str, trial: UserdataManager) -> None:
        """The trial is over, one way or the other."""
        trial.close()
        self._changes.pop(pack_id, None)

    def account_file(self, pack_id: str) -> Path:
        """Where it is written down what the Pack wrote outside its own folder; need not exist."""
        return self._accounts / f"{pack_id}.json"

    def forget(self, pack_id: str) -> None:
        """What the Pack keeps was exchanged: it is counted anew."""
        with self._mutex:
            self._usage.pop(pack_id, None)

    def read(self, pack_id: str, path: str) -> bytes:
        """The bytes of one file, at most ``MAX_FILE_BYTES``."""
        self._require(pack_id, "userdata.read", path)
        return self._files.read(path, MAX_FILE_BYTES)

    def write(self, pack_id: str, path: str, data: bytes) -> None:
        """Replace or create one file. ``TooLargeError`` ``quota`` when it would not fit; nothing is changed then."""
        self._require(pack_id, "userdata.write", path)
        if len(data) > MAX_FILE_BYTES:
            raise _too_large("file_too_large", f"{len(data)} bytes; a file may have {MAX_FILE_BYTES}.")
        usage = self._account(pack_id)
        with self._claimed(pack_id, usage, path):
            before = self._size(path)
            self._check_quota(pack_id, usage, path, len(data))
            try:
                self._files.write(path, data)
            except OSError as error:
                raise HostError(
                    "The file could not be written",
                    code="storage",
                    detail=f"{quote(path)}: {error.strerror or error}. The old content is unchanged.",
                    hint="Make room on the disk that holds user_data, then try again.",
                ) from error
            if path.startswith(f"packs/{pack_id}/"):
                self._own(pack_id, usage)[path] = len(data)
            elif before is None or path in usage.elsewhere or len(data) > before:
                usage.elsewhere[path] = len(data)
                self._save(pack_id, usage)

    def delete(self, pack_id: str, path: str) -> bool:
        """Remove one file; False when there was none."""
        self._require(pack_id, "userdata.write", path)
        usage = self._account(pack_id)
        with self._claimed(pack_id, usage, path):
            removed = self._files.delete(path)
            self._own(pack_id, usage).pop(path, None)
            if usage.elsewhere.pop(path, None) is not None:
                self._save(pack_id, usage)
            return removed

    def exists(self, pack_id: str, path: str) -> bool:
        """Whether a file or folder is there, for paths that the Pack may read."""
        self._require(pack_id, "userdata.read", path)
        return self._exists(path)

    def stat(self, pack_id: str, path: str) -> dict[str, str | int | float]:
        """``{kind: file|folder, size_bytes, modified_at}`` of what the Pack may read."""
        self._require(pack_id, "userdata.read", path)
        info = self._files.stat(path)
        return {"kind": info.kind, "size_bytes": info.size_bytes, "modified_at": info.modified_at}

    def list(self, pack_id: str, prefix: str = "") -> list[str]:
        """Paths of the files below the folder ``prefix`` that the Pack may read; ``""`` is its own folder."""
        where = prefix.removesuffix("/") or f"packs/{pack_id}"
        fault = protected_fault(split_path(where), pack_id)
        if fault or self._permissions.grant(pack_id) is None:
            self._require(pack_id, "userdata.read", where)  # denied as such, not answered by an empty list
            return []
        try:
            found = self._files.walk(where, MAX_FILES)
        except NotFoundError:
            return []
        return [path for path, _ in found if self._may_read(pack_id, path)]

    def usage(self, pack_id: str) -> tuple[int, int]:
        """``(bytes used, quota)`` of a Pack."""
        account = self._account(pack_id)
        with account.lock:
            self._own(pack_id, account)
            return account.total(), self._quota(pack_id)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _require(self, pack_id: str, kind: str, path: str) -> None:
        parts = split_path(path)  # before the judgement: both must speak of the same path
        answer = self._permissions.check(pack_id, kind, path="/".join(parts))
        if isinstance(answer, Deny):
            raise answer.error()

    @contextlib.contextmanager
    def _claimed(self, pack_id: str, usage: _Usage, path: str) -> Iterator[None]:
        """The Pack's lock for a change of ``path``, if its generation may make one; noted for a trial beside it."""
        standing = ACTING.get()
        if standing is None or standing.pack_id != pack_id:
            standing = Standing(pack_id)
        deadline = time.monotonic() + DECIDE_S
        while True:
            standing.await_decision()
            with usage.lock:
                if standing.stage is Stage.RETIRING and time.monotonic() < deadline:
                    continue  # it began while this thread waited for the lock
                standing.check_write(path)
                if pack_id in self._changes:
                    self._changes[pack_id].add(path)
                yield
                return

    def _may_read(self, pack_id: str, path: str) -> bool:
        return self._permissions.has(pack_id, "userdata.read", path=path)

    def _exists(self, path: str) -> bool:
        try:
            self._files.stat(path)
        except NotFoundError:
            return False
        return True

    def _size(self, path: str) -> int | None:
        try:
            return self._files.stat(path).size_bytes
        except NotFoundError:
            return None

    def _quota(self, pack_id: str) -> int:
        raised = self._permissions.resources(pack_id).get("disk_mb", 0)
        return max(self._quota_bytes, int(raised * MIB))

    def _check_quota(self, pack_id: str, usage: _Usage, path: str, size: int) -> None:
        own = self._own(pack_id, usage)
        replaced = own.get(path, usage.elsewhere.get(path))
        total = usage.total() + size + (FILE_COST_BYTES if replaced is None else -replaced)
        quota = self._quota(pack_id)
        if total > quota:
            raise _too_large("quota", f"{total} bytes would be used; the Pack's quota is {quota}.")
        if replaced is None and usage.files() >= MAX_FILES:
            raise _too_large("quota", f"A Pack may keep {MAX_FILES} files.")

    def _account(self, pack_id: str) -> _Usage:
        with self._mutex:
            usage = self._usage.get(pack_id)
            if usage is None:
                usage = self._usage[pack_id] = _Usage(elsewhere=self._load(pack_id))
            return usage

    def _own(self, pack_id: str, usage: _Usage) -> dict[str, int]:
        if usage.own is None:
            try:
                found = self._files.walk(f"packs/{pack_id}", MAX_FILES * 2)
            except NotFoundError:
                found = []
            usage.own = {path: info.size_bytes for path, info in found}
        return usage.own

    def _load(self, pack_id: str) -> dict[str, int]:
        """What the Pack wrote outside its own folder, as far as it is still there."""
        try:
            document = json.loads(read_bounded(self.account_file(pack_id), 8 * MIB))
            known = {str(path): int(size) for path, size in document.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, TooLargeError) as error:
            raise DeniedError(
                "The Pack's account of written files is damaged",
                code="account_damaged",
                detail=f"{pack_id}: {error}",
                hint=f"Remove user_data/packs/.accounts/{pack_id}.json; what was written so far is then not counted.",
            ) from error
        return {path: size for path, size in known.items() if self._size_quietly(path) is not None}

    def _size_quietly(self, path: str) -> int | None:
        try:
            return self._size(path)
        except (RumiError, OSError):  # gone meanwhile
            return None

    def _save(self, pack_id: str, usage: _Usage) -> None:
        data = json.dumps(usage.elsewhere, sort_keys=True).encode()
        write_atomic(self.account_file(pack_id), data)


def _too_large(code: str, detail: str) -> TooLargeError:
    return TooLargeError(
        "Not enough room for the Pack", code=code, detail=detail, hint="Delete files, or ask for resources.disk_mb."
    )

"""The journal of one run of a flow: what each effect was answered with, in the order of the answers.

``user_data/runs/<run id>.jsonl``, mode 0600, one JSON object a line:

===== ==========================================================================================
first ``{"run", "flow", "digest", "started_at", "actor", "parts": {flow below: its digest}, "input", "document"}``
then  for each answer ``{"p": place, "v": value}``, ``{"p": place, "e": error}``, or of a stream's beginning and end
      ``{"p": place, "s": "opened" | "end"}``
last  ``{"end": status, "ended_at", "duration_s", "error", "output": value}``
===== ==========================================================================================

Values are MessagePack, encrypted, in base64; so they are for programs, and the rest is for people. Each line has its
mark as its last entry, ``"m"``, which binds it to the run and to the lines before it (``run_seals``).

Invariants:
  * A line is written before the answer it tells of counts; with ``sync`` it is on the disk by then.
  * A torn last line (a crash) is dropped when the journal is opened again; anything else that is not a line of ours
    is ``TrustError``: a run is never resumed from half an account, nor from somebody else's.

Not here: which run may be resumed (``flow_runs``), what the answers mean (``rules.flow``).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.json import Encoder

from backend_core.errors import HostError, RequestError, TrustError, quote
from backend_core.files import fsync_folder, private_folder, read_bounded, write_all
from core_runtime.drivers.faults import hit
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.rules.flow.endings import FlowError, RunStatus
from core_runtime.rules.values import ValueProblem, pack, unpack

SUFFIX: Final = ".jsonl"
MAX_JOURNAL_BYTES: Final = 256 * 1024 * 1024
END_BYTES: Final = 32 * 1024 * 1024
"""Kept free for the last line, which holds the run's output."""
HIDDEN_WORDS: Final = frozenset({"input", "document", "v", "output"})
"""Words of a line whose text is encrypted."""
_encode: Final = Encoder().encode


class Recorded(Struct, frozen=True):
    """One answer: a value, an error, or what of a stream it tells (``opened``, ``end``)."""

    place: str
    value: Any = None
    error: FlowError | None = None
    stream: str = ""


class Account(Struct, frozen=True):
    """A journal that was read: its head, its answers, and its end where the run came to one."""

    head: Mapping[str, Any]
    answers: tuple[Recorded, ...]
    end: Mapping[str, Any] | None
    length_bytes: int
    last: bytes = b""
    """What the next line is bound to."""


class RunJournal:
    """Append-only. Raises ``HostError`` where the disk does not take a line; ``RequestError`` for what has no form."""

    def __init__(self, path: Path, fd: int, seals: RunSeals, last: bytes, *, sync: bool) -> None:
        """``last``: what the next line is bound to."""
        self.path = path
        self._fd = fd
        self._seals = seals
        self._last = last
        self._sync = sync
        self._length_bytes = os.fstat(fd).st_size

    @classmethod
    def create(
        cls, folder: Path, run_id: str, head: Mapping[str, Any], values: Any, seals: RunSeals, *, sync: bool
    ) -> RunJournal:
        """Begin a run's journal."""
        private_folder(folder)
        path = folder / f"{run_id}{SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        journal = cls(path, fd, seals, seals.begin(run_id), sync=sync)
        document = {"document": journal._encoded(head["document"])} if "document" in head else {}
        journal._line({**head, "input": journal._encoded(values), **document})
        if sync:
            fsync_folder(folder)
        return journal

    @classmethod
    def reopen(cls, path: Path, account: Account, seals: RunSeals, *, sync: bool) -> RunJournal:
        """Go on with a journal that was read: a torn last line is cut off."""
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.ftruncate(fd, account.length_bytes)
        return cls(path, fd, seals, account.last, sync=sync)

    def answer(self, place: str, value: Any, error: FlowError | None, *, stream: str = "") -> None:
        """Tell of one answer."""
        if stream:
            self._line({"p": place, "s": stream})
        else:
            self._line({"p": place, "v": self._encoded(value)} if error is None else {"p": place, "e": error.as_dict()})
        hit("run.answered")

    def end(self, outcome: Mapping[str, Any], output: Any) -> None:
        """Tell how the run ended, and close."""
        self._line({**outcome, "output": self._encoded(output)})
        self.close()

    def close(self) -> None:
        """Give the descriptor back; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _encoded(self, value: Any) -> str:
        try:
            return binascii.b2a_base64(self._seals.hidden(pack(value)), newline=False).decode("ascii")
        except ValueProblem as problem:
            raise RequestError(
                "This value can't be kept in a journal",
                code="value",
                detail=str(problem),
                hint="Return plain data (no functions, no open files) from handlers of a journalled flow.",
            ) from problem

    def _line(self, record: Mapping[str, Any]) -> None:
        try:
            body = _encode(record)
        except ValueError as error:
            raise RequestError(
                "This can't be kept in a journal", code="value", detail=quote(str(error), 200),
                hint="Return text that is valid Unicode from handlers of a journalled flow.",
            ) from error  # fmt: skip
        line, last = self._seals.marked(body, self._last)
        line += b"\n"
        after_bytes = self._length_bytes + len(line)
        if after_bytes > MAX_JOURNAL_BYTES - END_BYTES and "end" not in record:
            raise HostError(
                "The run's journal is full",
                code="journal_full",
                detail=f"{self.path.name}: at most {MAX_JOURNAL_BYTES} bytes, with room for its end.",
                hint="Pass large data as a path in user_data, or split the flow.",
            )
        try:
            write_all(self._fd, line)
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line, then a whole one, would be nobody's account any more
                os.ftruncate(self._fd, self._length_bytes)
            raise HostError(
                "The run's journal can't be written",
                code="storage",
                detail=f"{self.path.name}: {error.strerror or error}",
                hint="Make room on the disk that holds user_data, then run the flow again.",
            ) from error
        self._last, self._length_bytes = last, after_bytes


def read_account(path: Path, seals: RunSeals) -> Account:
    """Read a journal. ``TrustError`` ``journal_broken`` when it is no account of that run by this host."""
    data = read_bounded(path, MAX_JOURNAL_BYTES)
    length = data.rfind(b"\n") + 1
    records, last = _records(path, data[:length], seals)
    if not records or not _is_head(records[0]):
        raise _broken(path, 1)
    answers = []
    end = None
    for number, record in enumerate(records[1:], 2):
        if end is not None:
            raise _broken(path, number)
        if "end" in record:
            if not _is_end(record):
                raise _broken(path, number)
            end = {**record, "output": _decoded(path, number, record.get("output"), seals)}
            continue
        answers.append(_recorded(path, number, record, seals))
    head = {**records[0], "input": _decoded(path, 1, records[0].get("input"), seals)}
    if "document" in head:
        head["document"] = _decoded(path, 1, head["document"], seals)
    return Account(head, tuple(answers), end, length, last)


def _records(path: Path, data: bytes, seals: RunSeals) -> tuple[list[dict[str, Any]], bytes]:
    """The lines, each proven to be the one after those before it; and what the next one is bound to."""
    found: list[dict[str, Any]] = []
    last = seals.begin(path.name.removesuffix(SUFFIX))
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        proven = seals.checked(line, last)
        if proven is None:
            raise _broken(path, number)
        body, last = proven
        try:
            record = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _broken(path, number) from error
        if not isinstance(record, dict):
            raise _broken(path, number)
        found.append(record)
    return found, last


def _recorded(path: Path, number: int, record: Mapping[str, Any], seals: RunSeals) -> Recorded:
    place = record.get("p")
    if not isinstance(place, str):
        raise _broken(path, number)
    if record.get("s") in {"opened", "end"}:
        return Recorded(place, stream=record["s"])
    if "e" not in record:
        return Recorded(place, _decoded(path, number, record.get("v"), seals))
    if not _is_error(record["e"]):
        raise _broken(path, number)
    return Recorded(place, error=FlowError(**record["e"]))


def _is_head(record: Mapping[str, Any]) -> bool:
    texts = all(isinstance(record.get(word), str) for word in ("run", "flow", "digest", "actor"))
    return texts and _is_number(record.get("started_at"))


def _is_end(record: Mapping[str, Any]) -> bool:
    error, ends = record.get("error"), [status.value for status in RunStatus]
    return record["end"] in ends and _is_number(record.get("duration_s")) and (error is None or _is_error(error))


def _is_error(value: Any) -> bool:
    known = set(FlowError.__struct_fields__)
    return isinstance(value, dict) and {"type", "title"} <= value.keys() <= known


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decoded(path: Path, number: int, text: Any, seals: RunSeals) -> Any:
    try:
        return unpack(seals.shown(base64.b64decode(text, validate=True)))
    except (ValueProblem, ValueError, TypeError) as error:
        raise _broken(path, number) from error


def _broken(path: Path, line: int) -> TrustError:
    return TrustError(
        "This journal is no account of a run",
        code="journal_broken",
        detail=f"{quote(path.name)}, line {line} is not what the host writes.",
        hint="Start the flow anew; what the run has done so far stands.",
    )

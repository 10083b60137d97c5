"""``ecosystem/flows/{name}.{pack_id}.yaml``: the flows of Packs as they would run, for the operator to read.

Output only: nothing reads these files back, and editing them changes nothing.

Invariants:
  * Each file is replaced as a whole; a link in its place is replaced, never followed, and a folder that is a link is
    written into by nobody.
  * What is removed was written here: a file without the first line of ours stays.

Not here: which flows there are (``flow_composer``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from backend_core.errors import HostError, RumiError
from backend_core.files import read_bounded, write_atomic

MARK: Final = "# Made by the host, for reading only: nothing reads it back."
SUFFIX: Final = ".yaml"
MAX_NAME_CHARS: Final = 180
MAX_BYTES: Final = 16 * 1024 * 1024


class FlowView:
    """The folder of one host. Blocks; safe on any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}
        self._lock = threading.Lock()

    def write(self, flows: Mapping[tuple[str, str], tuple[Any, Mapping[str, str]]]) -> None:
        """Have exactly these there: ``(flow, Pack)`` → its document and what is said of it above. ``HostError``."""
        with self._lock:
            try:
                if self._folder.is_symlink():
                    raise NotADirectoryError(f"{self._folder} is a link")
                self._folder.mkdir(parents=True, exist_ok=True)
                wanted = {_name(flow, pack): _text(document, said) for (flow, pack), (document, said) in flows.items()}
                for name, text in wanted.items():
                    self._put(name, text)
                self._clear(wanted)
            except OSError as error:
                raise HostError(
                    "The view of Packs' flows can't be written", code="flow_view", detail=str(error),
                    hint="Make room below ecosystem/flows; what runs is not affected.",
                ) from error  # fmt: skip

    def _put(self, name: str, text: str) -> None:
        path, digest = self._folder / name, hashlib.sha256(text.encode()).hexdigest()
        if self._written.get(name) != digest or path.is_symlink() or not path.is_file():
            write_atomic(path, text.encode(), mode=0o644)
            self._written[name] = digest

    def _clear(self, wanted: Mapping[str, str]) -> None:
        with os.scandir(self._folder) as entries:
            found = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        for name in found:
            if name.endswith(SUFFIX) and name not in wanted and self._is_ours(name):
                (self._folder / name).unlink(missing_ok=True)
                self._written.pop(name, None)

    def _is_ours(self, name: str) -> bool:
        with contextlib.suppress(RumiError):  # what can't be read is not ours
            return read_bounded(self._folder / name, MAX_BYTES).startswith(MARK.encode())
        return False


def _name(flow: str, pack: str) -> str:
    """No two flows share one: an id that is too long for a file's name gives way to its digest."""
    if len(flow) > MAX_NAME_CHARS:
        flow = f"{flow[:100]}~{hashlib.sha256(flow.encode()).hexdigest()[:16]}"
    return f"{flow}.{pack}{SUFFIX}"


def _text(document: Any, said: Mapping[str, str]) -> str:
    head = "".join(f"# {name}: {ascii(text)[1:-1]}\n" for name, text in said.items())
    body: str = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, width=120)
    return f"{MARK}\n{head}{body}"

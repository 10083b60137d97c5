"""Which flows there are: official, ecosystem's and the user's files, layered.

Invariants:
  * A file that can't be understood is an Issue with line and column; the others load all the same.
  * The order in which files are found never matters: within a layer two files of one flow id refuse each other.
  * A higher layer replaces a whole flow of the same id, except where the lower one sealed any part of it: sealed flows
    refuse, always, and the refusal names both files.

Not here: modifiers (documents under the word ``modify``) are refused by name, so that nobody believes them applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend_core.errors import AuthorError, RumiError, quote
from backend_core.files import read_bounded
from backend_core.parsing import Document, load_json, parse_yaml
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse import parse_flow

MAX_FLOW_BYTES = 1024 * 1024
MAX_FILES = 2_000


class FlowComposer:
    """Reads the layers' folders anew on each ``load``."""

    def __init__(
        self, *, core: Path, ecosystem: Sequence[Path] = (), user: Sequence[Path] = (), diagnostics: Diagnostics
    ) -> None:
        self._folders = [
            (model.Layer.CORE, core),
            *((model.Layer.ECOSYSTEM, folder) for folder in ecosystem),
            *((model.Layer.USER, folder) for folder in user),
        ]
        self._diagnostics = diagnostics

    def load(self) -> Mapping[str, model.Flow]:
        """Flow id → the flow that counts."""
        by_layer: dict[model.Layer, list[model.Flow]] = {layer: [] for layer in model.Layer}
        for layer, folder in self._folders:
            by_layer[layer] += self._read_folder(folder, layer)
        flows: dict[str, model.Flow] = {}
        for layer in model.Layer:
            for flow in self._unambiguous(by_layer[layer]):
                self._admit(flows, flow)
        return flows

    def _read_folder(self, folder: Path, layer: model.Layer) -> list[model.Flow]:
        found = []
        for path in sorted(_flow_files(folder))[:MAX_FILES]:
            try:
                flow = read_flow(path, layer)
            except OSError as problem:
                text = f"It can't be read: {problem.strerror}."
                self._issue("flow_refused", str(path), "A flow file was refused", text)
            except RumiError as problem:
                self._issue(
                    "flow_refused", str(path), "A flow file was refused", problem.detail or problem.title, problem
                )
            else:
                self._diagnostics.resolve("flow_refused", str(path))
                found.append(flow)
        return found

    def _unambiguous(self, flows: Iterable[model.Flow]) -> list[model.Flow]:
        by_id: dict[str, list[model.Flow]] = {}
        for flow in flows:
            by_id.setdefault(flow.id, []).append(flow)
        for flow_id, same in sorted(by_id.items()):
            if len(same) > 1:
                files = ", ".join(sorted(flow.origin.source for flow in same))
                self._issue("flow_twice", flow_id, "Two files hold one flow", f"{flow_id}: {files}. Neither is used.")
        return [same[0] for _, same in sorted(by_id.items()) if len(same) == 1]

    def _admit(self, flows: dict[str, model.Flow], flow: model.Flow) -> None:
        below = flows.get(flow.id)
        if below is not None and below.is_sealed():
            detail = f"{flow.origin.source} would replace the flow {flow.id} of {below.origin.source}, which is sealed."
            self._issue("flow_sealed", flow.id, "A sealed flow can't be replaced", detail)
            return
        flows[flow.id] = flow

    def _issue(self, code: str, subject: str, title: str, detail: str, cause: RumiError | None = None) -> None:
        hint = (cause.hint if cause else "") or "Correct or remove the named file; nothing else is affected."
        fields = dict(cause.fields) if cause else {}
        self._diagnostics.issue(code, Severity.ERROR, subject, title, detail, hint, fields, cause)


def read_flow(path: Path, layer: model.Layer) -> model.Flow:
    """Read one flow file; raises ``AuthorError`` with its place, ``TooLargeError`` or ``OSError``."""
    data = read_bounded(path, MAX_FLOW_BYTES)
    document = load_json(data, source=str(path)) if path.suffix == ".json" else parse_yaml(data, source=str(path))
    _refuse_modifier(document)

    def where(at: tuple[str | int, ...]) -> tuple[int, int]:
        position = document.position(at)
        return position.line, position.column

    return parse_flow(document.value, source=str(path), where=where, layer=layer)


def _flow_files(folder: Path) -> list[Path]:
    """Regular files only; a folder that does not exist holds no flow."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if path.name.endswith((".yaml", ".yml", ".json")) and path.is_file() and not path.is_symlink()
    ]


def _refuse_modifier(document: Document) -> None:
    value: Any = document.value
    if isinstance(value, dict) and "modify" in value:
        position = document.position(("modify",))
        raise AuthorError(
            "This document modifies another flow, which this version does not do",
            code="flow_modifier",
            detail=f"{document.source}:{position.line}: modify {quote(value['modify'], 60)} is not applied.",
            hint="Put the whole flow into user_data/flows instead; a flow of the same id replaces an unsealed one.",
            fields={"source": document.source, "line": position.line, "column": position.column},
        )

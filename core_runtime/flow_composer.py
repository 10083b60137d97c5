"""Which flows there are, and how modifiers change them: official, ecosystem's and the user's files, and Packs' own.

Invariants:
  * A file that can't be understood is an Issue with line and column; the others load all the same.
  * The order in which files are found never matters: within a layer two files of one flow id refuse each other,
    except that a Pack's gives way to a file of the host or the operator, and to the Pack that was approved with that
    flow before it: no Pack takes a flow away from another by having its id.
  * A higher layer replaces a whole flow of the same id, except where the lower one sealed any part of it: sealed flows
    refuse, always, and the refusal names both files.
  * What a Pack brings is read from its approved copy, and is its: its flows, its modifiers, its steps.
  * Every change that was not made, and every one that was overridden, is an Issue that names both parties.

Not here: what a composition is (``rules.flow.compose``), which Packs are approved (the given ``packs``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field

from backend_core.errors import AuthorError, RumiError
from backend_core.files import read_bounded
from backend_core.parsing import Document, load_json, parse_yaml
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.rules.flow import model
from core_runtime.rules.flow.brought import Brought
from core_runtime.rules.flow.changes import Change, Status
from core_runtime.rules.flow.compose import Base, Composition, World, compose, concerns
from core_runtime.rules.flow.extend import MAX_DEPTH, extended, refused
from core_runtime.rules.flow.modifier import Modifier, parse_modifier
from core_runtime.rules.flow.older.pipelines import Merged, Pipelines, merged
from core_runtime.rules.flow.older.read import FLOW_KEY, MODIFIER_KEY, read_older, style_of
from core_runtime.rules.flow.older.writing import Style
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import plan_flow

MAX_FLOW_BYTES = 1024 * 1024
MAX_FILES = 2_000
SUFFIXES = (".yaml", ".yml", ".json")
FOLDER = "backend/flows/"
"""Where a Pack's flow files lie, directly."""


class PackDocument(Struct, frozen=True):
    """A flow file of an approved Pack, or what it registered under ``key``. ``name`` is shown to people.

    ``fault``: why there are no bytes. ``since``: when its Pack was approved with each flow.
    """

    pack_id: str
    name: str
    data: bytes
    key: str = ""
    fault: str = ""
    since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


PackDocuments = Callable[[], Iterable[PackDocument]]
Says = Base | Modifier | Pipelines
"""What one document is: a flow, changes to flows, or steps for flows that several documents make together."""
_Place = tuple[model.Layer, str, str]


class _Read(Struct, frozen=True):
    """What one document's bytes say."""

    data: bytes
    says: Says | RumiError


class FlowComposer:
    """Reads every file anew on each ``load``, and understands anew the bytes that changed."""

    def __init__(
        self,
        *,
        core: Path,
        ecosystem: Sequence[Path] = (),
        user: Sequence[Path] = (),
        packs: PackDocuments = lambda: (),
        diagnostics: Diagnostics,
    ) -> None:
        self._folders = [
            (model.Layer.CORE, core),
            *((model.Layer.ECOSYSTEM, folder) for folder in ecosystem),
            *((model.Layer.USER, folder) for folder in user),
        ]
        self._packs = packs
        self._diagnostics = diagnostics
        self._known: dict[_Place, _Read] = {}
        self._merged: tuple[tuple[Pipelines, ...], frozenset[tuple[str, str, float, bool]], Merged] | None = None
        self._plain: dict[str, tuple[Base, Composition]] = {}
        self._raised: set[tuple[str, str]] = set()
        self._since: dict[tuple[str, str], float] = {}
        self._wholes: dict[str, tuple[Base, Base, Base]] = {}
        self._loading = threading.Lock()

    def load(self, world: World = World(), *, without: str = "") -> Mapping[str, Composition]:
        """Flow id → the flow that counts, with every modifier that may be and can be applied, but one (by its name)."""
        with self._loading:
            return self._load(world, without)

    def _load(self, world: World, without: str) -> Mapping[str, Composition]:
        before, self._raised = self._raised, set()
        says = self._read_all()
        modifiers = [one for one in says if isinstance(one, Modifier) and one.name != without]
        found = [one for one in says if isinstance(one, Base)]
        found += self._pipelines([one for one in says if isinstance(one, Pipelines)], world)
        bases: dict[str, Base] = {}
        claimed = {
            base.flow.id: base.flow
            for base in found
            if not base.flow.origin.pack and base.flow.layer is not model.Layer.USER
        }
        free = [base for base in found if not self._taken(base, claimed)]
        for layer in model.Layer:
            for base in self._unambiguous(base for base in free if base.flow.layer is layer):
                self._admit(bases, base)
        bases = self._extended(bases, world)
        for code, subject in before - self._raised:
            self._diagnostics.resolve(code, subject)
        composed = {flow_id: self._composed(base, modifiers, world) for flow_id, base in bases.items()}
        self._plain = {flow_id: known for flow_id, known in self._plain.items() if flow_id in bases}
        for flow_id, composition in composed.items() if not without else ():
            self._tell(flow_id, composition.changes)
        return composed

    def _read_all(self) -> list[Says]:
        """What every document says, in the order of layers and names; those that say nothing are Issues."""
        read: dict[_Place, _Read] = {}
        says: list[Says] = []
        self._since.clear()
        for layer, document in self._documents():
            self._since |= {(flow_id, document.pack_id): at for flow_id, at in document.since.items()}
            place = layer, document.name, document.pack_id
            known = self._known.get(place)
            read[place] = known if known is not None and known.data == document.data else _read(document, layer)
            one = read[place].says
            if isinstance(one, RumiError):
                self._issue("flow_refused", document.name, "A flow file was refused", one.detail or one.title, one)
            else:
                says.append(one)
        self._known = read
        return says

    def _pipelines(self, files: list[Pipelines], world: World) -> list[Base]:
        """The flows that documents of pipelines make together; a Pack's come after the host's of their layer."""
        files.sort(key=lambda one: (one.layer, bool(one.pack)))
        names = {(one.pack, name) for one in files for name in one.pieces if one.pack}
        dates = {(pack, name): self._since.get((name, pack), float("inf")) for pack, name in names}
        rights = {pair: world.may_modify(*pair) for pair in names}
        known = self._merged
        same = tuple(files), frozenset((*pair, dates[pair], rights[pair]) for pair in names)
        if known is None or known[:2] != same:
            found = merged(files, lambda pack, flow: rights[pack, flow], lambda pack, flow: dates[pack, flow])
            known = self._merged = *same, found
        for name, sources in known[2].rivals.items():
            self._issue("flow_twice", name, "Two Packs hold one flow", f"{name}: {', '.join(sources)}. None is used.")
        for name, error in known[2].refused.items():
            self._issue("flow_refused", name, "A flow was refused", error.detail or error.title, error)
        return known[2].bases

    def _extended(self, bases: Mapping[str, Base], world: World) -> dict[str, Base]:
        """The flows with what they take over from others; one that can't is an Issue, and does not count."""
        found: dict[str, Base] = {}
        for flow_id, base in bases.items():
            try:
                found[flow_id] = self._whole(base, bases, world, (flow_id,))
            except RumiError as error:
                self._issue("flow_refused", flow_id, "A flow was refused", error.detail or error.title, error)
        self._wholes = {flow_id: known for flow_id, known in self._wholes.items() if flow_id in found}
        return found

    def _whole(self, own: Base, bases: Mapping[str, Base], world: World, chain: tuple[str, ...]) -> Base:
        if not own.flow.extends:
            return own
        other = bases.get(own.flow.extends)
        if other is None:
            raise refused(own, "there is no such flow")
        if other.flow.id in chain or len(chain) > MAX_DEPTH:
            raise refused(own, f"flows extend each other in a circle, or deeper than {MAX_DEPTH}")
        if own.owner not in {"", other.owner} and not world.may_run(own.owner, other.flow.id):
            raise refused(own, f"{own.owner} was not granted flow.run for {other.flow.id}")
        base = self._whole(other, bases, world, (*chain, other.flow.id))
        known = self._wholes.get(own.flow.id)
        if known is None or known[0] is not own or known[1] is not base:
            known = self._wholes[own.flow.id] = own, base, extended(own, base)
        return known[2]

    def _composed(self, base: Base, modifiers: Sequence[Modifier], world: World) -> Composition:
        """A flow that no modifier is about is what it was, as long as its text is."""
        flow_id = base.flow.id
        if any(concerns(modifier, flow_id) for modifier in modifiers):
            return compose(base, modifiers, world)
        known, composition = self._plain.get(flow_id, (None, None))
        if known is not base or composition is None:
            composition = compose(base, (), world)
            self._plain[flow_id] = base, composition
        return composition

    def _documents(self) -> Iterable[tuple[model.Layer, PackDocument]]:
        """Every document with its layer; the host's and the operator's are no Pack's."""
        for layer, folder in self._folders:
            for path in sorted(_flow_files(folder))[:MAX_FILES]:
                try:
                    yield layer, PackDocument("", str(path), read_bounded(path, MAX_FLOW_BYTES))
                except (OSError, RumiError) as problem:
                    text = getattr(problem, "strerror", "") or str(problem)
                    self._issue("flow_refused", str(path), "A flow file was refused", f"It can't be read: {text}.")
        for number, document in enumerate(self._packs()):
            if number < MAX_FILES:
                yield model.Layer.ECOSYSTEM, document

    def _tell(self, flow_id: str, changes: Sequence[Change]) -> None:
        """One Issue for each modifier of which something was refused or overridden; none once that is over."""
        worst: dict[str, list[str]] = {}
        for change in changes:
            if change.status in {Status.REFUSED, Status.OVERRIDDEN}:
                where = f" at {change.step}" if change.step else ""
                worst.setdefault(change.modifier, []).append(f"{change.op}{where}: {change.status.value}, {change.why}")
        known = {issue.subject for issue in self._diagnostics.issues() if issue.code == "flow_modifier"}
        for subject in known:
            if subject.startswith(f"{flow_id}<") and subject.removeprefix(f"{flow_id}<") not in worst:
                self._diagnostics.resolve("flow_modifier", subject)
        for modifier, texts in worst.items():
            title = f"A modifier of {flow_id} does not apply as it is"
            hint = f"See what became of each change: rumi flow explain {flow_id}"
            detail = f"{modifier}: {'; '.join(texts[:3])}."
            self._diagnostics.issue("flow_modifier", Severity.WARN, f"{flow_id}<{modifier}", title, detail, hint)

    def _unambiguous(self, flows: Iterable[Base]) -> list[Base]:
        by_id: dict[str, list[Base]] = {}
        for base in flows:
            by_id.setdefault(base.flow.id, []).append(base)
        for flow_id, several in sorted(by_id.items()):
            same = by_id[flow_id] = self._owned(flow_id, several)
            if len(same) > 1:
                files = ", ".join(sorted(base.flow.origin.source for base in same))
                self._issue("flow_twice", flow_id, "Two files hold one flow", f"{flow_id}: {files}. Neither is used.")
        return [same[0] for _, same in sorted(by_id.items()) if len(same) == 1]

    def _owned(self, flow_id: str, flows: list[Base]) -> list[Base]:
        """Those of the Pack that was approved with this flow first; an owner that is in doubt leaves it to nobody."""
        since = {base.owner: self._since.get((flow_id, base.owner), float("inf")) for base in flows}
        owners = {pack for pack, at in since.items() if at == min(since.values())}
        for base in flows:
            if base.owner not in owners:
                owner = ", ".join(sorted(owners))
                detail = f"{base.flow.origin.source} would take the flow {flow_id} from {owner}, its owner before."
                self._issue("flow_taken", f"{flow_id} ({base.owner})", "A flow has another owner", detail)
        return [base for base in flows if base.owner in owners]

    def _taken(self, base: Base, claimed: Mapping[str, model.Flow]) -> bool:
        """Whether a Pack's flow has the id of a file of its own layer or below, be that file used or not."""
        flow, other = base.flow, claimed.get(base.flow.id)
        if not flow.origin.pack or other is None:
            return False
        detail = f"{flow.origin.source} would replace the flow {flow.id} of {other.origin.source}."
        self._issue("flow_taken", flow.id, "A Pack can't replace a flow that is there", detail)
        return True

    def _admit(self, bases: dict[str, Base], base: Base) -> None:
        flow, below = base.flow, bases.get(base.flow.id)
        if below is not None and below.flow.is_sealed():
            detail = (
                f"{flow.origin.source} would replace the flow {flow.id} of {below.flow.origin.source}, which is sealed."
            )
            self._issue("flow_sealed", flow.id, "A sealed flow can't be replaced", detail)
            return
        bases[flow.id] = base

    def _issue(self, code: str, subject: str, title: str, detail: str, cause: RumiError | None = None) -> None:
        hint = (cause.hint if cause else "") or "Correct or remove the named file; nothing else is affected."
        fields = dict(cause.fields) if cause else {}
        self._raised.add((code, subject))
        self._diagnostics.issue(code, Severity.ERROR, subject, title, detail, hint, fields, cause)


def _read(document: PackDocument, layer: model.Layer) -> _Read:
    if document.fault:
        return _Read(document.data, AuthorError("A flow can't be read", code="flow_invalid", detail=document.fault))
    try:
        says = read_document(
            document.data, source=document.name, layer=layer, pack=document.pack_id, key=document.key
        )  # fmt: skip
    except RumiError as problem:
        return _Read(document.data, problem)
    return _Read(document.data, says)


def read_document(data: bytes, *, source: str, layer: model.Layer, pack: str = "", key: str = "") -> Says:
    """Understand one document, in whichever style; raises ``AuthorError`` with its place.

    ``key``: the registry's that it stands under; such a document is JSON.
    """
    json = key or source.endswith(".json")
    document = load_json(data, source=source) if json else parse_yaml(data, source=source)
    found = _understood(document, source, layer, pack, key)
    if key and not _fits(found, key):
        detail = f"{source}: {MODIFIER_KEY} holds modifiers, and flow.<id> the flow of that id and nothing else"
        raise AuthorError("A registered flow has another name than its key", code="flow_invalid", detail=detail)
    return found


def _understood(document: Document, source: str, layer: model.Layer, pack: str, key: str) -> Says:
    value: Any = document.value
    style = style_of(value, key=key)
    if style is not Style.NEW:
        return read_older(value, style, source=source, where=_where(document), layer=layer, pack=pack, key=key)
    if isinstance(value, dict) and "modify" in value:
        return parse_modifier(value, source=source, where=_where(document), layer=layer, pack=pack)
    flow = parse_flow(value, source=source, where=_where(document), layer=layer, pack=pack)
    if not flow.extends:
        plan_flow(flow)  # what has no order or no handler of its own to call is refused here, with its place
    return Base(value, flow)


def _fits(found: Says, key: str) -> bool:
    """Documents of pipelines are of several flows, and so under no key."""
    if key == MODIFIER_KEY or not isinstance(found, Base):
        return key == MODIFIER_KEY and isinstance(found, Modifier)
    return key == f"{FLOW_KEY}{found.flow.id}"


def read_flow(path: Path, layer: model.Layer) -> model.Flow:
    """Read one flow file; raises ``AuthorError`` with its place, ``TooLargeError`` or ``OSError``."""
    found = read_document(read_bounded(path, MAX_FLOW_BYTES), source=str(path), layer=layer)
    if not isinstance(found, Base):
        raise TypeError(f"{path} holds no flow of its own")
    return found.flow


def is_flow_path(path: str) -> bool:
    """Whether a Pack's file of that path holds a flow or a modifier."""
    name = path.removeprefix(FOLDER)
    return name != path and "/" not in name and name.endswith(SUFFIXES)


def flow_ids(root: Path, pack: str) -> set[str]:
    """The ids of the flows that a Pack's folder brings; what can't be read brings none."""
    return {flow_id for one in brought(root, pack) for flow_id in one.adds}


def brought(root: Path, pack: str) -> tuple[Brought, ...]:
    """What each flow file of a Pack's folder says, by name; never raises for what a file holds."""
    return tuple(_brought(path, pack) for path in sorted(_flow_files(root / FOLDER))[:MAX_FILES])


def fault_of(path: Path, pack: str) -> RumiError | None:
    """Why one flow file of a Pack says nothing, with its place; None where it says something."""
    try:
        _said(path, pack)
    except RumiError as error:
        return error
    return None


def _said(path: Path, pack: str) -> Says:
    data = read_bounded(path, MAX_FLOW_BYTES)
    return read_document(data, source=path.name, layer=model.Layer.ECOSYSTEM, pack=pack)


def _brought(path: Path, pack: str) -> Brought:
    try:
        one = _said(path, pack)
    except (OSError, RumiError) as error:
        return Brought(path.name, fault=getattr(error, "detail", "") or str(error))
    if isinstance(one, Modifier):
        return Brought(path.name, modifies=one.targets)
    return Brought(path.name, (one.flow.id,) if isinstance(one, Base) else tuple(sorted(one.pieces)))


def _where(document: Document) -> Callable[[tuple[str | int, ...]], tuple[int, int]]:
    def where(at: tuple[str | int, ...]) -> tuple[int, int]:
        position = document.position(at)
        return position.line, position.column

    return where


def _flow_files(folder: Path) -> list[Path]:
    """Regular files only; a folder that does not exist holds no flow."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if path.name.endswith(SUFFIXES) and path.is_file() and not path.is_symlink()
    ]

"""Which style a document is written in, and what it says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Base
from core_runtime.rules.flow.modifier import Modifier
from core_runtime.rules.flow.older.modifier_file import read_modifier_file
from core_runtime.rules.flow.older.modifier_value import read_modifier_value
from core_runtime.rules.flow.older.phases import Phased
from core_runtime.rules.flow.older.pipelines import Pipelines, read_pipelines
from core_runtime.rules.flow.older.registered import Registered
from core_runtime.rules.flow.older.writing import Style, file_id
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.parse_scalars import Where, invalid
from core_runtime.rules.flow.plan import plan_flow

FLOW_KEY: Final = "flow."
MODIFIER_KEY: Final = "flow.modifier"


def style_of(document: Any, *, key: str = "") -> Style:
    """The style of a document; ``key``: the registry's that it stands under."""
    if not isinstance(document, Mapping) or "flow" in document or "modify" in document:
        return Style.NEW
    if "pipelines" in document:
        return Style.PIPELINES
    if "modifications" in document:
        return Style.MODIFIER_VALUE
    if {"modifier_id", "target_flow_id"} & document.keys():
        return Style.MODIFIER_FILE
    if "flow_id" in document:
        return Style.PHASES
    steps = document.get("steps")
    maps = [one for one in steps if isinstance(one, Mapping)] if isinstance(steps, list) else []
    older = any({"type", "handler"} & one.keys() for one in maps)
    return Style.REGISTERED if older or (key and "steps" in document) else Style.NEW


def read_older(
    document: Mapping[str, Any], style: Style, *, source: str, where: Where, layer: model.Layer, pack: str,
    key: str = "",
) -> Base | Modifier | Pipelines:  # fmt: skip
    """Understand an older document, or raise ``AuthorError`` (code ``flow_invalid``) with every problem."""
    if style is Style.PIPELINES:
        return read_pipelines(document, source=source, where=where, layer=layer, pack=pack)
    if style is Style.MODIFIER_FILE:
        return read_modifier_file(document, source=source, where=where, layer=layer, pack=pack)
    if style is Style.MODIFIER_VALUE:
        return read_modifier_value(document, source=source, where=where, layer=layer, pack=pack)
    reader = Phased(source, where, pack) if style is Style.PHASES else Registered(source, where, pack)
    own = document.get("flow_id") or document.get("id")
    flow_id = own or (key.removeprefix(FLOW_KEY) if key else file_id(source))
    return _base(reader, reader.flow(document, flow_id), style, layer)


def _base(reader: Phased | Registered, document: dict[str, Any], style: Style, layer: model.Layer) -> Base:
    """The flow that a translation says; problems stand where the older document has them."""
    if reader.problems:
        raise invalid(reader.source, reader.problems)
    flow = parse_flow(document, source=reader.source, where=reader.there, layer=layer, pack=reader.pack)
    plan_flow(flow)
    return Base(document, flow, style.value)

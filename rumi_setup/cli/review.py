"""A review on the terminal: the decision's basis in words, riskiest first. All of it is a stranger's text: escaped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from rumi_setup.cli import show
from rumi_setup.cli.words import say
from rumi_setup.core.words import language

_LINES = 200
_TOLD = frozenset({"private_addresses", "type", "reason", "risk", "words", "note", "grantable", "plain"})


def show_review(found: dict[str, Any], *, update: bool = False) -> None:
    """Print everything that `found` (the API's review) says, section by section."""
    rating = found.get("rating") or {}
    show.pairs([
        ("pack", found.get("pack_id")), ("status", found.get("state")), ("version", found.get("version")),
        ("identity", found.get("pack_identity")), ("author", found.get("author")),
        ("description", found.get("description")), ("digest", found.get("digest")),
        ("files", f"{found.get('files')} ({found.get('total_bytes')} bytes)"),
        ("bill of materials", f"./rumi pack sbom {show.safe(found.get('pack_id'))}{' --update' if update else ''}"),
        ("approved version", found.get("approved_version")),
        ("approved isolation", found.get("approved_isolation")),
        ("isolation", _isolation(found.get("isolation"))),
        ("rating", f"{rating.get('score')}/100 ({rating.get('grade')})"),
    ])  # fmt: skip
    if found.get("identity_changed"):
        show.words(say("WARNING: another identity than the approved version's."))
    show.section("Signature (it approves nothing)", _signature(found.get("signature")))
    combination = found.get("combination")
    if isinstance(combination, dict):
        show.section("Risk by combination", _combination(combination))
    show.section("Permissions", _permissions(found.get("permissions")))
    show.section("Deductions", _deductions(rating.get("deductions")))
    show.section("Findings", _sentences(found.get("findings")))
    show.section("Provides", _sentences(found.get("provides")))
    show.section("Your aliases", _aliases(found.get("aliases")))
    show.section("Contracts", _contracts(found.get("contracts")))
    show.section("Calls", _edges(found))
    show.section("Flows", _flows(found.get("flows")))
    show.section("Packs that could not use it", _unsuited(found.get("unsuited")))
    show.section("Addons", addons(found.get("addons")))
    show.section("Replaces", _mapping(found.get("replaces")))
    show.section("Keys with meaning to the host", _mapping(found.get("host_keys")))
    show.section("Dependencies", _mapping(found.get("dependencies")))
    show.section("Python packages", _packages(found.get("packages")))
    show.section("Changed packages", changed_packages(found.get("package_changes")))
    show.section("Changed contracts", changed_contracts(found.get("contract_changes")))
    show.section("Changed permissions", changed_permissions(found.get("permission_changes")))
    show.section("Changed files", changed_files(found.get("file_changes")))
    isolation = found.get("isolation")
    if isinstance(isolation, dict):
        show.section("What the isolation lacks", _sentences(isolation.get("findings")))


def _signature(found: Any) -> Iterator[str]:
    """Whom it is from, in a section of its own: nobody shall take it for a reason to approve."""
    if not isinstance(found, dict) or not found:
        return
    standing = str(found.get("standing"))
    bad = standing not in {"unsigned", "first_use", "known"}
    told = _standing(standing)
    yield click.style(told, fg="red") if bad else told
    if found.get("key"):
        name = repr(show.safe(found.get("publisher")))
        yield say("signed as {name} with {key}", name=name, key=show.safe(found["key"]))
    pinned = found.get("pinned")
    if bad and isinstance(pinned, dict):
        name = repr(show.safe(pinned.get("publisher")))
        yield say("approved before as {name} with {key}", name=name, key=show.safe(pinned.get("key")))
    if found.get("detail"):
        yield show.safe(found["detail"], 500)


def _standing(standing: str) -> str:
    known = {
        "unsigned": say("not signed"),
        "first_use": say("signed; the key was not seen before and is remembered when you approve"),
        "known": say("signed by the publisher of before"),
        "publisher_changed": say("signed by ANOTHER publisher than before: it will be refused"),
        "signature_missing": say("NOT SIGNED any more, though it was before: it will be refused"),
        "signature_invalid": say("the signature is WRONG: it will be refused"),
        "publishers_unknown": say("the known publishers can't be believed: it will be refused"),
    }
    return known.get(standing, show.safe(standing))


def risk_word(risk: Any) -> str:
    """`low`, `medium` or `high` in the operator's language."""
    known = {"low": say("low"), "medium": say("medium"), "high": say("high")}
    return known.get(str(risk), show.safe(risk, 20))


def words_of(item: dict[str, Any]) -> str:
    """A permission in the operator's language."""
    words = item.get("words")
    return show.safe(words.get(language()) or words.get("en") if isinstance(words, dict) else words, 300)


def _isolation(found: Any) -> str:
    return f"{found.get('driver')}/{found.get('level')}" if isinstance(found, dict) else say("none")


def _flows(found: Any) -> Iterator[str]:
    for one in found if isinstance(found, list) else []:
        file = show.safe(one.get("file"))
        for flow in one.get("adds") or []:
            yield say("adds {flow} ({file})", flow=show.safe(flow), file=file)
        for flow in one.get("modifies") or []:
            yield say("changes {flow} ({file})", flow=show.safe(flow), file=file)
        if one.get("fault"):
            yield say("{file} would be refused: {why}", file=file, why=show.safe(one["fault"]))


def _combination(found: dict[str, Any]) -> Iterator[str]:
    paths = found.get("paths")
    if not isinstance(paths, dict) or not paths:
        yield show.safe(found.get("sentence"), 500)
        return
    yield say("Together these can carry data out:")
    for label, path in paths.items():
        way = " → ".join(show.safe(step, 80) for step in path[:_LINES]) if isinstance(path, list) else show.safe(path)
        yield f"{_label(label)}: {way}"


def _label(label: Any) -> str:
    known = {
        "private-data": say("reads private data"),
        "untrusted-input": say("takes in what strangers wrote"),
        "external-communication": say("can send data out"),
    }
    return known.get(str(label), show.safe(label))


def _edges(found: dict[str, Any]) -> Iterator[str]:
    """The keys it would call and who provides them; without edges, the keys alone."""
    edges = found.get("edges")
    if not isinstance(edges, list) or not edges:
        yield from _sentences(found.get("requires"))
        yield from _sentences(found.get("uses"))
        return
    for edge in edges[:_LINES]:
        if isinstance(edge, dict):
            need = say("required") if edge.get("required") else say("optional")
            provider = show.safe(edge.get("provider")) or say("nobody yet")
            wanted = f" {show.safe(edge.get('wanted'), 140)}" if edge.get("wanted") else ""
            yield f"{show.safe(edge.get('key'))}{wanted} → {provider} ({need})"
            if edge.get("why_not"):
                yield "    " + click.style(show.safe(edge.get("why_not"), 500), fg="red")


def _aliases(items: Any) -> Iterator[str]:
    """Other names that the operator gave, where this Pack provides something under one or is what one means."""
    for item in items[:_LINES] if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        owner = show.safe(item.get("owner"), 80)
        if item.get("effect") == "hides":
            told = say("calls over HTTP, the command line and flows reach what the name means, not what this Pack"
                       " provides under it")  # fmt: skip
        elif owner:
            told = say("this Pack provides what the name means, and answers who calls the name if you let it take the"
                       " place of {owner}", owner=owner)  # fmt: skip
        else:
            told = say("this Pack provides what the name means: once approved, it answers who calls the name")
        yield f"{show.safe(item.get('alias'))} → {show.safe(item.get('key'))}: {told}"


def _contracts(items: Any) -> Iterator[str]:
    """Each key with the version and the schemas that it promises, whole: they are what calls are checked against."""
    for key, one in list(items.items())[:_LINES] if isinstance(items, dict) else ():
        if isinstance(one, dict):
            yield f"{show.safe(key)} {show.safe(one.get('version')) or say('no version')}"
            for part in ("input", "output"):
                if one.get(part) is not None:
                    yield f"    {part}: {show.safe(json.dumps(one[part], ensure_ascii=False), 4000)}"


def _unsuited(items: Any) -> Iterator[str]:
    for name, sentences in items.items() if isinstance(items, dict) else ():
        for sentence in sentences[:_LINES] if isinstance(sentences, list) else ():
            yield f"{show.safe(name)}: {show.safe(sentence, 500)}"


def addons(items: Any) -> Iterator[str]:
    """Each addon on each component: what became of it and why, what it changes, and the digest that comes of it."""
    told: set[str] = set()
    for item in items[:_LINES] if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        outcome = _outcomes().get(str(item.get("outcome")), show.safe(item.get("outcome"), 20))
        yield f"{show.safe(item.get('addon'), 140)} → {show.safe(item.get('target'), 200)}: {outcome}"
        if item.get("reason"):
            yield f"    {show.safe(item.get('reason'), 500)}"
        digest = str(item.get("effective_digest") or "")
        if digest and digest not in told:
            told.add(digest)
            for change in _list_of(item, "changes"):
                place = f"{show.safe(change.get('file'), 300)} {show.safe(change.get('path'), 300)}"
                was, now = (show.safe(change.get(name), 200) or say("nothing") for name in ("before", "value"))
                yield f"    {place}: {was} → {now}"
            yield f"    {say('effective digest')}: {show.safe(digest, 80)}"


def _outcomes() -> dict[str, str]:
    return {
        "applied": say("is applied"), "skipped": say("is left out"), "refused": say("is refused"),
        "conflict": say("conflicts with another"), "failed": say("does not fit"),
    }  # fmt: skip


def changed_contracts(items: Any) -> Iterator[str]:
    """Versions and schemas against the approved version, place by place."""
    for item in items[:_LINES] if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        old, new = (show.safe(item.get(name)) or say("no version") for name in ("before", "after"))
        yield f"~ {show.safe(item.get('key'))} {old} → {new}"
        for part in _list_of(item, "parts"):
            place = f"{show.safe(part.get('part'))} {show.safe(part.get('pointer'), 300) or '/'}"
            was, now = (show.safe(part.get(name), 200) or say("nothing") for name in ("before", "after"))
            yield f"    {place}: {was} → {now}"
        if item.get("more"):
            yield "    …"


def _permissions(items: Any) -> Iterator[str]:
    for item in items[:_LINES] if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        details = ", ".join(
            f"{show.safe(name, 40)}={show.safe(_plain(value), 200)}"
            for name, value in item.items()
            if name not in _TOLD and value not in (None, "", [], {})
        )
        yield f"{show.safe(item.get('type'))} [{risk_word(item.get('risk'))}] {details}".rstrip()
        yield f"    {words_of(item)}"
        if item.get("private_addresses"):
            inside = show.safe(_plain(item["private_addresses"]), 200)
            warning = say("leads into your own network or machine: {addresses}", addresses=inside)
            yield "    " + click.style(warning, fg="red")
        yield f"    {say('Its author says:')} {show.safe(item.get('reason'), 300)!r}"
        if item.get("note"):
            yield f"    {show.safe(item.get('note'), 300)}"


def _deductions(items: Any) -> Iterator[str]:
    reason = "reason_ja" if language() == "ja" else "reason"
    for item in items if isinstance(items, list) else ():
        yield f"-{show.safe(item.get('points'))}  {show.safe(item.get(reason), 300)}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _sentences(items: Any) -> Iterator[str]:
    for item in items[:_LINES] if isinstance(items, list) else ():
        if isinstance(item, dict):
            yield ": ".join(show.safe(part, 300) for part in item.values() if part not in (None, "", [], {}))
        else:
            yield show.safe(item, 300)


def _mapping(items: Any) -> Iterator[str]:
    for name, value in items.items() if isinstance(items, dict) else ():
        yield f"{show.safe(name)}: {show.safe(value)}"


def _packages(items: Any) -> Iterator[str]:
    """Each package of the lock: version, the bytes that are admitted, and what is known of them."""
    for item in items[:_LINES] if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        marker = f" ; {show.safe(item.get('marker'), 200)}" if item.get("marker") else ""
        yield f"{show.safe(item.get('name'))}=={show.safe(item.get('version'))}{marker}"
        wheels = _list_of(item, "wheels")
        for wheel in wheels:
            yield f"    {show.safe(wheel.get('filename'), 250)} ({show.safe(wheel.get('size'))} bytes, {_code(wheel)})"
            yield f"    sha256:{show.safe(wheel.get('sha256'), 80)}"
        if not wheels:
            hashes = _list_of(item, "hashes")
            more = f" (+{len(hashes) - 1})" if len(hashes) > 1 else ""
            yield f"    {say('fetched when approved')}: sha256:{show.safe(hashes[0] if hashes else '', 80)}{more}"


def _code(wheel: dict[str, Any]) -> str:
    names = _list_of(wheel, "native")
    if not names:
        return say("pure Python")
    return say("machine code: {names}", names=", ".join(show.safe(name, 120) for name in names[:5]))


def changed_packages(items: Any) -> Iterator[str]:
    """The difference of the locks: `+` added, `-` removed, `~` another version."""
    for kind, mark in (("added", "+"), ("removed", "-")):
        for value in _list_of(items, kind):
            yield f"{mark} {show.safe(value, 200)}"
    changed = items.get("changed") if isinstance(items, dict) else None
    for name, versions in changed.items() if isinstance(changed, dict) else ():
        old, new = versions if isinstance(versions, list) and len(versions) == 2 else ("", "")
        yield f"~ {show.safe(name)} {show.safe(old)} → {show.safe(new)}"


def changed_permissions(items: Any) -> Iterator[str]:
    """The permission difference, added before removed."""
    for kind, mark in (("added", "+"), ("removed", "-")):
        for value in _list_of(items, kind):
            more = {k: v for k, v in value.items() if k != "type"} if isinstance(value, dict) else {}
            name = value.get("type") if isinstance(value, dict) else value
            details = ", ".join(f"{show.safe(k, 40)}={show.safe(_plain(v))}" for k, v in more.items())
            yield f"{mark} {show.safe(name)} {details}".rstrip()


def changed_files(items: Any) -> Iterator[str]:
    """The file difference: `+` added, `-` removed, `~` changed (also when only the executable bit did)."""
    for kind, mark in (("added", "+"), ("removed", "-"), ("changed", "~")):
        for value in _list_of(items, kind):
            yield f"{mark} {show.safe(value, 300)}"


def _list_of(items: Any, name: str) -> list[Any]:
    values = items.get(name) if isinstance(items, dict) else None
    return values[:_LINES] if isinstance(values, list) else []

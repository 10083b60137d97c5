"""The reference of the bus is covered by the corpus: each row of its tables, each refusal and operation that it names.

A kind that an agent sends must stand in ``transcripts`` (an agent really says it) and in ``host`` (the host really takes it);
a kind that the host sends the other way round.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import pytest

from core_runtime.rules.frames import BusLimits
from tests.support import vectors
from tests.support.documents import ROOT

REFERENCE = (ROOT / "docs" / "reference" / "protocol.md").read_text(encoding="utf-8")
TO_AGENTS = [frame for one in vectors.load("transcripts") for frame in vectors.frames_of(one)]
TO_THE_HOST = [frame for one in vectors.load("host") for frame in vectors.frames_of(one)]
EVERYTHING = [*TO_AGENTS, *TO_THE_HOST]


def rows() -> list[tuple[int, str, str]]:
    """(kind, name, who sends it) of the tables."""
    found = []
    for kinds, names, directions in re.findall(r"^\| ([\d, ]+) \| ([A-Z_, ]+) \| ([^|]+) \|", REFERENCE, re.MULTILINE):
        for at, (kind, name) in enumerate(zip(kinds.split(", "), names.split(", "), strict=True)):
            way = directions.split(", ")[at if ", " in kinds else 0].strip()
            senders = ("agent", "host") if way == "both" else (way.split(" ")[0],)
            found += [(int(kind), name, sender) for sender in senders]
    return found


def named(sentence: str) -> set[str]:
    """The names in backticks between ``sentence`` and the end of its sentence."""
    start = REFERENCE.index(sentence) + len(sentence)
    text = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", REFERENCE[start : start + 1500]).split(". ")[0]
    return set(re.findall(r"`([a-z_.|*]+)`", text))


def error_types(frames: list[dict[str, Any]], sender: str) -> set[str]:
    """Types of ERROR, STREAM_END and PHASE_DONE that ``sender`` says."""
    of = {"ERROR": lambda v: v[2:3], "STREAM_END": lambda v: (v[2] or [])[:1], "PHASE_DONE": lambda v: (v[2]["error"] or [])[:1]}
    return set(chain.from_iterable(of[f["kind"]](f["value"]) for f in frames if f["kind"] in of and f["from"] == sender))


def test_the_tables_are_read() -> None:
    assert {kind for kind, _, _ in rows()} == set(vectors.KINDS)
    assert {(kind, name) for kind, name, _ in rows()} == set(vectors.KINDS.items())


@pytest.mark.parametrize(("kind", "name", "sender"), rows())
def test_each_row_is_spoken_and_heard(kind: int, name: str, sender: str) -> None:
    for corpus in (TO_AGENTS, TO_THE_HOST):
        assert any((f["value"][0], f["from"]) == (kind, sender) for f in corpus), f"no {name} from the {sender}"


@pytest.mark.parametrize(("kind", "name", "sender"), rows())
def test_each_row_has_forms_that_are_refused(kind: int, name: str, sender: str) -> None:
    by = "host" if sender == "agent" else "agent"
    ways = {e["name"].partition(": ")[2] for e in vectors.load("refused") if e["by"] == by and e["name"].startswith(f"{name}: ")}
    assert ways >= {"a field too few", "a field too many"}
    if by == "host":
        assert ways >= {"an id of the wrong type", "an id beyond 32 bits"}


def test_each_type_of_error_is_in_a_conversation() -> None:
    every = named("that the host or an agent makes itself: ")
    assert len(every) > 12
    by_bus = every - {"shutting_down", "on_trial", "value.*"}
    said = error_types(TO_THE_HOST, "host")
    values = {f"value.{what}" for what in ("unsupported", "too_large", "too_deep", "malformed")}
    assert by_bus | values <= said | {o["step"][1].get("error") for c in vectors.load("host") for o in c["steps"] if o.get("step", [""])[0] == "outcome"}
    assert every - {"value.*"} | values | {"secret_taken", "not_fetched"} <= error_types(TO_AGENTS, "host")
    assert {"shutting_down", "cancelled", "dead_reference", "missing_file"} <= error_types(TO_AGENTS, "agent")


def test_each_operation_is_asked_for() -> None:
    operations = {
        f"{part}.{verb}" for name in named("Operations: ") for part, _, verbs in [name.partition(".")] for verb in verbs.split("|")
    } | {"network.connect", "http.fetch"}  # fmt: skip
    assert len(operations) > 12
    assert operations <= {frame["value"][2] for frame in EVERYTHING if frame["kind"] == "REQUEST"}


def test_each_extension_travels() -> None:
    codes = {int(code) for code in re.findall(r"^\| (-?\d) \| [a-z]", REFERENCE, re.MULTILINE)}
    assert codes == {-1, 1, 2, 3, 4}
    said = set(re.findall(r'"\$ext": \[(-?\d+)', (vectors.VECTORS / "transcripts.json").read_text() + (vectors.VECTORS / "values.json").read_text()))
    assert codes <= {int(code) for code in said}


@pytest.mark.parametrize("name", ["transcripts", "host"])
def test_memory_files_go_both_ways_with_what_stands_around_them(name: str) -> None:
    """What a frame names went over the second socket; and there is a conversation in which it can not."""
    said = [one for one in vectors.load(name) if one["name"].startswith("memory_files")]
    for one in (each for each in said if each["name"] == "memory_files"):
        entries = one.get("frames") or one["steps"]
        for sender in ("agent", "host"):
            brought = {(e.get("pack"), e["message"]) for e in entries if "file" in e and e["from"] == sender}
            marks = {(e.get("pack"), e["value"][-1]["$ext"][1]) for e in entries if e.get("kind") in {"CALL", "RESULT"} and e["from"] == sender and _in_file(e)}
            assert marks & brought, sender
        assert any(e.get("message") == "0000000001000000" and "file" not in e for e in entries)
        assert any((f["value"][2].get("memory") or {}).get("from_bytes") for f in vectors.frames_of(one) if f["kind"] == "WELCOME")
    assert len(said) == 2
    assert any(not vectors.has_descriptors(one) or any(f["kind"] == "CHUNK" for f in vectors.frames_of(one)) for one in said)


def _in_file(entry: dict[str, Any]) -> bool:
    body = entry["value"][-1]
    return isinstance(body, dict) and body.get("$ext", [0])[0] == 3


def test_the_limits_are_those_of_welcome() -> None:
    listed = re.search(r"limits\{([^}]*)\}", REFERENCE)
    assert listed is not None
    assert set(listed[1].split(", ")) == set(BusLimits().told())

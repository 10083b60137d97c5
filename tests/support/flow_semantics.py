"""The semantics table of `docs/reference/flows.md` and `.ja.md`: `python -m tests.support.flow_semantics`.

Each cell is a run of the host's own machine: a flow of one step with that verb and a step after it, made to succeed, to
fail, to run out of its time, to be cancelled, and to meet a missing handler or flow. `tests/unit/flow/test_semantics.py`
fails when a document shows anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_runtime.rules.flow.parse_steps import VERBS
from tests.support.flows import Fails, Playbook, Takes

FOLDER = Path(__file__).resolve().parents[2] / "docs/reference"
PAGES = {
    "flows.md": ("verb", "success", "failure", "time is over", "cancelled", "nobody provides it"),
    "flows.ja.md": ("動詞", "成功", "失敗", "時間切れ", "取り消し", "提供者なし"),
}
BEGIN, END = "<!-- made by `python -m tests.support.flow_semantics` -->\n", "<!-- end of the table -->\n"
LONG_S, LIMIT_S, CANCEL_S = 5.0, 1.0, 0.5
NONE = "–"
"""The case does not exist: the verb takes no time, or calls nobody."""


def _fails(_args: Any) -> Any:
    raise Fails("t/broken")


HANDLERS: Mapping[str, Callable[[Any], Any]] = {
    "t.ok": lambda _args: 1,
    "t.fails": _fails,
    "t.slow": lambda _args: Takes(LONG_S, 1),
    "flow.construct.once": lambda _args: [{}],
}
TOO_LARGE = "${input.big}${input.big}"
"""A value whose evaluation fails."""


def _body(handler: str) -> list[Any]:
    return [{"id": "inner", "call": handler, "on_error": "fail"}]


@dataclass(frozen=True, slots=True)
class Verb:
    """How a step with the verb is written, with what is to happen inside; and whether it waits for somebody."""

    step: Callable[[str], Mapping[str, Any]]
    waits: bool = True
    calls: bool = True


VALUES = {"t.ok": 1, "t.slow": 1, "t.fails": TOO_LARGE}
FORMS: Mapping[str, Verb] = {
    "call": Verb(lambda h: {"call": h}),
    "flow": Verb(lambda h: {"flow": "t.gone" if h == "t.missing" else f"t.with-{h[2:]}"}),
    "do": Verb(lambda h: {"do": _body(h)}),
    "set": Verb(lambda h: {"set": {"x": VALUES[h]}}, waits=False, calls=False),
    "parallel": Verb(lambda h: {"parallel": {"branches": {"one": _body(h), "two": _body("t.ok")}}}),
    "choose": Verb(lambda h: {"choose": [{"default": _body(h)}]}),
    "each": Verb(lambda h: {"each": {"in": [1, 2]}, "do": _body(h)}),
    "loop": Verb(lambda h: {"loop": {"max": 2}, "do": _body(h)}),
    "wait": Verb(lambda h: {"wait": {"until": TOO_LARGE} if h == "t.fails" else "5s" if h == "t.slow" else "1ms"}, calls=False),
    "emit": Verb(lambda h: {"emit": 7 if h == "t.fails" else "t.topic"}, calls=False),
    "yield": Verb(lambda h: {"yield": VALUES[h]}, calls=False),
    "return": Verb(lambda h: {"return": VALUES[h]}, waits=False, calls=False),
    "fail": Verb(lambda _h: {"fail": "t/own"}, waits=False, calls=False),
    "pack:construct": Verb(
        lambda h: {"pack:gone": {}, "do": []} if h == "t.missing" else {"pack:once": {}, "do": _body(h)}
    ),
}  # fmt: skip
assert set(FORMS) == {*VERBS, "pack:construct"}


def cells(verb: str) -> list[str]:
    """Success, failure, timeout, cancel, missing."""
    form = FORMS[verb]
    own = verb == "fail"
    return [
        NONE if own else _case(form, "t.ok"),
        _case(form, "t.fails"),
        _case(form, "t.slow", timeout=True) if form.waits else NONE,
        _case(form, "t.slow", cancel=True) if form.waits else NONE,
        _case(form, "t.missing") if form.calls else NONE,
    ]


def _case(form: Verb, handler: str, *, timeout: bool = False, cancel: bool = False) -> str:
    step = {"id": "step", **form.step(handler), **({"timeout": f"{LIMIT_S:g}s"} if timeout else {})}
    flows = {
        f"t.with-{name}": json.dumps({"flow": f"t.with-{name}", "steps": _body(f"t.{name}")})
        for name in ("ok", "fails", "slow")
    }
    flow = {"flow": "t.flow", "steps": [step, {"id": "next", "set": {"y": 1}}]}
    book = Playbook(json.dumps(flow), HANDLERS, values={"big": "x" * 5_000_000}, flows=flows)
    book.delay_s = LONG_S if timeout or cancel else 0.0
    outcome = book.run(cancel_at=CANCEL_S if cancel else None)
    result = book.results["step"]
    shown = result.status.value
    if result.error is not None and result.error.type != shown:
        shown += f" `{result.error.type}`"
    return f"{shown} → {outcome.status.value}{'' if 'next' in book.results else ', ends'}"


def table(page: str) -> str:
    """The rows of one page."""
    head = PAGES[page]
    lines = [head, ["---"] * len(head), *([f"`{verb}`", *cells(verb)] for verb in FORMS)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- ", "|---").replace("--- |", "---|")


def rendered(page: str) -> str:
    """The page with its table made anew."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table")
    return f"{before}{begin}{table(page)}{end}{after}"


if __name__ == "__main__":
    for name in PAGES:
        (FOLDER / name).write_text(rendered(name), encoding="utf-8")

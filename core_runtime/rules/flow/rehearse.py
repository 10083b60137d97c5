"""What a run may do, by whose rights, and what it needs for that; nothing is called. Pure.

``rehearse`` gives ``{flow, calls, flows, publishes, listens, constructs, interfaces, permissions, packs}``. The lists
up to ``constructs`` hold steps (``{flow, path, acts_as, …}``), those of flows below included; ``interfaces`` are the
keys that somebody must provide, ``permissions`` what each supplier of a step must hold:
``{pack, type, key | topic | flow}``.

Not here: whether that is so now (``handlers.rehearsal``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core_runtime.rules.flow import model
from core_runtime.rules.flow.explain import every
from core_runtime.rules.flow.plan import Plan

CALL = "interface.call"


def rehearse(plan: Plan, plan_of: Callable[[str], Plan | None]) -> dict[str, Any]:
    """See the module. A flow that runs itself, or is not there, is named and not gone into."""
    found: dict[str, Any] = {name: [] for name in ("calls", "flows", "publishes", "listens", "constructs")}
    needs: set[tuple[str, str, str, str]] = set()
    packs: set[str] = set()
    seen, waiting = {plan.flow.id}, [plan]
    while waiting:
        flow = waiting.pop(0).flow
        for step in every(step for block in flow.own_blocks() for step in block):
            packs.update(step.acts_as)
            told = _told(step)
            if told is None:
                continue
            group, kind, word, what, more = told
            found[group].append({"flow": flow.id, "path": step.path, "acts_as": list(step.acts_as), **more})
            needs.update((pack, kind, word, what) for pack in step.acts_as)
            below = plan_of(what) if group == "flows" and what not in seen else None
            if below is not None:
                seen.add(what)
                waiting.append(below)
    called = (one["handler"] for one in (*found["calls"], *found["constructs"]))
    return {
        "flow": plan.flow.id,
        **found,
        "interfaces": sorted({key for key in called if not key.startswith(model.KERNEL_PREFIX)}),
        "permissions": [{"pack": pack, "type": kind, word: what} for pack, kind, word, what in sorted(needs)],
        "packs": sorted(packs),
    }


def _told(step: model.Step) -> tuple[str, str, str, str, dict[str, Any]] | None:
    """The step's group, the right that it takes and of what, and what is told of it; None where it needs nobody."""
    match step.action:
        case model.Call(handler):
            return "calls", CALL, "key", handler, {"handler": handler}
        case model.Each(handler=handler) if handler:
            return "calls", CALL, "key", handler, {"handler": handler}
        case model.Subflow(flow_id):
            return "flows", "flow.run", "flow", flow_id, {"runs": flow_id}
        case model.Emit(topic):
            return "publishes", "event.publish", "topic", str(topic.source), {"topic": topic.source}
        case model.Wait(event=event) if event:
            return "listens", "event.subscribe", "topic", event, {"topic": event}
        case model.Construct(pack, name):
            key = f"flow.construct.{name}"
            return "constructs", CALL, "key", key, {"handler": key, "pack": pack}
        case _:
            return None

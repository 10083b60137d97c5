"""What a Pack could write into the numbers that an operator watches."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from core_runtime.bus.hub import Bus
from core_runtime.handlers import metrics
from tests.support.hosts import bare_host, with_bus
from tests.support.raw_agent import CALL, ERROR, WELCOME, Grant, RawAgent

FORGED = [
    'k"} 1\nrumi_pack_up{pack="other"} 0\n#', "k\n# TYPE rumi_edge_calls_total gauge", "k\\", '\\"', "\x1b[2J", "\r\n\r\n", "\u202egpj.exe",
]  # fmt: skip


async def joined(bus: Bus, folder: Any, pack_id: str, grant: Grant) -> RawAgent:
    endpoint = await bus.open(pack_id, 1, grant, socket_path=f"{folder}/{pack_id}")
    waiting = asyncio.ensure_future(endpoint.connected(5))
    agent = await RawAgent.connect(endpoint.path)
    agent.hello()
    await (await waiting).welcome({})
    await agent.until(WELCOME)
    return agent


def samples(text: bytes) -> list[Any]:
    return [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]


def test_names_that_a_pack_makes_up_forge_no_sample_and_fill_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "EDGES", 50)

    async def main():
        host = await with_bus(bare_host(tmp_path))
        agent = await joined(host.bus, tmp_path, "hostile", Grant())
        try:
            for number, key in enumerate([*FORGED, *(f"made.up.{n}" for n in range(500))], 1):
                agent.send(CALL, number, key, 0, 0, 0, None, [], None)
                assert (await agent.answer(number))[2] == "denied"
            text = await metrics.exposition(host)
            found = [sample for sample in samples(text) if sample.name == "rumi_edge_calls_total"]
            assert len(found) == 51
            assert sum(sample.value for sample in found) == len(FORGED) + 500
            assert not [sample for sample in samples(text) if sample.labels.get("pack") == "other"]
            assert len([sample for sample in samples(text) if sample.name == "rumi_edge_errors_total"]) == 51
            assert b"\x1b" not in text
            assert b"\r" not in text
        finally:
            await agent.close()
            await host.close()

    asyncio.run(main())


def test_types_of_errors_that_a_pack_makes_up_are_few_and_show_no_secret(tmp_path):
    async def main():
        host = await with_bus(bare_host(tmp_path))
        host.redactions.learn("victim", "correct-horse-battery")
        agent = await joined(host.bus, tmp_path, "hostile", Grant(provides={"k"}))
        try:
            await agent.registered("k")
            for number in range(100):
                call = asyncio.ensure_future(host.bus.call("k"))
                frame = await agent.until(CALL)
                kind = "error/correct-horse-battery" if number == 0 else f"error/Made{number}"
                agent.send(ERROR, frame[1], kind, "t", "d", False, "")
                assert (await asyncio.gather(call, return_exceptions=True))[0] is not None
            text = await metrics.exposition(host)
            kinds = {sample.labels["type"] for sample in samples(text) if sample.name == "rumi_pack_errors_total"}
            assert len(kinds) == 17
            assert "(other types)" in kinds
            assert b"correct-horse" not in text
        finally:
            await agent.close()
            await host.close()

    asyncio.run(main())

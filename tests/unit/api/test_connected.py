"""A call made over HTTP is worth its work only while somebody waits for the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from core_runtime.api.call import UNWATCHED_S, Call, ClientGone


def calling(story: Any) -> Any:
    """Run ``story(call, leave)``; ``leave()``: the client closes its connection."""

    async def main() -> Any:
        gone = asyncio.Event()

        async def receive() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        scope = {"type": "http", "headers": [], "state": {"actor": "operator"}}
        return await story(Call(Request(scope, receive)), gone.set)

    return asyncio.run(main())


def test_an_answer_comes_back_and_nothing_is_left_over() -> None:
    async def story(call: Call, _leave: Any) -> None:
        async def soon() -> int:
            await asyncio.sleep(0)
            return 1

        async def later() -> int:
            await asyncio.sleep(UNWATCHED_S * 3)
            return 2

        assert [await call.while_connected(soon()), await call.while_connected(later())] == [1, 2]
        with pytest.raises(KeyError):
            await call.while_connected(fail())
        await asyncio.sleep(UNWATCHED_S * 2)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert asyncio.current_task().cancelling() == 0

    async def fail() -> None:
        raise KeyError

    calling(story)


@pytest.mark.parametrize("after_s", [0.0, UNWATCHED_S * 2], ids=["at once", "later"])
def test_who_went_away_cancels_the_work(after_s: float) -> None:
    async def story(call: Call, leave: Any) -> list[str]:
        ended = []

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)  # it may tidy up
                ended.append("tidied")
                raise

        asyncio.get_running_loop().call_later(after_s, leave)
        with pytest.raises(ClientGone):
            await call.while_connected(work())
        assert asyncio.current_task().cancelling() == 0
        return ended

    assert calling(story) == ["tidied"]


def test_work_that_ends_in_spite_of_it_has_its_answer() -> None:
    async def story(call: Call, leave: Any) -> str:
        async def stubborn() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "done"
            return ""

        leave()
        found = await call.while_connected(stubborn())
        await asyncio.sleep(0)
        return found

    assert calling(story) == "done"


def test_the_hosts_own_end_is_no_client_that_went_away() -> None:
    async def story(call: Call, _leave: Any) -> None:
        work = asyncio.create_task(call.while_connected(asyncio.sleep(60)))
        await asyncio.sleep(UNWATCHED_S * 2)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    calling(story)

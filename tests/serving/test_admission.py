import asyncio

import pytest

from roost.errors import Overloaded, TooLarge
from roost_serving.admission import Admission


def admission(limit: int) -> tuple[Admission, list[int]]:
    seen: list[int] = []
    return Admission(limit, seen.append), seen


def test_what_fits_is_held_and_let_go():
    held, seen = admission(4)
    with held.take(3), held.take(1):
        pass
    assert seen == [3, 4, 3, 0]


def test_one_image_too_many_is_refused_at_once_with_a_hint():
    held, _ = admission(4)
    with held.take(3), pytest.raises(Overloaded) as caught, held.take(2):
        pass
    assert float(caught.value.facts["retry_after_seconds"]) > 0
    assert held.held == 0


def test_more_than_can_ever_be_held_is_too_large():
    held, _ = admission(4)
    with pytest.raises(TooLarge), held.take(5):
        pass


async def test_a_stream_waits_for_room_in_order():
    held, _ = admission(1)
    order: list[str] = []

    async def work(name: str) -> None:
        async with held.wait():
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*map(work, "abcd"))
    assert order == list("abcd")
    assert held.held == 0


async def test_a_waiting_stream_that_is_cancelled_leaves_no_trace():
    held, _ = admission(1)

    async def work() -> None:
        async with held.wait():
            pass

    with held.take(1):
        waiting = asyncio.create_task(work())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.wait_for(work(), 1)
    assert held.held == 0


async def test_a_stream_cancelled_just_after_its_turn_came_gives_the_room_back():
    held, _ = admission(1)

    async def work() -> None:
        async with held.wait():
            pass

    with held.take(1):
        waiting = asyncio.create_task(work())
        await asyncio.sleep(0)
    waiting.cancel()  # its turn was granted when the block above ended, but it has not run yet
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert held.held == 0


async def test_streams_leave_a_quarter_of_the_room_to_calls():
    held, _ = admission(4)
    done = asyncio.Event()

    async def work() -> None:
        async with held.wait():
            await done.wait()

    streams = [asyncio.create_task(work()) for _ in range(10)]
    await asyncio.sleep(0)
    assert held.held == 3
    with held.take(1):
        assert held.held == 4
    done.set()
    await asyncio.gather(*streams)
    assert held.held == 0

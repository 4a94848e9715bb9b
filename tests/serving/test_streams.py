import asyncio

import pytest

from roost_serving.streams import in_order


async def stream(*values):
    for value in values:
        yield value


async def freely(request: int):
    return lambda: None


async def test_answers_keep_the_order_of_their_requests():
    async def slower_first(value: int) -> int:
        for _ in range(10 - value):
            await asyncio.sleep(0)
        return value

    assert [answer async for answer in in_order(stream(*range(10)), slower_first, window=4, admit=freely)] == list(
        range(10)
    )


async def test_no_more_than_the_window_is_worked_on():
    working, most = 0, 0

    async def work(value: int) -> int:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await asyncio.sleep(0.001)
        working -= 1
        return value

    assert len([answer async for answer in in_order(stream(*range(50)), work, window=4, admit=freely)]) == 50
    assert 1 < most <= 4 + 2  # the window, the one that is awaited and the one that waits to enter


async def test_an_answer_is_given_before_the_stream_goes_on():
    sent: asyncio.Queue[int] = asyncio.Queue()

    async def endless():
        while True:
            yield await sent.get()

    async def same(value: int) -> int:
        return value

    answers = in_order(endless(), same, window=8, admit=freely)
    for value in range(3):
        await sent.put(value)
        assert await asyncio.wait_for(anext(answers), 5) == value
    await answers.aclose()


async def test_an_error_ends_the_stream_and_what_was_running():
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work(value: int) -> int:
        if value == 0:
            await begun.wait()
            raise ValueError("broken")
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return value

    with pytest.raises(ValueError, match="broken"):
        _ = [answer async for answer in in_order(stream(0, 1), work, window=4, admit=freely)]
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_the_next_request_is_read_once_the_last_may_be_held():
    read, held, room = [], [], asyncio.Event()

    async def requests():
        for value in range(3):
            read.append(value)
            yield value

    async def admit(value: int):
        if value:
            await room.wait()
        held.append(value)
        return lambda: held.remove(value)

    async def work(value: int) -> int:
        return value

    answers = in_order(requests(), work, window=4, admit=admit)
    assert await asyncio.wait_for(anext(answers), 5) == 0
    await asyncio.sleep(0)
    assert (read, held) == ([0, 1], [])
    room.set()
    assert [answer async for answer in answers] == [1, 2]
    assert held == []

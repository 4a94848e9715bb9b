"""Work on several messages of a stream at the same time, and answer in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


async def in_order(
    requests: AsyncIterator[Q],
    answer: Callable[[Q], Awaitable[A]],
    *,
    window: int,
    admit: Callable[[Q], Awaitable[Callable[[], None]]],
) -> AsyncIterator[A]:
    """Answer each request, in the requests' order; an answer goes out as soon as those before it have.

    Args:
        requests: The stream. It is read only as far as the window reaches, so a slow answer slows the sender down.
        answer: Makes an answer; an error of its ends the stream.
        window: Requests that may be worked on at once.
        admit: Waits until a request may be held, before the next is read, and gives what lets it go.
    """
    running: set[asyncio.Future[A]] = set()
    answers: asyncio.Queue[asyncio.Future[A] | None] = asyncio.Queue(window)

    async def read() -> None:
        try:
            async for request in requests:
                release = await admit(request)
                task = asyncio.ensure_future(answer(request))
                task.add_done_callback(lambda _, release=release: release())
                running.add(task)
                task.add_done_callback(running.discard)
                await answers.put(task)
        finally:
            await answers.put(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await answers.get()) is not None:
            yield await task
        await reader
    finally:
        while not answers.empty():  # so that the reader's last word finds room
            answers.get_nowait()
        reader.cancel()
        for task in running:
            task.cancel()

"""Work on several messages of a stream at the same time, and answer in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


async def in_order(requests: AsyncIterator[Q], answer: Callable[[Q], Awaitable[A]], *, window: int) -> AsyncIterator[A]:
    """Answer each request, in the requests' order; an answer goes out as soon as those before it have.

    Args:
        requests: The stream. It is read only as far as the window reaches, so a slow answer slows the sender down.
        answer: Makes an answer; an error of its ends the stream.
        window: Requests that may be worked on at once.
    """
    running: asyncio.Queue[asyncio.Future[A] | None] = asyncio.Queue(window)

    async def read() -> None:
        try:
            async for request in requests:
                await running.put(asyncio.ensure_future(answer(request)))
        finally:
            await running.put(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await running.get()) is not None:
            yield await task
        await reader
    finally:
        reader.cancel()
        while not running.empty():
            left = running.get_nowait()
            if left is not None:
                left.cancel()

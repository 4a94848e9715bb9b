"""Images on their way to a model server: those that come while calls are under way go together, callers in turn."""

import asyncio
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from roost.errors import BackendUnavailable
from roost_serving import callers
from roost_serving.backends import CLOSED
from roost_serving.fair import Turns, all_of


class Send(Protocol):
    """Has a server embed pixels, uint8 (n, size, size, 3), before a moment of `time.monotonic`."""

    async def __call__(self, pixels: np.ndarray, *, deadline: float | None) -> np.ndarray:
        """Embeddings (n, dim)."""
        ...


@dataclass(slots=True, eq=False)
class Waiting:
    """An image that waits for its embedding."""

    pixels: np.ndarray
    deadline: float | None
    answer: asyncio.Future[np.ndarray]
    context: Context = field(default_factory=copy_context)
    """Its caller's: a call belongs to the first of those that it is for."""


class Lane:
    """What is sent for one model version. Nothing waits while a call is free: then an image goes alone, and at once.

    Args:
        send: The call.
        calls: How many are under way at a time.
        most: How many images go in one.
    """

    def __init__(self, send: Send, *, calls: int, most: int) -> None:
        self.send, self.calls, self.most = send, calls, most
        self._waiting: Turns[Waiting] = Turns()
        self._under_way: set[asyncio.Task[None]] = set()

    async def infer(self, images: Sequence[np.ndarray], *, deadline: float | None) -> list[np.ndarray]:
        """Embeddings (dim,) of images, uint8 (size, size, 3); an error of the call that one of them was in.

        Args:
            images: They may go in several calls, and in company.
            deadline: On the clock of `time.monotonic`. A call may last as long as the most patient of its callers.
        """
        loop = asyncio.get_running_loop()
        waiting = [Waiting(pixels, deadline, loop.create_future()) for pixels in images]
        who = callers.current().name
        for each in waiting:
            self._waiting.put(who, each)
        self._go()
        try:
            return await all_of([each.answer for each in waiting])
        finally:
            for each in waiting:
                if each.answer.cancelled():
                    self._waiting.drop(who, each)

    def _go(self) -> None:
        while len(self._under_way) < self.calls and (together := self._take()):
            task = asyncio.create_task(self._call(together), context=together[0].context)
            self._under_way.add(task)
            task.add_done_callback(self._end)
            for each in together:
                each.answer.add_done_callback(lambda _, task=task, group=together: _end_unheard(task, group))

    def _end(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._go()

    def _take(self) -> list[Waiting]:
        together: list[Waiting] = []
        while len(together) < self.most and (each := self._waiting.take()) is not None:
            if not each.answer.done():  # its caller may be about to drop it
                together.append(each)
        return together

    async def _call(self, together: Sequence[Waiting]) -> None:
        deadlines = [each.deadline for each in together]
        latest = None if None in deadlines else max(deadline for deadline in deadlines if deadline is not None)
        try:
            embeddings = await self.send(np.stack([each.pixels for each in together]), deadline=latest)
        except BaseException as error:  # it is the callers' to deal with
            ended = isinstance(error, asyncio.CancelledError)
            for each in together:
                if not each.answer.done():  # the connection was closed, or nobody waits
                    each.answer.set_exception(BackendUnavailable(CLOSED) if ended else error)
            if ended:
                raise
        else:
            for each, embedding in zip(together, embeddings, strict=True):
                if not each.answer.done():
                    each.answer.set_result(embedding)


def _end_unheard(task: asyncio.Task[None], together: Sequence[Waiting]) -> None:
    """End a call whose callers all gave up."""
    if all(each.answer.cancelled() for each in together):
        task.cancel()

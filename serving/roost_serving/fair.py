"""Work of several callers, done in turns: whoever sends much waits for himself, not the others for him."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

from roost_serving import callers

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue for each caller, of which each gives one thing in turn. Not safe to share between threads."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, who: str, thing: T) -> None:
        """Add to a caller's queue."""
        self._queues.setdefault(who, deque()).append(thing)

    def take(self, may: Callable[[T], bool] = lambda thing: True) -> T | None:
        """The first thing of the caller whose turn it is; None where there is none.

        Args:
            may: Whether a caller's first thing may be taken; who may not is passed over, and keeps the turn.
        """
        for who, queue in self._queues.items():
            if may(queue[0]):
                thing = queue.popleft()
                self._queues.move_to_end(who)
                if not queue:
                    del self._queues[who]
                return thing
        return None

    def drop(self, who: str, thing: T) -> None:
        """Remove what is there; nothing where it is not."""
        queue = self._queues.get(who)
        if queue is not None and thing in queue:
            queue.remove(thing)
            if not queue:
                del self._queues[who]


@dataclass(frozen=True)
class Work:
    """What a thread is to do, and who waits for it."""

    do: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def settle(self) -> None:
        """Do it, and tell who waits."""
        if self.future.cancelled():
            return
        result = error = None
        try:
            result = self.do()
        except BaseException as raised:  # it is the waiter's to deal with
            error = raised
        self.tell(partial(_settle, self.future, result, error))

    def tell(self, what: Callable[[], object]) -> None:
        """Have something done where the waiter runs."""
        with suppress(RuntimeError):  # its loop was closed, so that nobody waits
            self.loop.call_soon_threadsafe(what)


class FairPool:
    """Threads that take from every caller in turn.

    Args:
        workers: How many.
        name: What the threads' names begin with.
    """

    def __init__(self, workers: int, *, name: str) -> None:
        self._turns: Turns[Work] = Turns()
        self._lock = Lock()
        self._more: SimpleQueue[bool] = SimpleQueue()
        """For each piece of work a turn, whoever's it will be; False ends a thread."""
        self._closed = False
        self._threads = [Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have work done for the current caller; what is cancelled before its turn is not begun.

        Raises:
            RuntimeError: The pool was closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            if self._closed:
                raise RuntimeError("The pool is closed")
            self._turns.put(callers.current().name, Work(work, future, loop))
        self._more.put(True)
        return future

    def close(self) -> None:
        """Finish what is being worked on and drop the rest; waits."""
        with self._lock:
            self._closed = True
            while (left := self._turns.take()) is not None:
                left.tell(left.future.cancel)
        for _ in self._threads:
            self._more.put(False)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while self._more.get():
            with self._lock:
                work = self._turns.take()
            if work is not None:
                work.settle()
                del work  # or its image and its answer would stay until the next


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)

"""Work of several callers, done in turns: whoever sends much waits for himself, not the others for him."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
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


class FairPool:
    """Threads that take from every caller in turn.

    Args:
        workers: How many.
        name: What the threads' names begin with.
    """

    def __init__(self, workers: int, *, name: str) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._turns: Turns[tuple[Future[Any], Callable[[], Any]]] = Turns()
        self._lock = Lock()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have work done for the current caller; what is cancelled before its turn is not begun.

        Raises:
            RuntimeError: The pool was closed.
        """
        future: Future[T] = Future()
        with self._lock:
            self._pool.submit(self._next)  # a turn for each piece of work, whoever's it will be
            self._turns.put(callers.current().name, (future, work))
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what is being worked on and drop the rest; waits."""
        self._pool.shutdown(cancel_futures=True)
        while (left := self._turns.take()) is not None:
            left[0].cancel()

    def _next(self) -> None:
        with self._lock:
            taken = self._turns.take()
        if taken is None:
            return
        future, work = taken
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # as concurrent.futures does: it is the waiter's to deal with
            future.set_exception(error)

"""Work of several callers, done in turns: whoever sends much waits for himself, not the others for him."""

import asyncio
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread, get_native_id
from typing import Generic, TypeVar

from roost_serving import callers

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")


NICENESS = 5
"""Of threads that work, so that whoever answers and refuses comes first, however much work there is."""


class Turns(Generic[T]):
    """A queue for each caller, of which each gives one thing in turn. Not safe to share between threads."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def put(self, who: str, thing: T) -> None:
        """Add to a caller's queue."""
        queue = self._queues.get(who)
        if queue is None:
            self._queues[who] = deque((thing,))
        else:
            queue.append(thing)

    def take(self, may: Callable[[T], bool] | None = None) -> T | None:
        """The first thing of the caller whose turn it is; None where there is none.

        Args:
            may: Whether a caller's first thing may be taken; who may not is passed over, and keeps the turn.
        """
        for who, queue in self._queues.items():
            if may is None or may(queue[0]):
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

    def prune(self, who: str, gone: Callable[[T], bool]) -> int:
        """Remove the things of a caller that are no longer wanted, in one pass; how many there were."""
        queue: deque[T] = self._queues.get(who, deque())
        kept = deque(thing for thing in queue if not gone(thing))
        if kept:
            self._queues[who] = kept  # whose turn it is stays as it was
        else:
            self._queues.pop(who, None)
        return len(queue) - len(kept)


class FairPool(Generic[Q, A]):
    """Threads that take from every caller in turn, each its share of what waits.

    Args:
        do: Run on a thread: the answer to each of some questions.
        workers: How many threads.
        most: How many questions one takes at once. It leaves the others theirs.
        name: What the threads' names begin with.
    """

    def __init__(self, do: Callable[[list[Q]], Sequence[A]], *, workers: int, most: int = 1, name: str) -> None:
        self._do, self._workers, self._most = do, workers, most
        self._turns: Turns[tuple[Q, asyncio.Future[A]]] = Turns()
        self._lock = Lock()
        self._more: SimpleQueue[bool] = SimpleQueue()
        """For each question a turn, whoever's it will be, or nobody's where one took several; False ends a thread."""
        self._closed = False
        self._threads = [Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(workers)]
        for thread in self._threads:
            thread.start()

    async def ask(self, questions: Iterable[Q]) -> list[A]:
        """Have several of the current caller's questions answered.

        Where one fails, or whoever asks gives up, those that still wait are dropped.
        """
        answers = [self.submit(question) for question in questions]
        try:
            return await all_of(answers)
        except BaseException:
            self._prune(callers.current().name)
            raise

    def submit(self, question: Q) -> asyncio.Future[A]:
        """Have the current caller's question answered; one that is cancelled before its turn is passed over.

        Raises:
            RuntimeError: The pool was closed.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._closed:
                raise RuntimeError("The pool is closed")
            self._turns.put(callers.current().name, (question, future))
        self._more.put(True)
        return future

    def close(self) -> None:
        """Finish what is being worked on and drop the rest; waits."""
        with self._lock:
            self._closed = True
            while (left := self._turns.take()) is not None:
                _tell(_drop, [left[1]])
        for _ in self._threads:
            self._more.put(False)
        for thread in self._threads:
            thread.join()

    def _prune(self, who: str) -> None:
        """Drop what a caller gave up: its images would stay, and nobody counts them any more."""
        with self._lock:
            if self._closed:
                return
            for _ in range(self._turns.prune(who, lambda asked: asked[1].cancelled())):
                with suppress(Empty):  # a thread that has the turn already will find that it is nobody's
                    self._more.get_nowait()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere, the whole process would be
            os.setpriority(os.PRIO_PROCESS, get_native_id(), NICENESS)
        while self._more.get():
            taken = self._take()
            if taken:
                self._answer(taken)
            del taken  # or its images would stay until the next

    def _take(self) -> list[tuple[Q, asyncio.Future[A]]]:
        with self._lock:
            share = min(self._most, -(-len(self._turns) // self._workers))
            taken = [self._turns.take() for _ in range(share)]
        return [each for each in taken if each is not None and not each[1].cancelled()]

    def _answer(self, taken: list[tuple[Q, asyncio.Future[A]]]) -> None:
        questions, futures = zip(*taken, strict=True)
        try:
            answers = self._do(list(questions))
        except BaseException as error:  # it is the waiters' to deal with
            _tell(_fail, futures, error)
        else:
            _tell(_settle, futures, answers)


async def all_of(answers: Sequence[asyncio.Future[A]]) -> list[A]:
    """What futures give, in order; where one fails, or whoever asks gives up, those after it are given up."""
    try:
        return [await answer for answer in answers]
    finally:
        for answer in answers:
            answer.cancel()


def _tell(what: Callable[..., None], futures: Sequence[asyncio.Future[A]], *given: object) -> None:
    """Have something done to futures of one loop, on its thread."""
    with suppress(RuntimeError):  # the loop was closed, so that nobody waits
        futures[0].get_loop().call_soon_threadsafe(what, futures, *given)


def _settle(futures: Sequence[asyncio.Future[A]], answers: Sequence[A]) -> None:
    for future, answer in zip(futures, answers, strict=True):
        if not future.done():
            future.set_result(answer)


def _fail(futures: Sequence[asyncio.Future[A]], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _drop(futures: Sequence[asyncio.Future[A]]) -> None:
    for future in futures:
        future.cancel()

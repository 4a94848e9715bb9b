import asyncio
import random
import threading
import weakref

import pytest

from roost_serving import callers
from roost_serving.callers import Caller, Role
from roost_serving.fair import FairPool, Turns


def test_each_caller_gives_one_thing_in_turn():
    turns: Turns[str] = Turns()
    for thing in ("a1", "a2", "a3", "b1", "c1"):
        turns.put(thing[0], thing)
    assert [turns.take() for _ in range(6)] == ["a1", "b1", "c1", "a2", "a3", None]


def test_who_may_not_is_passed_over_and_keeps_the_turn():
    turns: Turns[str] = Turns()
    for thing in ("a1", "b1", "b2"):
        turns.put(thing[0], thing)
    assert turns.take(lambda thing: thing[0] != "a") == "b1"
    assert turns.take() == "a1"


def test_what_is_dropped_is_not_taken():
    turns: Turns[str] = Turns()
    turns.put("a", "a1")
    turns.drop("a", "a1")
    turns.drop("a", "a1")
    assert (len(turns), turns.take()) == (0, None)


async def submit(pool: FairPool, name: str, works) -> list:
    callers.begin(Caller(name, Role.READ))
    return await asyncio.gather(*[pool.submit(work) for work in works])


def call_each(works):
    return [work() for work in works]


@pytest.fixture
def pool():
    pool = FairPool(call_each, workers=1, name="test")
    yield pool
    pool.close()


async def test_a_caller_with_little_does_not_wait_for_one_with_much(pool):
    order: list[str] = []
    gate = threading.Event()
    held = pool.submit(gate.wait)
    much = asyncio.create_task(submit(pool, "much", [lambda: order.append("much")] * 50))
    await asyncio.sleep(0)
    little = asyncio.create_task(submit(pool, "little", [lambda: order.append("little")]))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(held, much, little)
    assert order.index("little") <= 1


async def test_work_that_is_cancelled_before_its_turn_is_not_begun(pool):
    done: list[int] = []
    gate = threading.Event()
    held = pool.submit(gate.wait)
    cancelled, kept = pool.submit(lambda: done.append(1)), pool.submit(lambda: done.append(2))
    cancelled.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(held, kept)
    assert done == [2]


class Question:
    """Something that can be seen to be let go of."""

    def __call__(self) -> int:
        return 1


async def test_what_its_caller_gave_up_is_let_go_of_while_every_worker_is_busy(pool):
    begun, gate = threading.Event(), threading.Event()
    held = pool.submit(lambda: begun.set() or gate.wait())
    await asyncio.to_thread(begun.wait)
    kept = asyncio.create_task(submit(pool, "other", [Question()]))
    given_up = weakref.WeakSet()
    try:
        for _ in range(20):
            questions = [Question() for _ in range(50)]
            given_up.update(questions)
            asked = asyncio.create_task(pool.ask(questions))
            await asyncio.sleep(0)
            asked.cancel()
            del questions
            await asyncio.wait([asked])
            del asked
        assert not len(given_up)
        assert (len(pool._turns), pool._more.qsize()) == (1, 1)
    finally:
        gate.set()
    assert await held
    assert await kept == [1]


async def test_what_is_kept_is_answered_however_much_is_given_up_beside_it(seed):
    chance = random.Random(seed)
    pool = FairPool(lambda numbers: numbers, workers=3, most=4, name="test")

    async def ask(place: int) -> bool:
        callers.begin(Caller(f"caller-{place % 3}", Role.READ))
        numbers = list(range(place, place + chance.randrange(1, 30)))
        asked = asyncio.create_task(pool.ask(numbers))
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            asked.cancel()
            await asyncio.wait([asked])
            return False
        assert await asked == numbers
        return True

    try:
        async with asyncio.timeout(60):
            answered = [await asyncio.gather(*(ask(place) for place in range(20))) for _ in range(50)]
        assert not len(pool._turns)
        assert any(any(each) for each in answered)
    finally:
        pool.close()


async def test_an_error_is_its_waiter_s(pool):
    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await pool.submit(fail)
    assert await pool.submit(lambda: 3) == 3


async def test_a_closed_pool_drops_what_waits(pool):
    begun, gate = threading.Event(), threading.Event()
    held, waiting = pool.submit(lambda: begun.set() or gate.wait()), pool.submit(lambda: 1)
    await asyncio.to_thread(begun.wait)
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    await asyncio.sleep(0.05)
    gate.set()
    await closing
    assert await held
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(("workers", "waiting", "first"), [(1, 3, 3), (1, 9, 4), (2, 5, 3), (2, 1, 1), (2, 2, 1)])
async def test_a_thread_takes_its_share_of_what_waits_and_leaves_the_others_theirs(workers, waiting, first):
    """What waits is seen by the thread that is free first; the others are held up."""
    taken: list[int] = []
    gates = [threading.Event() for _ in range(workers)]
    held = threading.Semaphore(0)

    def answer(questions):
        if callable(questions[0]):
            held.release()
            questions[0]()
        else:
            taken.append(len(questions))
        return questions

    pool = FairPool(answer, workers=workers, most=4, name="test")
    try:
        holding = [pool.submit(gate.wait) for gate in gates]
        for _ in gates:
            await asyncio.to_thread(held.acquire)
        answers = [pool.submit(number) for number in range(waiting)]
        gates[0].set()
        assert await asyncio.gather(*answers) == list(range(waiting))
        gates[-1].set()
        await asyncio.gather(*holding)
    finally:
        for gate in gates:
            gate.set()
        pool.close()
    assert taken[0] == first


async def test_those_that_were_taken_together_share_an_error():
    def fail(questions):
        raise ValueError(len(questions))

    pool = FairPool(fail, workers=1, most=4, name="test")
    try:
        errors = await asyncio.gather(*[pool.submit(number) for number in range(20)], return_exceptions=True)
    finally:
        pool.close()
    assert {type(error) for error in errors} == {ValueError}
    assert max(error.args[0] for error in errors) > 1

import asyncio
import contextvars

import pytest

from roost.errors import Overloaded, RateLimited, TooLarge
from roost_serving import callers
from roost_serving.admission import NOTHING, Admission, Load
from roost_serving.callers import Caller, Role

ONE = Load(1, 10)
A, B = Caller("a", Role.WRITE), Caller("b", Role.WRITE)


def admission(images: int, *, size: int = 10**6) -> tuple[Admission, list[Load]]:
    seen: list[Load] = []
    return Admission(Load(images, size), seen.append), seen


async def as_caller(caller: Caller, work) -> None:
    """Run a coroutine function as a call of a caller's."""
    callers.begin(caller)
    await work()


@pytest.fixture
def takes():
    """Takes in a context of its own, as a call does, and keeps what it took."""
    kept = []

    def take(held: Admission, caller: Caller, load: Load):
        def enter():
            callers.begin(caller)
            kept.append(held.take(load))
            kept[-1].__enter__()
            return kept[-1]

        return contextvars.copy_context().run(enter)

    return take


def test_what_fits_is_held_and_let_go():
    held, seen = admission(4)
    with held.take(Load(3, 30)), held.take(ONE):
        pass
    assert seen == [(3, 30), (4, 40), (3, 30), (0, 0)]


@pytest.mark.parametrize("load", [Load(2, 1), Load(1, 71)])
def test_one_image_or_byte_too_many_is_refused_at_once_with_a_hint(load):
    held, _ = admission(4, size=100)
    with held.take(Load(3, 30)), pytest.raises(Overloaded) as caught, held.take(load):
        pass
    assert float(caught.value.facts["retry_after_seconds"]) > 0
    assert held.held == NOTHING


@pytest.mark.parametrize("load", [Load(5, 1), Load(1, 101)])
def test_more_than_can_ever_be_held_is_too_large(load):
    held, _ = admission(4, size=100)
    with pytest.raises(TooLarge), held.take(load):
        pass


def test_a_key_fills_half_and_another_finds_room(takes):
    held, _ = admission(8)
    takes(held, A, Load(4, 40))
    with pytest.raises(Overloaded, match=r"4 of 4 images, .* for this caller"):
        takes(held, A, ONE)
    takes(held, B, Load(4, 40))
    assert held.held == (8, 80)


def test_a_key_s_own_limit_holds(takes):
    held, _ = admission(8)
    few = Caller("few", Role.READ, in_flight=2)
    takes(held, few, Load(2, 20))
    with pytest.raises(Overloaded, match="2 of 2 images"):
        takes(held, few, ONE)


def test_a_key_that_spent_its_rate_is_told_when_to_come_again(takes):
    held, _ = admission(100)
    slow = Caller("slow", Role.READ, images_per_second=10)
    takes(held, slow, Load(30, 30))  # more than a second's worth: let in, and paid for afterwards
    with pytest.raises(RateLimited) as caught:
        takes(held, slow, ONE)
    assert float(caught.value.facts["retry_after_seconds"]) == pytest.approx(2.0, abs=0.1)
    takes(held, A, ONE)


def test_what_is_refused_for_want_of_room_costs_a_key_nothing_of_its_rate(takes):
    held, _ = admission(8)
    slow = Caller("slow", Role.READ, images_per_second=4)
    taken = takes(held, slow, Load(3, 30))
    for _ in range(5):
        with pytest.raises(Overloaded):
            takes(held, slow, Load(3, 30))
    taken.__exit__(None, None, None)
    takes(held, slow, ONE)


async def test_a_key_that_waited_may_send_again(takes):
    held, _ = admission(1000)
    slow = Caller("slow", Role.READ, images_per_second=100)
    takes(held, slow, Load(45, 10))
    takes(held, slow, Load(60, 10)).__exit__(None, None, None)
    with pytest.raises(RateLimited):
        takes(held, slow, ONE)
    await asyncio.sleep(0.1)
    takes(held, slow, ONE)


async def test_a_stream_is_slowed_down_to_its_key_s_rate():
    held, _ = admission(1000)
    callers.begin(Caller("slow", Role.WRITE, images_per_second=100))
    begun = asyncio.get_running_loop().time()
    for _ in range(120):  # a burst of 100, then 20 at the rate
        (await held.enter(ONE))()
    assert 0.15 < asyncio.get_running_loop().time() - begun < 2


async def test_a_stream_waits_for_room_in_order():
    held, _ = admission(1)
    order: list[str] = []

    async def work(name: str) -> None:
        release = await held.enter(ONE)
        order.append(name)
        await asyncio.sleep(0)
        release()

    await asyncio.gather(*map(work, "abcd"))
    assert order == list("abcd")
    assert held.held == NOTHING


async def test_callers_streams_take_turns():
    held, _ = admission(2)
    order: list[str] = []

    async def item(name: str) -> None:
        release = await held.enter(Load(2, 10))
        order.append(name)
        await asyncio.sleep(0)
        release()

    async def stream(name: str, count: int) -> None:
        await asyncio.gather(*[item(name) for _ in range(count)])

    await asyncio.gather(as_caller(A, lambda: stream("a", 6)), as_caller(B, lambda: stream("b", 2)))
    assert order[:5].count("b") == 2
    assert held.held == NOTHING


async def test_a_waiting_stream_that_is_cancelled_leaves_no_trace():
    held, _ = admission(1)

    with held.take(ONE):
        waiting = asyncio.create_task(held.enter(ONE))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    (await asyncio.wait_for(held.enter(ONE), 1))()
    assert held.held == NOTHING


async def test_a_stream_cancelled_just_after_its_turn_came_gives_the_room_back():
    held, _ = admission(1)
    with held.take(ONE):
        waiting = asyncio.create_task(held.enter(ONE))
        await asyncio.sleep(0)
    waiting.cancel()  # its turn was granted when the block above ended, but it has not run yet
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert held.held == NOTHING


async def test_streams_leave_a_quarter_of_the_room_to_calls():
    held, _ = admission(4)
    streams = [asyncio.create_task(held.enter(ONE)) for _ in range(10)]
    await asyncio.sleep(0)
    assert held.held.images == 3
    with held.take(ONE):
        assert held.held.images == 4
    for stream in streams:
        (await stream)()
    assert held.held == NOTHING


async def test_an_image_larger_than_the_streams_share_passes_alone():
    held, _ = admission(4, size=100)
    release = await asyncio.wait_for(held.enter(Load(1, 90)), 1)
    behind = asyncio.create_task(held.enter(ONE))
    await asyncio.sleep(0)
    assert not behind.done()
    release()
    (await behind)()
    assert held.held == NOTHING

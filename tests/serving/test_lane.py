"""What is sent to a model server together, and what becomes of it."""

import asyncio
import gc

import numpy as np
import pytest

from roost.errors import BackendUnavailable
from roost_serving import callers
from roost_serving.backends._lane import Lane
from roost_serving.callers import Caller, Role


class Server:
    """Answers each image with its own first pixel, when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float | None]] = []
        self.cancelled = 0
        self.error: Exception | None = None
        self.open = asyncio.Event()

    async def send(self, pixels: np.ndarray, *, deadline: float | None) -> np.ndarray:
        self.calls.append((len(pixels), deadline))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return pixels[:, 0, 0, :1].astype(np.float32)


def image(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


@pytest.fixture
async def server():
    return Server()


@pytest.fixture
async def lane(server):
    return Lane(server.send, calls=2, most=3)


async def ask(lane: Lane, *numbers: int, deadline: float | None = None) -> list[float]:
    return [float(answer[0]) for answer in await lane.infer([image(number) for number in numbers], deadline=deadline)]


async def test_an_image_goes_alone_and_at_once_while_a_call_is_free(lane, server):
    server.open.set()
    assert [await ask(lane, number) for number in (5, 6)] == [[5], [6]]
    assert [count for count, _ in server.calls] == [1, 1]


async def test_those_that_come_meanwhile_go_together_and_each_gets_its_own(lane, server):
    asked = [asyncio.create_task(ask(lane, number)) for number in range(7)]
    await asyncio.sleep(0.01)
    assert [count for count, _ in server.calls] == [1, 1]
    server.open.set()
    assert await asyncio.gather(*asked) == [[number] for number in range(7)]
    assert [count for count, _ in server.calls] == [1, 1, 3, 2]


async def test_a_large_call_is_split_and_stays_in_order(lane, server):
    server.open.set()
    assert await ask(lane, *range(8)) == list(range(8))
    assert max(count for count, _ in server.calls) == 3


async def test_no_images_are_no_call(lane, server):
    assert await ask(lane) == []
    assert server.calls == []


async def test_a_call_lasts_as_long_as_its_most_patient_caller(lane, server):
    deadlines = [1.0, 2.0, 5.0, 4.0, 3.0, None, 6.0]
    asked = [asyncio.create_task(ask(lane, 0, deadline=deadline)) for deadline in deadlines]
    await asyncio.sleep(0.01)
    server.open.set()
    await asyncio.gather(*asked)
    assert [deadline for _, deadline in server.calls] == [1.0, 2.0, 5.0, None]


async def test_an_error_is_that_of_all_in_the_call_and_the_next_goes_on(lane, server, caplog):
    server.error = BackendUnavailable("away")
    asked = [asyncio.create_task(ask(lane, 1, 2)) for _ in range(4)]
    await asyncio.sleep(0.01)
    server.open.set()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in errors} == {BackendUnavailable}
    server.error = None
    assert await ask(lane, 3) == [3]
    del asked, errors
    gc.collect()
    assert not caplog.records  # such as that nobody asked for an error


async def test_a_call_ends_when_the_last_of_its_callers_gives_up(lane, server):
    first = [asyncio.create_task(ask(lane, number)) for number in range(2)]
    together = [asyncio.create_task(ask(lane, number)) for number in range(2, 4)]
    await asyncio.sleep(0.01)
    for task in first:
        task.cancel()
    await asyncio.sleep(0.01)
    assert server.cancelled == 2
    assert [count for count, _ in server.calls] == [1, 1, 2]
    together[0].cancel()
    await asyncio.sleep(0.01)
    assert server.cancelled == 2  # the other still waits
    server.open.set()
    assert await together[1] == [3]


async def test_who_gave_up_while_waiting_is_not_sent(lane, server):
    held = [asyncio.create_task(ask(lane, number)) for number in range(2)]
    waiting = asyncio.create_task(ask(lane, 9))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert not len(lane._waiting)  # and its pixels are not kept while the server hangs
    server.open.set()
    await asyncio.gather(*held)
    assert len(server.calls) == 2


async def test_callers_take_turns(lane, server):
    """One who sends much does not hold up one who sends little."""
    order: list[str] = []

    async def as_caller(name: str, number: int) -> None:
        callers.begin(Caller(name, Role.READ))
        await ask(lane, number)
        order.append(name)

    much = [asyncio.create_task(as_caller("much", number)) for number in range(20)]
    await asyncio.sleep(0.01)
    little = asyncio.create_task(as_caller("little", 99))
    await asyncio.sleep(0.01)
    server.open.set()
    await asyncio.gather(*much, little)
    assert order.index("little") < 6


async def test_a_connection_that_is_closed_ends_its_calls_with_an_error(lane, server):
    asked = [asyncio.create_task(ask(lane, number)) for number in range(2)]
    await asyncio.sleep(0.01)
    for task in list(lane._under_way):
        task.cancel()  # as gRPC does to those who wait for a channel that is closed
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in errors} == {BackendUnavailable}

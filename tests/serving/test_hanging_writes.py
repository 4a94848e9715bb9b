"""How long a write lasts, on a real gRPC server that takes it and does not answer before it is told to."""

import asyncio
import time

import grpc
import numpy as np
import pytest

from roost.errors import DeadlineExceeded, StoreUnavailable
from roost_serving import writer as writers
from roost_serving.edge.protocol import qdrant
from roost_serving.stores import Point
from roost_serving.stores.qdrant import Store
from roost_serving.writer import Writer


class Hanging(qdrant.PointsServicer):
    """Notes what it was sent, the time that it was given, and which calls were given up."""

    def __init__(self) -> None:
        self.written: list[list[str]] = []
        self.seconds: list[float] = []
        self.asked = asyncio.Event()
        self.given_up = asyncio.Event()
        self.answers = asyncio.Event()

    async def Upsert(self, request, context):
        self.seconds.append(context.time_remaining())
        self.asked.set()
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        self.written.append([point.payload["id"].string_value for point in request.points])
        return qdrant.PointsOperationResponse(result=qdrant.UpdateResult(status=qdrant.Completed))


class Silent:
    def stored(self, points: int) -> None:
        """Not of interest."""


@pytest.fixture
async def hanging():
    server, servicer = grpc.aio.server(), Hanging()
    qdrant.add_PointsServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    servicer.store = Store(f"qdrant://127.0.0.1:{port}")
    await servicer.store.open()
    yield servicer
    await servicer.store.close()
    await server.stop(grace=None)


@pytest.fixture
async def writer(hanging):
    return Writer(hanging.store, Silent())


def write(writer: Writer, name: str, *, timeout: float | None) -> asyncio.Task[None]:
    point = Point(name, {}, None, np.array([1, 0], np.float32))
    return asyncio.create_task(writer.write("digits@1", point, timeout=timeout))


async def begun(hanging: Hanging) -> None:
    async with asyncio.timeout(20):
        await hanging.asked.wait()


async def test_without_time_nothing_is_written(writer, hanging):
    with pytest.raises(DeadlineExceeded):
        await write(writer, "a", timeout=0)
    await writer.close()
    assert hanging.seconds == []


@pytest.mark.parametrize(("timeouts", "expected"), [([4, 9, 7], 9), ([4, None], 30), ([4, 100], 30)])
async def test_a_write_lasts_as_long_as_its_most_patient_caller(writer, hanging, timeouts, expected):
    writes = [write(writer, str(place), timeout=timeout) for place, timeout in enumerate(timeouts)]
    await begun(hanging)
    hanging.answers.set()
    await asyncio.gather(*writes)
    assert len(hanging.seconds) == 1
    assert expected - 1 < hanging.seconds[0] <= expected + 0.1


async def test_a_write_ends_when_the_last_of_its_callers_gives_up_and_the_next_begins(writer, hanging):
    first = [write(writer, name, timeout=60) for name in "ab"]
    await begun(hanging)
    late = write(writer, "c", timeout=60)
    first[0].cancel()
    await asyncio.sleep(0.05)
    assert not hanging.given_up.is_set()  # the other still waits
    first[1].cancel()
    async with asyncio.timeout(20):
        await hanging.given_up.wait()
        hanging.answers.set()
        await late
    assert hanging.written == [["c"]]


async def test_a_write_ends_with_the_deadline_of_its_callers(writer, hanging):
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await write(writer, "a", timeout=0.3)
    async with asyncio.timeout(20):
        await hanging.given_up.wait()
    assert time.monotonic() - began < 10  # a write used to have 30 seconds, whoever waited
    hanging.answers.set()
    await write(writer, "b", timeout=20)
    assert hanging.written == [["b"]]


async def test_closing_waits_for_no_store_that_hangs_and_tells_who_waits(writer, hanging, monkeypatch):
    monkeypatch.setattr(writers, "CLOSE_SECONDS", 0.1)
    writes = [write(writer, str(number), timeout=None) for number in range(2)]
    await begun(hanging)
    writes.append(write(writer, "late", timeout=None))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await writer.close()
        errors = await asyncio.gather(*writes, return_exceptions=True)
        await hanging.given_up.wait()
    assert {type(error) for error in errors} == {StoreUnavailable}


async def test_a_connection_that_is_closed_under_a_write_is_told_to_who_waits(writer, hanging):
    waiting = write(writer, "a", timeout=60)
    await begun(hanging)
    await hanging.store.close()
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable):
            await waiting

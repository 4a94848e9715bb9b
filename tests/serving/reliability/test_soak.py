"""Calls of every kind, good and bad, for as long as it takes to see a leak."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import numpy as np
import pytest

from roost.client import AsyncClient, Item
from roost.errors import RoostError, Unexpected

CALLERS = 8
DIM = 256
SETTLED_SECONDS = 60
MESSAGE_BYTES = 32 * 1024 * 1024


class Callers:
    """Make calls of every kind at once, from a new client now and then."""

    def __init__(self, gateway, digits: list[bytes], *, seed: int, calls_a_client: int) -> None:
        self._gateway, self._digits, self._seed, self._calls_a_client = gateway, digits, seed, calls_a_client
        self.done: Counter[str] = Counter()
        self.clients = 0

    async def call(self, last: int, *, every: int = 1, do: Callable[[], None] = lambda: None) -> None:
        """Call until so many calls were made in all, and do something after every so many."""
        chances = [random.Random(self._seed + number + last) for number in range(CALLERS)]
        await asyncio.gather(*(self._caller(chance, last, every, do) for chance in chances))

    async def _caller(self, chance: random.Random, last: int, every: int, do: Callable[[], None]) -> None:
        while self.done.total() < last:
            self.clients += 1  # channels of equal options share a connection
            async with AsyncClient(self._gateway.address, max_message_bytes=MESSAGE_BYTES + self.clients) as client:
                for _ in range(chance.randrange(2 * self._calls_a_client)):
                    await self._one(client, chance)
                    if self.done.total() % every == 0:
                        do()

    async def _one(self, client: AsyncClient, chance: random.Random) -> None:
        kind = chance.choice(list(KINDS))
        try:
            await KINDS[kind](client, chance, self._digits)
            self.done[kind] += 1
        except Unexpected:
            raise
        except RoostError as error:
            self.done[f"{kind}: {error.reason}"] += 1


async def settled(
    now: Callable[[], Awaitable[dict[str, int]]], *, most: dict[str, int] | None = None
) -> dict[str, int]:
    """What is held once it is as before, or else for some seconds the same: idle threads end by themselves."""
    found, same = await now(), 0
    async with asyncio.timeout(SETTLED_SECONDS):
        while same < 6 if most is None else any(found[name] > most[name] for name in most):
            await asyncio.sleep(0.5)
            before, found = found, await now()
            same = same + 1 if found == before else 0
    return found


@pytest.mark.timeout(7200)
async def test_soak(serve, repository, tmp_path, digits, soak, figures, seed, memory, mapped, held):  # noqa: PLR0917
    calls, warm, clients = (200_000, 20_000, 1_000) if soak else (1_200, 400, 100)
    arguments = ("--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index")
    points: list[tuple[int, int, int]] = []
    with serve(*arguments) as gateway:
        pid = gateway.process.pid

        callers = Callers(gateway, digits, seed=seed, calls_a_client=clients // CALLERS)

        def measure() -> None:
            points.append((callers.done.total(), memory(pid), mapped(pid)))

        async def now() -> dict[str, int]:
            text = await asyncio.to_thread(gateway.fetch, "/metrics")
            return held(pid) | {
                "tasks": int(float(re.search(r"^roost_event_loop_tasks (\S+)$", text, re.MULTILINE)[1]))
            }

        await callers.call(warm)
        busy = before = await settled(now)
        under_load = asyncio.create_task(callers.call(calls, every=calls // 200, do=measure))
        while not under_load.done():
            await asyncio.sleep(0.1)
            busy = max(busy, await now(), key=lambda held: held["files"])
        await under_load
        with suppress(TimeoutError):
            await settled(now, most=before)
        after = await now()
        text = await asyncio.to_thread(gateway.fetch, "/metrics")
        assert gateway.stop() == 0
    measured = np.array(points, np.float64)
    slope, of_files = np.polyfit(measured[:, 0], measured[:, 1:], 1)[0] * 100_000 / 1e6
    figures |= {"calls": callers.done.total(), "clients": callers.clients, "memory_mb_per_100000": slope}
    figures |= {"mapped_files_mb_per_100000": of_files, "before": before, "busy": busy, "after": after, **callers.done}
    assert "roost_in_flight_images 0.0" in text
    assert 'grpc_code="INTERNAL"' not in text
    assert 'grpc_code="UNKNOWN"' not in text
    assert busy["files"] > before["files"] + CALLERS // 2  # the clients have connections of their own
    assert {name: after[name] for name in before if after[name] > before[name]} == {}
    if soak:
        assert slope <= 5


async def embed(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.embed(chance.choices(digits, k=chance.randrange(1, 5)), model="digits")


async def bad_image(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.embed([chance.choice(digits)[: chance.randrange(60)]], model="digits")


async def assign(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.assign([chance.choice(digits)], model="digits")


async def ingest(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    items = [Item(chance.choice(digits), id=str(chance.randrange(2_000)), payload={"n": 1}) for _ in range(3)]
    async for outcome in client.ingest(items, model="digits"):
        assert outcome.error is None


async def search(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.search(chance.choice(digits), model="digits", limit=chance.randrange(1, 50))


async def search_by_id(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.search(id=str(chance.randrange(4_000)), model="digits", with_vectors=True)


async def bad_vector(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    vector = np.full(chance.choice([1, DIM]), chance.choice([0.0, np.nan]), np.float32)
    await client.search(vector=vector, model="digits")


async def unknown_model(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.embed(digits[:1], model=f"model-{chance.random()}")


async def pages(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    async for _ in client.items(model="digits", page_size=100):
        if chance.random() < 0.02:
            return


async def delete(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.delete(str(chance.randrange(2_000)), model="digits")


async def give_up(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    task = asyncio.create_task(client.embed(digits[:8], model="digits"))
    await asyncio.sleep(chance.random() * 0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def lists(client: AsyncClient, chance: random.Random, digits: list[bytes]) -> None:
    await client.models()
    await client.clusters(model="digits")


KINDS = {
    "embed": embed, "bad image": bad_image, "assign": assign, "ingest": ingest, "search": search,
    "search by id": search_by_id, "bad vector": bad_vector, "unknown model": unknown_model, "pages": pages,
    "delete": delete, "give up": give_up, "lists": lists,
}  # fmt: skip

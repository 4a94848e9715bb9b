"""Calls of every kind, good and bad, for as long as it takes to see a leak."""

import asyncio
import random
from collections import Counter

import numpy as np
import pytest

from roost.client import AsyncClient, Item
from roost.errors import RoostError, Unexpected

CALLERS = 8
DIM = 256


@pytest.mark.timeout(7200)
async def test_soak(serve, repository, tmp_path, digits, soak, figures, seed, memory, held):  # noqa: PLR0917
    calls, warm = (200_000, 20_000) if soak else (1_200, 400)
    arguments = ("--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index")
    done: Counter[str] = Counter()
    points: list[tuple[int, int]] = []
    with serve(*arguments) as gateway:
        pid = gateway.process.pid

        async def caller(number: int) -> None:
            chance = random.Random(seed + number)
            async with AsyncClient(gateway.address) as client:
                while done.total() < calls:
                    kind = chance.choice(list(KINDS))
                    try:
                        await KINDS[kind](client, chance, digits)
                        done[kind] += 1
                    except Unexpected:
                        raise
                    except RoostError as error:
                        done[f"{kind}: {error.reason}"] += 1
                    if done.total() % max(1, calls // 200) == 0:
                        points.append((done.total(), memory(pid)))

        async def measure_when_warm() -> dict[str, int]:
            while done.total() < warm:  # noqa: ASYNC110 - it need not be told at once
                await asyncio.sleep(0.05)
            return held(pid)

        measured, *_ = await asyncio.gather(measure_when_warm(), *(caller(number) for number in range(CALLERS)))
        await asyncio.sleep(1)
        after = held(pid)
        text = await asyncio.to_thread(gateway.fetch, "/metrics")
        assert gateway.stop() == 0
    warmed = np.array([point for point in points if point[0] >= warm], np.float64)
    slope = np.polyfit(warmed[:, 0], warmed[:, 1], 1)[0] * 100_000 / 1e6
    figures |= {"calls": done.total(), "memory_mb_per_100000": slope, "before": measured, "after": after, **done}
    assert "roost_in_flight_images 0.0" in text
    assert 'grpc_code="INTERNAL"' not in text
    assert 'grpc_code="UNKNOWN"' not in text
    assert after["threads"] <= measured["threads"] + 1
    assert after["files"] <= measured["files"] + 2
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

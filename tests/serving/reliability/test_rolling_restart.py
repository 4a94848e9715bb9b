"""Two gateways restarted in turn under load: a client that knows both notices nothing."""

import asyncio
import socket

import pytest

from roost.client import AsyncClient
from roost.errors import RoostError
from roost_serving.server import serving

CALLS_A_SECOND = 50


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Replica:
    """A gateway that is restarted on its own port."""

    def __init__(self, settings) -> None:
        self.settings = settings.model_copy(update={"port": free_port(), "drain_seconds": 0.2, "grace_seconds": 5})
        self._running = None

    async def start(self) -> None:
        self._running = serving(self.settings)
        await self._running.__aenter__()

    async def stop(self) -> None:
        await self._running.__aexit__(None, None, None)


@pytest.fixture
async def replicas(settings):
    replicas = [Replica(settings), Replica(settings)]
    for replica in replicas:
        await replica.start()
    yield replicas
    for replica in replicas:
        await replica.stop()


async def test_no_call_fails_while_gateways_restart_in_turn(replicas, digits, soak, figures):
    restarts = 20 if soak else 4
    target = "ipv4:" + ",".join(f"127.0.0.1:{replica.settings.port}" for replica in replicas)
    over = asyncio.Event()
    failed: list[RoostError] = []
    answered = 0

    async def call(client: AsyncClient) -> None:
        nonlocal answered
        try:
            await client.embed([digits[answered % len(digits)]], model="digits")
            answered += 1
        except RoostError as error:
            failed.append(error)

    async def load(client: AsyncClient) -> None:
        calls = set()
        while not over.is_set():
            task = asyncio.create_task(call(client))
            calls.add(task)
            task.add_done_callback(calls.discard)
            await asyncio.sleep(1 / CALLS_A_SECOND)
        await asyncio.gather(*calls)

    async with AsyncClient(target) as client:
        await call(client)
        loading = asyncio.create_task(load(client))
        for number in range(restarts):
            replica = replicas[number % 2]
            await replica.stop()
            await replica.start()
            await asyncio.sleep(0.5)
        over.set()
        await loading
    figures |= {"restarts": restarts, "answered": answered, "failed": len(failed)}
    assert failed == []
    assert answered > restarts * 10

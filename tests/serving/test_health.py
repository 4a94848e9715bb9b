"""Watchers of the gateway's health: one that leaves, one that does not read, one that asks for what is not there."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from roost_serving.health import Health
from roost_serving.server import serving

Kind = health_pb2.HealthCheckResponse
READINESS = health_pb2.HealthCheckRequest(service="readiness")


def watch(channel, request=READINESS):
    return health_pb2_grpc.HealthStub(channel).Watch(request)


async def test_a_watcher_that_leaves_takes_nothing_from_those_that_stay(settings):
    leaving = asyncio.Event()
    seen = []
    async with serving(settings.model_copy(update={"drain_seconds": 0.5})) as running:
        channel = grpc.aio.insecure_channel(running.address)
        one, other = watch(channel), watch(channel)
        assert (await one.read()).status == (await other.read()).status == Kind.SERVING
        one.add_done_callback(lambda _: leaving.set())
        one.cancel()
        await leaving.wait()
        last = watch(channel)
        assert (await last.read()).status == Kind.SERVING  # so the gateway knows that it left

        async def follow() -> None:
            seen.append((await other.read()).status)

        following = asyncio.create_task(follow())
    await asyncio.wait_for(following, 5)
    last.cancel()
    await channel.close()
    assert seen == [Kind.NOT_SERVING]


async def test_a_watcher_that_never_reads_holds_up_nobody(settings, monkeypatch):
    looked = asyncio.Event()
    look = Health.look

    async def watched(self):
        await look(self)
        looked.set()

    monkeypatch.setattr("roost_serving.health.PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(Health, "look", watched)
    # An answer of seven bytes does not fit into the five that may be sent before one is read.
    narrow = [("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0)]
    async with asyncio.timeout(30):
        async with serving(settings) as running:
            channel = grpc.aio.insecure_channel(running.address, options=narrow)
            silent = watch(channel)
            await silent.wait_for_connection()
            async with grpc.aio.insecure_channel(running.address) as other:
                assert (await watch(other).read()).status == Kind.SERVING
            for _ in range(2):
                looked.clear()
                await looked.wait()
    silent.cancel()
    await channel.close()


async def test_a_watcher_of_an_unknown_service_is_told_so_and_stays(gateway):
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        call = watch(channel, health_pb2.HealthCheckRequest(service="nothing"))
        assert (await call.read()).status == Kind.SERVICE_UNKNOWN
        assert not call.done()
        call.cancel()

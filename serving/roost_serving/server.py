"""Wires the gateway, serves it, drains it."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from roost.errors import BackendUnavailable, BadSettings, StoreUnavailable
from roost.v1 import gateway_pb2_grpc
from roost_serving import backends, http, logs, loop, stores
from roost_serving.access import Access
from roost_serving.admission import Load
from roost_serving.breaker import BACKEND_CALLS, STORE_CALLS, Breaker, guarded
from roost_serving.callers import Role
from roost_serving.calls import MOST_CALLS, MOST_WATCHES, Calls
from roost_serving.health import BACKEND, STORE, Health
from roost_serving.interceptor import Interceptor
from roost_serving.keys import Keys
from roost_serving.metrics import Metrics
from roost_serving.pipeline import Pipeline
from roost_serving.reload import Reloaded, Reloader
from roost_serving.servicer import SERVICE, GatewayServicer
from roost_serving.settings import ServeSettings
from roost_serving.tls import Certificates
from roost_serving.tracing import traced

BACKSTOP = 2 * (MOST_CALLS + MOST_WATCHES)
"""Calls at once beyond which gRPC itself refuses, without a word of why. The interceptor refuses long before."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """A gateway that answers."""

    address: str
    """host:port of gRPC."""
    http_address: str
    """host:port of /metrics, /livez and /readyz."""
    models: list[str]
    """References of the model versions that it serves."""
    reloader: Reloader
    """Looks for others."""


def run(settings: ServeSettings, *, on_ready: Callable[[Running], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    Args:
        settings: The gateway's settings.
        on_ready: Called once, when the gateway answers.

    Raises:
        BadArtifact: The model repository holds no model, or one that is incomplete or altered.
        BadSettings: An address that cannot be listened on, or a keys file that cannot be read.
        UnknownPlugin: The backend or store does not exist.
    """
    logs.configure(settings.log_level, settings.log_format)

    async def main() -> None:
        stop, asked = asyncio.Event(), _Asked()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.reload)
        async with AsyncExitStack() as stack:
            opening = asyncio.create_task(stack.enter_async_context(serving(settings)))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():  # opening may wait long for a server that is away
                log.info("stopped before it served")
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)
                return
            running = await opening
            gc.collect()
            gc.freeze()  # what is here now stays: to look through it for garbage would hold up calls for 100 ms
            log.info("serving %s on %s, http on %s", ", ".join(running.models), running.address, running.http_address)
            if on_ready is not None:
                on_ready(running)
            asked.begin(running.reloader)
            await stopping
            log.info("draining")

    asyncio.run(main())


@asynccontextmanager
async def serving(settings: ServeSettings) -> AsyncIterator[Running]:
    """A gateway that answers while the context lasts; on leaving, it drains."""
    async with traced(settings.tracing) as tracers, _gateway(settings, tracers) as running:
        yield running


@asynccontextmanager
async def _gateway(settings: ServeSettings, tracers: list[grpc.aio.ServerInterceptor]) -> AsyncIterator[Running]:
    metrics = Metrics()
    keys = None if settings.keys_file is None else Keys(settings.keys_file)
    access = Access(keys, open_health=settings.open_health)
    limit = Load(settings.max_in_flight, settings.max_in_flight_bytes)
    metrics.in_flight_limit.set(limit.images)
    metrics.in_flight_bytes_limit.set(limit.bytes)
    backend = backends.connect(
        settings.backend,
        repository=settings.repository,
        limits=settings.limits,
        workers=settings.workers,
        key_file=settings.triton_key_file,
    )
    store = stores.connect(settings.store, api_key=settings.store_api_key())
    breakers = {
        part: Breaker(part, error, observe=metrics.breakers.labels(part).set)
        for part, error in ((BACKEND, BackendUnavailable), (STORE, StoreUnavailable))
    }
    pipeline = Pipeline(
        guarded(backend, breakers[BACKEND], BACKEND_CALLS),
        guarded(store, breakers[STORE], STORE_CALLS),
        limit=limit,
        observer=metrics,
    )
    health = Health(pipeline, metrics, breakers)
    reloader = Reloader(pipeline, metrics, period=settings.reload_seconds)
    server = _server(settings, pipeline, reloader, health, [*tracers, Interceptor(metrics, access, Calls())])
    watch = asyncio.create_task(loop.watch(metrics, pipeline.admission))
    try:
        port = _bind(server, settings, _certificates(settings, metrics))
        await pipeline.open()
        reloader.begin()
        await health.begin()
        await server.start()
        try:
            web, http_port = await _listen(settings, metrics, health, access)
            try:
                yield Running(
                    address=f"{settings.host}:{port}",
                    http_address=f"{settings.http_host}:{http_port}",
                    models=[model.manifest.reference for model in pipeline.served.models],
                    reloader=reloader,
                )
                health.drain()
                await asyncio.sleep(settings.drain_seconds)
            finally:
                await server.stop(settings.grace_seconds)
                await web.cleanup()
        finally:
            await server.stop(None)  # where HTTP cannot listen; otherwise it has ended
    finally:
        watch.cancel()
        health.drain()
        await reloader.end()
        await pipeline.close()


class _Asked:
    """Reloads for signals, which cannot wait; what came of it is in the log."""

    def __init__(self) -> None:
        self._reloader: Reloader | None = None
        self._early = False
        self._running: set[asyncio.Task[Reloaded]] = set()

    def begin(self, reloader: Reloader) -> None:
        """The gateway is open: do what was asked before."""
        self._reloader = reloader
        if self._early:
            self.reload()

    def reload(self) -> None:
        if self._reloader is None:
            self._early = True
            log.info("it will look for new model versions once it serves")
            return
        task = asyncio.create_task(self._reloader.reload())
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _server(
    settings: ServeSettings,
    pipeline: Pipeline,
    reloader: Reloader,
    health: Health,
    interceptors: list[grpc.aio.ServerInterceptor],
) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=BACKSTOP,
    )
    servicer = GatewayServicer(
        pipeline,
        reloader,
        most_image_bytes=settings.max_image_bytes,
        most_answer_bytes=settings.max_message_bytes // 2,  # the rest is room for what is not an item
    )
    gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    reflection.enable_server_reflection((SERVICE, grpc_health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server


def _certificates(settings: ServeSettings, metrics: Metrics) -> Certificates | None:
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    return Certificates(
        settings.tls_certificate_file,
        settings.tls_key_file,
        settings.tls_callers_file,
        observe=metrics.certificate.set,
    )


def _bind(server: grpc.aio.Server, settings: ServeSettings, certificates: Certificates | None) -> int:
    address = f"{settings.host}:{settings.port}"
    try:
        if certificates is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificates.credentials())
    except RuntimeError as error:
        raise BadSettings(
            f"gRPC cannot listen on {address}; the port may be taken. Give another with --port, or 0 for a free one.",
            key="port",
        ) from error


async def _listen(
    settings: ServeSettings, metrics: Metrics, health: Health, access: Access
) -> tuple[http.web.AppRunner, int]:
    host, port = settings.http_host, settings.http_port
    check = None if settings.open_metrics else partial(access.check, needed=Role.READ)
    try:
        return await http.listen(
            metrics.registry, lambda: (health.ready, health.parts), check=check, host=host, port=port
        )
    except OSError as error:
        raise BadSettings(
            f"HTTP cannot listen on {host}:{port}: {error.strerror}. "
            f"Give another with --http-port, or 0 for a free one.",
            key="http_port",
        ) from error

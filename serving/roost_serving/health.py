"""Which services can do their work: watched all the time, told over grpc.health.v1 and `/readyz`."""

import asyncio
import logging
from collections.abc import Mapping

from grpc_health.v1 import health, health_pb2

from roost.errors import RoostError
from roost_serving.backends import Backend, ModelUnavailable
from roost_serving.breaker import Breaker
from roost_serving.metrics import Metrics
from roost_serving.pipeline import Pipeline
from roost_serving.servicer import SERVICE
from roost_serving.stores import Store

LIVENESS = "liveness"
READINESS = "readiness"
BACKEND, STORE = "backend", "store"
NEEDS = {
    "": {BACKEND},
    READINESS: {BACKEND},
    SERVICE: {BACKEND},
    f"{SERVICE}/EmbedItems": {BACKEND},
    f"{SERVICE}/AssignClusters": {BACKEND},
    f"{SERVICE}/SearchItems": {BACKEND, STORE},
    f"{SERVICE}/IngestItems": {BACKEND, STORE},
    f"{SERVICE}/ListItems": {STORE},
    f"{SERVICE}/GetItem": {STORE},
    f"{SERVICE}/DeleteItem": {STORE},
}
"""Services, and the parts that must answer for each to be SERVING; liveness needs none. A gateway without its store
still embeds, so that it stays ready: see docs/decisions/0010."""

PERIOD_SECONDS = 2.0
log = logging.getLogger(__name__)


class Health:
    """Asks the backend and the store every two seconds whether they answer, and tells their breakers."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics, breakers: Mapping[str, Breaker]) -> None:
        self.servicer = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self.parts: dict[str, bool] = {}
        self._pipeline = pipeline
        self._metrics = metrics
        self._breakers = breakers
        self._watch: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Look once, then go on looking until `drain`."""
        await self.servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.look()
        self._watch = asyncio.create_task(self._keep_looking())

    async def look(self) -> None:
        """Ask both parts and tell what they said."""
        asked = {BACKEND: self._pipeline.backend, STORE: self._pipeline.store}
        pings = [_ping(part) for part in asked.values()]
        answers = dict(zip(asked, await asyncio.gather(*pings, return_exceptions=True), strict=True))
        for part, error in answers.items():
            if error is not None and not isinstance(error, RoostError) and self.parts.get(part, True):
                log.error("the %s could not be asked, so it counts as down", part, exc_info=error)
        self.parts = {part: error is None or isinstance(error, ModelUnavailable) for part, error in answers.items()}
        for part, up in self.parts.items():
            self._metrics.ready.labels(part).set(up)
            self._breakers[part].saw(up=up)
        await self._say()

    async def drain(self) -> None:
        """Say NOT_SERVING from now on."""
        if self._watch is not None:
            self._watch.cancel()
        self.parts = dict.fromkeys(self.parts, False)
        await self._say()

    @property
    def ready(self) -> bool:
        """Whether calls should be sent here."""
        return self._serves(READINESS)

    def _serves(self, service: str) -> bool:
        return all(self.parts.get(part, False) for part in NEEDS[service])

    async def _say(self) -> None:
        kind = health_pb2.HealthCheckResponse
        for service in NEEDS:
            await self.servicer.set(service, kind.SERVING if self._serves(service) else kind.NOT_SERVING)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            await self.look()


async def _ping(part: Backend | Store) -> None:
    """Ask a part, and believe it to be down where it minds no timeout."""
    async with asyncio.timeout(2 * PERIOD_SECONDS):
        await part.ping(timeout=PERIOD_SECONDS)

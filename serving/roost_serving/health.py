"""Which services can do their work: watched all the time, told over grpc.health.v1 and `/readyz`."""

import asyncio
import logging

from grpc_health.v1 import health, health_pb2

from roost.errors import RoostError
from roost_serving.metrics import Metrics
from roost_serving.pipeline import Pipeline
from roost_serving.servicer import SERVICE

LIVENESS = "liveness"
READINESS = "readiness"
READY = ("", READINESS, SERVICE)
"""Services that are SERVING while both the backend and the store answer; liveness depends on neither."""

PERIOD_SECONDS = 2.0
log = logging.getLogger(__name__)


class Health:
    """Asks the backend and the store every two seconds whether they answer."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics) -> None:
        self.servicer = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self.parts: dict[str, bool] = {}
        self._pipeline = pipeline
        self._metrics = metrics
        self._watch: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Look once, then go on looking until `drain`."""
        await self.servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.look()
        self._watch = asyncio.create_task(self._keep_looking())

    async def look(self) -> None:
        """Ask both parts and tell what they said."""
        asked = {"backend": self._pipeline.backend, "store": self._pipeline.store}
        pings = [part.ping(timeout=PERIOD_SECONDS) for part in asked.values()]
        answers = dict(zip(asked, await asyncio.gather(*pings, return_exceptions=True), strict=True))
        for part, error in answers.items():
            if error is not None and not isinstance(error, RoostError) and self.parts.get(part, True):
                log.error("the %s could not be asked, so it counts as down", part, exc_info=error)
        self.parts = {part: error is None for part, error in answers.items()}
        for part, up in self.parts.items():
            self._metrics.ready.labels(part).set(up)
        await self._say(ready=all(self.parts.values()))

    async def drain(self) -> None:
        """Say NOT_SERVING from now on."""
        if self._watch is not None:
            self._watch.cancel()
        self.parts = dict.fromkeys(self.parts, False)
        await self._say(ready=False)

    async def _say(self, *, ready: bool) -> None:
        kind = health_pb2.HealthCheckResponse
        for service in READY:
            await self.servicer.set(service, kind.SERVING if ready else kind.NOT_SERVING)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            await self.look()

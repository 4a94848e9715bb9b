"""Which services can do their work: watched all the time, told over grpc.health.v1 and `/readyz`."""

import asyncio
import logging
from collections.abc import Mapping

from roost.errors import RoostError
from roost_serving.backends import Backend, ModelUnavailable
from roost_serving.breaker import Breaker
from roost_serving.ensuring import Collections
from roost_serving.metrics import Metrics
from roost_serving.pipeline import Pipeline
from roost_serving.servicer import SERVICE
from roost_serving.watchers import HealthServicer

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
GLANCE_SECONDS = 0.1
PATIENCE_SECONDS = 0.2
"""A store that has not answered a call for so long is asked at once whether it answers at all, and has as long to say.
A backend is not: a full one may take its time."""
log = logging.getLogger(__name__)


class Health:
    """Asks the backend and the store every two seconds whether they answer, and tells their breakers."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics, breakers: Mapping[str, Breaker]) -> None:
        self.servicer = HealthServicer()
        self.parts: dict[str, bool] = {}
        self._pipeline = pipeline
        self._metrics = metrics
        self._breakers = breakers
        self._watch: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Look once, then go on looking until `drain`."""
        self.servicer.say({LIVENESS: True})
        await self.look()
        for part in (part for part, up in self.parts.items() if not up):
            self._breakers[part].saw(up=False)  # it was never seen to be up, so that this is no chance
        self._watch = [asyncio.create_task(watch) for watch in (self._keep_looking(), self._keep_glancing())]

    async def look(self) -> None:
        """Ask both parts and tell what they said."""
        asked = {BACKEND: self._pipeline.backend, STORE: self._pipeline.collections}
        pings = [_ping(part) for part in asked.values()]
        answers = dict(zip(asked, await asyncio.gather(*pings, return_exceptions=True), strict=True))
        for part, error in answers.items():
            if error is not None and not isinstance(error, RoostError) and self.parts.get(part, True):
                log.error("the %s could not be asked, so it counts as down", part, exc_info=error)
        for part, error in answers.items():
            self._saw(part, up=error is None or isinstance(error, ModelUnavailable))
        self._say()

    def _saw(self, part: str, *, up: bool) -> None:
        self.parts = self.parts | {part: up}
        self._metrics.ready.labels(part).set(up)
        self._breakers[part].saw(up=up)

    def drain(self) -> None:
        """Say NOT_SERVING from now on."""
        for task in self._watch:
            task.cancel()
        self.parts = dict.fromkeys(self.parts, False)
        self._say()

    @property
    def ready(self) -> bool:
        """Whether calls should be sent here."""
        return self._serves(READINESS)

    def _serves(self, service: str) -> bool:
        return all(self.parts.get(part, False) for part in NEEDS[service])

    def _say(self) -> None:
        self.servicer.say({service: self._serves(service) for service in NEEDS})

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            await self.look()

    async def _keep_glancing(self) -> None:
        """Find out soon about a store that hangs: its callers would wait until it has been looked at twice."""
        breaker = self._breakers[STORE]
        while True:
            await asyncio.sleep(GLANCE_SECONDS)
            if breaker.waited() < PATIENCE_SECONDS:
                continue
            try:
                await _ping(self._pipeline.collections, timeout=PATIENCE_SECONDS)
            except Exception:  # the next look says what it is
                breaker.saw(up=False)
            else:
                breaker.saw(up=True)
            if breaker.open:  # one slow answer is nothing to tell a load balancer
                self._saw(STORE, up=False)
                self._say()


async def _ping(part: Backend | Collections, *, timeout: float = PERIOD_SECONDS) -> None:
    """Ask a part, and believe it to be down where it minds no timeout."""
    async with asyncio.timeout(2 * timeout):
        await part.ping(timeout=timeout)

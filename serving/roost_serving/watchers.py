"""`grpc.health.v1.Health`: what is said of each service, to whoever asks and to whoever watches.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Request = health_pb2.HealthCheckRequest
Response = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Each watcher is woken by itself and reads at its own pace: one that does not read holds up nobody."""

    def __init__(self) -> None:
        self._said: dict[str, bool] = {}
        self._watchers: set[asyncio.Event] = set()

    def say(self, serves: Mapping[str, bool]) -> None:
        """From now on a service is SERVING, or NOT_SERVING; those that are not named stay as they are."""
        before = dict(self._said)
        self._said.update(serves)
        if self._said != before:
            for changed in self._watchers:
                changed.set()

    async def Check(self, request: Request, context: grpc.aio.ServicerContext) -> Response:
        """Say whether a service is SERVING; NOT_FOUND where there is none of the name."""
        if request.service not in self._said:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return Response(status=self._status(request.service))

    async def Watch(self, request: Request, context: grpc.aio.ServicerContext) -> AsyncIterator[Response]:
        """Say it now, and whenever it is another; what changes while the watcher does not read is passed over."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        told = None
        try:
            while True:
                changed.clear()
                status = self._status(request.service)
                if status != told:
                    told = status
                    yield Response(status=status)
                await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _status(self, service: str) -> Response.ServingStatus:
        known = self._said.get(service)
        if known is None:
            return Response.SERVICE_UNKNOWN
        return Response.SERVING if known else Response.NOT_SERVING

"""What the engine's process and that of a single shard share: a server whose errors are statuses, and flushing."""

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc.aio

from roost_serving.edge.errors import Refused, translate
from roost_serving.edge.process import say_address
from roost_serving.edge.shard import Shard

FLUSH_SECONDS = 5.0
FLUSH_BYTES = 8 << 20
"""A flush holds up all searches of a shard: 20 to 40 ms for this many, and 20 for none."""
GRACE_SECONDS = 1.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

_log = logging.getLogger(__name__)


class Statuses(grpc.aio.ServerInterceptor):
    """Turns errors into statuses, and drops work whose deadline passed while it queued behind other work."""

    async def intercept_service(
        self, continuation: Callable[..., Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of a unary call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            remaining = context.time_remaining()
            if remaining is not None and remaining <= 0:
                return await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline passed before the work began"
                )
            try:
                return await handler.unary_unary(request, context)
            except Refused as refused:
                error = refused
            except Exception as raised:  # the engine's errors are bare Exceptions
                error = translate(raised)
                unforeseen = raised if error.code == grpc.StatusCode.INTERNAL else None
                _log.warning("%s: %s", handler_call_details.method, raised, exc_info=unforeseen)
            return await context.abort(error.code, error.message)

        return grpc.unary_unary_rpc_method_handler(
            serve, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


def new_server() -> grpc.aio.Server:
    """A server for calls of any size, without services or an address."""
    return grpc.aio.server(interceptors=[Statuses()], options=[*UNLIMITED, ("grpc.so_reuseport", 0)])


async def serve_until(
    stop: asyncio.Event, server: grpc.aio.Server, address: str, *background: Callable[[], Awaitable[None]]
) -> None:
    """Listen, say so to the parent, and serve until an event, or until work in the background breaks down.

    Args:
        stop: Ends it; set when this returns, unless something broke down.
        server: With its services.
        address: `unix:PATH`, or `HOST:PORT` where port 0 takes a free one.
        background: Runs until then.
    """
    port = server.add_insecure_port(address)
    await server.start()
    tasks = [asyncio.ensure_future(work()) for work in background]
    say_address(address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}")
    gc.collect()
    gc.freeze()  # what is here now stays, and need not be looked through for garbage while searches wait
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    await server.stop(GRACE_SECONDS)
    for task in (stopping, *tasks):
        task.cancel()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(error, Exception):
            _log.error("work in the background broke down", exc_info=error)


async def keep_flushed(shards: Callable[[], Iterable[Shard]]) -> None:
    """Flush shards five seconds after their last flush, or at once where a log has grown long; until cancelled."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(FLUSH_SECONDS / 20)
        due = time.monotonic() - last > FLUSH_SECONDS
        for shard in list(shards()):
            if due or shard.unflushed_bytes > FLUSH_BYTES:
                try:
                    shard.flush()
                except Exception as error:  # the engine's errors are bare Exceptions
                    _log.warning("%s was not flushed and stays in its log: %s", shard.folder, error)
                await asyncio.sleep(0)
        last = time.monotonic() if due else last

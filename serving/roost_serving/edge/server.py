"""Runs the engine's process: opens the folder, says where it listens, serves, flushes now and then, and ends clean."""

import asyncio
import gc
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from roost.errors import BadSettings
from roost_serving.edge.catalogue import Catalogue
from roost_serving.edge.errors import Refused, translate
from roost_serving.edge.indexing import Indexer
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.servicer import Collections, Health, Points

FLUSH_SECONDS = 5.0
FLUSH_BYTES = 32 << 20

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


async def serve(folder: Path, *, address: str, index_bytes: int, announce: Callable[[str], None]) -> None:
    """Serve a folder until a signal comes or standard input ends.

    Args:
        folder: The index; made where it does not exist.
        address: `unix:PATH`, or `HOST:PORT` where port 0 takes a free one.
        index_bytes: Build an HNSW graph once this many bytes of vectors lie outside one.
        announce: Called with one line of JSON: the address once it is served, or the error that prevents it.
    """
    try:
        catalogue = Catalogue(folder)
        catalogue.open()
    except (BadSettings, Refused) as error:
        reason = "DISK_FULL" if isinstance(error, Refused) else error.reason
        announce(json.dumps({"reason": reason, "message": error.message}))
        return
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(interceptors=[Statuses()], options=[*unlimited, ("grpc.so_reuseport", 0)])
    qdrant.add_QdrantServicer_to_server(Health(), server)
    qdrant.add_CollectionsServicer_to_server(Collections(catalogue), server)
    qdrant.add_PointsServicer_to_server(Points(catalogue), server)
    port = server.add_insecure_port(address)
    await server.start()
    stop = _stop_event()
    background = [_flush(catalogue), Indexer(catalogue, index_bytes=index_bytes).run()]
    tasks = [asyncio.create_task(task) for task in background]
    announce(
        json.dumps({"address": address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"})
    )
    gc.collect()
    gc.freeze()  # what is here now stays, and need not be looked through for garbage while searches wait
    await stop.wait()
    await server.stop(grace=1.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    catalogue.close()


async def _flush(catalogue: Catalogue) -> None:
    """Flush a collection five seconds after its last flush, or at once where its log has grown long."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(FLUSH_SECONDS / 20)
        due = time.monotonic() - last > FLUSH_SECONDS
        for collection in list(catalogue.collections.values()):
            if due or collection.unflushed_bytes > FLUSH_BYTES:
                try:
                    collection.flush()
                except Exception as error:  # the engine's errors are bare Exceptions
                    _log.warning("%s was not flushed and stays in its log: %s", collection.folder.name, error)
                await asyncio.sleep(0)
        last = time.monotonic() if due else last


def _stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT, and by the end of standard input, whose other end the gateway holds while it lives."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()
    return stop

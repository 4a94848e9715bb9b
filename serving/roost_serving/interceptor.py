"""Asks who calls, counts, times, and translates the errors of every call: the only place that does."""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from roost.errors import BadRequest, RoostError, Unexpected
from roost_serving import callers, logs, status
from roost_serving.access import Access
from roost_serving.metrics import Metrics

Context = grpc.aio.ServicerContext
Details = grpc.HandlerCallDetails
log = logging.getLogger(__name__)

CODES = {code.value[0]: code.name for code in grpc.StatusCode}
UNKNOWN = "unknown"
"""In metrics, who has no key that is known here."""

MAKE = {
    "unary": grpc.unary_unary_rpc_method_handler,
    "server_stream": grpc.unary_stream_rpc_method_handler,
    "client_stream": grpc.stream_unary_rpc_method_handler,
    "bidi_stream": grpc.stream_stream_rpc_method_handler,
}


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of every method, of whatever kind, in the same few lines."""

    def __init__(self, metrics: Metrics, access: Access) -> None:
        self._metrics, self._access = metrics, access
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details
    ) -> Any:
        """The method's handler, watched; None where there is no such method."""
        name = handler_call_details.method
        if name not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[name] = self._watch(handler, name)
        return self._handlers[name]

    def _watch(self, handler: Any, name: str) -> Any:
        _, service, method = name.split("/")
        call = Call(self._metrics, self._access, handler, service, method)
        behaviour = call.respond_stream if handler.response_streaming else call.respond
        return MAKE[call.kind](behaviour, request_deserializer=None, response_serializer=handler.response_serializer)


class Call:
    """What is the same for every call of one method."""

    def __init__(self, metrics: Metrics, access: Access, handler: Any, service: str, method: str) -> None:
        self._access, self._method = access, f"/{service}/{method}"
        self.kind = {
            (False, False): "unary",
            (False, True): "server_stream",
            (True, False): "client_stream",
            (True, True): "bidi_stream",
        }[handler.request_streaming, handler.response_streaming]
        self._handler = handler
        self._behaviour = getattr(
            handler,
            {
                "unary": "unary_unary",
                "server_stream": "unary_stream",
                "client_stream": "stream_unary",
                "bidi_stream": "stream_stream",
            }[self.kind],
        )
        self._metrics = metrics
        self._labels = (self.kind, service, method)
        self._started = metrics.started.labels(*self._labels)
        self._handling = metrics.handling.labels(*self._labels)
        self._received = metrics.received.labels(*self._labels)
        self._sent = metrics.sent.labels(*self._labels)

    async def respond(self, request: Any, context: Context) -> Any:
        """A handler with one response."""
        async with self._watched(context):
            response = await self._behaviour(self._read(request), context)
            self._sent.inc()
            return response

    async def respond_stream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """A handler with a stream of responses."""
        async with self._watched(context):
            responses = self._behaviour(self._read(request), context)
            if inspect.isawaitable(responses):  # the health service's Watch writes to the context itself
                await responses
                return
            async for response in responses:
                self._sent.inc()
                yield response

    def _read(self, request: Any) -> Any:
        return self._read_stream(request) if self._handler.request_streaming else self._parse(request)

    async def _read_stream(self, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._parse(request)

    def _parse(self, request: bytes) -> Any:
        """Parsed here and not by gRPC, which would answer a malformed message with the exception's text."""
        self._received.inc()
        try:
            return self._handler.request_deserializer(request)
        except DecodeError:
            raise BadRequest("The message cannot be parsed. Use the messages of roost.v1.", field="message")

    @asynccontextmanager
    async def _watched(self, context: Context) -> AsyncIterator[None]:
        self._started.inc()
        begun = time.monotonic()
        code, caller = "OK", UNKNOWN
        metadata = tuple(context.invocation_metadata() or ())
        named = ((logs.REQUEST_ID, logs.begin(metadata)),)
        context.set_trailing_metadata(named)
        try:
            who = self._access.caller(self._method, metadata)
            callers.begin(who)
            caller = who.name
            yield
            code = _code(context)
        except RoostError as error:
            code = error.code
            self._metrics.failed(error)
            await self._abort(context, error, named)
        except (asyncio.CancelledError, GeneratorExit):
            left = context.time_remaining()
            code = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
            raise
        except grpc.aio.AbortError:
            code = _code(context)
            raise
        except Exception as error:  # the one place that may: its text must not reach the caller
            code = Unexpected.code
            log.exception("%s failed", "/".join(self._labels[1:]), exc_info=error)
            await self._abort(context, Unexpected("The gateway failed. Its log says why."), named)
        finally:
            self._metrics.handled.labels(*self._labels, code).inc()
            self._metrics.ended(caller, code)
            log.debug("%s ended with %s after %.1f ms", self._method, code, 1000 * (time.monotonic() - begun))
            self._handling.observe(time.monotonic() - begun)

    @staticmethod
    async def _abort(context: Context, error: RoostError, named: tuple[tuple[str, str], ...]) -> NoReturn:
        answer = rpc_status.to_status(status.of(error))
        await context.abort(answer.code, answer.details, (*answer.trailing_metadata, *status.pushback(error), *named))
        raise AssertionError("abort always raises")


def _code(context: Context) -> str:
    """The name of the status that a handler set itself; OK where it set none."""
    code = context.code()
    return CODES[code.value[0] if isinstance(code, grpc.StatusCode) else code or 0]

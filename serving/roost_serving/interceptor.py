"""Asks who calls, counts, times, and translates the errors of every call: the only place that does."""

import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

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
        watch = self._begin(context)
        try:
            self._admit(watch)
            response = await self._behaviour(self._read(request), context)
            self._sent.inc()
            watch.code = _code(context)
            return response
        except BaseException as error:
            await self._fail(watch, error)
            raise
        finally:
            self._end(watch)

    async def respond_stream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """A handler with a stream of responses."""
        watch = self._begin(context)
        try:
            self._admit(watch)
            responses = self._behaviour(self._read(request), context)
            if inspect.isawaitable(responses):  # the health service's Watch writes to the context itself
                await responses
            else:
                async for response in responses:
                    self._sent.inc()
                    yield response
            watch.code = _code(context)
        except BaseException as error:
            await self._fail(watch, error)
            raise
        finally:
            self._end(watch)

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

    def _begin(self, context: Context) -> "Watch":
        self._started.inc()
        metadata = tuple(context.invocation_metadata() or ())
        watch = Watch(context, metadata, trailer=((logs.REQUEST_ID, logs.begin(metadata)),))
        context.set_trailing_metadata(watch.trailer)
        return watch

    def _admit(self, watch: "Watch") -> None:
        who = self._access.caller(self._method, watch.metadata)
        callers.begin(who)
        watch.caller = who.name

    async def _fail(self, watch: "Watch", error: BaseException) -> None:
        """Answer with what went wrong; returns where the call ends without an answer of ours."""
        if isinstance(error, RoostError):
            self._metrics.failed(error)
        elif isinstance(error, grpc.aio.AbortError):
            watch.code = _code(watch.context)
            return
        elif isinstance(error, Exception):  # the one place that may: its text must not reach the caller
            log.exception("%s failed", "/".join(self._labels[1:]), exc_info=error)
            error = Unexpected("The gateway failed. Its log says why.")
        else:  # it was cancelled, or its stream closed
            left = watch.context.time_remaining()
            watch.code = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
            return
        watch.code = error.code
        answer = rpc_status.to_status(status.of(error))
        trailer = (*answer.trailing_metadata, *status.pushback(error), *watch.trailer)
        await watch.context.abort(answer.code, answer.details, trailer)

    def _end(self, watch: "Watch") -> None:
        seconds = time.monotonic() - watch.begun
        self._metrics.handled.labels(*self._labels, watch.code).inc()
        self._metrics.ended(watch.caller, watch.code)
        self._handling.observe(seconds)
        log.debug("%s ended with %s after %.1f ms", self._method, watch.code, 1000 * seconds)


@dataclass(slots=True)
class Watch:
    """What is known of a call that is under way."""

    context: Context
    metadata: tuple[tuple[str, str | bytes], ...]
    trailer: tuple[tuple[str, str], ...]
    begun: float = field(default_factory=time.monotonic)
    caller: str = UNKNOWN
    code: str = "OK"


def _code(context: Context) -> str:
    """The name of the status that a handler set itself; OK where it set none."""
    code = context.code()
    return CODES[code.value[0] if isinstance(code, grpc.StatusCode) else code or 0]

"""Asks who calls, counts, times, and translates the errors of every call: the only place that does."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from roost.errors import BadRequest, DeadlineExceeded, RoostError, Unexpected
from roost_serving import callers, logs, status
from roost_serving.access import Access
from roost_serving.callers import ANYONE, Caller
from roost_serving.calls import HEALTH, Calls
from roost_serving.metrics import Metrics

Context = grpc.aio.ServicerContext
Details = grpc.HandlerCallDetails
log = logging.getLogger(__name__)

CODES = {code.value[0]: code.name for code in grpc.StatusCode}
UNKNOWN = "unknown"
"""In metrics, who has no key that is known here."""

HEALTH_SECONDS = 5.0
"""A question for the health, which strangers may ask, must have been sent within so long."""


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps the handler of every method, of whatever kind, in the same few lines.

    To gRPC every method takes a stream of messages, which is the same to a caller: it would read the one message of
    others, however large, before the handler could refuse whoever sends it.
    """

    def __init__(self, metrics: Metrics, access: Access, calls: Calls) -> None:
        self._metrics, self._access, self._calls = metrics, access, calls
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
        call = Call(self._metrics, self._access, self._calls, handler, name)
        if handler.response_streaming:
            make, behaviour = grpc.stream_stream_rpc_method_handler, call.respond_stream
        else:
            make, behaviour = grpc.stream_unary_rpc_method_handler, call.respond
        return make(behaviour, request_deserializer=None, response_serializer=handler.response_serializer)


class Call:
    """What is the same for every call of one method."""

    def __init__(self, metrics: Metrics, access: Access, calls: Calls, handler: Any, name: str) -> None:
        _, service, method = name.split("/")
        self._access, self._calls, self._method = access, calls, name
        self._patience = HEALTH_SECONDS if name.startswith(HEALTH) else None
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
        self._payload = metrics.payload.labels(method)
        metrics.begin_method(method)

    async def respond(self, requests: AsyncIterator[bytes], context: Context) -> Any:
        """A handler with one response."""
        watch = self._begin(context)
        try:
            self._admit(watch)
            response = await self._behaviour(await self._read(requests, watch), context)
            self._sent.inc()
            watch.code = _code(context)
            return response
        except BaseException as error:
            await self._fail(watch, error)
            raise
        finally:
            self._end(watch)

    async def respond_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        """A handler with a stream of responses."""
        watch = self._begin(context)
        try:
            self._admit(watch)
            async with aclosing(self._behaviour(await self._read(requests, watch), context)) as responses:
                async for response in responses:
                    self._sent.inc()
                    yield response
            watch.code = _code(context)
        except BaseException as error:
            await self._fail(watch, error)
            raise
        finally:
            self._end(watch)

    async def _read(self, requests: AsyncIterator[bytes], watch: "Watch") -> Any:
        """What the handler is given: its one message, or the stream of them."""
        if self._handler.request_streaming:
            return self._read_stream(requests, watch)
        try:
            async with asyncio.timeout(self._patience):
                request = await watch.context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"No message came within {self._patience} s.")
        if request is grpc.aio.EOF:
            raise BadRequest("The call has no message. Send one.", field="message")
        return self._parse(request)

    async def _read_stream(self, requests: AsyncIterator[bytes], watch: "Watch") -> AsyncIterator[Any]:
        first = True
        async for request in requests:
            if not first:
                await self._calls.message(watch.caller or ANYONE)
            first = False
            yield self._parse(request)

    def _parse(self, request: bytes) -> Any:
        """Parsed here and not by gRPC, which would answer a malformed message with the exception's text."""
        self._received.inc()
        self._payload.observe(len(request))
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
        watch.caller = who
        watch.release = self._calls.begin(self._method, who, watch.context.peer())

    async def _fail(self, watch: "Watch", error: BaseException) -> None:
        """Answer with what went wrong; returns where the call ends without an answer of ours."""
        if isinstance(error, RoostError):
            self._metrics.failed(error, rpc=self._labels[-1])
        elif isinstance(error, grpc.aio.AbortError):
            watch.code = _code(watch.context)
            return
        elif isinstance(error, Exception):  # the one place that may: its text must not reach the caller
            log.exception("%s failed", "/".join(self._labels[1:]), exc_info=error)
            error = Unexpected("The gateway failed. Its log says why.")
        else:  # it was cancelled, or its stream closed
            watch.code = _gone(watch.context)
            return
        watch.code = error.code
        answer = rpc_status.to_status(status.of(error))
        pushback = status.pushback(error, left=watch.context.time_remaining())
        trailer = (*answer.trailing_metadata, *pushback, *watch.trailer)
        try:
            await watch.context.abort(answer.code, answer.details, trailer)
        except grpc.aio.InternalError:  # nobody is there to hear it
            watch.code = _gone(watch.context)
            raise

    def _end(self, watch: "Watch") -> None:
        watch.release()
        seconds = time.monotonic() - watch.begun
        self._metrics.handled.labels(*self._labels, watch.code).inc()
        self._metrics.ended(UNKNOWN if watch.caller is None else watch.caller.name, watch.code)
        self._handling.observe(seconds)
        log.debug("%s ended with %s after %.1f ms", self._method, watch.code, 1000 * seconds)


@dataclass(slots=True)
class Watch:
    """What is known of a call that is under way."""

    context: Context
    metadata: tuple[tuple[str, str | bytes], ...]
    trailer: tuple[tuple[str, str], ...]
    begun: float = field(default_factory=time.monotonic)
    caller: Caller | None = None
    code: str = "OK"
    release: Callable[[], None] = lambda: None


def _gone(context: Context) -> str:
    """Why nobody waits for an answer any more."""
    left = context.time_remaining()
    return "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"


def _code(context: Context) -> str:
    """The name of the status that a handler set itself; OK where it set none."""
    code = context.code()
    return CODES[code.value[0] if isinstance(code, grpc.StatusCode) else code or 0]

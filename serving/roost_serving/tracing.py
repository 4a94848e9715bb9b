"""OpenTelemetry traces: a span for each call, and one for each call that it makes, sent to where `OTEL_*` says.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from roost.errors import MissingDependency

SERVICE = "roost-gateway"
"""What the gateway is called where neither `OTEL_SERVICE_NAME` nor `OTEL_RESOURCE_ATTRIBUTES` says."""
NAME = "service.name"


@asynccontextmanager
async def traced(on: bool) -> AsyncIterator[list[grpc.aio.ServerInterceptor]]:
    """What traces the calls of a server, which is made of it while the context lasts; then the last spans are sent.

    A caller's `traceparent` is taken up, and goes on to Triton and the store, whose channels must be made in the
    context. Spans name methods, addresses and statuses: no metadata, and nothing of a message. Health checks, and the
    gateway's own looks at Triton and the store, have none.

    Args:
        on: Whether to; otherwise nothing is loaded, and there is no interceptor.

    Raises:
        MissingDependency: OpenTelemetry's packages are not installed.
    """
    if not on:
        yield []
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, aio_server_interceptor, filters
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"--tracing needs {error.name}, which is not installed. Install Roost with the extra `tracing`; in its "
            "source folder: pip install '.[serving,tracing]'",
            package=error.name or "opentelemetry",
        ) from error
    given = Resource.create()
    named = not str(given.attributes[NAME]).startswith("unknown_service")
    provider = TracerProvider(
        resource=given if named else given.merge(Resource({NAME: SERVICE})),
        span_limits=SpanLimits(max_events=0),  # which would be exceptions, with texts and values that are nobody's
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    calls = GrpcAioInstrumentorClient(lambda details: trace.get_current_span().get_span_context().is_valid)
    calls.instrument(tracer_provider=provider)
    try:
        yield [aio_server_interceptor(provider, filters.negate(filters.health_check()))]
    finally:
        calls.uninstrument()
        await asyncio.to_thread(provider.shutdown)

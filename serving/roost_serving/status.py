"""An error as a gRPC status with exactly one ErrorInfo, the same for a call and for an item of a stream."""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from roost.errors import DOMAIN, RoostError

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer by which gRPC's own retries wait, or where it is negative are not made (gRFC A6)."""
LONGEST = 1024
"""Characters of a message, and of a fact: trailers have room for 8 KiB in all."""


def of(error: RoostError) -> status_pb2.Status:
    """The status of an error: its code, message, reason and facts, and when to try again if it says so."""
    facts = {name: value[: LONGEST // 4] for name, value in list(error.facts.items())[:8]}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)]
    if retry := error.facts.get("retry_after_seconds"):
        delay = Duration()
        delay.FromMilliseconds(round(float(retry) * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(Any())
        packed[-1].Pack(detail)
    code = grpc.StatusCode[error.code].value[0]
    return status_pb2.Status(code=code, message=error.message[:LONGEST], details=packed)


def pushback(error: RoostError) -> tuple[tuple[str, str], ...]:
    """The trailer that tells a client's retries when to come again, or not to.

    They are not to where the same call will never be taken, nor where a breaker is open, of which callers must know.
    """
    retry = error.facts.get("retry_after_seconds")
    if error.code == "RESOURCE_EXHAUSTED":
        return ((PUSHBACK, str(round(float(retry) * 1000)) if retry else "-1"),)
    return ((PUSHBACK, "-1"),) if retry else ()

"""An error as a gRPC status with exactly one ErrorInfo, the same for a call and for an item of a stream."""

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from roost.errors import DOMAIN, RoostError

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailer by which gRPC's own retries wait, or where it is negative are not made (gRFC A6)."""
MESSAGE_BYTES = 1024
FACT_BYTES = 256
FACTS = 8
"""Of UTF-8. Trailers have room for 8 KiB, which gRPC's clients take: there a message's bytes may be three each, as
`%F0`, and it comes a second time among the details, four for three bytes in base64, as the facts do."""


def of(error: RoostError) -> status_pb2.Status:
    """The status of an error: its code, message, reason and facts, and when to try again if it says so."""
    facts = {name: _cut(value, FACT_BYTES) for name, value in list(error.facts.items())[:FACTS]}
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
    return status_pb2.Status(code=code, message=_cut(error.message, MESSAGE_BYTES), details=packed)


def pushback(error: RoostError, *, left: float | None) -> tuple[tuple[str, str], ...]:
    """The trailer that tells a client's retries when to come again, or not to.

    They are not to where the same call will never be taken, nor where a breaker is open, of which callers must know,
    nor where the deadline comes first: they would wait for it, and tell of nothing else.

    Args:
        error: What the call is answered with.
        left: Of the call's deadline, in seconds; None: it has none.
    """
    retry = error.facts.get("retry_after_seconds")
    if error.code != "RESOURCE_EXHAUSTED":
        return ((PUSHBACK, "-1"),) if retry else ()
    seconds = None if retry is None else float(retry)
    if seconds is None or (left is not None and seconds >= left):
        return ((PUSHBACK, "-1"),)
    return ((PUSHBACK, str(round(seconds * 1000))),)


def _cut(text: str, most: int) -> str:
    """As much of a text as so many bytes of UTF-8 hold."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")

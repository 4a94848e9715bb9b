"""Between Roost's words and Qdrant's: points, filters and errors."""

import logging
from typing import Any

import grpc.aio
import numpy as np

from roost.errors import (
    BadRequest,
    BadVector,
    DeadlineExceeded,
    DiskFull,
    Overloaded,
    RoostError,
    StoreUnavailable,
    UnknownModel,
)
from roost.ids import point_id
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.values import from_dense, from_payload, to_dense, to_payload
from roost_serving.stores import Condition, Filter, Point, Range
from roost_serving.stores._points import check_filter, decode, encode, key_parts

RETRY_SECONDS = 1
DISK_RETRY_SECONDS = 30
"""Someone must free space first."""

_log = logging.getLogger(__name__)


def to_struct(point: Point, vector: np.ndarray) -> "qdrant.PointStruct":
    """An item as Qdrant stores it, under the key that its id gives."""
    return qdrant.PointStruct(
        id=qdrant.PointId(uuid=point_id(point.id)),
        vectors=qdrant.Vectors(vector=qdrant.Vector(dense=to_dense(vector))),
        payload=to_payload(encode(point)),
    )


def to_point(record: "qdrant.RetrievedPoint | qdrant.ScoredPoint") -> Point:
    """An item from Qdrant's record of it."""
    vector = None
    if record.HasField("vectors"):
        output = record.vectors.vector
        # Servers before 1.16 fill the older field.
        dense = output.WhichOneof("vector") == "dense"
        vector = from_dense(output.dense) if dense else np.array(output.data, dtype=np.float32)
    return decode(from_payload(record.payload), vector)


def to_filter(filter: Filter, *, exclude: str | None = None) -> "qdrant.Filter":
    """Qdrant's form of a filter, with an item to leave out."""
    check_filter(filter)
    must = [_to_condition(condition) for condition in filter.payload]
    if filter.clusters:
        clusters = qdrant.Match(integers=qdrant.RepeatedIntegers(integers=filter.clusters))
        must.append(_field("cluster", match=clusters))
    if filter.anomaly is not None:
        must.append(_field("anomaly", match=qdrant.Match(boolean=filter.anomaly)))
    hidden = [] if exclude is None else [qdrant.PointId(uuid=point_id(exclude))]
    must_not = [qdrant.Condition(has_id=qdrant.HasIdCondition(has_id=hidden))] if hidden else []
    return qdrant.Filter(must=must, must_not=must_not)


def _to_condition(condition: Condition) -> "qdrant.Condition":
    # Quoted, since a bare key may hold only letters, digits, - and _.
    key = ".".join(["payload", *(f'"{part}"' for part in key_parts(condition))])
    match condition.match:
        case bool():
            return _field(key, match=qdrant.Match(boolean=condition.match))
        case str():
            return _field(key, match=qdrant.Match(keyword=condition.match))
        case int():
            # A range, for a number that came through JSON may be stored as 3.0, which does not match the integer 3.
            return _field(key, range=qdrant.Range(gte=condition.match, lte=condition.match))
        case Range(min=low, max=high):
            return _field(key, range=qdrant.Range(gte=low, lte=high))


def _field(key: str, **how: Any) -> "qdrant.Condition":
    return qdrant.Condition(field=qdrant.FieldCondition(key=key, **how))


def to_error(error: grpc.aio.AioRpcError, *, place: str) -> RoostError:
    """Roost's error for a status of the server's; words of the server's that are not for callers go to the log."""
    code, details = error.code(), error.details() or ""
    if "No space left" in details or "disk usage" in details:
        return DiskFull(
            f"{place} has no space left. Free some; nothing that was acknowledged is lost.",
            retry_after_seconds=DISK_RETRY_SECONDS,
        )
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        _log.warning("%s refused a request: %s", place, details)
        if "dimension error" in details:
            return BadVector("The vector is of another length than the collection's. Embed it with the same model.")
        return BadRequest(f"{place} refused the request; the gateway's log says why. Change the request.")
    known = _ERRORS.get(code)
    if known is not None:
        kind, message, facts = known
        return kind(message.format(place=place), **facts)
    _log.warning("%s answered %s: %s", place, code.name, details)
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return StoreUnavailable(f"{place} failed ({code.name}); the gateway's log says more.", status=code.name)
    return StoreUnavailable(f"{place} does not answer ({code.name}). Try again.", status=code.name)


_REFUSED = (StoreUnavailable, "{place} refused the gateway's API key. Set the right one.", {})
_ERRORS: dict[grpc.StatusCode, tuple[type[RoostError], str, dict[str, object]]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "{place} did not answer before the deadline.", {}),
    grpc.StatusCode.NOT_FOUND: (
        UnknownModel,
        "{place} has no such collection. Start the gateway again to make it.",
        {},
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        Overloaded,
        "{place} is overloaded. Try again later.",
        {"retry_after_seconds": RETRY_SECONDS},
    ),
    grpc.StatusCode.UNAUTHENTICATED: _REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: _REFUSED,
}

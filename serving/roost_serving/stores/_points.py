"""What every store refuses, and how an item's facts are laid out beside its vector."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roost.clusters import Placement
from roost.errors import BadPageToken, BadRequest, BadVector, DeadlineExceeded
from roost.ids import point_id
from roost_serving.stores import Condition, Filter, Payload, Point, Range

MAX_DEPTH = 16
"""Levels of a payload; protobuf stops reading at a hundred messages inside each other, and a level takes three."""


def check_vector(vector: np.ndarray | None, *, dim: int | None = None) -> np.ndarray:
    """A vector as float32, shape (dim,).

    Raises:
        BadVector: It is missing, empty, not finite, all zero, or not of length `dim`.
    """
    values = np.asarray([] if vector is None else vector, dtype=np.float32)
    if values.ndim != 1 or not values.size:
        raise BadVector(f"A vector has one axis and at least one value; this has shape {values.shape}.")
    if dim is not None and values.size != dim:
        raise BadVector(f"The vector has {values.size} values; the model's have {dim}.", length=values.size, dim=dim)
    if not np.isfinite(values).all():
        raise BadVector("The vector holds NaN or infinity.")
    if not values.any():
        raise BadVector("The vector is all zero, so it has no direction to compare.")
    return values


def check_time(timeout: float | None) -> None:
    """Refuse work for which no time is left.

    Raises:
        DeadlineExceeded: `timeout` is not above zero.
    """
    if timeout is not None and timeout <= 0:
        raise DeadlineExceeded("The deadline passed before the store was asked.")


def check_limit(limit: int) -> None:
    """Refuse a limit below one.

    Raises:
        BadRequest: It is.
    """
    if limit < 1:
        raise BadRequest(f"The limit is {limit}; it must be at least 1.", limit=limit)


def check_key(start: str | None) -> str | None:
    """The key at which a page starts.

    Raises:
        BadPageToken: It is no key of a point.
    """
    if start is not None and point_id(start) != start:
        raise BadPageToken(f"No page starts at {start!r}. Start again without a page token.", start=start)
    return start


def check_payload(value: Any, *, depth: int = 0) -> None:
    """Refuse a payload that a store could not give back as it is.

    Raises:
        BadRequest: A number that is not finite or beyond 64 bits, a key that is no text, a value that JSON does not
            have, or more than `MAX_DEPTH` levels.
    """
    if depth > MAX_DEPTH:
        raise BadRequest(f"The payload is more than {MAX_DEPTH} levels deep. Flatten it.")
    match value:
        case None | bool() | str():
            return
        case int():
            if not -(2**63) <= value < 2**63:
                raise BadRequest(f"The payload holds {value}, which 64 bits cannot. Send it as text.", value=value)
        case float():
            if not math.isfinite(value):
                raise BadRequest(f"The payload holds {value}, which is no JSON number. Leave it out.", value=value)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise BadRequest(f"The payload has the key {key!r}; keys are text.", key=key)
                check_payload(item, depth=depth + 1)
        case list() | tuple():
            for item in value:
                check_payload(item, depth=depth + 1)
        case _:
            raise BadRequest(f"The payload holds a {type(value).__name__}, which is no JSON value.")


def check_filter(filter: Filter) -> None:
    """Refuse a condition that could not be what its writer meant.

    Raises:
        BadRequest: A key with an empty part, a quote or a backslash, or a range without bounds or with NaN.
    """
    for condition in filter.payload:
        if not all(key_parts(condition)) or '"' in condition.key or "\\" in condition.key:
            raise BadRequest(
                f"{condition.key!r} cannot be filtered by: no part between dots may be empty, or hold a quote or \\.",
                key=condition.key,
            )
        if isinstance(condition.match, Range):
            bounds = [bound for bound in (condition.match.min, condition.match.max) if bound is not None]
            if not bounds or any(math.isnan(bound) for bound in bounds):
                raise BadRequest(f"The range for {condition.key!r} needs a min or a max.", key=condition.key)


def key_parts(condition: Condition) -> list[str]:
    """The keys that lead to a condition's value, from the outside in."""
    return condition.key.split(".")


def check_points(points: Sequence[Point], *, dim: int | None = None) -> list[np.ndarray]:
    """The vectors of points that are to be stored, each shape (dim,).

    Raises:
        BadVector: As `check_vector`.
        BadRequest: As `check_payload`.
    """
    for point in points:
        check_payload(point.payload)
    return [check_vector(point.vector, dim=dim) for point in points]


def encode(point: Point) -> dict[str, Any]:
    """An item's facts as the payload that Qdrant keeps."""
    facts: dict[str, Any] = {"id": point.id, "payload": point.payload}
    if point.placement is not None:
        likelihood = float(point.placement.log_likelihood)
        facts |= {
            "cluster": int(point.placement.cluster),
            "distance": float(point.placement.distance),
            # JSON has no infinity; the likelihood of an item very far from every component underflows to its logarithm.
            "log_likelihood": likelihood if math.isfinite(likelihood) else None,
            "anomaly_score": float(point.placement.anomaly_score),
            "anomaly": bool(point.placement.anomaly),
        }
    return facts


def decode(facts: Mapping[str, Any], vector: np.ndarray | None) -> Point:
    """The item that `encode` laid out."""
    placement = None
    if "cluster" in facts:
        likelihood = facts["log_likelihood"]
        placement = Placement(
            cluster=facts["cluster"],
            distance=facts["distance"],
            log_likelihood=-math.inf if likelihood is None else likelihood,
            anomaly_score=facts["anomaly_score"],
            anomaly=facts["anomaly"],
        )
    payload: Payload = facts["payload"]
    return Point(id=facts["id"], payload=payload, placement=placement, vector=vector)

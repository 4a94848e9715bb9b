"""Plain values into requests; shared by both clients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format, struct_pb2

from roost.client.answers import Filter, Image, Item, Outcome, Range
from roost.errors import BadImage, BadRequest, BadVector, RoostError, TooLarge
from roost.v1 import gateway_pb2 as pb

ENVELOPE_BYTES = 1024  # more than the fields of a request around its item take


def to_item(item: Item, *, max_bytes: int) -> pb.Item:
    """Read an item's image and pack it.

    Raises:
        BadImage: The file cannot be read.
        BadRequest: The image is neither bytes nor a path, or the payload is not what JSON can hold.
        TooLarge: It would not fit a message of `max_bytes`.
    """
    message = pb.Item(id=item.id, image=None if item.image is None else _content(item.image))
    if item.payload:
        message.payload.CopyFrom(_struct(item.payload))
    size = message.ByteSize() + ENVELOPE_BYTES
    if size > max_bytes:
        what = item.image if isinstance(item.image, Path | str) else f"The item {item.id!r}"
        raise TooLarge(
            f"{what} takes {size} bytes; a message may have {max_bytes}. Send a smaller image.",
            bytes=size,
            max_bytes=max_bytes,
        )
    return message


def _content(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, Path | str):
        raise BadRequest(f"An image is bytes or a file's path, not {type(image).__name__}.")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise BadImage(f"{image} cannot be read: {error.strerror}.", path=image) from error


def _struct(payload: Mapping[str, Any]) -> struct_pb2.Struct:
    try:
        return json_format.ParseDict(dict(payload), struct_pb2.Struct())
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise BadRequest(f"The payload is not what JSON can hold: {error}.") from error


def ingest_entry(item: Item, *, model: str, skip_existing: bool, max_bytes: int) -> pb.IngestItemsRequest | Outcome:
    """Ask for one item to be stored, or say why it cannot even be sent."""
    try:
        if (item.image is None) == (item.vector is None):
            raise BadRequest(f"The item {item.id!r} needs an image or a vector, and not both.", field="item")
        message = to_item(item, max_bytes=max_bytes)
        vector = None if item.vector is None else from_vector(item.vector)
    except RoostError as error:
        return Outcome("failed", item.id, error=error)
    return pb.IngestItemsRequest(model=model, item=message, skip_existing=skip_existing, vector=vector)


def search_request(
    *,
    image: Image | None,
    id: str | None,
    vector: np.ndarray | None,
    limit: int,
    filter: Filter,
    with_vectors: bool,
    model: str,
    max_bytes: int,
) -> pb.SearchItemsRequest:
    """Ask for neighbours.

    Raises:
        BadRequest: Not exactly one of image, id and vector was given.
    """
    if sum(query is not None for query in (image, id, vector)) != 1:
        raise BadRequest("Search by image, by id or by vector: exactly one of the three.")
    request = pb.SearchItemsRequest(model=model, limit=limit, filter=from_filter(filter), with_vectors=with_vectors)
    if image is not None:
        request.item.CopyFrom(to_item(Item(image), max_bytes=max_bytes))
    elif id is not None:
        request.id = id
    elif vector is not None:
        request.vector.CopyFrom(from_vector(vector))
    return request


def from_filter(filter: Filter) -> pb.Filter:
    """Pack a filter."""
    conditions = [_condition(key, match) for key, match in filter.payload.items()]
    return pb.Filter(payload=conditions, clusters=filter.clusters, anomaly=filter.anomaly)


def _condition(key: str, match: str | bool | int | float | Range) -> pb.PayloadCondition:
    match match:
        case bool():
            return pb.PayloadCondition(key=key, boolean=match)
        case int():
            return pb.PayloadCondition(key=key, integer=match)
        case float():
            return pb.PayloadCondition(key=key, range=pb.Range(min=match, max=match))
        case str():
            return pb.PayloadCondition(key=key, text=match)
        case Range():
            return pb.PayloadCondition(key=key, range=pb.Range(min=match.min, max=match.max))
        case _:
            raise BadRequest(
                f"{key!r} cannot be compared with a {type(match).__name__}. Give text, a number or a Range."
            )


def from_vector(vector: np.ndarray) -> pb.Vector:
    """An array as little-endian float32 bytes.

    Raises:
        BadVector: It has more than one axis, or holds no numbers.
    """
    try:
        values = np.asarray(vector, "<f4")
    except (TypeError, ValueError) as error:
        raise BadVector(f"The vector holds something that is no number: {error}.") from error
    if values.ndim != 1:
        raise BadVector(f"The vector has shape {values.shape}, not (dim,).", shape=values.shape)
    return pb.Vector(values=values.tobytes())

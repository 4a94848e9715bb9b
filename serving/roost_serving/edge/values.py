"""Payload values, vectors and point ids, between Qdrant's messages and Python."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import UUID

import numpy as np

from roost_serving.edge.protocol import qdrant

PointId = int | UUID | str


def to_value(value: Any) -> "qdrant.Value":
    """A JSON value as Qdrant's message, whole numbers apart from other numbers.

    Raises:
        ValueError: A whole number beyond 64 bits.
        TypeError: Something that JSON does not have.
    """
    match value:
        case None:
            message = qdrant.Value(null_value=qdrant.NULL_VALUE)
        case bool():
            message = qdrant.Value(bool_value=value)
        case int():
            message = qdrant.Value(integer_value=value)
        case float():
            message = qdrant.Value(double_value=value)
        case str():
            message = qdrant.Value(string_value=value)
        case dict():
            message = qdrant.Value(struct_value=qdrant.Struct(fields=to_payload(value)))
        case list() | tuple():
            message = qdrant.Value(list_value=qdrant.ListValue(values=[to_value(item) for item in value]))
        case _:
            raise TypeError(f"{type(value).__name__} is no JSON value")
    return message


def from_value(value: "qdrant.Value") -> Any:
    """Qdrant's message as a JSON value."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return from_payload(value.struct_value.fields)
    if kind == "list_value":
        return [from_value(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def to_payload(payload: Mapping[str, Any]) -> dict[str, "qdrant.Value"]:
    """A JSON object as the map that Qdrant's messages hold."""
    return {key: to_value(value) for key, value in payload.items()}


def from_payload(fields: Mapping[str, "qdrant.Value"]) -> dict[str, Any]:
    """The map that Qdrant's messages hold as a JSON object."""
    return {key: from_value(fields[key]) for key in fields}


def to_dense(vector: np.ndarray) -> "qdrant.DenseVector":
    """A vector as Qdrant's message.

    Read from the bytes that protobuf writes for a list of floats (its field 1, packed), which takes a twentieth of the
    time that it takes to fill the list with Python's floats.
    """
    values = np.asarray(vector, "<f4").tobytes()
    return qdrant.DenseVector.FromString(b"\x0a" + _varint(len(values)) + values)


def from_dense(message: "qdrant.DenseVector") -> np.ndarray:
    """Qdrant's message as a vector, in float32; the other way round."""
    count = len(message.data)
    if not count:
        return np.empty(0, "<f4")
    return np.frombuffer(message.SerializeToString(), "<f4", count, 1 + len(_varint(4 * count)))


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def known_ids(point_ids: Iterable["qdrant.PointId"]) -> Iterator[PointId]:
    """Ids as the engine spells them, without those under which it stores nothing."""
    for point_id in point_ids:
        try:
            found = from_id(point_id)
            yield found if isinstance(found, int) else str(UUID(str(found)))
        except ValueError:
            continue


def to_id(point_id: PointId) -> "qdrant.PointId":
    """A point's id as Qdrant's message."""
    return qdrant.PointId(num=point_id) if isinstance(point_id, int) else qdrant.PointId(uuid=str(point_id))


def from_id(point_id: "qdrant.PointId") -> PointId:
    """Qdrant's message as the id that the engine takes."""
    return point_id.num if point_id.WhichOneof("point_id_options") == "num" else point_id.uuid

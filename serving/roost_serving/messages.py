"""Protocol messages to the pipeline's values and back; every limit of `gateway.proto` is checked here."""

from collections.abc import Iterable

import numpy as np
from google.protobuf import json_format, struct_pb2

from roost import clusters, ids
from roost.clusters import Placement
from roost.errors import BadRequest, BadVector, TooLarge
from roost.v1 import gateway_pb2 as pb
from roost_serving.pipeline import Item
from roost_serving.repository import Model
from roost_serving.stores import Condition, Filter, Payload, Point, Range
from roost_serving.stores._points import check_payload

MOST_ITEMS = 256
MOST_VECTORS = 4096
MOST_CONDITIONS = 32
MOST_CLUSTERS = 1024
MOST_PAYLOAD_BYTES = 64 * 1024


def check_image(item: pb.Item, *, most_bytes: int) -> None:
    """Refuse an image that decoding would refuse, before it waits for anything.

    Raises:
        TooLarge: It has more than `most_bytes` bytes.
    """
    if len(item.image) > most_bytes:
        raise TooLarge(
            f"The image has {len(item.image)} bytes; the limit is {most_bytes}. Send a smaller file.",
            bytes=len(item.image),
            max_bytes=most_bytes,
        )


def read_items(items: Iterable[pb.Item], *, field: str = "items") -> list[Item]:
    """Items of a request, at most 256."""
    read = [read_item(item, field=f"{field}[{place}]") for place, item in enumerate(items)]
    _at_most(len(read), MOST_ITEMS, what="items")
    return read


def read_item(item: pb.Item, *, field: str = "item") -> Item:
    """One item."""
    if item.WhichOneof("content") != "image":
        raise BadRequest(f"{field} has no content. Set its image to a file's bytes.", field=field)
    return _read_item(item, field=field)


def read_ingested(request: pb.IngestItemsRequest) -> tuple[Item, np.ndarray | None]:
    """An item to store, and its embedding where the request brings it in place of an image."""
    if not request.HasField("vector"):
        return read_item(request.item), None
    if request.item.WhichOneof("content") is not None or not request.item.id:
        raise BadRequest("An item that comes with its vector needs an id, and no image.", field="item")
    return _read_item(request.item, field="item"), read_vector(request.vector)


def _read_item(item: pb.Item, *, field: str) -> Item:
    if len(item.id) > ids.MAX_LENGTH:
        raise BadRequest(f"{field} has an id of {len(item.id)} characters; {ids.MAX_LENGTH} is the most.", field=field)
    if not item.HasField("payload"):
        return Item(image=item.image, id=item.id, payload={})
    if item.payload.ByteSize() > MOST_PAYLOAD_BYTES:
        raise TooLarge(
            f"{field} has a payload of {item.payload.ByteSize()} bytes; {MOST_PAYLOAD_BYTES} is the most.",
            bytes=item.payload.ByteSize(),
            limit=MOST_PAYLOAD_BYTES,
        )
    payload = {key: _plain(value) for key, value in item.payload.fields.items()}
    check_payload(payload)
    return Item(image=item.image, id=item.id, payload=payload)


def read_vectors(vectors: Iterable[pb.Vector]) -> list[np.ndarray]:
    """Vectors of a request, at most 4,096."""
    read = [read_vector(vector) for vector in vectors]
    _at_most(len(read), MOST_VECTORS, what="vectors")
    return read


def read_vector(vector: pb.Vector) -> np.ndarray:
    """A vector's values, shape (dim,), float32."""
    if len(vector.values) % 4:
        raise BadVector(f"The vector has {len(vector.values)} bytes, which is no whole number of float32 values.")
    return np.frombuffer(vector.values, dtype="<f4")


def read_filter(message: pb.Filter) -> Filter:
    """Which stored items to consider."""
    _at_most(len(message.payload), MOST_CONDITIONS, what="payload conditions")
    _at_most(len(message.clusters), MOST_CLUSTERS, what="clusters")
    return Filter(
        payload=[_condition(condition) for condition in message.payload],
        clusters=list(message.clusters),
        anomaly=message.anomaly if message.HasField("anomaly") else None,
    )


def to_vector(vector: np.ndarray) -> pb.Vector:
    """A vector as little-endian float32."""
    return pb.Vector(values=vector.astype("<f4").tobytes())


def to_placement(placement: Placement) -> pb.Placement:
    """Where an embedding lies."""
    responsibilities = placement.responsibilities
    return pb.Placement(
        cluster=placement.cluster,
        distance=placement.distance,
        responsibilities=[] if responsibilities is None else responsibilities.tolist(),
        log_likelihood=placement.log_likelihood,
        anomaly_score=placement.anomaly_score,
        anomaly=placement.anomaly,
    )


def to_stored(point: Point) -> pb.StoredItem:
    """A stored item."""
    payload = struct_pb2.Struct()
    json_format.ParseDict(point.payload, payload)
    return pb.StoredItem(
        id=point.id,
        payload=payload,
        placement=None if point.placement is None else to_placement(point.placement),
        vector=None if point.vector is None else to_vector(point.vector),
    )


def to_version(model: Model) -> pb.ModelVersion:
    """A model version's name and number."""
    return pb.ModelVersion(name=model.manifest.name, version=model.manifest.version)


def to_model(model: Model, *, in_service: bool, items: int) -> pb.Model:
    """A served model version."""
    manifest = model.manifest
    return pb.Model(
        version=to_version(model),
        in_service=in_service,
        dim=manifest.dim,
        input_size=manifest.input.size,
        method=manifest.method,
        encoder=manifest.encoder,
        clusters=0 if model.clusters is None else len(model.clusters.centroids),
        items=items,
        quality=manifest.quality,
        fingerprint=manifest.fingerprint(without=clusters.FILE),
    )


def to_cluster(model: Model, number: int, *, items: int) -> pb.Cluster:
    """One of a model's clusters."""
    fitted = model.clusters
    if fitted is None:
        raise IndexError(f"{model.manifest.reference} has no clusters")
    return pb.Cluster(
        cluster=number,
        fitted_images=int(fitted.fitted_images[number]),
        items=items,
        median_distance=float(fitted.median_distances[number]),
        anomaly_distance=fitted.threshold,
        medoid_id=str(fitted.medoid_ids[number]),
        centroid=to_vector(fitted.centroids[number]),
    )


def _condition(condition: pb.PayloadCondition) -> Condition:
    kind = condition.WhichOneof("match")
    if not condition.key or kind is None:
        raise BadRequest("A payload condition needs a key and one match.", field="filter.payload")
    if kind != "range":
        return Condition(condition.key, getattr(condition, kind))
    bounds = condition.range
    least = bounds.min if bounds.HasField("min") else None
    most = bounds.max if bounds.HasField("max") else None
    if not all(bound is None or np.isfinite(bound) for bound in (least, most)):
        raise BadRequest(f"The range on {condition.key!r} has a bound that is not finite.", field="filter.payload")
    return Condition(condition.key, Range(least, most))


def _plain(value: struct_pb2.Value) -> Payload | list | str | float | bool | None:
    """A payload's value; whole numbers become integers, since a Struct has only doubles."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: _plain(inner) for key, inner in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(inner) for inner in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        if not np.isfinite(number):
            raise BadRequest("A payload holds a number that is not finite.", field="payload")
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return getattr(value, kind) if kind in ("string_value", "bool_value") else None


def _at_most(count: int, most: int, *, what: str) -> None:
    if count > most:
        raise TooLarge(f"The request has {count} {what}; {most} is the most. Split it.", count=count, limit=most)

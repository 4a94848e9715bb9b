"""Responses into plain values; shared by both clients."""

from typing import Literal

import numpy as np
from google.protobuf import json_format

from roost.client.answers import Cluster, Hit, Model, Neighbours, Outcome, Reloaded, StoredItem
from roost.client.status import from_item
from roost.clusters import Placement
from roost.errors import RoostError
from roost.v1 import gateway_pb2 as pb

KINDS: dict[int, Literal["stored", "existed", "failed"]] = {
    pb.INGEST_OUTCOME_STORED: "stored",
    pb.INGEST_OUTCOME_EXISTED: "existed",
    pb.INGEST_OUTCOME_FAILED: "failed",
}


def to_result(result: pb.EmbedResult) -> np.ndarray | RoostError:
    """One image's embedding, or its error."""
    return from_item(result.error) if result.WhichOneof("result") == "error" else to_vector(result.vector)


def to_outcome(response: pb.IngestItemsResponse) -> Outcome:
    """What became of one item of a stream."""
    kind = KINDS.get(response.outcome, "failed")
    return Outcome(
        kind,
        response.id,
        placement=to_placement(response.placement) if response.HasField("placement") else None,
        error=from_item(response.error) if kind == "failed" else None,
        model=to_reference(response.model),
    )


def to_neighbours(response: pb.SearchItemsResponse) -> Neighbours:
    """The neighbours, nearest first."""
    hits = [Hit(to_stored(hit.item), hit.score) for hit in response.hits]
    placement = to_placement(response.placement) if response.HasField("placement") else None
    return Neighbours(to_reference(response.model), hits, placement)


def to_stored(item: pb.StoredItem) -> StoredItem:
    """A stored item."""
    return StoredItem(
        item.id,
        json_format.MessageToDict(item.payload),
        placement=to_placement(item.placement) if item.HasField("placement") else None,
        vector=to_vector(item.vector) if item.HasField("vector") else None,
    )


def to_placement(placement: pb.Placement) -> Placement:
    """Where an embedding lies."""
    parts = np.array(placement.responsibilities, np.float32)
    return Placement(
        cluster=placement.cluster,
        distance=placement.distance,
        log_likelihood=placement.log_likelihood,
        anomaly_score=placement.anomaly_score,
        anomaly=placement.anomaly,
        responsibilities=parts if parts.size else None,
    )


def to_model(model: pb.Model) -> Model:
    """A served model version."""
    return Model(
        name=model.version.name,
        version=model.version.version,
        in_service=model.in_service,
        dim=model.dim,
        input_size=model.input_size,
        method=model.method,
        encoder=model.encoder,
        clusters=model.clusters,
        items=model.items,
        quality=dict(model.quality),
        fingerprint=model.fingerprint,
    )


def to_reloaded(answer: pb.ReloadModelsResponse) -> Reloaded:
    """What a look at the repository changed."""
    refused = {each.model: from_item(each.error) for each in answer.refused}
    return Reloaded(list(answer.added), list(answer.changed), list(answer.dropped), refused)


def to_cluster(cluster: pb.Cluster) -> Cluster:
    """One of a model's clusters."""
    return Cluster(
        cluster=cluster.cluster,
        fitted_images=cluster.fitted_images,
        items=cluster.items,
        median_distance=cluster.median_distance,
        anomaly_distance=cluster.anomaly_distance,
        medoid_id=cluster.medoid_id,
        centroid=to_vector(cluster.centroid),
    )


def to_reference(version: pb.ModelVersion | None) -> str:
    """`name@version`; empty where the answer names no model."""
    return f"{version.name}@{version.version}" if version is not None and version.name else ""


def to_vector(vector: pb.Vector) -> np.ndarray:
    """Little-endian float32 bytes as an array of this machine's own order."""
    return np.frombuffer(vector.values, "<f4").astype(np.float32)

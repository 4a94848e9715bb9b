"""Qdrant's calls for points, answered by one shard; the collection that a request names is the caller's business."""
# ruff: noqa: N802 - gRPC names its methods

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

import grpc.aio
import qdrant_edge

from roost_serving.edge.errors import Refused
from roost_serving.edge.filters import to_filter
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.shard import Shard
from roost_serving.edge.values import from_dense, from_id, from_payload, known_ids, to_dense, to_id, to_payload

Context = grpc.aio.ServicerContext[Any, Any] | None

STEP_POINTS = 64
"""Points written at once: each step holds up all searches, and those that wait are answered behind it."""
TURNS = 3
"""Of the event loop between two steps: as many as it takes from a search's arrival to its begin."""

_FIELD_TYPES = {
    qdrant.FieldTypeKeyword: qdrant_edge.PayloadSchemaType.Keyword,
    qdrant.FieldTypeInteger: qdrant_edge.PayloadSchemaType.Integer,
    qdrant.FieldTypeFloat: qdrant_edge.PayloadSchemaType.Float,
    qdrant.FieldTypeBool: qdrant_edge.PayloadSchemaType.Bool,
}


class ShardPoints(qdrant.PointsServicer):
    """Writes, finds and counts points.

    Args:
        shard: Open.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._turn = asyncio.Lock()

    async def Upsert(self, request: "qdrant.UpsertPoints", context: Context = None) -> "qdrant.PointsOperationResponse":
        """Write points; COMPLETED once the engine has logged and applied them all."""
        size = request.ByteSize()
        async with self._turn:  # one request after another, so that whoever sent the first makes the next meanwhile
            self.shard.check_space(size)
            _check(request.points)
            for first in range(0, len(request.points), STEP_POINTS):
                step = request.points[first : first + STEP_POINTS]
                points = [
                    qdrant_edge.Point(
                        from_id(point.id), from_dense(point.vectors.vector.dense).tolist(), from_payload(point.payload)
                    )
                    for point in step
                ]
                self.shard.upsert(points, size=size * len(step) // len(request.points))
                for _ in range(TURNS):
                    await asyncio.sleep(0)
        return _completed()

    async def Delete(self, request: "qdrant.DeletePoints", context: Context = None) -> "qdrant.PointsOperationResponse":
        """Delete points by id."""
        if request.points.WhichOneof("points_selector_one_of") != "points":
            raise Refused.invalid("The embedded store deletes points by id, and not by filter")
        async with self._turn:
            self.shard.delete([from_id(point_id) for point_id in request.points.points.ids])
        return _completed()

    async def CreateFieldIndex(
        self, request: "qdrant.CreateFieldIndexCollection", context: Context = None
    ) -> "qdrant.PointsOperationResponse":
        """Index a field of the payload."""
        kind = _FIELD_TYPES.get(request.field_type)
        if kind is None:
            raise Refused.invalid(f"The embedded store has no payload index of type {request.field_type}")
        async with self._turn:
            self.shard.index(request.field_name, kind)
        return _completed()

    async def Get(self, request: "qdrant.GetPoints", context: Context = None) -> "qdrant.GetResponse":
        """The points of these ids that exist."""
        started = time.perf_counter()
        ids = [from_id(id_) for id_ in request.ids]
        records = self.shard.engine.retrieve(ids, request.with_payload.enable, request.with_vectors.enable)
        return qdrant.GetResponse(result=_retrieved(records), time=time.perf_counter() - started)

    async def Query(self, request: "qdrant.QueryPoints", context: Context = None) -> "qdrant.QueryResponse":
        """The nearest points to a vector."""
        started = time.perf_counter()
        if request.query.WhichOneof("variant") != "nearest" or request.query.nearest.WhichOneof("variant") != "dense":
            raise Refused.invalid("The embedded store serves queries for the nearest points to a dense vector")
        query = qdrant_edge.QueryRequest(
            request.limit,
            offset=request.offset,
            query=qdrant_edge.Query.Nearest(from_dense(request.query.nearest.dense).tolist()),
            filter=_filter(request),
            params=qdrant_edge.SearchParams(exact=request.params.exact) if request.HasField("params") else None,
            with_payload=request.with_payload.enable,
            with_vector=request.with_vectors.enable,
        )
        points = [
            qdrant.ScoredPoint(
                id=to_id(hit.id),
                score=hit.score,
                version=hit.version,
                payload=to_payload(hit.payload or {}),
                vectors=_vectors(hit.vector),
            )
            for hit in self.shard.engine.query(query)
        ]
        return qdrant.QueryResponse(result=points, time=time.perf_counter() - started)

    async def Scroll(self, request: "qdrant.ScrollPoints", context: Context = None) -> "qdrant.ScrollResponse":
        """A page of points in the order of their ids."""
        started = time.perf_counter()
        records, following = self.shard.engine.scroll(
            qdrant_edge.ScrollRequest(
                offset=from_id(request.offset) if request.HasField("offset") else None,
                limit=request.limit if request.HasField("limit") else None,
                filter=_filter(request),
                with_payload=request.with_payload.enable,
                with_vector=request.with_vectors.enable,
            )
        )
        return qdrant.ScrollResponse(
            next_page_offset=None if following is None else to_id(following),
            result=_retrieved(records),
            time=time.perf_counter() - started,
        )

    async def Count(self, request: "qdrant.CountPoints", context: Context = None) -> "qdrant.CountResponse":
        """How many points match."""
        count = self.shard.engine.count(qdrant_edge.CountRequest(exact=True, filter=_filter(request)))
        return qdrant.CountResponse(result=qdrant.CountResult(count=count))

    async def Facet(self, request: "qdrant.FacetCounts", context: Context = None) -> "qdrant.FacetResponse":
        """How many points have each value of an indexed field."""
        facets = self.shard.engine.facet(
            qdrant_edge.FacetRequest(request.key, limit=request.limit, exact=request.exact, filter=_filter(request))
        )
        hits = [qdrant.FacetHit(value=_facet_value(hit.value), count=hit.count) for hit in facets.hits]
        return qdrant.FacetResponse(hits=hits)


def describe(shard: Shard) -> "qdrant.CollectionInfo":
    """A shard's size and payload indexes, in Qdrant's words for a collection."""
    info = shard.engine.info()
    return qdrant.CollectionInfo(
        status=qdrant.Green,
        optimizer_status=qdrant.OptimizerStatus(ok=True),
        segments_count=info.segments_count,
        points_count=info.points_count,
        indexed_vectors_count=info.indexed_vectors_count,
        payload_schema={
            field: qdrant.PayloadSchemaInfo(
                data_type=qdrant.PayloadSchemaType.Value(str(index.data_type).rpartition(".")[2]), points=index.points
            )
            for field, index in info.payload_schema.items()
        },
    )


def _check(points: Sequence["qdrant.PointStruct"]) -> None:
    """Refuse points before any is written; of one length, they fit the shard or the first step is refused whole."""
    if any(point.vectors.vector.WhichOneof("vector") != "dense" for point in points):
        raise Refused.invalid("The embedded store holds one unnamed dense vector a point")
    if len({len(point.vectors.vector.dense.data) for point in points}) > 1:
        raise Refused.invalid("Vector dimension error")
    if sum(1 for _ in known_ids(point.id for point in points)) < len(points):
        raise Refused.invalid("Wrong input: a point's id is neither a number nor a UUID")


def _filter(request: "qdrant.QueryPoints | qdrant.ScrollPoints | qdrant.CountPoints | qdrant.FacetCounts") -> Any:
    return to_filter(request.filter) if request.HasField("filter") else None


def _vectors(vector: Any) -> "qdrant.VectorsOutput | None":
    if vector is None:
        return None
    return qdrant.VectorsOutput(vector=qdrant.VectorOutput(dense=to_dense(vector)))


def _retrieved(records: Iterable[qdrant_edge.Record]) -> list["qdrant.RetrievedPoint"]:
    return [
        qdrant.RetrievedPoint(
            id=to_id(record.id), payload=to_payload(record.payload or {}), vectors=_vectors(record.vector)
        )
        for record in records
    ]


def _facet_value(value: str | int | bool) -> "qdrant.FacetValue":
    if isinstance(value, bool):
        return qdrant.FacetValue(bool_value=value)
    return qdrant.FacetValue(integer_value=value) if isinstance(value, int) else qdrant.FacetValue(string_value=value)


def _completed() -> "qdrant.PointsOperationResponse":
    return qdrant.PointsOperationResponse(result=qdrant.UpdateResult(status=qdrant.Completed))

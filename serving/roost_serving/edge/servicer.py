"""Qdrant's gRPC services over a catalogue: the calls that `roost_serving.stores.qdrant` makes."""
# ruff: noqa: N802 - gRPC names its methods

import time
from collections.abc import Iterable
from typing import Any

import grpc.aio
import qdrant_edge

from roost_serving.edge.catalogue import Catalogue
from roost_serving.edge.collection import Collection
from roost_serving.edge.errors import Refused
from roost_serving.edge.filters import to_filter
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.values import from_id, from_payload, to_id, to_payload

Context = grpc.aio.ServicerContext[Any, Any]

_FIELD_TYPES = {
    qdrant.FieldTypeKeyword: qdrant_edge.PayloadSchemaType.Keyword,
    qdrant.FieldTypeInteger: qdrant_edge.PayloadSchemaType.Integer,
    qdrant.FieldTypeFloat: qdrant_edge.PayloadSchemaType.Float,
    qdrant.FieldTypeBool: qdrant_edge.PayloadSchemaType.Bool,
}


class Health(qdrant.QdrantServicer):
    """Answers that the process lives."""

    async def HealthCheck(self, request: "qdrant.HealthCheckRequest", context: Context) -> "qdrant.HealthCheckReply":
        """The engine's name; it answers, so it is well."""
        return qdrant.HealthCheckReply(title="qdrant-edge behind Roost")


class Collections(qdrant.CollectionsServicer):
    """Makes, describes and names collections."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    async def Create(
        self, request: "qdrant.CreateCollection", context: Context
    ) -> "qdrant.CollectionOperationResponse":
        """Make a collection of unnamed cosine vectors; other kinds are refused."""
        params = request.vectors_config.params
        if not params.size or params.distance != qdrant.Cosine:
            raise Refused.invalid("The embedded store holds one unnamed cosine vector a point, of 1 value or more")
        self.catalogue.create(request.collection_name, dim=params.size)
        return qdrant.CollectionOperationResponse(result=True)

    async def Get(
        self, request: "qdrant.GetCollectionInfoRequest", context: Context
    ) -> "qdrant.GetCollectionInfoResponse":
        """A collection's size, vector length and payload indexes."""
        collection = self.catalogue.find(request.collection_name)
        info = collection.shard.info()
        vector = qdrant.VectorParams(size=collection.description.dim, distance=qdrant.Cosine)
        config = qdrant.CollectionConfig(
            params=qdrant.CollectionParams(shard_number=1, vectors_config=qdrant.VectorsConfig(params=vector))
        )
        return qdrant.GetCollectionInfoResponse(
            result=qdrant.CollectionInfo(
                status=qdrant.Green,
                optimizer_status=qdrant.OptimizerStatus(ok=True),
                config=config,
                segments_count=info.segments_count,
                points_count=info.points_count,
                indexed_vectors_count=info.indexed_vectors_count,
                payload_schema={
                    field: qdrant.PayloadSchemaInfo(points=index.points) for field, index in info.payload_schema.items()
                },
            )
        )

    async def List(
        self, request: "qdrant.ListCollectionsRequest", context: Context
    ) -> "qdrant.ListCollectionsResponse":
        """The names of all collections."""
        names = sorted(self.catalogue.collections)
        return qdrant.ListCollectionsResponse(collections=[qdrant.CollectionDescription(name=name) for name in names])

    async def ListAliases(self, request: "qdrant.ListAliasesRequest", context: Context) -> "qdrant.ListAliasesResponse":
        """All aliases and the collections that they lead to."""
        pairs = sorted(self.catalogue.aliases.items())
        descriptions = [qdrant.AliasDescription(alias_name=alias, collection_name=target) for alias, target in pairs]
        return qdrant.ListAliasesResponse(aliases=descriptions)

    async def UpdateAliases(
        self, request: "qdrant.ChangeAliases", context: Context
    ) -> "qdrant.CollectionOperationResponse":
        """Create and delete aliases, all of the request or none."""
        aliases = dict(self.catalogue.aliases)
        for action in request.actions:
            kind = action.WhichOneof("action")
            if kind == "create_alias":
                aliases[action.create_alias.alias_name] = action.create_alias.collection_name
            elif kind == "delete_alias":
                aliases.pop(action.delete_alias.alias_name, None)
            else:
                raise Refused.invalid(f"The embedded store does not serve the alias action {kind!r}")
        self.catalogue.point(aliases)
        return qdrant.CollectionOperationResponse(result=True)


class Points(qdrant.PointsServicer):
    """Writes, finds and counts points."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    async def Upsert(self, request: "qdrant.UpsertPoints", context: Context) -> "qdrant.PointsOperationResponse":
        """Write points; COMPLETED once the engine has logged and applied them."""
        collection = await self._writable(request.collection_name)
        points = [
            qdrant_edge.Point(from_id(point.id), _vector(point.vectors.vector), from_payload(point.payload))
            for point in request.points
        ]
        collection.upsert(points, size=request.ByteSize())
        return _completed()

    async def Delete(self, request: "qdrant.DeletePoints", context: Context) -> "qdrant.PointsOperationResponse":
        """Delete points by id."""
        if request.points.WhichOneof("points_selector_one_of") != "points":
            raise Refused.invalid("The embedded store deletes points by id, and not by filter")
        collection = await self._writable(request.collection_name)
        collection.delete([from_id(point_id) for point_id in request.points.points.ids])
        return _completed()

    async def CreateFieldIndex(
        self, request: "qdrant.CreateFieldIndexCollection", context: Context
    ) -> "qdrant.PointsOperationResponse":
        """Index a field of the payload."""
        kind = _FIELD_TYPES.get(request.field_type)
        if kind is None:
            raise Refused.invalid(f"The embedded store has no payload index of type {request.field_type}")
        (await self._writable(request.collection_name)).index(request.field_name, kind)
        return _completed()

    async def _writable(self, name: str) -> Collection:
        collection = self.catalogue.find(name)
        await collection.writable.wait()
        return collection

    async def Get(self, request: "qdrant.GetPoints", context: Context) -> "qdrant.GetResponse":
        """The points of these ids that exist."""
        started = time.perf_counter()
        shard = self.catalogue.find(request.collection_name).shard
        ids = [from_id(id_) for id_ in request.ids]
        records = shard.retrieve(ids, request.with_payload.enable, request.with_vectors.enable)
        return qdrant.GetResponse(result=_retrieved(records), time=time.perf_counter() - started)

    async def Query(self, request: "qdrant.QueryPoints", context: Context) -> "qdrant.QueryResponse":
        """The nearest points to a vector."""
        started = time.perf_counter()
        if request.query.WhichOneof("variant") != "nearest" or request.query.nearest.WhichOneof("variant") != "dense":
            raise Refused.invalid("The embedded store serves queries for the nearest points to a dense vector")
        query = qdrant_edge.QueryRequest(
            request.limit,
            offset=request.offset,
            query=qdrant_edge.Query.Nearest(list(request.query.nearest.dense.data)),
            filter=_filter(request),
            params=qdrant_edge.SearchParams(exact=request.params.exact) if request.HasField("params") else None,
            with_payload=request.with_payload.enable,
            with_vector=request.with_vectors.enable,
        )
        hits = self.catalogue.find(request.collection_name).shard.query(query)
        points = [
            qdrant.ScoredPoint(
                id=to_id(hit.id),
                score=hit.score,
                version=hit.version,
                payload=to_payload(hit.payload or {}),
                vectors=_vectors(hit.vector),
            )
            for hit in hits
        ]
        return qdrant.QueryResponse(result=points, time=time.perf_counter() - started)

    async def Scroll(self, request: "qdrant.ScrollPoints", context: Context) -> "qdrant.ScrollResponse":
        """A page of points in the order of their ids."""
        started = time.perf_counter()
        shard = self.catalogue.find(request.collection_name).shard
        records, following = shard.scroll(
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

    async def Count(self, request: "qdrant.CountPoints", context: Context) -> "qdrant.CountResponse":
        """How many points match."""
        shard = self.catalogue.find(request.collection_name).shard
        count = shard.count(qdrant_edge.CountRequest(exact=True, filter=_filter(request)))
        return qdrant.CountResponse(result=qdrant.CountResult(count=count))

    async def Facet(self, request: "qdrant.FacetCounts", context: Context) -> "qdrant.FacetResponse":
        """How many points have each value of an indexed field."""
        shard = self.catalogue.find(request.collection_name).shard
        facets = shard.facet(
            qdrant_edge.FacetRequest(request.key, limit=request.limit, exact=request.exact, filter=_filter(request))
        )
        hits = [qdrant.FacetHit(value=_facet_value(hit.value), count=hit.count) for hit in facets.hits]
        return qdrant.FacetResponse(hits=hits)


def _filter(request: "qdrant.QueryPoints | qdrant.ScrollPoints | qdrant.CountPoints | qdrant.FacetCounts") -> Any:
    return to_filter(request.filter) if request.HasField("filter") else None


def _vector(vector: "qdrant.Vector") -> list[float]:
    if vector.WhichOneof("vector") != "dense":
        raise Refused.invalid("The embedded store holds one unnamed dense vector a point")
    return list(vector.dense.data)


def _vectors(vector: Any) -> "qdrant.VectorsOutput | None":
    if vector is None:
        return None
    return qdrant.VectorsOutput(vector=qdrant.VectorOutput(dense=qdrant.DenseVector(data=vector)))


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

"""Qdrant's gRPC services over a catalogue: the calls that `roost_serving.stores.qdrant` makes."""
# ruff: noqa: N802 - gRPC names its methods

from typing import Any

import grpc.aio

from roost_serving.edge.catalogue import Catalogue
from roost_serving.edge.errors import Refused
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.values import known_ids

Context = grpc.aio.ServicerContext[Any, Any]


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
        vector = qdrant.VectorParams(size=collection.description.dim, distance=qdrant.Cosine)
        config = qdrant.CollectionConfig(
            params=qdrant.CollectionParams(shard_number=1, vectors_config=qdrant.VectorsConfig(params=vector))
        )
        info = await collection.describe()
        info.config.CopyFrom(config)
        return qdrant.GetCollectionInfoResponse(result=info)

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
    """Passes each call to the shard of the collection that it names; see `roost_serving.edge.points` for the calls."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    async def Upsert(self, request: "qdrant.UpsertPoints", context: Context) -> "qdrant.PointsOperationResponse":
        """Write points."""
        collection = self.catalogue.find(request.collection_name)
        return await collection.write("Upsert", request, lambda: known_ids(point.id for point in request.points))

    async def Delete(self, request: "qdrant.DeletePoints", context: Context) -> "qdrant.PointsOperationResponse":
        """Delete points by id."""
        collection = self.catalogue.find(request.collection_name)
        return await collection.write("Delete", request, lambda: known_ids(request.points.points.ids))

    async def CreateFieldIndex(
        self, request: "qdrant.CreateFieldIndexCollection", context: Context
    ) -> "qdrant.PointsOperationResponse":
        """Index a field of the payload."""
        return await self.catalogue.find(request.collection_name).write("CreateFieldIndex", request)

    async def Get(self, request: "qdrant.GetPoints", context: Context) -> "qdrant.GetResponse":
        """The points of these ids that exist."""
        return await self._read("Get", request, context)

    async def Query(self, request: "qdrant.QueryPoints", context: Context) -> "qdrant.QueryResponse":
        """The nearest points to a vector."""
        return await self._read("Query", request, context)

    async def Scroll(self, request: "qdrant.ScrollPoints", context: Context) -> "qdrant.ScrollResponse":
        """A page of points in the order of their ids."""
        return await self._read("Scroll", request, context)

    async def Count(self, request: "qdrant.CountPoints", context: Context) -> "qdrant.CountResponse":
        """How many points match."""
        return await self._read("Count", request, context)

    async def Facet(self, request: "qdrant.FacetCounts", context: Context) -> "qdrant.FacetResponse":
        """How many points have each value of an indexed field."""
        return await self._read("Facet", request, context)

    async def _read(self, method: str, request: Any, context: Context) -> Any:
        collection = self.catalogue.find(request.collection_name)
        return await collection.read(method, request, timeout=context.time_remaining())

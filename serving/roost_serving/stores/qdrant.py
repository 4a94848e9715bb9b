"""`qdrant://host:6334`: vectors in a Qdrant server or cluster; `?tls=1` encrypts the connection.

Written on the messages and stubs of qdrant-client rather than on its `AsyncQdrantClient`, whose `upsert`, `delete` and
others take no deadline of their own: theirs is one for the whole client, in whole seconds.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np

from roost import urls
from roost.errors import BadArtifact, BadSettings, StoreUnavailable, UnknownModel
from roost.ids import point_id
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.values import to_dense
from roost_serving.stores import Filter, Hit, Page, Point
from roost_serving.stores._messages import to_error, to_filter, to_point, to_struct
from roost_serving.stores._points import check_key, check_limit, check_points, check_time, check_vector

UPSERT_POINTS = 256
"""Points a request; a longer list goes in several, so that a search need not wait for all of it."""
PORT = 6334
MAX_CLUSTERS = 65_536
ENSURE_SECONDS = 60.0
INDEXES = {"cluster": qdrant.FieldTypeInteger, "anomaly": qdrant.FieldTypeBool}
"""Fields of the payload that searches filter by, and their types."""

Call = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Connection:
    """A channel and Qdrant's services on it."""

    channel: grpc.aio.Channel
    root: "qdrant.QdrantStub"
    collections: "qdrant.CollectionsStub"
    points: "qdrant.PointsStub"

    @classmethod
    def to(cls, target: str, *, tls: bool) -> "Connection":
        """A connection to an address as gRPC writes them; made by the first call, and again whenever it breaks."""
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        credentials = grpc.ssl_channel_credentials() if tls else None
        channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        return cls(channel, qdrant.QdrantStub(channel), qdrant.CollectionsStub(channel), qdrant.PointsStub(channel))


class Store:
    """Keeps vectors in Qdrant; see `roost_serving.stores.Store` for what its methods do.

    Args:
        url: `qdrant://host:port`, with `?tls=1` for an encrypted connection.
        api_key: Sent with every call, where the server wants one.

    Raises:
        BadSettings: The URL has no host, or says more than these.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        target = urls.target(url, port=PORT)
        mark, options = url.partition("?")[1:]
        if target is None or mark + options not in urls.OPTIONS:
            shown = urls.redacted(url)
            raise BadSettings(
                f"{shown!r} is no address of a Qdrant server. Write qdrant://host:6334 or …?tls=1; a key goes into the "
                "file that --store-api-key-file names.",
                url=shown,
            )
        self._setup(place=f"Qdrant at {target}", target=target, tls=options == "tls=1", api_key=api_key)

    def _setup(self, *, place: str, target: str, tls: bool, api_key: str | None) -> None:
        self.place = place
        self.target = target
        self._tls = tls
        self._metadata = (("api-key", api_key),) if api_key else ()
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Prepare the connection; the first call makes it."""
        self._connection = Connection.to(self.target, tls=self._tls)

    async def close(self) -> None:
        """Close the connection; what was acknowledged is with the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.channel.close()

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise StoreUnavailable(f"{self.place} is not connected. Open the store first.")
        return self._connection

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return if the server answers."""
        await self._call(self._connected.root.HealthCheck, qdrant.HealthCheckRequest(), timeout=timeout)

    async def ensure(self, collection: str, *, dim: int, alias: str | None = None) -> None:
        """Create a collection with its payload indexes unless it exists, and point `alias` at it."""
        try:
            schema = await self._check_dim(collection, dim)
        except UnknownModel:
            await self._create(collection, dim)
            schema = await self._check_dim(collection, dim)
        for field in INDEXES.keys() - schema.keys():
            request = qdrant.CreateFieldIndexCollection(
                collection_name=collection, wait=True, field_name=field, field_type=INDEXES[field]
            )
            await self._call(self._connected.points.CreateFieldIndex, request, timeout=ENSURE_SECONDS)
        if alias is not None:
            await self._point_alias(alias, collection)

    async def _check_dim(self, collection: str, dim: int) -> Mapping[str, Any]:
        request = qdrant.GetCollectionInfoRequest(collection_name=collection)
        info = (await self._call(self._connected.collections.Get, request, timeout=ENSURE_SECONDS)).result
        vector = info.config.params.vectors_config.params
        if vector.size != dim or vector.distance != qdrant.Cosine:
            raise BadArtifact(
                f"Collection {collection} holds vectors of {vector.size} values compared by "
                f"{qdrant.Distance.Name(vector.distance)}, not of {dim} by Cosine. Export under a new version.",
                collection=collection,
                dim=dim,
                found=vector.size,
            )
        return info.payload_schema

    async def _create(self, collection: str, dim: int) -> None:
        params = qdrant.VectorParams(size=dim, distance=qdrant.Cosine)
        request = qdrant.CreateCollection(
            collection_name=collection, vectors_config=qdrant.VectorsConfig(params=params)
        )
        try:
            await self._connected.collections.Create(request, timeout=ENSURE_SECONDS, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            # Another gateway may have created it since we looked; then the caller checks what it made.
            if "already exists" not in (error.details() or ""):
                raise to_error(error, place=self.place) from error

    async def _point_alias(self, alias: str, collection: str) -> None:
        collections = self._connected.collections
        listed = await self._call(collections.ListAliases, qdrant.ListAliasesRequest(), timeout=ENSURE_SECONDS)
        current = {item.alias_name: item.collection_name for item in listed.aliases}
        if current.get(alias) == collection:
            return
        names = await self._call(collections.List, qdrant.ListCollectionsRequest(), timeout=ENSURE_SECONDS)
        if alias in {item.name for item in names.collections}:
            raise BadSettings(f"The alias {alias!r} is the name of a collection. Take another.", alias=alias)
        create = qdrant.CreateAlias(alias_name=alias, collection_name=collection)
        actions = [qdrant.AliasOperations(create_alias=create)]
        if alias in current:
            actions.insert(0, qdrant.AliasOperations(delete_alias=qdrant.DeleteAlias(alias_name=alias)))
        await self._call(collections.UpdateAliases, qdrant.ChangeAliases(actions=actions), timeout=ENSURE_SECONDS)

    async def upsert(self, collection: str, points: Sequence[Point], *, timeout: float | None = None) -> None:
        """Write points; logged and applied by the server when this returns."""
        deadline = None if timeout is None else time.monotonic() + timeout
        vectors = check_points(points)
        structs = [to_struct(point, vector) for point, vector in zip(points, vectors, strict=True)]
        for first in range(0, len(structs), UPSERT_POINTS):
            chunk = structs[first : first + UPSERT_POINTS]
            request = qdrant.UpsertPoints(collection_name=collection, wait=True, points=chunk)
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            await self._write(self._connected.points.Upsert, request, timeout=left)

    async def delete(self, collection: str, item_id: str, *, timeout: float | None = None) -> bool:
        """Delete a point; False if there was none."""
        if not await self.get(collection, [item_id], with_vectors=False, timeout=timeout):
            return False
        ids = qdrant.PointsIdsList(ids=[qdrant.PointId(uuid=point_id(item_id))])
        selector = qdrant.PointsSelector(points=ids)
        request = qdrant.DeletePoints(collection_name=collection, wait=True, points=selector)
        await self._write(self._connected.points.Delete, request, timeout=timeout)
        return True

    async def get(
        self, collection: str, item_ids: Sequence[str], *, with_vectors: bool, timeout: float | None = None
    ) -> list[Point]:
        """The points of these ids that exist."""
        request = qdrant.GetPoints(
            collection_name=collection,
            ids=[qdrant.PointId(uuid=key) for key in dict.fromkeys(map(point_id, item_ids))],
            with_payload=qdrant.WithPayloadSelector(enable=True),
            with_vectors=qdrant.WithVectorsSelector(enable=with_vectors),
        )
        response = await self._read(self._connected.points.Get, request, timeout=timeout)
        return [to_point(record) for record in response.result] if response else []

    async def search(
        self,
        collection: str,
        vector: np.ndarray,
        *,
        limit: int,
        filter: Filter = Filter(),
        exclude: str | None = None,
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> list[Hit]:
        """The nearest points, nearest first."""
        check_limit(limit)
        nearest = qdrant.VectorInput(dense=to_dense(check_vector(vector)))
        request = qdrant.QueryPoints(
            collection_name=collection,
            query=qdrant.Query(nearest=nearest),
            filter=to_filter(filter, exclude=exclude),
            limit=limit,
            with_payload=qdrant.WithPayloadSelector(enable=True),
            with_vectors=qdrant.WithVectorsSelector(enable=with_vectors),
        )
        response = await self._read(self._connected.points.Query, request, timeout=timeout)
        return [Hit(to_point(hit), hit.score) for hit in response.result] if response else []

    async def scroll(
        self,
        collection: str,
        *,
        limit: int,
        start: str | None = None,
        filter: Filter = Filter(),
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> Page:
        """A page of points in the order of their keys."""
        check_limit(limit)
        check_key(start)
        request = qdrant.ScrollPoints(
            collection_name=collection,
            filter=to_filter(filter),
            offset=qdrant.PointId(uuid=start) if start else None,
            limit=limit,
            with_payload=qdrant.WithPayloadSelector(enable=True),
            with_vectors=qdrant.WithVectorsSelector(enable=with_vectors),
        )
        response = await self._read(self._connected.points.Scroll, request, timeout=timeout)
        if response is None:
            return Page()
        points = [to_point(record) for record in response.result]
        return Page(points, next_key=response.next_page_offset.uuid or None)

    async def count(self, collection: str, *, filter: Filter = Filter(), timeout: float | None = None) -> int:
        """How many points match."""
        request = qdrant.CountPoints(collection_name=collection, filter=to_filter(filter), exact=True)
        response = await self._read(self._connected.points.Count, request, timeout=timeout)
        return response.result.count if response else 0

    async def count_clusters(self, collection: str, *, timeout: float | None = None) -> dict[int, int]:
        """How many points lie in each cluster."""
        request = qdrant.FacetCounts(collection_name=collection, key="cluster", limit=MAX_CLUSTERS, exact=True)
        response = await self._read(self._connected.points.Facet, request, timeout=timeout)
        # The values of deleted points stay in the engine's list for a while, with a count of zero.
        return {hit.value.integer_value: hit.count for hit in response.hits if hit.count} if response else {}

    async def _read(self, call: Call, request: Any, *, timeout: float | None) -> Any:
        """Ask; None where the collection does not exist."""
        try:
            return await self._call(call, request, timeout=timeout)
        except UnknownModel:
            return None

    async def _write(self, call: Call, request: Any, *, timeout: float | None) -> None:
        """Change points, and take no other answer for done than that the change was applied."""
        status = (await self._call(call, request, timeout=timeout)).result.status
        if status != qdrant.Completed:
            name = qdrant.UpdateStatus.Name(status)
            raise StoreUnavailable(
                f"{self.place} answered {name} to a write: not applied yet. Send it again.", status=name
            )

    async def _call(self, call: Call, request: Any, *, timeout: float | None) -> Any:
        # gRPC gives a deadline that has passed a moment's chance, so that a write might be made all the same.
        check_time(timeout)
        try:
            return await call(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise to_error(error, place=self.place) from error

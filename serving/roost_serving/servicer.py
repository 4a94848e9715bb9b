"""`roost.v1.GatewayService`: a message in, the pipeline, a message out."""

from collections.abc import AsyncIterator, Callable

import grpc

from roost import ids
from roost.clusters import Placement
from roost.errors import BadRequest, RoostError, TooLarge
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import callers, messages, pages, status
from roost_serving.admission import Load
from roost_serving.pipeline import Ingested, Pipeline
from roost_serving.reload import Reloader
from roost_serving.repository import Model
from roost_serving.streams import in_order

Context = grpc.aio.ServicerContext
SERVICE = pb.DESCRIPTOR.services_by_name["GatewayService"].full_name
WINDOW = 64
"""Requests of one stream that are worked on at the same time."""


class GatewayServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """Unpacks, calls the pipeline, packs. Errors, times and counts are the interceptor's.

    Args:
        pipeline: An open pipeline.
        reloader: Changes which models it serves.
        most_image_bytes: Refuse a larger image of a stream as soon as it is read.
        most_answer_bytes: Make no larger answer of stored items.
    """

    def __init__(
        self, pipeline: Pipeline, reloader: Reloader, *, most_image_bytes: int, most_answer_bytes: int
    ) -> None:
        self.pipeline = pipeline
        self._reloader = reloader
        self._most_image_bytes = most_image_bytes
        self._most_answer_bytes = most_answer_bytes

    async def EmbedItems(self, request: pb.EmbedItemsRequest, context: Context) -> pb.EmbedItemsResponse:
        """Embed a list of items."""
        model = self._model(request.model)
        if not request.items:
            raise BadRequest("The request has no items. Send 1 to 256.", field="items")
        self.pipeline.admission.check(Load(len(request.items), 0))
        items = messages.read_items(request.items)
        embedded = await self.pipeline.embed(model, items, timeout=_left(context))
        failed = [result for result in embedded if isinstance(result, RoostError)]
        if failed and not request.allow_partial:
            raise failed[0]
        results = [
            pb.EmbedResult(error=status.of(result))
            if isinstance(result, RoostError)
            else pb.EmbedResult(vector=messages.to_vector(result))
            for result in embedded
        ]
        return pb.EmbedItemsResponse(model=messages.to_version(model), results=results)

    async def AssignClusters(self, request: pb.AssignClustersRequest, context: Context) -> pb.AssignClustersResponse:
        """Place a list of items or of vectors."""
        model = self._model(request.model)
        if bool(request.items) == bool(request.vectors):
            raise BadRequest("Give either items or vectors.", field="items")
        placements = await self.pipeline.place(
            model,
            messages.read_items(request.items),
            messages.read_vectors(request.vectors),
            timeout=_left(context),
        )
        return pb.AssignClustersResponse(
            model=messages.to_version(model),
            placements=[messages.to_placement(placement) for placement in placements],
        )

    async def IngestItems(
        self, request_iterator: AsyncIterator[pb.IngestItemsRequest], context: Context
    ) -> AsyncIterator[pb.IngestItemsResponse]:
        """Store a stream of items, one answer per request, in order."""
        meant: dict[str, pb.ModelVersion] = {}
        """What each name that the stream used means to its end."""

        async def ingest(request: pb.IngestItemsRequest) -> pb.IngestItemsResponse:
            try:
                return await self._ingest(request, meant, timeout=_left(context))
            except RoostError as error:  # one bad item must not end the stream
                self.pipeline.observer.failed(error, rpc="IngestItems")
                return pb.IngestItemsResponse(
                    id=request.item.id,
                    outcome=pb.INGEST_OUTCOME_FAILED,
                    error=status.of(error),
                    model=meant.get(request.model),
                )

        async def admit(request: pb.IngestItemsRequest) -> Callable[[], None]:
            size = len(request.item.image)
            if size > self._most_image_bytes:
                return lambda: None  # it will be refused, and need not wait for that
            images = 0 if request.HasField("vector") else 1
            return await self.pipeline.admission.enter(Load(images, request.ByteSize()))

        async for response in in_order(request_iterator, ingest, window=WINDOW, admit=admit):
            yield response

    async def SearchItems(self, request: pb.SearchItemsRequest, context: Context) -> pb.SearchItemsResponse:
        """Find the neighbours of an item, a stored item or a vector."""
        model = self._model(request.model)
        kind = request.WhichOneof("query")
        if kind == "item":
            query = messages.read_item(request.item)
        elif kind == "vector":
            query = messages.read_vector(request.vector)
        elif kind == "id":
            query = request.id
        else:
            raise BadRequest("The request has no query. Set item, id or vector.", field="query")
        found = await self.pipeline.search(
            model,
            query,
            limit=pages.size(request.limit, default=10),
            filter=messages.read_filter(request.filter),
            with_vectors=request.with_vectors,
            timeout=_left(context),
        )
        hits = [pb.Hit(item=messages.to_stored(hit.point), score=hit.score) for hit in found.hits]
        fitting = pages.fitting(hits, self._most_answer_bytes)
        if fitting < len(hits):
            raise TooLarge(
                f"Of the {len(hits)} neighbours {fitting} fit into an answer of {self._most_answer_bytes} bytes. "
                "Ask for fewer, or without vectors.",
                fitting=fitting,
                limit=self._most_answer_bytes,
            )
        return pb.SearchItemsResponse(
            model=messages.to_version(model), hits=hits, placement=_placement(found.placement)
        )

    async def ListItems(self, request: pb.ListItemsRequest, context: Context) -> pb.ListItemsResponse:
        """List stored items, as many as the answer has room for, but at least one."""
        model = self._model(request.model)
        scope = f"items {model.manifest.reference} {request.filter.SerializeToString(deterministic=True).hex()}"
        page = await self.pipeline.page(
            model,
            limit=pages.size(request.page_size, default=100),
            start=pages.start(request.page_token, scope=scope),
            filter=messages.read_filter(request.filter),
            with_vectors=request.with_vectors,
            timeout=_left(context),
        )
        items = [messages.to_stored(point) for point in page.points]
        fitting = max(1, pages.fitting(items, self._most_answer_bytes))
        next_key = page.next_key if fitting >= len(items) else ids.point_id(items[fitting].id)
        return pb.ListItemsResponse(
            items=items[:fitting],
            next_page_token=pages.token(next_key, scope=scope),
            model=messages.to_version(model),
        )

    async def GetItem(self, request: pb.GetItemRequest, context: Context) -> pb.GetItemResponse:
        """Read one stored item."""
        model = self._model(request.model)
        point = await self.pipeline.get(model, request.id, timeout=_left(context))
        return pb.GetItemResponse(item=messages.to_stored(point), model=messages.to_version(model))

    async def DeleteItem(self, request: pb.DeleteItemRequest, context: Context) -> pb.DeleteItemResponse:
        """Delete one stored item."""
        model = self._model(request.model)
        await self.pipeline.delete(model, request.id, timeout=_left(context))
        return pb.DeleteItemResponse(model=messages.to_version(model))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """List the served model versions."""
        seen = [model for model in self.pipeline.served.models if callers.current().sees(model.manifest.name)]
        models, next_token = pages.cut(seen, request.page_size, request.page_token, scope="models")
        listed = [
            messages.to_model(
                model,
                in_service=self.pipeline.served.is_newest(model),
                items=await self.pipeline.count(model, timeout=_left(context)),
            )
            for model in models
        ]
        return pb.ListModelsResponse(models=listed, next_page_token=next_token)

    async def ReloadModels(self, request: pb.ReloadModelsRequest, context: Context) -> pb.ReloadModelsResponse:
        """Look for new model versions now; the answer names those that the caller may use."""
        done = await self._reloader.reload()
        refused = [pb.RefusedModel(model=each.reference, error=status.of(each.error)) for each in done.refused]
        sees = callers.current().sees_version
        return pb.ReloadModelsResponse(
            added=filter(sees, done.added),
            changed=filter(sees, done.changed),
            dropped=filter(sees, done.dropped),
            refused=[each for each in refused if sees(each.model)],
        )

    async def ListClusters(self, request: pb.ListClustersRequest, context: Context) -> pb.ListClustersResponse:
        """List a model's clusters."""
        model = self._model(request.model)
        stored = await self.pipeline.count_clusters(model, timeout=_left(context))
        numbers, next_token = pages.cut(
            _clusters(model),
            request.page_size,
            request.page_token,
            scope=f"clusters {model.manifest.reference}",
        )
        return pb.ListClustersResponse(
            clusters=[messages.to_cluster(model, number, items=stored.get(number, 0)) for number in numbers],
            next_page_token=next_token,
            model=messages.to_version(model),
        )

    def _model(self, reference: str) -> Model:
        """The model version that a request means, if the caller may use it."""
        caller = callers.current()
        if reference:
            caller.check_model(reference)
        return self.pipeline.served.find(reference, sees=caller.sees)

    async def _ingest(
        self, request: pb.IngestItemsRequest, meant: dict[str, pb.ModelVersion], *, timeout: float | None
    ) -> pb.IngestItemsResponse:
        messages.check_image(request.item, most_bytes=self._most_image_bytes)
        known = meant.get(request.model)
        model = self._model(request.model if known is None else f"{known.name}@{known.version}")
        meant[request.model] = messages.to_version(model)
        item, vector = messages.read_ingested(request)
        ingested: Ingested = await self.pipeline.ingest(
            model, item, vector=vector, skip_existing=request.skip_existing, timeout=timeout
        )
        return pb.IngestItemsResponse(
            id=ingested.id,
            outcome=pb.INGEST_OUTCOME_EXISTED if ingested.existed else pb.INGEST_OUTCOME_STORED,
            placement=_placement(ingested.placement),
            model=meant[request.model],
        )


def _placement(placement: Placement | None) -> pb.Placement | None:
    return None if placement is None else messages.to_placement(placement)


def _clusters(model: Model) -> range:
    return range(0 if model.clusters is None else len(model.clusters.centroids))


def _left(context: Context) -> float | None:
    """What is left of the caller's deadline, in seconds; None without one."""
    return context.time_remaining()

"""The client for asyncio. What its methods take and give is described at `Client`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, Literal, Self, TypeVar, overload

import grpc
import numpy as np

from roost.address import DEFAULT_TARGET, DEFAULT_TIMEOUT
from roost.client import batches, pins, requests, responses, status
from roost.client.answers import Cluster, Filter, Image, Item, Model, Neighbours, Outcome, Reloaded, StoredItem
from roost.client.channel import (
    CALLS_IN_FLIGHT,
    DEFAULT_IN_FLIGHT,
    DEFAULT_MAX_MESSAGE_BYTES,
    Tls,
    metadata,
    options,
)
from roost.clusters import Placement
from roost.errors import RoostError, UnknownModel
from roost.v1 import gateway_pb2 as pb
from roost.v1.gateway_pb2_grpc import GatewayServiceStub

T = TypeVar("T")


class AsyncClient:
    """Calls a gateway from one event loop: the one that makes the first call. See `Client`."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        api_key: str | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        self.target = target
        self._timeout = timeout
        self._max_bytes = max_message_bytes
        self._metadata = metadata(api_key)
        tls = tls or Tls.from_environment()
        self._credentials = None if tls is None else tls.credentials()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        made = options(self._max_bytes)
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, made)
        return grpc.aio.secure_channel(self.target, self._credentials, made)

    @cached_property
    def _stub(self) -> GatewayServiceStub:
        return GatewayServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is running and let go of the connection."""
        await self._channel.close()

    @overload
    async def embed(
        self, images: Iterable[Image], *, model: str = "", on_error: Literal["raise"] = "raise"
    ) -> np.ndarray: ...

    @overload
    async def embed(
        self, images: Iterable[Image], *, model: str = "", on_error: Literal["return"]
    ) -> list[np.ndarray | RoostError]: ...

    async def embed(
        self, images: Iterable[Image], *, model: str = "", on_error: batches.OnError = "raise"
    ) -> np.ndarray | list[np.ndarray | RoostError]:
        """The embeddings of images; see `Client.embed`."""
        results: list[np.ndarray | RoostError] = []
        calls = batches.embed_calls(images, model=model, on_error=on_error, max_bytes=self._max_bytes)
        async for batch, response in self._together("EmbedItems", calls, on_error=on_error):
            results += batches.embed_results(batch, response)
        return batches.stack(results) if on_error == "raise" else results

    async def assign(
        self, images: Iterable[Image] | None = None, *, vectors: np.ndarray | None = None, model: str = ""
    ) -> list[Placement]:
        """Where images or vectors lie; see `Client.assign`."""
        calls = batches.assign_calls(images=images, vectors=vectors, model=model, max_bytes=self._max_bytes)
        answers = self._together("AssignClusters", calls)
        return [responses.to_placement(placement) async for _, answer in answers for placement in answer.placements]

    async def ingest(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        model: str = "",
        skip_existing: bool = False,
        in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> AsyncIterator[Outcome]:
        """Embed, place and store a stream of items; see `Client.ingest`."""
        sent: asyncio.Queue[pb.IngestItemsRequest | None] = asyncio.Queue()
        waiting: deque[pb.IngestItemsRequest | Outcome] = deque()
        source = _each(items)
        call = self._stub.IngestItems(_until_none(sent), metadata=self._metadata)
        try:
            while True:
                while len(waiting) < in_flight and (item := await anext(source, None)) is not None:
                    entry = await self._entry(item, model=model, skip_existing=skip_existing)
                    waiting.append(entry)
                    if not isinstance(entry, Outcome):
                        sent.put_nowait(entry)
                if not waiting:
                    sent.put_nowait(None)
                    with suppress(TimeoutError):  # all is answered: how and when the stream ends changes nothing
                        await asyncio.wait_for(call.code(), self._timeout)
                    return
                head = waiting.popleft()
                yield head if isinstance(head, Outcome) else responses.to_outcome(await self._take(call))
        finally:
            sent.put_nowait(None)
            call.cancel()  # does nothing to a stream that has ended

    async def _entry(self, item: Item, *, model: str, skip_existing: bool) -> pb.IngestItemsRequest | Outcome:
        made = partial(requests.ingest_entry, item, model=model, skip_existing=skip_existing, max_bytes=self._max_bytes)
        return await asyncio.to_thread(made) if not isinstance(item.image, bytes) else made()

    async def _take(self, call: Any) -> pb.IngestItemsResponse:
        try:
            async with asyncio.timeout(self._timeout):
                answer = await call.read()
        except TimeoutError:
            raise status.no_answer(self.target, self._timeout)
        except grpc.RpcError as error:
            raise status.from_rpc(error, target=self.target, timeout=self._timeout) from error
        if answer is grpc.aio.EOF:
            raise status.ended_early(self.target)
        return answer

    async def search(
        self,
        image: Image | None = None,
        *,
        id: str | None = None,
        vector: np.ndarray | None = None,
        limit: int = 10,
        filter: Filter = Filter(),
        with_vectors: bool = False,
        model: str = "",
    ) -> Neighbours:
        """The nearest stored items; see `Client.search`."""
        request = await asyncio.to_thread(
            requests.search_request,
            image=image,
            id=id,
            vector=vector,
            limit=limit,
            filter=filter,
            with_vectors=with_vectors,
            model=model,
            max_bytes=self._max_bytes,
        )
        return responses.to_neighbours(await self._call("SearchItems", request))

    async def items(
        self, *, filter: Filter = Filter(), with_vectors: bool = False, page_size: int = 100, model: str = ""
    ) -> AsyncIterator[StoredItem]:
        """Every stored item that the filter takes; see `Client.items`."""
        request = pb.ListItemsRequest(
            model=model, page_size=page_size, filter=requests.from_filter(filter), with_vectors=with_vectors
        )
        async for page in self._pages("ListItems", request):
            for item in page.items:
                yield responses.to_stored(item)

    async def get(self, id: str, *, model: str = "") -> StoredItem:
        """One stored item, with its vector."""
        return responses.to_stored((await self._call("GetItem", pb.GetItemRequest(model=model, id=id))).item)

    async def delete(self, id: str, *, model: str = "") -> None:
        """Delete one stored item; `UnknownItem` if there is none."""
        await self._call("DeleteItem", pb.DeleteItemRequest(model=model, id=id))

    async def models(self) -> list[Model]:
        """The model versions that the gateway serves, by name and version."""
        pages = self._pages("ListModels", pb.ListModelsRequest())
        return [responses.to_model(model) async for page in pages for model in page.models]

    async def clusters(self, *, model: str = "") -> list[Cluster]:
        """A model's clusters, by number."""
        pages = self._pages("ListClusters", pb.ListClustersRequest(model=model))
        return [responses.to_cluster(cluster) async for page in pages for cluster in page.clusters]

    async def reload(self) -> Reloaded:
        """Have the gateway look for new model versions now; for keys of the role `admin`."""
        return responses.to_reloaded(await self._call("ReloadModels", pb.ReloadModelsRequest()))

    async def _pages(self, method: str, request: Any) -> AsyncIterator[Any]:
        page = await self._call(method, request)
        pinned = pins.pin(request, page)
        yield page
        while page.next_page_token:
            request.page_token = page.next_page_token
            page = await self._answer(method, request, pinned=pinned)
            yield page

    async def _together(
        self, method: str, calls: Iterator[tuple[T, Any]], *, on_error: batches.OnError = "raise"
    ) -> AsyncIterator[tuple[T, Any]]:
        """Make several calls at a time, each a pair of anything and a request or None; see `Client._together`."""
        waiting: deque[tuple[T, asyncio.Task[Any]]] = deque()
        first = None

        async def settle() -> tuple[T, Any]:
            nonlocal first
            thing = waiting[0][0]
            answer = await _settled(waiting.popleft()[1], on_error=on_error, answered=first is not None)
            first = first or (None if isinstance(answer, RoostError) else answer)
            return thing, answer

        try:
            async for thing, request in _in_thread(calls):
                if len(waiting) >= (CALLS_IN_FLIGHT if first or pins.named(request) else 1):
                    yield await settle()
                pinned = pins.pin(request, first)
                waiting.append((thing, asyncio.create_task(self._answer(method, request, pinned=pinned))))
            while waiting:
                yield await settle()
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _answer(self, method: str, request: Any, *, pinned: bool) -> Any:
        """What a call gives; `pinned`: the version that it asks is this client's choice."""
        try:
            return await self._call(method, request)
        except UnknownModel as error:
            if not pinned:
                raise
            unknown = error
        for pause in pins.pauses():
            await asyncio.sleep(pause)
            try:
                return await self._call(method, request)
            except UnknownModel as error:
                unknown = error
        raise pins.gone(request, unknown)

    async def _call(self, method: str, request: Any) -> Any:
        if request is None:
            return None
        try:
            return await getattr(self._stub, method)(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise status.from_rpc(error, target=self.target, timeout=self._timeout) from error


async def _settled(answer: asyncio.Task[Any], *, on_error: batches.OnError, answered: bool) -> Any:
    try:
        return await answer
    except RoostError as error:
        if batches.returns(error, on_error=on_error, answered=answered):
            return error
        raise
    finally:
        del answer  # it holds the error, whose traceback holds this: the connection would stay until that is collected


async def _in_thread(things: Iterator[T]) -> AsyncIterator[T]:
    """Step an iterator that reads files without holding up the event loop."""
    while (thing := await asyncio.to_thread(next, things, None)) is not None:
        yield thing


async def _each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _until_none(sent: asyncio.Queue[pb.IngestItemsRequest | None]) -> AsyncIterator[pb.IngestItemsRequest]:
    while (request := await sent.get()) is not None:
        yield request

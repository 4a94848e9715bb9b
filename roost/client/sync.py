"""The blocking client."""

import atexit
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
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
from roost.client.streams import Stream
from roost.clusters import Placement
from roost.errors import RoostError, UnknownModel
from roost.v1 import gateway_pb2 as pb
from roost.v1.gateway_pb2_grpc import GatewayServiceStub

T = TypeVar("T")


class Client:
    """Calls a gateway; safe to share between threads.

    `model` is `name`, `name@version`, or empty where the gateway serves one. Every method raises the error class of
    `roost.errors` that the gateway raised, `GatewayUnavailable` where none answers, and `DeadlineExceeded` where one
    does not answer in time.

    Args:
        target: The gateway's address: `host:port`, or `unix:path`.
        timeout: The deadline of each call, in seconds; a stream's holds for the wait for its next answer.
        tls: Encrypt; without it, and without the variable `ROOST_TLS_AUTHORITY`, the connection is in the clear, and so
            is the key.
        api_key: For a gateway that asks for one; by default what the file named by `ROOST_API_KEY_FILE` holds.
        max_message_bytes: Send and take no larger message. The gateway has a limit of its own.
    """

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
        made = options(max_message_bytes)
        tls = tls or Tls.from_environment()
        self._channel = (
            grpc.insecure_channel(target, made) if tls is None else grpc.secure_channel(target, tls.credentials(), made)
        )
        self._stub = GatewayServiceStub(self._channel)
        self._streams: set[Stream] = set()
        self._at_exit = partial(_close, weakref.ref(self))  # for whoever does not: see `Stream`
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is running and let go of the connection."""
        atexit.unregister(self._at_exit)
        for stream in list(self._streams):
            stream.end()
        self._channel.close()

    @overload
    def embed(
        self, images: Iterable[Image], *, model: str = "", on_error: Literal["raise"] = "raise"
    ) -> np.ndarray: ...

    @overload
    def embed(
        self, images: Iterable[Image], *, model: str = "", on_error: Literal["return"]
    ) -> list[np.ndarray | RoostError]: ...

    def embed(
        self, images: Iterable[Image], *, model: str = "", on_error: batches.OnError = "raise"
    ) -> np.ndarray | list[np.ndarray | RoostError]:
        """The embeddings of images; nothing is stored.

        Args:
            images: Encoded bytes or paths, any number; sent in as many messages as it takes.
            model: Which model.
            on_error: "raise" the first error, or "return" errors in the place of embeddings. Where a message is refused
                or lost as a whole, its error is that of each of its images. Raised all the same is, before any message
                was answered, what no image could change: `Unauthenticated`, `Forbidden`, `UnknownModel` and
                `GatewayUnavailable`.

        Returns:
            float32 array of shape (n, dim), rows of unit length; with on_error="return" a list of rows and errors.
        """
        results: list[np.ndarray | RoostError] = []
        calls = batches.embed_calls(images, model=model, on_error=on_error, max_bytes=self._max_bytes)
        for batch, response in self._together("EmbedItems", calls, on_error=on_error):
            results += batches.embed_results(batch, response)
        return batches.stack(results) if on_error == "raise" else results

    def assign(
        self, images: Iterable[Image] | None = None, *, vectors: np.ndarray | None = None, model: str = ""
    ) -> list[Placement]:
        """Where images, or vectors of shape (n, dim), lie among the model's clusters."""
        calls = batches.assign_calls(images=images, vectors=vectors, model=model, max_bytes=self._max_bytes)
        answers = self._together("AssignClusters", calls)
        return [responses.to_placement(placement) for _, answer in answers for placement in answer.placements]

    def ingest(
        self,
        items: Iterable[Item],
        *,
        model: str = "",
        skip_existing: bool = False,
        in_flight: int = DEFAULT_IN_FLIGHT,
    ) -> Iterator[Outcome]:
        """Embed, place and store a stream of items.

        Items are taken from the iterable only as fast as the gateway answers. What was yielded as stored survives a
        crash of the gateway; after an error, send again what was not yielded.

        Args:
            items: What to store, any number.
            model: Which model.
            skip_existing: Leave an item alone whose id is stored already.
            in_flight: How many items may be on their way, unanswered.

        Yields:
            One outcome per item, in order; a bad item fails alone.
        """
        waiting: deque[pb.IngestItemsRequest | Outcome] = deque()
        entries = (
            requests.ingest_entry(item, model=model, skip_existing=skip_existing, max_bytes=self._max_bytes)
            for item in items
        )
        stream = Stream(
            lambda sent: self._stub.IngestItems(sent, metadata=self._metadata),
            target=self.target,
            timeout=self._timeout,
        )
        self._streams.add(stream)
        try:
            while True:
                while len(waiting) < in_flight and (entry := next(entries, None)) is not None:
                    waiting.append(entry)
                    if not isinstance(entry, Outcome):
                        stream.send(entry)
                if not waiting:
                    stream.finish()
                    return
                head = waiting.popleft()
                yield head if isinstance(head, Outcome) else responses.to_outcome(stream.take())
        finally:
            self._streams.discard(stream)
            stream.end()

    def search(
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
        """The stored items nearest to an image, to a stored item (itself left out) or to a vector of shape (dim,).

        Args:
            image: The query, as encoded bytes or a path; or
            id: a stored item's id; or
            vector: an embedding.
            limit: How many, 1 to 1,000.
            filter: Which stored items to consider.
            with_vectors: Whether hits carry their vectors.
            model: Which model.
        """
        request = requests.search_request(
            image=image,
            id=id,
            vector=vector,
            limit=limit,
            filter=filter,
            with_vectors=with_vectors,
            model=model,
            max_bytes=self._max_bytes,
        )
        return responses.to_neighbours(self._call("SearchItems", request))

    def items(
        self, *, filter: Filter = Filter(), with_vectors: bool = False, page_size: int = 100, model: str = ""
    ) -> Iterator[StoredItem]:
        """Every stored item that the filter takes, in the order of internal keys, read page by page."""
        request = pb.ListItemsRequest(
            model=model, page_size=page_size, filter=requests.from_filter(filter), with_vectors=with_vectors
        )
        for page in self._pages("ListItems", request):
            yield from map(responses.to_stored, page.items)

    def get(self, id: str, *, model: str = "") -> StoredItem:
        """One stored item, with its vector."""
        return responses.to_stored(self._call("GetItem", pb.GetItemRequest(model=model, id=id)).item)

    def delete(self, id: str, *, model: str = "") -> None:
        """Delete one stored item; `UnknownItem` if there is none."""
        self._call("DeleteItem", pb.DeleteItemRequest(model=model, id=id))

    def models(self) -> list[Model]:
        """The model versions that the gateway serves, by name and version."""
        pages = self._pages("ListModels", pb.ListModelsRequest())
        return [responses.to_model(model) for page in pages for model in page.models]

    def clusters(self, *, model: str = "") -> list[Cluster]:
        """A model's clusters, by number."""
        pages = self._pages("ListClusters", pb.ListClustersRequest(model=model))
        return [responses.to_cluster(cluster) for page in pages for cluster in page.clusters]

    def reload(self) -> Reloaded:
        """Have the gateway look for new model versions now; for keys of the role `admin`."""
        return responses.to_reloaded(self._call("ReloadModels", pb.ReloadModelsRequest()))

    def _pages(self, method: str, request: Any) -> Iterator[Any]:
        """Every page of a list, all of the model version that gave the first."""
        page = self._call(method, request)
        pinned = request if pins.pin(request, page) else None
        yield page
        while page.next_page_token:
            request.page_token = page.next_page_token
            page = self._answer(method, self._begin(method, request), pinned)
            yield page

    def _together(
        self, method: str, calls: Iterable[tuple[T, Any]], *, on_error: batches.OnError = "raise"
    ) -> Iterator[tuple[T, Any]]:
        """Make several calls at a time, each a pair of anything and a request or None; the answers come in order.

        The first goes alone, and tells which model version all of them ask: a name may change its meaning meanwhile.
        An error may be the answer, see `batches.returns`.
        """
        waiting: deque[tuple[T, Any, Any]] = deque()
        first = None
        try:
            for thing, request in calls:
                if len(waiting) >= (CALLS_IN_FLIGHT if first or pins.named(request) else 1):
                    answer = self._settled(method, *waiting[0][1:], on_error=on_error, answered=first is not None)
                    first = first or (None if isinstance(answer, RoostError) else answer)
                    yield waiting.popleft()[0], answer
                pinned = request if pins.pin(request, first) else None
                waiting.append((thing, request and self._begin(method, request), pinned))
            while waiting:
                answer = self._settled(method, *waiting[0][1:], on_error=on_error, answered=first is not None)
                first = first or (None if isinstance(answer, RoostError) else answer)
                yield waiting.popleft()[0], answer
        finally:
            while waiting:  # let go of, not only cancelled: see `Stream`
                if (call := waiting.pop()[1]) is not None:
                    call.cancel()
                del call

    def _begin(self, method: str, request: Any) -> Any:
        return getattr(self._stub, method).future(request, timeout=self._timeout, metadata=self._metadata)

    def _settled(self, method: str, call: Any, pinned: Any, *, on_error: batches.OnError, answered: bool) -> Any:
        try:
            return self._answer(method, call, pinned)
        except RoostError as error:
            if batches.returns(error, on_error=on_error, answered=answered):
                return error
            raise

    def _answer(self, method: str, call: Any, pinned: Any) -> Any:
        """What a call gives; `pinned` is its request where the version is this client's choice, or None."""
        try:
            with self._translated():
                return call and call.result()
        except UnknownModel as error:
            if pinned is None:
                raise
            unknown = error
        for pause in pins.pauses():
            time.sleep(pause)
            try:
                return self._call(method, pinned)
            except UnknownModel as error:
                unknown = error
        raise pins.gone(pinned, unknown)

    def _call(self, method: str, request: Any) -> Any:
        with self._translated():
            return getattr(self._stub, method)(request, timeout=self._timeout, metadata=self._metadata)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise status.from_rpc(error, target=self.target, timeout=self._timeout) from error


def _close(client: "weakref.ref[Client]") -> None:
    """Close a client that is still there when the process ends."""
    if (found := client()) is not None:
        found.close()

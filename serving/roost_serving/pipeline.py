"""What the gateway does with items: decode, embed, place, store, find. Knows no gRPC and no metrics library."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from roost import ids
from roost.artifact import Manifest
from roost.clusters import Placement
from roost.errors import BadArtifact, BadEmbedding, BadRequest, NoClusters, RoostError, UnknownItem
from roost_serving.admission import Admission, Load
from roost_serving.backends import Backend, Embedded
from roost_serving.deadline import Deadline
from roost_serving.ensuring import PING_SECONDS, Collections
from roost_serving.repository import Model
from roost_serving.served import Served
from roost_serving.stores import Filter, Hit, Page, Payload, Point, Store
from roost_serving.tally import Tally
from roost_serving.vectors import unit
from roost_serving.writer import Writer


class Observer(Protocol):
    """Is told what happens; `roost_serving.metrics.Metrics` is one."""

    def stage(self, stage: str, seconds: float, *, model: str) -> None:
        """A stage took this long."""
        ...

    def embedded(self, model: str, *, ok: int, failed: int, reasons: Mapping[str, int]) -> None:
        """So many images of a call, or of a stream's item, did what they were sent for; so many did not, and why."""
        ...

    def stored(self, points: int) -> None:
        """One write to the store held this many points."""
        ...

    def placed(self, model: str, placements: Sequence[Placement]) -> None:
        """Items were placed among a model's clusters."""
        ...

    def searched(self, model: str, hits: int) -> None:
        """A search found so many."""
        ...

    def holding(self, load: Load) -> None:
        """So much is in flight now."""
        ...

    def failed(self, error: RoostError, *, rpc: str) -> None:
        """A call, or an item of a stream, was answered with an error."""
        ...


@dataclass(frozen=True)
class Item:
    """Something to embed and perhaps to store."""

    image: bytes
    id: str = ""
    payload: Payload | None = None

    @property
    def key(self) -> str:
        """The caller's id, or the content's."""
        return self.id or ids.content_id(self.image)


@dataclass(frozen=True)
class Ingested:
    """What ingesting an item did."""

    id: str
    existed: bool
    placement: Placement | None = None


@dataclass(frozen=True)
class Found:
    """The answer to a search."""

    hits: list[Hit]
    placement: Placement | None = None


class Pipeline:
    """One backend, one store, and everything between them."""

    def __init__(self, backend: Backend, store: Store, *, limit: Load, observer: Observer) -> None:
        self.backend = backend
        self.store = store
        self.admission = Admission(limit, observer.holding)
        self.observer = observer
        self.served = Served()
        self.collections = Collections(store, self.served)
        self._writer = Writer(store, observer)

    async def open(self) -> None:
        """Open both ends at the same time, and a collection for every model version, unless the store is away."""
        await asyncio.gather(self.backend.open(), self.store.open())
        self.served.set(self.backend.models)
        await self.collections.begin()

    async def add(self, model: Model) -> None:
        """Serve one more model version; where it is the newest of its name, the name means it from now on.

        Raises:
            BadArtifact: It cannot be loaded, or does not repeat its golden embeddings.
            BackendUnavailable: The model server cannot be reached.
            StoreUnavailable: The store cannot be reached.
        """
        await self.store.ping(timeout=PING_SECONDS)  # or all that follows would be in vain
        await self.backend.load(model)
        try:
            await self.collections.ensure(model, newest=self.served.is_newest(model))
        except BaseException:
            self.backend.drop(model)
            raise
        self.served.set([*self.served.models, model])

    def replace(self, old: Model, new: Model) -> None:
        """Place items among the clusters of `new`, which is `old` but for those, from now on."""
        self.served.set([new if model is old else model for model in self.served.models])

    async def drop(self, model: Model) -> None:
        """Serve a model version no more; what is stored for it stays.

        Raises:
            StoreUnavailable: The store cannot be told which version the name means now; nothing was dropped.
        """
        left = [each for each in self.served.models if each is not model]
        heirs = [each for each in left if each.manifest.name == model.manifest.name]
        if heirs and self.served.is_newest(model):
            await self.collections.ensure(heirs[-1], newest=True)
        self.served.set(left)
        self.collections.forget(model)
        self.backend.drop(model)

    async def close(self) -> None:
        """Finish writing, then let go of both ends."""
        await self._writer.close()
        await asyncio.gather(self.backend.close(), self.store.close())

    async def embed(
        self, model: Model, items: Sequence[Item], *, timeout: float | None
    ) -> list[np.ndarray | RoostError]:
        """Unit-length embeddings, shape (dim,), or the error of each item."""
        load = Load(len(items), sum(len(item.image) for item in items))
        with self.admission.take(load), self._counted(model, len(items)) as tally:
            vectors = await self._embed(model, items, timeout=timeout)
            tally.take(vectors)
            return vectors

    async def place(
        self, model: Model, items: Sequence[Item], vectors: Sequence[np.ndarray], *, timeout: float | None
    ) -> list[Placement]:
        """Where items, or else vectors, lie.

        Raises:
            NoClusters: The model's clusters were never fitted.
            BadVector: A vector has another length than the model's embeddings, is zero or not finite.
        """
        self._need_clusters(model)
        if items:
            embedded = await self.embed(model, items, timeout=timeout)
            placements = await self._place(model, np.stack([_value(result) for result in embedded]))
        else:
            with self.admission.take(Load(0, sum(vector.nbytes for vector in vectors))):
                units = [unit(vector, model.manifest) for vector in vectors]
                placements = await self._place(model, np.stack(units))
        return [placement for placement in placements if placement is not None]

    async def ingest(
        self,
        model: Model,
        item: Item,
        *,
        skip_existing: bool,
        timeout: float | None,
        vector: np.ndarray | None = None,
    ) -> Ingested:
        """Embed, place and store one item of a stream, which was admitted; when this returns, it survives a crash.

        An item that comes with its vector is not embedded, and counts as no image.
        """
        reference, deadline = model.manifest.reference, Deadline(timeout)
        item = replace(item, id=item.key)
        with self._counted(model, 1 if vector is None else 0) as tally:
            if skip_existing and await self.store.get(reference, [item.id], with_vectors=False, timeout=deadline.left):
                tally.take([])
                return Ingested(item.id, existed=True)
            if vector is None:
                vector = _value((await self._embed(model, [item], timeout=deadline.left))[0])
            else:
                vector = unit(vector, model.manifest)
            (placement,) = await self._place(model, vector[np.newaxis])
            point = Point(item.id, item.payload or {}, placement, vector)
            with self._timed("store", model):
                await self._writer.write(reference, point, timeout=deadline.left)
            if item.image:
                tally.take([point])
        return Ingested(item.id, existed=False, placement=placement)

    async def search(
        self,
        model: Model,
        query: Item | np.ndarray | str,
        *,
        limit: int,
        filter: Filter,
        with_vectors: bool,
        timeout: float | None,
    ) -> Found:
        """The stored items nearest to an item, a vector or a stored item's id.

        Raises:
            UnknownItem: No item of that id is stored.
        """
        deadline = Deadline(timeout)
        exclude = placement = None
        if isinstance(query, str):
            exclude = query
            vector = (await self.get(model, query, timeout=deadline.left)).vector
        else:
            if isinstance(query, Item):
                vector = _value((await self.embed(model, [query], timeout=deadline.left))[0])
            else:
                vector = unit(query, model.manifest)
            (placement,) = await self._place(model, vector[np.newaxis])
        if vector is None:
            raise BadArtifact(f"{model.manifest.reference} stores an item without its vector. Ingest it again.")
        with self._timed("search", model):
            hits = await self.store.search(
                model.manifest.reference,
                vector,
                limit=limit,
                filter=filter,
                exclude=exclude,
                with_vectors=with_vectors,
                timeout=deadline.left,
            )
        self.observer.searched(model.manifest.reference, len(hits))
        return Found(hits, placement)

    async def get(self, model: Model, item_id: str, *, timeout: float | None) -> Point:
        """One stored item with its vector.

        Raises:
            UnknownItem: It is not stored.
        """
        points = await self.store.get(model.manifest.reference, [item_id], with_vectors=True, timeout=timeout)
        if not points:
            raise _unknown(model, item_id)
        return points[0]

    async def delete(self, model: Model, item_id: str, *, timeout: float | None) -> None:
        """Delete one stored item.

        Raises:
            UnknownItem: It is not stored.
        """
        if not await self.store.delete(model.manifest.reference, item_id, timeout=timeout):
            raise _unknown(model, item_id)

    async def page(
        self,
        model: Model,
        *,
        limit: int,
        start: str | None,
        filter: Filter,
        with_vectors: bool,
        timeout: float | None,
    ) -> Page:
        """A page of stored items."""
        return await self.store.scroll(
            model.manifest.reference,
            limit=limit,
            start=start,
            filter=filter,
            with_vectors=with_vectors,
            timeout=timeout,
        )

    async def count(self, model: Model, *, timeout: float | None) -> int:
        """How many items are stored for a model version."""
        return await self.store.count(model.manifest.reference, timeout=timeout)

    async def count_clusters(self, model: Model, *, timeout: float | None) -> dict[int, int]:
        """How many stored items lie in each cluster.

        Raises:
            NoClusters: The model's clusters were never fitted.
        """
        self._need_clusters(model)
        return await self.store.count_clusters(model.manifest.reference, timeout=timeout)

    async def _embed(
        self, model: Model, items: Sequence[Item], *, timeout: float | None
    ) -> list[np.ndarray | RoostError]:
        results = await self.backend.embed(model.manifest, [item.image for item in items], timeout=timeout)
        for result in results:
            if isinstance(result, Embedded):
                for stage, seconds in result.seconds.items():
                    self.observer.stage(stage, seconds, model=model.manifest.reference)
        return [_finite(result, model.manifest) for result in results]

    async def _place(self, model: Model, vectors: np.ndarray) -> Sequence[Placement | None]:
        """Placements of vectors (n, dim); None for each where the model has no clusters."""
        if model.clusters is None:
            return [None] * len(vectors)
        with self._timed("place", model):
            few = len(vectors) * len(model.clusters.centroids) < 1024  # too little to be worth a thread
            placements = (
                model.clusters.place(vectors) if few else await asyncio.to_thread(model.clusters.place, vectors)
            )
        self.observer.placed(model.manifest.reference, placements)
        return placements

    def _need_clusters(self, model: Model) -> None:
        if model.clusters is None:
            reference = model.manifest.reference
            raise NoClusters(f"The clusters of {reference} were never fitted. Run `roost cluster`.", model=reference)

    @contextmanager
    def _counted(self, model: Model, images: int) -> Iterator[Tally]:
        """Count images as failed unless the block says otherwise, however it ends."""
        tally = Tally(failed=images)
        try:
            yield tally
        except BaseException as error:
            tally.end(error)
            raise
        finally:
            if tally.ok or tally.failed:
                reference = model.manifest.reference
                self.observer.embedded(reference, ok=tally.ok, failed=tally.failed, reasons=tally.reasons)

    @contextmanager
    def _timed(self, stage: str, model: Model) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.observer.stage(stage, time.monotonic() - begun, model=model.manifest.reference)


def _finite(result: Embedded | RoostError, manifest: Manifest) -> np.ndarray | RoostError:
    if isinstance(result, RoostError):
        return result
    wide = result.vector.astype(np.float64)  # float32 has no room for the squares of its own largest values
    if wide.shape == (manifest.dim,) and abs(float(wide @ wide) - 1) < 2e-2:
        return result.vector
    return BadEmbedding(
        f"{manifest.reference} makes no embedding of unit length of this image. Look whether it shows anything; if it "
        "does, train the model on such images too.",
        model=manifest.reference,
    )


def _value(result: np.ndarray | RoostError) -> np.ndarray:
    if isinstance(result, RoostError):
        raise result
    return result


def _unknown(model: Model, item_id: str) -> RoostError:
    if not item_id or len(item_id) > ids.MAX_LENGTH:
        return BadRequest(f"An id has 1 to {ids.MAX_LENGTH} characters; this one has {len(item_id)}.", field="id")
    return UnknownItem(f"{model.manifest.reference} stores no item {item_id!r}.", id=item_id)

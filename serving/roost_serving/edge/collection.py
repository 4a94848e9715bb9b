"""One collection on disk: a folder with `collection.json` and the folder of the engine's shard that it names."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

from roost.artifact import replace_bytes
from roost_serving.edge.errors import Lost
from roost_serving.edge.hosts import Before, Here, Host
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.shard import RESERVE_BYTES, Shard, require_space
from roost_serving.edge.values import PointId, from_id, to_id

CONFIG = "collection.json"
UNFINISHED = ".{}.new"
"""The name of a collection's folder while it is made."""
FIRST_SHARD = 1
WARM_SEARCHES = 32

StartApart = Callable[[Path, Before], Awaitable[Host]]


@dataclass
class Description:
    """What `collection.json` holds."""

    dim: int
    shard: int = FIRST_SHARD
    """The number of the shard's folder; any other number there is left over and not used."""


class Collection:
    """An open collection.

    Args:
        folder: Of the collection; only one process may open it.
        description: As read from it.
        host: Of its shard.
    """

    def __init__(self, folder: Path, description: Description, host: Host) -> None:
        self.folder = folder
        self.description = description
        self.host = host
        self.changed: set[PointId] | None = None
        """Ids written since a copy was made; None while there is none to bring up to date."""
        self._readable = asyncio.Event()
        self._readable.set()
        self._writable = asyncio.Event()
        self._writable.set()
        self._writes: set[asyncio.Task[Any]] = set()

    @property
    def shard_folder(self) -> Path:
        """Where the shard in use lies."""
        return self.folder / str(self.description.shard)

    @classmethod
    def create(cls, folder: Path, *, dim: int) -> Self:
        """Make a collection of cosine vectors; it appears whole or not at all."""
        require_space(folder.parent, needed=RESERVE_BYTES)
        beside = folder.with_name(UNFINISHED.format(folder.name))
        shutil.rmtree(beside, ignore_errors=True)
        description = Description(dim)
        beside.mkdir()
        Shard.create(beside / str(description.shard), dim=dim).close()
        _write(beside, description)
        beside.rename(folder)
        return cls(folder, description, Here(folder / str(description.shard)))

    @classmethod
    async def open(cls, folder: Path, start: StartApart) -> Self:
        """Open a collection, and remove what a killed process left beside its shard.

        Args:
            folder: Of the collection.
            start: Starts a process for a shard, if it is not the first, which has no graph.
        """
        description = Description(**json.loads((folder / CONFIG).read_bytes()))
        shard = folder / str(description.shard)
        host = Here(shard) if description.shard == FIRST_SHARD else await start(shard, nothing)
        host.take_up()
        collection = cls(folder, description, host)
        collection.remove_left_over()
        return collection

    def remove_left_over(self) -> None:
        """Remove every shard's folder but the one in use; a folder whose name is no number is none of them."""
        for path in self.folder.iterdir():
            if path.name.isdecimal() and path.is_dir() and path != self.shard_folder:
                shutil.rmtree(path)

    async def describe(self) -> "qdrant.CollectionInfo":
        """Its size and payload indexes."""
        await self._readable.wait()
        return await self.host.describe()

    async def read(self, method: str, request: Any, *, timeout: float | None) -> Any:
        """Have a call of Qdrant's Points service answered that changes nothing, in so many seconds."""
        await self._readable.wait()
        return await self.host.call(method, request, timeout=timeout)

    async def write(self, method: str, request: Any, written: Callable[[], Iterable[PointId]] = tuple) -> Any:
        """Have a call of Qdrant's Points service answered that writes.

        Args:
            method: Its name.
            request: Its message.
            written: Gives the ids of the points that it writes or deletes.
        """
        while not self._writable.is_set():  # again, for it may be held anew before this goes on
            await self._writable.wait()
        task = asyncio.create_task(self._write(method, request, written))
        self._writes.add(task)
        task.add_done_callback(self._end_write)
        # Nothing stops it once it has begun: its ids are noted when it can change nothing any more.
        return await asyncio.shield(task)

    async def _write(self, method: str, request: Any, written: Callable[[], Iterable[PointId]]) -> Any:
        try:
            return await self.host.call(method, request)
        finally:
            if self.changed is not None:
                self.changed.update(written())

    def _end_write(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where the call that asked is gone

    async def hold(self) -> None:
        """Let no write begin, and wait for those that have begun."""
        self._writable.clear()
        while self._writes:
            await asyncio.wait(self._writes)

    def release(self) -> None:
        """Let writes begin again."""
        self._writable.set()

    async def move_out(self, start: StartApart) -> None:
        """Serve the shard from a process of its own; calls wait while this one closes it and that one opens it."""
        require_space(self.folder, needed=RESERVE_BYTES)

        async def leave() -> None:
            await self.hold()
            await self.host.flush()  # what may fail, while all is as it was
            self._readable.clear()
            await self.host.close()

        try:
            self.host = await start(self.shard_folder, leave)
            self.host.take_up()
        except BaseException:
            if not self._readable.is_set():
                self.host = self._open_again()
            raise
        finally:
            self.release()
            self._readable.set()

    def _open_again(self) -> Here:
        try:
            return Here(self.shard_folder)
        except Exception as error:  # the engine's errors are bare Exceptions
            raise Lost(f"{self.folder.name} was closed and cannot be opened") from error

    async def bring_up_to_date(self, fresh: Host, *, step: int) -> None:
        """Write to a copy what was written here since it was made, but for what comes meanwhile.

        Args:
            fresh: The copy.
            step: Points at a time.
        """
        changed, self.changed = self.changed or set(), set()
        # Two at a time, so that reading and writing go on together, and no id in both: one might undo the other's.
        lanes = [iter([*changed][lane::2]) for lane in range(2)]

        async def replay(lane: Iterator[PointId]) -> None:
            while ids := list(islice(lane, step)):
                await self._replay(fresh, ids)

        await asyncio.gather(*map(replay, lanes))

    async def _replay(self, fresh: Host, point_ids: Sequence[PointId]) -> None:
        ids = {str(point_id): to_id(point_id) for point_id in point_ids}
        request = qdrant.GetPoints(
            ids=ids.values(),
            with_payload=qdrant.WithPayloadSelector(enable=True),
            with_vectors=qdrant.WithVectorsSelector(enable=True),
        )
        found = (await self.host.call("Get", request)).result
        if found:
            points = [
                qdrant.PointStruct(
                    id=record.id,
                    payload=record.payload,
                    vectors=qdrant.Vectors(vector=qdrant.Vector(dense=record.vectors.vector.dense)),
                )
                for record in found
            ]
            await fresh.call("Upsert", qdrant.UpsertPoints(points=points))
        gone = ids.keys() - {str(from_id(record.id)) for record in found}
        if gone:
            selected = qdrant.PointsSelector(points=qdrant.PointsIdsList(ids=[ids[name] for name in gone]))
            await fresh.call("Delete", qdrant.DeletePoints(points=selected))

    async def warm(self, fresh: Host) -> None:
        """Search a copy before anyone waits for it: the first searches read it from the disk."""
        vectors = qdrant.WithVectorsSelector(enable=True)
        some = (await fresh.call("Scroll", qdrant.ScrollPoints(limit=WARM_SEARCHES, with_vectors=vectors))).result
        for record in some:
            nearest = qdrant.VectorInput(dense=record.vectors.vector.dense)
            await fresh.call("Query", qdrant.QueryPoints(query=qdrant.Query(nearest=nearest), limit=1))

    async def index_as_here(self, fresh: Host) -> None:
        """Give a copy the payload indexes that came here since it was made."""
        here, there = await self.host.describe(), await fresh.describe()
        for field, index in here.payload_schema.items():
            if field not in there.payload_schema:
                kind = qdrant.FieldType.Value(f"FieldType{qdrant.PayloadSchemaType.Name(index.data_type)}")
                request = qdrant.CreateFieldIndexCollection(field_name=field, field_type=kind)
                await fresh.call("CreateFieldIndex", request)

    def swap(self, fresh: Host, number: int) -> Host:
        """Serve another shard from now on, which holds all that this one does; returned is this, to be closed."""
        _write(self.folder, replace(self.description, shard=number))
        unused, self.host = self.host, fresh
        self.description = replace(self.description, shard=number)
        fresh.take_up()
        return unused


async def nothing() -> None:
    """What is to be done before a process opens a shard that nobody has open."""


def is_unfinished(path: Path) -> bool:
    """Whether a path is what `Collection.create` leaves where it is killed."""
    before, after = UNFINISHED.split("{}")
    return path.name.startswith(before) and path.name.endswith(after) and path.is_dir() and not path.is_symlink()


def _write(folder: Path, description: Description) -> None:
    replace_bytes(folder / CONFIG, json.dumps(vars(description)).encode())

"""Runs the engine's process: opens the folder, says where it listens, serves, and ends clean."""

import asyncio
import sys
from itertools import count
from pathlib import Path

from roost.errors import DiskFull, RoostError
from roost_serving.edge.catalogue import Catalogue
from roost_serving.edge.errors import Refused
from roost_serving.edge.hosts import Apart, Before
from roost_serving.edge.indexing import Indexer
from roost_serving.edge.process import say_error, stop_event
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.servicer import Collections, Health, Points
from roost_serving.edge.serving import keep_flushed, new_server, serve_until


async def serve(folder: Path, *, address: str, index_bytes: int) -> None:
    """Serve a folder until a signal comes, standard input ends or something is lost.

    Args:
        folder: The index; made where it does not exist.
        address: `unix:PATH`, or `HOST:PORT` where port 0 takes a free one.
        index_bytes: Build an HNSW graph once this many bytes of vectors lie outside one.

    Raises:
        SystemExit: With 1, where the process of a shard was lost, or a shard: whoever started this one starts all of
            them again.
    """
    stop, lost, numbers = stop_event(), asyncio.Event(), count(1)

    def lose() -> None:
        lost.set()
        stop.set()

    async def start(shard: Path, before: Before) -> Apart:
        beside = f"{address}.{next(numbers)}" if address.startswith("unix:") else f"{address.rpartition(':')[0]}:0"
        return await Apart.start(shard, before, address=beside, lock=catalogue.lock, lost=lose)

    try:
        catalogue = Catalogue(folder, start=start)  # from here on no other process has the folder
        if address.startswith("unix:"):
            for left_over in Path(address.removeprefix("unix:")).parent.glob(f"{Path(address).name}.*"):
                left_over.unlink()
        opening, stopping = asyncio.create_task(catalogue.open()), asyncio.create_task(stop.wait())
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            return
        await opening
    except (RoostError, Refused) as error:
        say_error(DiskFull(error.message) if isinstance(error, Refused) else error)
        return
    server = new_server()
    qdrant.add_QdrantServicer_to_server(Health(), server)
    qdrant.add_CollectionsServicer_to_server(Collections(catalogue), server)
    qdrant.add_PointsServicer_to_server(Points(catalogue), server)
    indexer = Indexer(catalogue, index_bytes=index_bytes)
    await serve_until(stop, server, address, lambda: keep_flushed(catalogue.shards_here), indexer.run)
    await catalogue.close()
    if lost.is_set() or not stop.is_set():
        sys.exit(1)

"""`python -m roost_serving.edge.alone SHARD --listen ADDRESS`: serves one shard to the engine's process.

Opening a shard with a graph takes up to a second or more, in which the one that it replaces is searched.
"""

import argparse
import asyncio
from pathlib import Path

import grpc

from roost.errors import DiskFull
from roost_serving import logs
from roost_serving.edge.errors import Refused
from roost_serving.edge.hosts import FLUSH, SERVICE
from roost_serving.edge.points import Context, ShardPoints, describe
from roost_serving.edge.process import die_with_parent, say_error, stop_event, wait_to_begin
from roost_serving.edge.protocol import qdrant
from roost_serving.edge.serving import keep_flushed, new_server, serve_until
from roost_serving.edge.shard import Shard


class ShardDescription(qdrant.CollectionsServicer):
    """Describes the shard.

    Args:
        shard: Open.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    async def Get(  # noqa: N802 - gRPC names its methods
        self, request: "qdrant.GetCollectionInfoRequest", context: Context
    ) -> "qdrant.GetCollectionInfoResponse":
        """The shard's size and payload indexes."""
        return qdrant.GetCollectionInfoResponse(result=describe(self.shard))


async def serve(folder: Path, address: str) -> None:
    """Serve a shard until standard input ends."""
    stop = stop_event()
    try:
        shard = Shard(folder)
    except Refused as refused:
        say_error(DiskFull(refused.message))
        return

    async def flush(request: bytes, context: Context) -> bytes:
        shard.flush()
        return b""

    server = new_server()
    qdrant.add_PointsServicer_to_server(ShardPoints(shard), server)
    qdrant.add_CollectionsServicer_to_server(ShardDescription(shard), server)
    handlers = {FLUSH: grpc.unary_unary_rpc_method_handler(flush)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    await serve_until(stop, server, address, lambda: keep_flushed(lambda: [shard]))
    shard.close()


def main() -> None:
    """Serve a shard until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m roost_serving.edge.alone", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="SHARD")
    parser.add_argument("--listen", required=True, metavar="ADDRESS", help="unix:PATH or HOST:PORT")
    arguments = parser.parse_args()
    die_with_parent()
    logs.configure_as_parent()
    wait_to_begin()
    asyncio.run(serve(arguments.folder, arguments.listen))


if __name__ == "__main__":
    main()

"""`python -m roost_serving.edge FOLDER --listen ADDRESS`; it ends when its standard input does."""

import argparse
import asyncio
from pathlib import Path

from roost_serving import logs
from roost_serving.edge.indexing import INDEX_BYTES
from roost_serving.edge.server import serve


def main() -> None:
    """Serve an index until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m roost_serving.edge", description=__doc__)
    parser.add_argument("folder", type=Path, help="the index; made where it does not exist")
    parser.add_argument("--listen", required=True, metavar="ADDRESS", help="unix:PATH or HOST:PORT")
    parser.add_argument(
        "--index-bytes",
        type=int,
        default=INDEX_BYTES,
        metavar="N",
        help="bytes of vectors past which an HNSW graph is built (default: %(default)s)",
    )
    arguments = parser.parse_args()
    logs.configure_as_parent()
    asyncio.run(serve(arguments.folder, address=arguments.listen, index_bytes=arguments.index_bytes))


if __name__ == "__main__":
    main()

"""`python -m roost_serving.edge.build SOURCE TARGET`: copies a flushed shard and builds the HNSW graph of the copy.

Run by the engine's process, which goes on serving SOURCE: building holds the GIL for minutes. It prints one line once
the copy is made, and from then on SOURCE may change again. It dies with the process that runs it.
"""

import os
import sys
from pathlib import Path

import qdrant_edge

from roost_serving.edge.process import die_with_parent

BLOCK_BYTES = 1 << 20
NICENESS = 19


def copy(source: Path, target: Path) -> None:
    """Copy a folder and keep the holes of its files: the engine maps much more of them than it fills."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            copy(path, target / path.name)
            continue
        with path.open("rb") as read, (target / path.name).open("wb") as write:
            write.truncate(os.fstat(read.fileno()).st_size)
            while block := read.read(BLOCK_BYTES):
                if block.strip(b"\0"):
                    write.write(block)
                else:
                    write.seek(len(block), os.SEEK_CUR)


def build(folder: Path) -> None:
    """Build the graph over all that a shard holds, and merge its segments."""
    shard = qdrant_edge.EdgeShard.load(str(folder))
    shard.optimize()
    shard.flush()
    shard.close()


def main() -> None:
    """Copy, say so, and build."""
    die_with_parent()
    os.nice(NICENESS)
    source, target = map(Path, sys.argv[1:])
    copy(source, target)
    sys.stdout.write("copied\n")
    sys.stdout.flush()
    build(target)


if __name__ == "__main__":
    main()

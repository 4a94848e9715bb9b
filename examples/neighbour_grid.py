"""Draw one image of each folder with its neighbours, as in the README.

    python examples/neighbour_grid.py [FOLDER] [OUT]

Needs a gateway at 127.0.0.1:50051, or where ROOST_GATEWAY says, with the folder indexed. Without a folder it takes the
one that `make demo` wrote.
"""

import os
import sys
from pathlib import Path

import roost
from roost import grid
from roost.address import DEFAULT_TARGET
from roost.grid import Tile

root, out = Path("data/digits"), Path("neighbours.png")
if len(sys.argv) > 1:
    root = Path(sys.argv[1])
if len(sys.argv) > 2:
    out = Path(sys.argv[2])

rows = []
with roost.Client(os.environ.get("ROOST_GATEWAY", DEFAULT_TARGET)) as client:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        query = sorted(folder.iterdir())[2]
        found = client.search(query, limit=10)
        row = [Tile(query, "query")]
        for hit in found[1:]:  # the first is the query itself
            path = str(hit.item.payload["path"])
            row.append(Tile(root / path, f"{hit.score:.2f}", path))
        rows.append(row)
grid.draw(rows).save(out, optimize=True)
print(f"{out} shows {len(rows)} images and their neighbours.")

"""Store images with facts about them, as a stream.

    python examples/ingest.py [FOLDER]

Needs a gateway at 127.0.0.1:50051, or where ROOST_GATEWAY says. Without a folder it takes what `make demo` wrote.
`roost index FOLDER` does the same with a progress bar.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import roost
from roost.address import DEFAULT_TARGET
from roost.client import Item

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data/digits")
images = sorted(folder.rglob("*.png"))
items = (Item(path, payload={"path": str(path.relative_to(folder)), "bytes": path.stat().st_size}) for path in images)

counts = Counter()
with roost.Client(os.environ.get("ROOST_GATEWAY", DEFAULT_TARGET)) as client:
    for path, outcome in zip(images, client.ingest(items, skip_existing=True), strict=True):
        counts[outcome.kind] += 1  # stored, existed or failed; what is stored survives a crash of the gateway
        if outcome.error is not None:
            print(f"{path}: {outcome.error}")

print(", ".join(f"{count} {kind}" for kind, count in counts.items()))

"""Find an image's neighbours, then those among the anomalies.

    python examples/search.py [IMAGE]

Needs a gateway at 127.0.0.1:50051, or where ROOST_GATEWAY says, with items stored. Without an image it takes one that
`make demo` wrote.
"""

import os
import sys
from pathlib import Path

import roost
from roost.address import DEFAULT_TARGET
from roost.client import Filter

image = Path(sys.argv[1]) if len(sys.argv) > 1 else min(Path("data/digits").rglob("*.png"))

with roost.Client(os.environ.get("ROOST_GATEWAY", DEFAULT_TARGET)) as client:
    for title, wanted in {"all": Filter(), "anomalies": Filter(anomaly=True)}.items():
        found = client.search(image, limit=5, filter=wanted)
        print(f"{len(found)} neighbours of {image} among {title}, by {found.model}")
        for hit in found:
            print(f"  {hit.score:.4f}  {hit.item.payload.get('path', hit.item.id)}")

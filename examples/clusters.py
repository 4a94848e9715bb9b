"""Tell images' clusters and whether they are anomalies.

    python examples/clusters.py [IMAGE ...]

Needs a gateway at 127.0.0.1:50051, or where ROOST_GATEWAY says. Without images it takes five that `make demo` wrote.
"""

import os
import sys
from pathlib import Path

import roost
from roost.address import DEFAULT_TARGET

images = [Path(name) for name in sys.argv[1:]] or sorted(Path("data/digits").rglob("*.png"))[:5]

with roost.Client(os.environ.get("ROOST_GATEWAY", DEFAULT_TARGET)) as client:
    placements = client.assign(images)
    sizes = {cluster.cluster: cluster.items for cluster in client.clusters()}

for image, place in zip(images, placements, strict=True):
    verdict = "anomaly" if place.anomaly else "ordinary"
    print(f"{image}: cluster {place.cluster} of {sizes[place.cluster]} items, {verdict} ({place.anomaly_score:.2f})")

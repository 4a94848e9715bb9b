"""How good a running service is: neighbours, clusters and anomalies, through the gateway.

    python benchmarks/service.py IMAGES [--foreign FOLDER] [--gateway HOST:PORT] [--model NAME] [--json]

IMAGES is a folder of images in a subfolder for each class, which the model was not trained on. The gateway must hold
images of the same classes, stored by `roost index`. FOLDER has images of another kind altogether: how many of them are
flagged, beside how many of IMAGES are, tells what the anomaly threshold is worth.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score

import roost
from roost import folder
from roost.address import DEFAULT_TARGET

NEIGHBOURS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How good a running service is.")
    parser.add_argument("images", type=Path)
    parser.add_argument("--foreign", type=Path)
    parser.add_argument("--gateway", default=DEFAULT_TARGET)
    parser.add_argument("--model", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with roost.Client(options.gateway) as client:
        figures = measure(client, options.images, options.foreign, options.model)
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:36} {value:10.4f}" for name, value in figures.items()))


def measure(client: roost.Client, images: Path, foreign: Path | None, model: str) -> dict[str, float]:
    """Every figure, by name."""
    files = find(images)
    labels = [path.parent.name for path in files]
    begun = time.monotonic()
    vectors = client.embed(files, model=model)
    seconds = time.monotonic() - begun
    placements = client.assign(vectors=vectors, model=model)
    right, votes, waits = [], [], []
    for vector, label in zip(vectors, labels, strict=True):
        begun = time.monotonic()
        hits = client.search(vector=vector, limit=NEIGHBOURS, model=model)
        waits.append(time.monotonic() - begun)
        found = [str(hit.item.payload["path"]).split("/")[0] for hit in hits]
        right.append(found.count(label) / NEIGHBOURS)
        votes.append(Counter(found).most_common(1)[0][0] == label)
    scores = [placement.anomaly_score for placement in placements]
    figures = {
        "images": float(len(files)),
        "embed_images_per_second": len(files) / seconds,
        "search_milliseconds_p50": float(np.percentile(waits, 50)) * 1000,
        "search_milliseconds_p99": float(np.percentile(waits, 99)) * 1000,
        f"precision_at_{NEIGHBOURS}": float(np.mean(right)),
        f"vote_of_{NEIGHBOURS}_accuracy": float(np.mean(votes)),
        "clusters_nmi": float(normalized_mutual_info_score(labels, [p.cluster for p in placements])),
        "flagged": float(np.mean([placement.anomaly for placement in placements])),
    }
    if foreign is not None:
        strangers = client.assign(find(foreign), model=model)
        odd = [placement.anomaly_score for placement in strangers]
        figures["flagged_foreign"] = float(np.mean([placement.anomaly for placement in strangers]))
        figures["auroc_foreign"] = float(roc_auc_score([0] * len(scores) + [1] * len(odd), scores + odd))
    return figures


def find(root: Path) -> list[Path]:
    """The image files below a folder."""
    return [root / file.name for file in folder.find(root)]


if __name__ == "__main__":
    main()

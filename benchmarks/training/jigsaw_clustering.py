"""Jigsaw and deep clustering, each alone and together, on photographs for the same processor time.

    python benchmarks/training/jigsaw_clustering.py run --imagenette FOLDER [--cpu-seconds 300] [--seeds 0 1 2]
    python benchmarks/training/jigsaw_clustering.py table [--json]

Lai and Mundhenk's poster "Combining Self-supervised Tasks with Deep Clustering of Visual Features" clusters after
jigsaw, and leaves three things to others: both objectives at once, a mixture by EM in place of k-means, and puzzles
with pieces that do not belong. Do they help? FOLDER has `train/` and `val/`, each with a folder for each class, here of
Imagenette: 1,000 and 400 photographs. Every run sees the same images, makes views alike, and trains the same encoder
with one thread. `run` does what `jigsaw_clustering.jsonl` does not have yet and adds a line for each run that ends; it
may be stopped at any time, or be started twice for other seeds. `table` prints Markdown, the best linear probe first.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tables
import torch
from tables import Row

from roost_training import encoders
from roost_training.encoders import Embedder, whitening
from roost_training.evaluate.embedding import features
from roost_training.evaluate.figures import measure
from roost_training.loop import source
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings
from roost_training.loop.training import train

RESULTS = Path(__file__).with_name("jigsaw_clustering.jsonl")
COLUMNS = {"linear_probe": "linear probe", "nmi": "NMI", "mixture_nmi": "NMI of a mixture", "knn20": "kNN-20"}
UNTRAINED = "untrained"

PUZZLES = {"view_scale": 1.5}  # 96 pixels, all that the source has: nine pieces of 27
CLUSTERS = {"clusters": 100}  # ten times the classes, as in the paper
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "jigsaw": ("jigsaw", PUZZLES),
    "deep clustering": ("deepcluster", CLUSTERS),
    "jigsaw, then deep clustering": ("jigsaw_then_deepcluster", PUZZLES | CLUSTERS),
    "jigsaw and deep clustering at once": ("jigsaw_with_deepcluster", PUZZLES | CLUSTERS),
    "deep clustering by EM": ("deepcluster_em", CLUSTERS),
    "jigsaw with odd pieces": ("jigsaw_odd", PUZZLES),
    "jigsaw with odd pieces and deep clustering at once": ("jigsaw_with_deepcluster", PUZZLES | CLUSTERS | {"odd": 2}),
}
"""Methods, and their settings; all others are the methods' own."""

SETTINGS: dict[str, Any] = {
    "encoder": "resnet10w32",
    "image_size": 64,
    "source_size": 96,
    "whiten": 64,
    "batch": 64,
    "epochs": 10**6,
    "threads": 1,
    "views": {"crop_scale": [0.2, 1.0], "blur": 0.0},
    "evaluate_every": 10**6,
    "checkpoint_seconds": 1e6,
}


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train and measure what is missing")
    running.add_argument("--imagenette", type=Path, metavar="FOLDER", required=True)
    running.add_argument("--contenders", nargs="+", choices=[UNTRAINED, *CONTENDERS], metavar="CONTENDER")
    running.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    running.add_argument("--cpu-seconds", type=float, default=300.0)
    running.add_argument("--cache", type=Path, default=Path(".roost-cache"))
    table = commands.add_parser("table", help="print what was measured")
    table.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "run":
        _run(arguments)
        return
    means = tables.means(
        tables.read(arguments.results), by=("cpu_seconds", "contender"), columns=(*COLUMNS, "images", "epochs")
    )
    means.sort(key=lambda row: (-row["cpu_seconds"], -row["linear_probe"]))
    print(json.dumps(means, indent=2) if arguments.json else _markdown(means))


def _run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for contender in arguments.contenders or [UNTRAINED, *CONTENDERS]:
            task = {"contender": contender, "seed": seed, "cpu_seconds": arguments.cpu_seconds}
            if any(task.items() <= row.items() for row in tables.read(arguments.results)):
                continue
            row = task | _figures(contender, _flags(arguments, contender, seed=seed))
            with arguments.results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(f"seed {seed}, {contender}: linear probe {row['linear_probe']:.3f}", file=sys.stderr)


def _flags(arguments: argparse.Namespace, contender: str, *, seed: int) -> dict[str, Any]:
    method, settings = CONTENDERS.get(contender, ("simclr", {}))
    return SETTINGS | {
        "data": arguments.imagenette / "train",
        "val": arguments.imagenette / "val",
        "cache": arguments.cache,
        "seed": seed,
        "max_cpu_seconds": arguments.cpu_seconds,
        "method": method,
        "method_settings": settings,
    }


def _figures(contender: str, flags: dict[str, Any]) -> dict[str, float]:
    """Train where there is something to train, and measure the encoder as it would be served."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings.load(flags=flags | {"out": Path(folder) / "run"})
        images = source.read(settings)
        if contender == UNTRAINED:
            return measure(_untrained(settings, images), images.plain, images.held_out, seed=settings.seed)
        manifest = train(settings, progress=Reporter())
        spent = {"images": manifest.quality["images_seen"], "epochs": manifest.quality["epochs"]}
        embedder = encoders.restore(settings.out, manifest)
        return measure(embedder, images.plain, images.held_out, seed=settings.seed) | spent


def _untrained(settings: TrainSettings, images: source.Source) -> Embedder:
    torch.manual_seed(settings.seed)
    encoder, _ = encoders.build(settings.encoder, image_size=settings.image_size)
    embedder = Embedder(encoder, mean=images.mean, std=images.std).eval()
    embedder.whitening = whitening.fit(features(embedder, images.plain), dim=SETTINGS["whiten"])
    return embedder


def _markdown(means: Iterable[Row]) -> str:
    lines = [
        [
            f"{row['cpu_seconds']:g}",
            row["contender"],
            str(row["seeds"]),
            f"{row.get('epochs', 0):.0f}",
            *(tables.cell(row, column) for column in COLUMNS),
        ]
        for row in means
    ]
    return tables.markdown(["CPU-seconds", "", "seeds", "epochs", *COLUMNS.values()], lines)


if __name__ == "__main__":
    main()

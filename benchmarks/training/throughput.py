"""Images per second of a whole training, beside lightly's Lightning recipe: same encoder, views, batch and cores.

    python benchmarks/training/throughput.py FOLDER [--encoder resnet10w32] [--size 32] [--batch 256] [--rounds 3]

FOLDER holds JPEG files. SimCLR with lightly's views for small images (strength 0.5, no blur), two of each image. Up to
64 pixels lightly has the decoded images in memory; beyond, both sides begin with the files: lightly opens them in its
workers each time, Roost decodes them once (`decode_seconds`) and keeps the pixels. Lightly's encoder is convolved by
torch, as anyone has it, or by `roost_training.encoders.convolution` with `--share-convolutions`. Every contender runs
in a process of its own, in turn; medians and their ratios are printed. The first batch, which waits for workers, is not
counted against lightly.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

CONTENDERS = ("roost", "lightly", "lightly bf16")
IN_MEMORY = 64
"""Side up to which lightly's images are in memory, in pixels."""
STRENGTHS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "blur": 0.0}
"""Of lightly's SimCLRTransform with cj_strength 0.5 and without blur."""


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--encoder", default="resnet10w32")
    parser.add_argument("--size", type=int, default=32, help="side of the views, in pixels (default: 32)")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20, help="for one contender in one round (default: 20)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share-convolutions", action="store_true", help="give lightly's encoder Roost's")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        measure = roost if arguments.contender == "roost" else lightly
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for done in range(arguments.rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, *sys.argv[1:], "--contender", name]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(ended.stdout.splitlines()[-1]))
        print(f"round {done + 1} of {arguments.rounds}", file=sys.stderr)
    rates = {name: statistics.median(run["rate"] for run in runs) for name, runs in found.items()}
    ratios = {name: rates["roost"] / rate for name, rate in rates.items() if name != "roost"}
    decode = found["roost"][0]["decode_seconds"]
    if arguments.json:
        print(json.dumps({"images_per_second": rates, "ratio": ratios, "decode_seconds": decode, "runs": found}))
        return
    print(f"{arguments.encoder} at {arguments.size} pixels, batches of {arguments.batch}; decoding took {decode:.1f} s")
    for name, rate in rates.items():
        ratio = f"   roost / it {ratios[name]:.2f}" if name in ratios else ""
        print(f"{name:16} {rate:9,.1f} images/s{ratio}")


def roost(arguments: argparse.Namespace) -> dict[str, float]:
    """`roost train`, as it is set by default."""
    from roost_training.images import data
    from roost_training.loop.progress import Reporter
    from roost_training.loop.settings import TrainSettings
    from roost_training.loop.training import train

    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        data.load(arguments.images, side=arguments.size, cache=Path(folder) / "cache")
        decoded = time.monotonic() - start
        settings = TrainSettings(
            data=arguments.images,
            out=Path(folder) / "run",
            cache=Path(folder) / "cache",
            encoder=arguments.encoder,
            image_size=arguments.size,
            batch=arguments.batch,
            epochs=100_000,
            max_seconds=arguments.seconds,
            evaluate_every=10**6,
            checkpoint_seconds=10**6,
            views=STRENGTHS,  # pyright: ignore[reportArgumentType]
        )
        quality = train(settings, progress=Reporter()).quality
    return {"rate": quality["images_seen"] / quality["training_seconds"], "decode_seconds": decoded}


def lightly(arguments: argparse.Namespace) -> dict[str, float]:
    """Lightly's SimCLR under Lightning's Trainer with two workers."""
    import lightly_trainer

    from roost import folder, preprocess
    from roost_training import encoders
    from roost_training.encoders.convolution import EverySecondConv2d, SmallMapConv2d

    if not arguments.share_convolutions:
        for faster in (EverySecondConv2d, SmallMapConv2d):
            faster.forward = torch.nn.Conv2d.forward
    files = [arguments.images / file.name for file in folder.find(arguments.images)]
    images = files
    if arguments.size <= IN_MEMORY:
        from PIL import Image

        size = arguments.size
        decoded = (preprocess.decode(file.read_bytes(), size=size, resize=size) for file in files)
        images = [Image.fromarray(pixels) for pixels in decoded]
    torch.manual_seed(0)
    encoder, dim = encoders.build(arguments.encoder, image_size=arguments.size)
    made = lightly_trainer.transform("simclr", size=arguments.size, mean=(0.5,) * 3, std=(0.25,) * 3)
    budget = lightly_trainer.Budget(arguments.seconds, clock=time.monotonic, batch=arguments.batch)
    precision = "bf16-mixed" if arguments.contender.endswith("bf16") else "32-true"
    lightly_trainer.train(
        "simclr", lightly_trainer.Views(images, made), encoder=encoder, dim=dim, budget=budget, precision=precision
    )
    return {"rate": budget.rate}


if __name__ == "__main__":
    main()

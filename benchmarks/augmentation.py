"""Images per second of Roost's batched views beside lightly's SimCLRTransform, on the same images and cores.

    python benchmarks/augmentation.py [--images FOLDER] [--size 32] [--seconds 2] [--rounds 7] [--json]

Both make the two views of SimCLR, with lightly's default strengths, of decoded images in memory. Neither normalises:
in Roost the model does. Roost uses one thread; lightly has one process, and then two. The contenders take turns, and
the medians of the rounds are compared, so that a busy machine slows all alike. Without `--images`, tiles of the
photographs in scikit-image and scikit-learn are used.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightly.transforms.simclr_transform import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from roost import folder, preprocess
from roost_training.views import augment

MAX_IMAGES = 2048
BATCH = 256
ENDLESS = 10**9


class LightlyViews(Dataset):
    """PIL images under lightly's transform."""

    def __init__(self, pixels: np.ndarray, *, hand_over: bool) -> None:
        self.images = [Image.fromarray(image) for image in pixels]
        self.transform = SimCLRTransform(input_size=pixels.shape[1], normalize=None)
        self.hand_over = hand_over

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        views = [torch.as_tensor(view) for view in self.transform(self.images[index])]
        return views if self.hand_over else [view[0, 0, 0] for view in views]


def roost(pixels: np.ndarray, *, batch: int) -> Iterator[int]:
    """Yields the number of images after each batch."""
    generator = torch.Generator().manual_seed(0)
    order = np.random.default_rng(0)
    recipe = augment.Recipe(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)  # lightly's own defaults
    while True:
        chosen = torch.from_numpy(pixels[order.integers(len(pixels), size=batch)])
        for _ in range(2):
            augment.augment(chosen, recipe, size=pixels.shape[1], generator=generator)
        yield batch


def lightly(pixels: np.ndarray, *, workers: int, batch: int, hand_over: bool = True) -> Iterator[int]:
    """Yields the number of images after each batch of a DataLoader."""
    views = LightlyViews(pixels, hand_over=hand_over)
    sampler = RandomSampler(views, replacement=True, num_samples=ENDLESS)
    loader = DataLoader(views, batch_size=batch, sampler=sampler, num_workers=workers)
    for first, _ in loader:
        yield len(first)


CONTENDERS = {
    "roost": roost,
    "lightly, 1 process": partial(lightly, workers=0),
    "lightly, 2 workers": partial(lightly, workers=2),
    "lightly, 2 workers, views thrown away": partial(lightly, workers=2, hand_over=False),
}
"""The last spares lightly the copies between processes: no way of feeding them can be faster on two cores."""


def images_per_second(batches: Iterator[int], *, seconds: float) -> float:
    """The rate once every worker has handed over a batch."""
    for _ in range(2):
        next(batches)
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        done += next(batches)
    return done / spent


def find_images(path: Path | None, *, size: int) -> np.ndarray:
    """At most 2,048 images, uint8 of shape (n, size, size, 3)."""
    if path is not None:
        files = folder.find(path)
        files = files[:: -(-len(files) // MAX_IMAGES)]
        return np.stack([preprocess.decode((path / file.name).read_bytes(), size=size, resize=size) for file in files])
    from skimage import data
    from sklearn.datasets import load_sample_images

    tiles = []
    for photograph in (data.astronaut(), data.coffee(), data.chelsea(), *load_sample_images().images):
        height, width = photograph.shape[:2]
        for top in range(0, height - size + 1, size):
            tiles += [photograph[top : top + size, left : left + size] for left in range(0, width - size + 1, size)]
    return np.stack(tiles[:MAX_IMAGES])


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of images; those that packages ship by default")
    parser.add_argument("--size", type=int, default=32, help="side of images and views, in pixels (default: 32)")
    parser.add_argument("--seconds", type=float, default=2, help="for one contender in one round (default: 2)")
    parser.add_argument("--rounds", type=int, default=7, help="of all contenders (default: 7)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a DataLoader's workers
    pixels = find_images(arguments.images, size=arguments.size)
    batch = max(8, BATCH * 32**2 // arguments.size**2)
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for done in range(arguments.rounds):
        for name, contender in CONTENDERS.items():
            rates[name].append(images_per_second(contender(pixels, batch=batch), seconds=arguments.seconds))
        print(f"round {done + 1} of {arguments.rounds}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: medians["roost"] / median for name, median in medians.items() if name != "roost"}
    if arguments.json:
        print(
            json.dumps({"images": len(pixels), "size": arguments.size, "images_per_second": medians, "ratio": ratios})
        )
        return
    print(f"{len(pixels)} images of {arguments.size} x {arguments.size}, two views each, batches of {batch}")
    for name, values in rates.items():
        print(f"{name:40} {medians[name]:9,.0f} images/s   (from {min(values):,.0f} to {max(values):,.0f})")
    for name, ratio in ratios.items():
        print(f"roost / {name:32} {ratio:9.1f}")


if __name__ == "__main__":
    main()

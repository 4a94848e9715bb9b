"""Exemplar-CNN's features beside SIFT at matching patches of photographs that were blurred, turned, scaled and relit.

    python benchmarks/training/exemplar_sift.py --images FOLDER [--cpu-seconds 300] [--keep RUN] [--json]
    python benchmarks/training/exemplar_sift.py --run RUN [--json]

The first trains an encoder on a folder of images, the second takes a run that is there. The photographs are
scikit-image's, which are not trained on.

As in Fischer, Dosovitskiy, Brox, "Descriptor matching with convolutional neural networks: a comparison to SIFT", 2014,
https://arxiv.org/abs/1405.5769, regions are detected in a photograph and in its changed copy, each region is matched to
the copy's nearest, a match is right where the two regions, laid over each other by the known change, share more than
half of their union, and the figure is the mean average precision of matches ranked by distance. Departures: regions
are those of SIFT's own detector (scikit-image's), with its scale and orientation, in place of MSERs, and the smallest,
of which a network would see nothing but enlarged pixels, are left out. Every descriptor is given the same regions.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from skimage import color, data, filters, img_as_float32, transform
from skimage.feature import SIFT
from torch import Tensor
from torch.nn import functional

from roost import artifact
from roost_training import encoders
from roost_training.encoders import Embedder
from roost_training.loop import training
from roost_training.loop.settings import TrainSettings

LEAST_SIGMA = 2.0
"""Of the regions' scale, in pixels: the descriptor's square is 12 times as wide."""
MOST_REGIONS = 300
"""Of a photograph, evenly spread over those detected."""
LEAST_SHARED = 0.5
LONGER_SIDE = 480
"""To which photographs are reduced, in pixels."""
SETTINGS = {
    "method": "exemplar_cnn",
    "encoder": "resnet10w32",
    "image_size": 32,
    "source_size": 96,
    "batch": 128,
    "epochs": 10_000,
    "threads": 1,
    "evaluate_every": 10_000,
    "method_settings": {"zoom": 3, "blur": 3.0},
}
"""The paper's sizes, patches of 32 pixels from images of 96, and its blur."""

Image = np.ndarray
"""float32 in 0..1 of shape (height, width, 3)."""


@dataclass(frozen=True)
class Regions:
    """Squares in an image: of one scale and one orientation each."""

    centre: np.ndarray
    """Row and column, shape (n, 2)."""
    half: np.ndarray
    """Half of the side, in pixels, shape (n,)."""
    angle: np.ndarray
    """From the rows' axis to the columns', in radians, shape (n,)."""
    sift: np.ndarray
    """SIFT's descriptor of each, float32 of shape (n, 128)."""

    def at(self, chosen: np.ndarray) -> "Regions":
        """Some of the regions."""
        return Regions(self.centre[chosen], self.half[chosen], self.angle[chosen], self.sift[chosen])


@dataclass(frozen=True)
class Change:
    """What is done to a photograph: an image of the same or another size, and where its points go."""

    kind: str
    strength: str
    apply: Callable[[Image], Image]
    degrees: float = 0.0
    scale: float = 1.0

    def move(self, centre: np.ndarray, before: Image, after: Image) -> np.ndarray:
        """Where points (n, 2), as row and column, of the photograph lie in its copy."""
        middle = (np.array(before.shape[:2]) - 1) / 2
        turn = math.radians(self.degrees)
        row, column = (centre - middle).T * self.scale
        moved = np.stack(
            [math.cos(turn) * row - math.sin(turn) * column, math.sin(turn) * row + math.cos(turn) * column]
        )
        return moved.T + (np.array(after.shape[:2]) - 1) / 2


def changes() -> list[Change]:
    """Four kinds, each in three strengths."""
    made = [
        Change("blur", f"sigma {s}", lambda image, s=s: filters.gaussian(image, s, channel_axis=2)) for s in (2, 4, 6)
    ]
    for degrees in (15, 45, 90):
        made.append(
            Change("rotation", f"{degrees} degrees", lambda image, d=degrees: _turned(image, d), degrees=float(degrees))
        )
    for scale in (0.35, 0.5, 2.0):
        made.append(Change("scale", f"x {scale}", lambda image, s=scale: _scaled(image, s), scale=scale))
    for gamma, slope in ((0.6, 0.2), (1.7, 0.4), (2.5, 0.6)):
        made.append(Change("lighting", f"gamma {gamma}", lambda image, g=gamma, s=slope: _relit(image, g, s)))
    return made


def _turned(image: Image, degrees: float) -> Image:
    return transform.rotate(image, degrees, resize=True, order=1).astype(np.float32)


def _scaled(image: Image, scale: float) -> Image:
    height, width = image.shape[:2]
    return np.asarray(transform.resize(image, (round(height * scale), round(width * scale)), anti_aliasing=scale < 1))


def _relit(image: Image, gamma: float, slope: float) -> Image:
    """Another exposure, light that falls off from left to right, and a warmer colour."""
    fall = 1 - slope * np.linspace(0, 1, image.shape[1], dtype=np.float32)[None, :, None]
    warm = 1 - slope * np.array([0.0, 0.25, 0.5], dtype=np.float32)
    return np.clip(image**gamma * fall * warm, 0, 1)


def photographs() -> dict[str, Image]:
    """scikit-image's, of things and of textures, grey ones as three equal channels."""
    left, _, _ = data.stereo_motorcycle()
    found = {
        "astronaut": data.astronaut(),
        "brick": data.brick(),
        "camera": data.camera(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "coins": data.coins(),
        "gravel": data.gravel(),
        "motorcycle": left,
        "rocket": data.rocket(),
    }
    return {name: _reduced(image) for name, image in found.items()}


def _reduced(image: np.ndarray) -> Image:
    coloured = img_as_float32(image if image.ndim == 3 else color.gray2rgb(image))
    share = min(1.0, LONGER_SIDE / max(coloured.shape[:2]))
    return _scaled(coloured, share).astype(np.float32)


def detect(image: Image) -> Regions:
    """The regions that SIFT finds, but for the smallest, with its descriptors."""
    sift = SIFT()
    sift.detect_and_extract(color.rgb2gray(image))
    centre, sigma, angle = np.asarray(sift.positions), np.asarray(sift.sigmas), np.asarray(sift.orientations)
    found = Regions(centre, sift.lambda_descr * sigma, angle, np.asarray(sift.descriptors, dtype=np.float32))
    return found.at(np.flatnonzero(sigma >= LEAST_SIGMA))


def cut(image: Image, regions: Regions, *, size: int) -> Tensor:
    """The regions' squares, turned upright: uint8 of shape (n, size, size, 3)."""
    height, width = image.shape[:2]
    half = torch.from_numpy(regions.half).float()
    cos, sin = (
        torch.from_numpy(np.cos(regions.angle)).float() * half,
        torch.from_numpy(np.sin(regions.angle)).float() * half,
    )
    row, column = torch.from_numpy(regions.centre).float().T
    # grid_sample's coordinates: x, y from -1 to 1 over the image's width and height.
    x = torch.stack([2 * cos / width, 2 * sin / width, (2 * column + 1) / width - 1], dim=1)
    y = torch.stack([-2 * sin / height, 2 * cos / height, (2 * row + 1) / height - 1], dim=1)
    fine = 2 * size  # two samples a pixel and axis, averaged: squares may be larger than their patches
    grid = functional.affine_grid(torch.stack([x, y], dim=1), [len(half), 3, fine, fine], align_corners=False)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].expand(len(half), -1, -1, -1)
    patches = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return (functional.avg_pool2d(patches, 2) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def pixel_descriptor(patches: Tensor) -> Tensor:
    """The patch's own pixels, less their mean."""
    flat = patches.float().flatten(1)
    return flat - flat.mean(1, keepdim=True)


@torch.inference_mode()
def map_descriptor(embedder: Embedder, patches: Tensor) -> Tensor:
    """An encoder's last map, which keeps where things are in the patch."""
    maps = cast(encoders.Encoder, embedder.encoder).maps
    return torch.cat([maps(embedder.normalise(part)).flatten(1) for part in patches.split(256)])


def shared(first: np.ndarray, second: np.ndarray, radii: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each of n discs with each of m, shape (n, m)."""
    distance = np.linalg.norm(first[:, None] - second[None], axis=2)
    a, b = np.broadcast_arrays(radii[:, None], others[None])
    apart = np.maximum(distance, 1e-9)
    alpha = np.arccos(np.clip((apart**2 + a**2 - b**2) / (2 * apart * a), -1, 1))
    beta = np.arccos(np.clip((apart**2 + b**2 - a**2) / (2 * apart * b), -1, 1))
    common = a**2 * (alpha - np.sin(2 * alpha) / 2) + b**2 * (beta - np.sin(2 * beta) / 2)
    return common / (np.pi * (a**2 + b**2) - common)


def average_precision(before: Tensor, after: Tensor, right: np.ndarray) -> float:
    """Of matching each row of `before` to the nearest of `after`, ranked by distance.

    Args:
        before: Descriptors, shape (n, dim); compared at unit length.
        after: Shape (m, dim).
        right: Which pairs show the same region, bool of shape (n, m).

    Returns:
        The precision at each right match, summed and divided by the regions that have a partner: 0 to 1.
    """
    similarity = functional.normalize(before.float(), dim=1) @ functional.normalize(after.float(), dim=1).T
    best, nearest = similarity.max(1)
    order = best.argsort(descending=True).numpy()
    hits = right[np.arange(len(right)), nearest.numpy()][order]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / max(1, right.any(1).sum()))


@dataclass
class Row:
    """What was measured of one change."""

    kind: str
    strength: str
    regions: int = 0
    """Those that are found in the copy too, over all photographs."""
    precision: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Each descriptor's average precision, for each photograph."""

    def means(self) -> dict[str, float]:
        """Each descriptor's mean average precision."""
        return {name: float(np.mean(values)) for name, values in self.precision.items()}


def measure(embedders: dict[str, Embedder], *, size: int) -> list[Row]:
    """One row for each change, over all photographs."""
    rows = [Row(change.kind, change.strength) for change in changes()]
    for name, photograph in photographs().items():
        regions = detect(photograph)
        regions = regions.at(np.linspace(0, len(regions.half) - 1, min(MOST_REGIONS, len(regions.half))).astype(int))
        before = _descriptors(photograph, regions, embedders, size=size)
        for change, row in zip(changes(), rows, strict=True):
            copy = change.apply(photograph).astype(np.float32)
            others = detect(copy)
            moved = change.move(regions.centre, photograph, copy)
            right = shared(moved, others.centre, regions.half * change.scale, others.half) > LEAST_SHARED
            after = _descriptors(copy, others, embedders, size=size)
            row.regions += int(right.any(1).sum())
            for descriptor in before:
                row.precision[descriptor].append(average_precision(before[descriptor], after[descriptor], right))
        print(f"{name}: {len(regions.half)} regions", file=sys.stderr)
    return rows


def _descriptors(image: Image, regions: Regions, embedders: dict[str, Embedder], *, size: int) -> dict[str, Tensor]:
    patches = cut(image, regions, size=size)
    maps = {name: map_descriptor(embedder, patches) for name, embedder in embedders.items()}
    return {"SIFT": torch.from_numpy(regions.sift), **maps, "raw pixels": pixel_descriptor(patches)}


def train(images: Path, out: Path, *, cpu_seconds: float) -> None:
    """Train the encoder that is measured."""
    torch.set_num_threads(1)
    settings = TrainSettings.load(flags=SETTINGS | {"data": images, "out": out, "max_cpu_seconds": cpu_seconds})
    training.train(settings)


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="a folder to train on")
    source.add_argument("--run", type=Path, help="a run folder of `roost train`")
    parser.add_argument("--keep", type=Path, help="where the trained run is kept")
    parser.add_argument("--cpu-seconds", type=float, default=300, help="of training (default: 300)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or arguments.keep or Path(folder) / "exemplar"
        if arguments.images:
            train(arguments.images, run, cpu_seconds=arguments.cpu_seconds)
        manifest = artifact.read(run)
        trained = encoders.restore(run, manifest)
    torch.manual_seed(0)
    untrained, _ = encoders.build(manifest.encoder, image_size=manifest.input.size)
    untrained = Embedder(untrained, mean=manifest.input.mean, std=manifest.input.std).eval()
    rows = measure({manifest.method: trained, "untrained": untrained}, size=manifest.input.size)
    if arguments.json:
        means = [{"kind": row.kind, "strength": row.strength, "regions": row.regions} | row.means() for row in rows]
        print(json.dumps({"training": manifest.quality, "mean_average_precision": means}, indent=2))
        return
    print(_markdown(rows))


def _markdown(rows: list[Row]) -> str:
    names = list(rows[0].precision)
    lines = ["| change | strength | regions | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 3)]
    for row in rows:
        cells = [f"{mean:.3f}" for mean in row.means().values()]
        lines.append(f"| {row.kind} | {row.strength} | {row.regions} | " + " | ".join(cells) + " |")
    overall = [f"{np.mean([row.means()[name] for row in rows]):.3f}" for name in names]
    lines.append("| all | | | " + " | ".join(overall) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

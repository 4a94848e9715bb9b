"""What an encoder makes of a set of images: its features, and its embeddings as they are served."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roost_training.encoders import Embedder
from roost_training.images.data import Images
from roost_training.views import augment
from roost_training.views.recipe import Recipe

BATCH = 500

Progress = Callable[[int, int], None]
"""Called with the images done and the images in all."""


@dataclass(frozen=True)
class Vectors:
    """The same images as an encoder sees them and as a gateway serves them."""

    features: Tensor
    """The encoder's own, before whitening: float32 (n, feature_dim)."""
    embeddings: Tensor
    """Whitened where the model whitens, and of unit length: float32 (n, dim)."""

    def __len__(self) -> int:
        return len(self.features)


@torch.inference_mode()
def vectors(embedder: Embedder, images: Images, *, progress: Progress | None = None) -> Vectors:
    """Features and embeddings of all images, by one pass."""
    found = features(embedder, images, progress=progress)
    return Vectors(found, served(embedder, found))


@torch.inference_mode()
def embed(embedder: Embedder, images: Images) -> Tensor:
    """Embeddings of all images, unit-length float32 (n, dim), as they are served."""
    return served(embedder, features(embedder, images))


@torch.inference_mode()
def features(embedder: Embedder, images: Images, *, progress: Progress | None = None) -> Tensor:
    """The encoder's features of all images, float32 (n, feature_dim), in evaluation mode and without autocast."""
    training = embedder.training
    embedder.eval()
    found: list[Tensor] = []
    for pixels in batches(images):
        found.append(embedder.features(pixels.to(embedder.mean.device)))
        if progress:
            progress(sum(map(len, found)), len(images))
    embedder.train(training)
    return torch.cat(found)


def served(embedder: Embedder, found: Tensor) -> Tensor:
    """Features as embeddings: whitened where the model whitens, and scaled to unit length."""
    return functional.normalize(found if embedder.whitening is None else embedder.whitening(found), dim=1)


@torch.inference_mode()
def two_views(
    embedder: Embedder, images: Images, recipe: Recipe, *, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Embeddings of two augmented copies of each image, each unit-length float32 (n, dim).

    Args:
        embedder: In evaluation mode.
        images: That the copies are cut from, at any size.
        recipe: How.
        size: Side of the copies, in pixels: the encoder's.
        generator: Of the CPU; it is moved on.
    """

    def view(pixels: Tensor) -> Tensor:
        made = augment.augment(pixels.to(embedder.mean.device), recipe, size=size, generator=generator)
        return served(embedder, embedder.encoder((made - embedder.mean) / embedder.std).float())

    pairs = [(view(pixels), view(pixels)) for pixels in batches(images)]
    return torch.cat([za for za, _ in pairs]), torch.cat([zb for _, zb in pairs])


def batches(images: Images) -> Iterator[Tensor]:
    """The images' pixels in their order, uint8 (at most 500, side, side, 3)."""
    for indices in np.array_split(np.arange(len(images)), -(-len(images) // BATCH)):
        yield torch.from_numpy(images.gather(indices))


def evenly(images: Images, most: int) -> Images:
    """All images, or of more than `most` so many, evenly spread."""
    if len(images) <= most:
        return images
    return images.subset(np.linspace(0, len(images) - 1, most).round().astype(np.int64))

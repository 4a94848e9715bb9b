"""What an encoder makes of a set of images: its features, and its embeddings as they are served."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roost_training.encoders import Embedder
from roost_training.images.data import Images

BATCH = 500
THUMBNAIL = 32

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
def thumbnails(embedder: Embedder, images: Images) -> Tensor:
    """The pixels, float32 (n, values): normalised as for the encoder, and at most 32 a side, to keep them few."""
    side = min(images.side, THUMBNAIL)
    planes = (embedder.normalise(pixels.to(embedder.mean.device)) for pixels in batches(images))
    return torch.cat([functional.adaptive_avg_pool2d(part, side).flatten(1) for part in planes])


def batches(images: Images) -> Iterator[Tensor]:
    """The images' pixels in their order, uint8 (at most 500, side, side, 3)."""
    for indices in np.array_split(np.arange(len(images)), -(-len(images) // BATCH)):
        yield torch.from_numpy(images.gather(indices))

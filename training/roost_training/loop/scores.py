"""What an encoder is worth while it trains: figures that go into metrics and manifest."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roost_training.encoders import Embedder, whitening
from roost_training.evaluate import knn_accuracy, rankme
from roost_training.images.data import Images
from roost_training.loop.source import Source

EMBED_BATCH = 500
RANKME_IMAGES = 5_000
THUMBNAIL = 32


@torch.inference_mode()
def embed(embedder: Embedder, images: Images) -> Tensor:
    """Embeddings of all images, unit-length float32 (n, dim), as they are served."""
    return _unit(embedder, features(embedder, images))


@torch.inference_mode()
def features(embedder: Embedder, images: Images) -> Tensor:
    """The encoder's features of all images, float32 (n, feature_dim), in evaluation mode and without autocast."""
    training = embedder.training
    embedder.eval()
    found = torch.cat([embedder.features(pixels.to(embedder.mean.device)) for pixels in _batches(images)])
    embedder.train(training)
    return found


def score(embedder: Embedder, source: Source, *, whiten: int | None) -> dict[str, float]:
    """kNN-20 accuracy of the held-out images where both sides have classes, and RankMe of the training images.

    Args:
        embedder: Its whitening is fitted anew to the training images' features.
        source: The images.
        whiten: Dimensions that the whitening keeps; None for none.

    Returns:
        `rankme`, of the features before whitening, which would hide a collapse, and perhaps `knn20_accuracy`.
    """
    bank, queries = features(embedder, source.bank), features(embedder, source.held_out)
    embedder.whitening = None if whiten is None else whitening.fit(bank, dim=whiten)
    figures = {"rankme": rankme(functional.normalize(bank[:: -(-len(bank) // RANKME_IMAGES)], dim=1))}
    return figures | _knn("knn20_accuracy", _unit(embedder, bank), _unit(embedder, queries), source)


def baselines(untrained: Embedder, source: Source, *, whiten: int | None) -> dict[str, float]:
    """What training has to beat: the kNN-20 accuracy of the untrained encoder, and of the pixels themselves.

    Where embeddings are whitened, the untrained encoder has a second figure with whitening, which is learnt from the
    images too. The pixels are normalised as for the encoder, and averaged down to 32 a side to keep them few.
    """
    bank, queries = features(untrained, source.bank), features(untrained, source.held_out)
    found = _knn("untrained_knn20_accuracy", bank, queries, source)
    if whiten is not None:
        linear = whitening.fit(bank, dim=whiten)
        found |= _knn("untrained_whitened_knn20_accuracy", linear(bank), linear(queries), source)
    bank, queries = _thumbnails(untrained, source.bank), _thumbnails(untrained, source.held_out)
    return found | _knn("raw_pixels_knn20_accuracy", bank, queries, source)


def _unit(embedder: Embedder, found: Tensor) -> Tensor:
    return functional.normalize(found if embedder.whitening is None else embedder.whitening(found), dim=1)


def _batches(images: Images) -> Iterator[Tensor]:
    for indices in np.array_split(np.arange(len(images)), -(-len(images) // EMBED_BATCH)):
        yield torch.from_numpy(images.gather(indices))


def _thumbnails(embedder: Embedder, images: Images) -> Tensor:
    side = min(images.side, THUMBNAIL)
    planes = (embedder.normalise(pixels.to(embedder.mean.device)) for pixels in _batches(images))
    return torch.cat([functional.adaptive_avg_pool2d(part, side).flatten(1) for part in planes])


def _knn(name: str, bank: Tensor, queries: Tensor, source: Source) -> dict[str, float]:
    if source.bank.labels is None or source.held_out.labels is None:
        return {}
    return {name: knn_accuracy(bank, source.bank.labels, queries, source.held_out.labels, k=20)}

"""What an encoder is worth while it trains: figures that go into metrics and manifest."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from roost_training.data import Images
from roost_training.encoders import Embedder
from roost_training.evaluate import knn_accuracy, rankme
from roost_training.source import Source

EMBED_BATCH = 500
RANKME_IMAGES = 5_000
THUMBNAIL = 32


@torch.inference_mode()
def embed(embedder: Embedder, images: Images) -> Tensor:
    """Embeddings of all images, float32 (n, dim), computed in evaluation mode without autocast, as they are served."""
    training = embedder.training
    embedder.eval()
    embeddings = torch.cat([embedder(pixels.to(embedder.mean.device)) for pixels in _batches(images)])
    embedder.train(training)
    return embeddings


def score(embedder: Embedder, source: Source) -> dict[str, float]:
    """kNN-20 accuracy of the held-out images where both sides have classes, and RankMe of the training images."""
    bank, queries = embed(embedder, source.bank), embed(embedder, source.held_out)
    return {"rankme": rankme(bank[:: -(-len(bank) // RANKME_IMAGES)])} | _knn("knn20_accuracy", bank, queries, source)


def baselines(untrained: Embedder, source: Source) -> dict[str, float]:
    """What training has to beat: the kNN-20 accuracy of the untrained encoder, and of the pixels themselves.

    Images of more than 32 pixels are averaged down to 32 for the latter, to keep it small.
    """
    bank, queries = embed(untrained, source.bank), embed(untrained, source.held_out)
    found = _knn("untrained_knn20_accuracy", bank, queries, source)
    bank, queries = _thumbnails(source.bank), _thumbnails(source.held_out)
    return found | _knn("raw_pixels_knn20_accuracy", bank, queries, source)


def _batches(images: Images) -> Iterator[Tensor]:
    for indices in np.array_split(np.arange(len(images)), -(-len(images) // EMBED_BATCH)):
        yield torch.from_numpy(images.gather(indices))


def _thumbnails(images: Images) -> Tensor:
    side = min(images.side, THUMBNAIL)
    planes = (pixels.permute(0, 3, 1, 2).float() for pixels in _batches(images))
    return torch.cat([functional.adaptive_avg_pool2d(part, side).flatten(1) for part in planes])


def _knn(name: str, bank: Tensor, queries: Tensor, source: Source) -> dict[str, float]:
    if source.bank.labels is None or source.held_out.labels is None:
        return {}
    return {name: knn_accuracy(bank, source.bank.labels, queries, source.held_out.labels, k=20)}

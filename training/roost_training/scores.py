"""What an encoder is worth while it trains: figures that go into metrics and manifest."""

import numpy as np
import torch
from torch import Tensor

from roost_training.data import Images
from roost_training.encoders import Embedder
from roost_training.evaluate import knn_accuracy, rankme
from roost_training.source import Source

EMBED_BATCH = 500
RANKME_IMAGES = 5_000


@torch.inference_mode()
def embed(embedder: Embedder, images: Images) -> Tensor:
    """Embeddings of all images, float32 (n, dim), computed in evaluation mode without autocast, as they are served."""
    training = embedder.training
    embedder.eval()
    parts = [
        embedder(torch.from_numpy(images.gather(indices)).to(embedder.mean.device))
        for indices in np.array_split(np.arange(len(images)), -(-len(images) // EMBED_BATCH))
    ]
    embedder.train(training)
    return torch.cat(parts)


def score(embedder: Embedder, source: Source) -> dict[str, float]:
    """kNN-20 accuracy of the held-out images where both sides have classes, and RankMe of the training images."""
    bank, queries = embed(embedder, source.bank), embed(embedder, source.held_out)
    return {"rankme": rankme(bank[:: -(-len(bank) // RANKME_IMAGES)])} | _knn("knn20_accuracy", bank, queries, source)


def baselines(untrained: Embedder, source: Source) -> dict[str, float]:
    """What training has to beat: the kNN-20 accuracy of the untrained encoder, and of the pixels themselves."""
    bank, queries = embed(untrained, source.bank), embed(untrained, source.held_out)
    found = _knn("untrained_knn20_accuracy", bank, queries, source)
    bank, queries = (torch.from_numpy(part.pixels).flatten(1) for part in (source.bank, source.held_out))
    return found | _knn("raw_pixels_knn20_accuracy", bank, queries, source)


def _knn(name: str, bank: Tensor, queries: Tensor, source: Source) -> dict[str, float]:
    if source.bank.labels is None or source.held_out.labels is None:
        return {}
    return {name: knn_accuracy(bank, source.bank.labels, queries, source.held_out.labels, k=20)}

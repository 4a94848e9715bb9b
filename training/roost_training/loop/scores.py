"""What an encoder is worth while it trains: figures that go into metrics and manifest."""

from torch import Tensor

from roost_training.encoders import Embedder, whitening
from roost_training.evaluate import knn_accuracy, signs_of_collapse
from roost_training.evaluate.baselines import raw_pixels
from roost_training.evaluate.embedding import features, served
from roost_training.loop import collapse
from roost_training.loop.source import Source


def score(embedder: Embedder, source: Source, *, whiten: int | None) -> dict[str, float]:
    """kNN-20 accuracy of the held-out images where both sides have classes, and how the training images spread.

    Args:
        embedder: Its whitening is fitted anew to the training images' features.
        source: The images.
        whiten: Dimensions that the whitening keeps; None for none.

    Returns:
        `rankme` and `feature_std`, of the features before whitening, and perhaps `knn20_accuracy`.

    Raises:
        TrainingFailed: A feature is not finite.
    """
    bank, queries = features(embedder, source.bank), features(embedder, source.held_out)
    if not (bank.isfinite().all() and queries.isfinite().all()):
        raise collapse.diverged("The encoder gives features that are not finite")
    embedder.whitening = None if whiten is None else whitening.fit(bank, dim=whiten)
    return signs_of_collapse(bank) | _knn("knn20_accuracy", served(embedder, bank), served(embedder, queries), source)


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
    raw = raw_pixels(mean=source.mean, std=source.std, side=source.bank.side).to(untrained.mean.device)
    bank, queries = features(raw, source.bank), features(raw, source.held_out)
    return found | _knn("raw_pixels_knn20_accuracy", bank, queries, source)


def _knn(name: str, bank: Tensor, queries: Tensor, source: Source) -> dict[str, float]:
    if source.bank.labels is None or source.held_out.labels is None:
        return {}
    return {name: knn_accuracy(bank, source.bank.labels, queries, source.held_out.labels, k=20)}

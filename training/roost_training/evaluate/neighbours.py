"""Weighted k-nearest-neighbour classification: how far an embedding's neighbours share a class.

Wu, Xiong, Yu, Lin, CVPR 2018, section 3.4, https://arxiv.org/abs/1805.01978
"""

import numpy as np
import torch
from torch import Tensor

from roost_training.evaluate.hypersphere import unit

Array = Tensor | np.ndarray

MAX_SIMILARITIES = 2**24  # 64 MiB of float32 at a time


def knn_accuracy(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    query_labels: Array,
    *,
    k: int = 20,
    temperature: float = 0.1,
) -> float:
    """The share of queries whose neighbours in the bank vote for the right class.

    The paper uses k = 200 on ImageNet's 1.3 million images; 20 suits the thousands that Roost scores on.

    Args:
        bank: Embeddings that vote, shape (n, dim), of any length.
        bank_labels: Their classes, integers, shape (n,).
        queries: Embeddings to classify, shape (m, dim).
        query_labels: Their classes, shape (m,).
        k: Neighbours that vote; the whole bank where it holds fewer.
        temperature: A neighbour's vote is exp(cosine similarity / temperature).

    Returns:
        0 to 1.

    Raises:
        ValueError: Shapes that do not fit, nothing to compare, or a temperature that is not positive.
    """
    predicted = knn_predict(bank, bank_labels, queries, k=k, temperature=temperature)
    expected = torch.as_tensor(query_labels, device=predicted.device)
    if expected.shape != predicted.shape:
        raise ValueError(f"{tuple(expected.shape)} labels for {len(predicted)} queries")
    return (predicted == expected).double().mean().item()


def knn_predict(bank: Array, bank_labels: Array, queries: Array, *, k: int, temperature: float) -> Tensor:
    """The class that each query's k most similar embeddings vote for, shape (m,), int64.

    The arguments are those of `knn_accuracy`. The work is done where the bank lies.
    """
    bank, labels, queries = comparable(bank, bank_labels, queries)
    if k < 1 or not temperature > 0:
        raise ValueError(f"k = {k} and temperature = {temperature}; both must be positive")
    classes = int(labels.max()) + 1
    chunk = max(1, MAX_SIMILARITIES // len(bank))
    return torch.cat(
        [
            _vote(part @ bank.T, labels, classes=classes, k=min(k, len(bank)), temperature=temperature)
            for part in queries.split(chunk)
        ]
    )


def _vote(similarity: Tensor, labels: Tensor, *, classes: int, k: int, temperature: float) -> Tensor:
    nearest, index = similarity.topk(k, dim=1)
    # Relative to the nearest, so that a small temperature cannot overflow; the winner is the same.
    weight = ((nearest - nearest[:, :1]) / temperature).exp()
    votes = weight.new_zeros(len(similarity), classes).scatter_add_(1, labels[index], weight)
    return votes.argmax(dim=1)


def comparable(bank: Array, bank_labels: Array, queries: Array) -> tuple[Tensor, Tensor, Tensor]:
    """A bank and queries at unit length, and the bank's labels as int64, all where the bank lies.

    Raises:
        ValueError: Shapes that do not fit, nothing to compare, or a negative label.
    """
    bank = unit(bank)
    labels = torch.as_tensor(bank_labels, device=bank.device).long()
    queries = unit(queries).to(bank.device)
    if labels.shape != bank.shape[:1]:
        raise ValueError(f"{tuple(labels.shape)} labels for {len(bank)} embeddings")
    if labels.min() < 0:
        raise ValueError("a label is negative; classes count from 0")
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries of {queries.shape[1]} dimensions, a bank of {bank.shape[1]}")
    return bank, labels, queries

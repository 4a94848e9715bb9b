"""Retrieval: whether an image's nearest neighbours are of its class, and how far down the others stand."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roost_training.evaluate.neighbours import Array, comparable

RECALL_AT = (1, 5, 10)
MAX_RANKED = 2**22  # 32 MiB of float64 at a time, several times over


@dataclass(frozen=True)
class Retrieval:
    """How well a bank answers queries by class."""

    recall: dict[int, float]
    """By k, the share of queries with at least one image of their class among the k nearest, 0 to 1 (Oh Song, Xiang,
    Jegelka, Savarese, CVPR 2016, section 6, https://arxiv.org/abs/1511.06452)."""
    mean_average_precision: float
    """The mean over queries of the average precision of the whole bank in order of similarity, 0 to 1 (Manning,
    Raghavan, Schütze, Introduction to Information Retrieval, 2008, section 8.4)."""
    queries: int
    """That count. One whose class the bank lacks has nothing to find, and is left out."""


def score_retrieval(
    bank: Array,
    bank_labels: Array,
    queries: Array,
    query_labels: Array,
    *,
    at: Sequence[int] = RECALL_AT,
) -> Retrieval:
    """Rank a bank by cosine similarity to each query; an image of the query's class is a right answer.

    Args:
        bank: Embeddings to search, shape (n, dim), of any length.
        bank_labels: Their classes, integers, shape (n,).
        queries: Embeddings to search by, shape (m, dim). None of them should be in the bank: it would find itself.
        query_labels: Their classes, shape (m,).
        at: The k of recall@k; the whole bank where it holds fewer. Equally similar images keep the bank's order.

    Raises:
        ValueError: Shapes that do not fit, nothing to compare, a k below 1, or no query whose class the bank has.
    """
    if not at or min(at) < 1:
        raise ValueError(f"recall at {list(at)}; numbers of at least 1 are needed")
    bank, labels, queries = comparable(bank, bank_labels, queries)
    wanted = torch.as_tensor(query_labels, device=bank.device)
    if wanted.shape != queries.shape[:1]:
        raise ValueError(f"{tuple(wanted.shape)} labels for {len(queries)} queries")
    found, precision, answerable = [], [], []
    step = max(1, MAX_RANKED // len(bank))
    for part, label in zip(queries.split(step), wanted.split(step), strict=True):
        order = (part @ bank.T).argsort(dim=1, descending=True, stable=True)
        right = labels[order] == label[:, None]
        found.append(torch.stack([right[:, :k].any(dim=1) for k in at], dim=1))
        precision.append(_average_precision(right))
        answerable.append(right.any(dim=1))
    counted = torch.cat(answerable)
    if not counted.any():
        raise ValueError("no query is of a class that the bank has")
    recall = torch.cat(found)[counted].double().mean(dim=0).tolist()
    return Retrieval(
        recall=dict(zip(at, recall, strict=True)),
        mean_average_precision=torch.cat(precision)[counted].mean().item(),
        queries=int(counted.sum()),
    )


def _average_precision(right: Tensor) -> Tensor:
    """The mean precision at the right answers' ranks, float64 (m,), of answers in order, bool (m, n); 0 for none."""
    hits = right.double()
    rank = torch.arange(1, right.shape[1] + 1, device=right.device)
    return (hits.cumsum(dim=1) / rank * hits).sum(dim=1) / hits.sum(dim=1).clamp_min(1)

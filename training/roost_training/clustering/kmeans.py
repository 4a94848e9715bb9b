"""k-means with k-means++ starts, and the choice of k by silhouettes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances, silhouette_score

from roost.errors import BadData, BadSettings

SILHOUETTE_IMAGES = 2_000  # silhouettes need all pairs
SILHOUETTE_STARTS = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Partition:
    """k clusters, the largest first."""

    centroids: np.ndarray
    """Shape (k, dim), float32."""
    labels: np.ndarray
    """Shape (n,), int64."""
    inertia: float
    """The sum of squared distances to the centroids."""


def fit(vectors: np.ndarray, *, k: int, seed: int, starts: int = 10, progress: Progress | None = None) -> Partition:
    """The best of several runs of Lloyd's algorithm, each from another k-means++ start.

    Arthur and Vassilvitskii, SODA 2007, https://theory.stanford.edu/~sergei/papers/kMeansPP-soda.pdf

    Args:
        vectors: Shape (n, dim), float32.
        k: Number of clusters, at least 1.
        seed: Of the first start; the others follow from it.
        starts: Number of runs.
        progress: Called with the runs done and the runs in all.

    Raises:
        BadSettings: k is more than there are different vectors.
    """
    if k > len(vectors):
        raise BadSettings(f"{k} clusters were asked for, of {len(vectors)} images to fit. Choose fewer.", k=k)
    best = _run(vectors, k=k, seed=seed)
    for start in range(1, starts):
        if progress:
            progress(start, starts)
        best = min(best, _run(vectors, k=k, seed=seed + start), key=lambda run: run.inertia)
    if progress:
        progress(starts, starts)
    sizes = np.bincount(best.labels, minlength=k)
    if not sizes.all():
        found = int((sizes > 0).sum())
        raise BadSettings(f"{k} clusters were asked for, of {found} different images. Choose at most {found}.", k=k)
    order = np.argsort(-sizes, kind="stable")
    return Partition(best.centroids[order], np.argsort(order)[best.labels], best.inertia)


def choose_k(vectors: np.ndarray, *, seed: int, max_k: int = 20, progress: Progress | None = None) -> int:
    """The k of 2 to `max_k` whose clusters have the highest mean silhouette.

    Rousseeuw, Journal of Computational and Applied Mathematics 20, 1987,
    https://doi.org/10.1016/0377-0427(87)90125-7, with Euclidean distances among at most 2,000 of the vectors.

    Args:
        vectors: Shape (n, dim), float32.
        seed: Of the sample and the starts.
        max_k: The largest k to try.
        progress: Called with the candidates done and the candidates in all.

    Raises:
        BadData: The vectors are too few or too alike for two clusters.
    """
    sample = np.random.default_rng(seed).permutation(len(vectors))[:SILHOUETTE_IMAGES]
    vectors = vectors[sample]
    distances = pairwise_distances(vectors)
    np.fill_diagonal(distances, 0)  # rounding leaves some just above it, which the silhouette refuses
    scores: dict[int, float] = {}
    last = min(max_k, len(vectors) - 1)
    for k in range(2, last + 1):
        try:
            partition = fit(vectors, k=k, seed=seed, starts=SILHOUETTE_STARTS)
        except BadSettings:
            break  # fewer different vectors than k: no larger k will do either
        scores[k] = float(silhouette_score(distances, partition.labels, metric="precomputed"))
        if progress:
            progress(k - 1, last - 1)
    if not scores:
        raise BadData(f"{len(vectors)} embeddings are too few or too alike to cluster. Bring more images.")
    return max(scores, key=lambda k: scores[k])


def _run(vectors: np.ndarray, *, k: int, seed: int) -> Partition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of duplicates, which `fit` counts
        run = KMeans(k, init="k-means++", random_state=seed).fit(vectors)
    inertia = cast(float, run.inertia_)
    return Partition(run.cluster_centers_.astype(np.float32), np.asarray(run.labels_, np.int64), inertia)

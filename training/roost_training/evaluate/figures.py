"""The figures of one encoder on one set of images: what reports, comparisons and benchmarks print."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from roost.clusters import Clusters
from roost.errors import BadData
from roost_training import evaluate
from roost_training.clustering import cluster
from roost_training.encoders import Embedder
from roost_training.evaluate.embedding import Vectors, vectors
from roost_training.images.data import Images

KNN = (20, 200)


@dataclass(frozen=True)
class Figure:
    """How a figure is read."""

    title: str
    meaning: str
    better: Literal["higher", "lower", ""] = "higher"
    """Whether one encoder's being higher is good, where the figure alone can say so."""


FIGURES = {
    "knn20": Figure("kNN-20", "20 nearest images of the bank vote"),
    "knn200": Figure("kNN-200", "200 vote"),
    "linear_probe": Figure("linear probe", "on the encoder's features"),
    "linear_probe_embeddings": Figure("linear probe, embeddings", "on what is served"),
    "recall_at_1": Figure("recall@1", "an image of the class is the nearest"),
    "recall_at_5": Figure("recall@5", "is among the 5 nearest"),
    "recall_at_10": Figure("recall@10", "is among the 10 nearest"),
    "map": Figure("mAP", "mean average precision of the whole bank in order"),
    "nmi": Figure("k-means NMI", "mutual information of clusters and classes"),
    "ari": Figure("k-means ARI", "pairs that agree, beyond chance"),
    "purity": Figure("k-means purity", "in their cluster's commonest class"),
    "cluster_accuracy": Figure("k-means accuracy", "each cluster stands for one class (Hungarian)"),
    "mixture_nmi": Figure("mixture NMI", "likewise, by likeliest Gaussian"),
    "mixture_ari": Figure("mixture ARI", "likewise"),
    "mixture_purity": Figure("mixture purity", "likewise"),
    "mixture_accuracy": Figure("mixture accuracy", "likewise"),
    "clusters_k": Figure("clusters", "how many", ""),
    "rankme": Figure("RankMe", "dimensions that the features use; needs no labels"),
    "feature_std": Figure("feature std", "0 collapsed, about 1 everywhere alike", ""),
    "alignment": Figure("alignment", "squared distance of two views; lower, at one uniformity", ""),
    "uniformity": Figure("uniformity", "0 collapsed; lower, at one alignment", ""),
}
"""Every figure in the order of a table."""


def shown(name: str, value: float | None) -> str:
    """A figure as a table has it."""
    if value is None:
        return "-"
    return {"rankme": f"{value:.1f}", "clusters_k": f"{value:.0f}"}.get(name, f"{value:.3f}")


def measure(embedder: Embedder, bank: Images, queries: Images, *, seed: int = 0) -> dict[str, float]:
    """Every figure of an encoder; those by class only where both sets name classes.

    Args:
        embedder: The encoder.
        bank: Images that vote, that are searched, and that the probe and the clusters are fitted on.
        queries: Other images, which are scored. Their labels count as the bank's do.
        seed: Of the clusters' starts.

    Returns:
        What `score` returns.

    Raises:
        BadData: The bank has a single class.
        BadSettings: The bank has fewer different embeddings than classes.
    """
    return score(vectors(embedder, bank), vectors(embedder, queries), bank.labels, queries.labels, seed=seed)


def score(
    bank: Vectors,
    queries: Vectors,
    bank_labels: np.ndarray | None,
    query_labels: np.ndarray | None,
    *,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> dict[str, float]:
    """Every figure of two sets of vectors.

    The linear probe, RankMe and `feature_std` are of the features, before any whitening, which would change them; the
    rest, and `linear_probe_embeddings`, of the embeddings, as they are served.

    Args:
        bank: Of the images that vote, that are searched, and that the probe and the clusters are fitted on.
        queries: Of the images that are scored.
        bank_labels: Classes, integers, shape (n,), of at least two classes; None where there are none.
        query_labels: Likewise, counted as the bank's are.
        seed: Of the clusters' starts.
        clusters: Fitted to the bank's embeddings already; else as many are fitted as the bank has classes.

    Returns:
        Always `rankme` and `feature_std`, of the bank, and `uniformity`, of the queries. With labels, shares of 1:
        `knn20`, `knn200`, `linear_probe`, `linear_probe_embeddings`; `recall_at_1`, `_5`, `_10` and `map`; and for the
        queries' nearest k-means clusters `nmi`, `ari`, `purity` and `cluster_accuracy`, for their likeliest
        components of the Gaussian mixture `mixture_nmi` and so on.

    Raises:
        BadData: The bank has a single class.
        BadSettings: The bank has fewer different embeddings than classes.
    """
    figures = evaluate.signs_of_collapse(bank.features)
    if len(queries) > 1:
        figures["uniformity"] = evaluate.uniformity(queries.embeddings)
    if bank_labels is None or query_labels is None:
        return figures
    classes = len(np.unique(bank_labels))
    if classes < 2:
        raise BadData("All images are of one class, and scores by class need two. Leave the labels out.")
    clusters = clusters or partition(bank.embeddings, k=classes, seed=seed)
    by_class = (bank.embeddings, bank_labels, queries.embeddings, query_labels)
    return (
        figures
        | {f"knn{k}": evaluate.knn_accuracy(*by_class, k=k) for k in KNN}
        | _probes(bank, queries, bank_labels, query_labels)
        | _retrieval(*by_class)
        | agreements(clusters, queries.embeddings, query_labels)
    )


def partition(embeddings: Tensor, *, k: int | None, seed: int, progress: cluster.Progress | None = None) -> Clusters:
    """Clusters and a mixture of embeddings, as `roost cluster` fits them; k is chosen by silhouettes where None.

    Raises:
        BadData: Embeddings that are too few or too alike.
        BadSettings: More clusters than different embeddings.
    """
    rows = embeddings.cpu().numpy()
    places = [str(place) for place in range(len(rows))]
    return cluster.fit(rows, ids=places, k=k, components=None, seed=seed, progress=progress)


def agreements(clusters: Clusters, embeddings: Tensor, labels: np.ndarray) -> dict[str, float]:
    """How well images' nearest clusters and likeliest components repeat their classes."""
    rows = embeddings.cpu().numpy()
    nearest = evaluate.agreement(labels, clusters.nearest(rows)[0])
    likeliest = evaluate.agreement(labels, clusters.responsibilities(rows).argmax(axis=1))
    return {
        "nmi": nearest.nmi,
        "ari": nearest.ari,
        "purity": nearest.purity,
        "cluster_accuracy": nearest.accuracy,
    } | {f"mixture_{name}": value for name, value in vars(likeliest).items()}


def settings(*, seed: int = 0) -> dict[str, dict[str, object]]:
    """What each measure ran with, by name."""
    fitted = evaluate.settings_of(cluster.fit)
    return {
        "kNN": evaluate.settings_of(evaluate.knn_accuracy, k=KNN),
        "linear probe": evaluate.settings_of(evaluate.linear_probe),
        "retrieval": evaluate.settings_of(evaluate.score_retrieval),
        "uniformity": evaluate.settings_of(evaluate.uniformity),
        "clusters": {"seed": seed} | {name: fitted[name] for name in ("starts", "held_out_fraction")},
    }


def _probes(bank: Vectors, queries: Vectors, bank_labels: np.ndarray, query_labels: np.ndarray) -> dict[str, float]:
    return {
        name: evaluate.linear_probe(fitted, bank_labels, scored, query_labels).accuracy
        for name, fitted, scored in (
            ("linear_probe", bank.features, queries.features),
            ("linear_probe_embeddings", bank.embeddings, queries.embeddings),
        )
    }


def _retrieval(bank: Tensor, bank_labels: np.ndarray, queries: Tensor, query_labels: np.ndarray) -> dict[str, float]:
    found = evaluate.score_retrieval(bank, bank_labels, queries, query_labels)
    return {f"recall_at_{k}": share for k, share in found.recall.items()} | {"map": found.mean_average_precision}

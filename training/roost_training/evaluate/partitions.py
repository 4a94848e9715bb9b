"""How well clusters repeat the classes of a labelled set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


@dataclass(frozen=True)
class Agreement:
    """Scores of a partition against classes; none depends on how clusters are numbered."""

    nmi: float
    """Mutual information over the arithmetic mean of the entropies, 0 to 1 (Vinh, Epps, Bailey, JMLR 2010, table 2,
    https://jmlr.org/papers/v11/vinh10a.html). Not corrected for chance: it grows with the number of clusters."""
    ari: float
    """The adjusted Rand index: 0 by chance, 1 for equal partitions (Hubert and Arabie, Journal of Classification 2,
    1985, equation 5, https://doi.org/10.1007/BF01908075)."""
    purity: float
    """The share of images that have the commonest class of their cluster, 0 to 1 (Manning, Raghavan, Schütze,
    Introduction to Information Retrieval, 2008, section 16.3). One cluster an image gives 1."""
    accuracy: float
    """The share of images in the right class when every cluster stands for another class, chosen by the Hungarian
    method (Xie, Girshick, Farhadi, ICML 2016, equation 10, https://arxiv.org/abs/1511.06335)."""


def agreement(classes: Sequence[int] | np.ndarray, clusters: Sequence[int] | np.ndarray) -> Agreement:
    """Score a partition against classes.

    Args:
        classes: Integers, shape (n,).
        clusters: Integers, shape (n,); their number may differ from that of the classes.

    Raises:
        ValueError: Nothing to compare, or shapes that differ.
    """
    classes, clusters = np.asarray(classes), np.asarray(clusters)
    if classes.shape != clusters.shape or classes.ndim != 1 or not classes.size:
        raise ValueError(f"classes of shape {classes.shape}, clusters of shape {clusters.shape}; both must be (n,)")
    counts = np.asarray(contingency_matrix(classes, clusters))
    matched = counts[linear_sum_assignment(counts, maximize=True)]
    return Agreement(
        nmi=float(normalized_mutual_info_score(classes, clusters, average_method="arithmetic")),
        ari=float(adjusted_rand_score(classes, clusters)),
        purity=float(counts.max(axis=0).sum() / classes.size),
        accuracy=float(matched.sum() / classes.size),
    )

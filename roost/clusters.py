"""Clusters of a model's embeddings, as numbers in a file and arithmetic in numpy.

`clusters.npz` is fitted by `roost cluster`; the gateway places every embedding with this module and
needs neither scikit-learn nor pickle to do so.
"""

from dataclasses import dataclass

import numpy as np

FILE = "clusters.npz"


@dataclass(frozen=True)
class Placement:
    """Where one embedding lies."""

    cluster: int
    distance: float
    """Euclidean distance to the cluster's centroid, between unit-length vectors."""
    log_likelihood: float
    anomaly_score: float
    """The distance as a multiple of the cluster's median distance."""
    anomaly: bool
    responsibilities: np.ndarray | None = None
    """Shape (components,), float32, summing to 1; not kept in the store."""

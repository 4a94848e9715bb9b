"""Clusters of a model's embeddings, as numbers in a file and arithmetic in numpy.

`clusters.npz` is fitted by `roost cluster`; the gateway places every embedding with this module and
needs neither scikit-learn nor pickle to do so.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from roost import artifact
from roost.arrays import read as read_arrays
from roost.errors import BadArtifact, BadVector

FILE = "clusters.npz"
SCHEMA = 2  # 1 gave the threshold as a multiple of each cluster's median distance
MAX_VALUES = 2**22  # of one intermediate array, 32 MiB: batches past it are worked through in parts
TOLERANCE = 1e-6
LARGEST_DISTANCE = 2  # within the unit ball


@dataclass(frozen=True)
class Placement:
    """Where one embedding lies."""

    cluster: int
    distance: float
    """Euclidean distance to the cluster's centroid, between unit-length vectors."""
    log_likelihood: float
    anomaly_score: float
    """The distance as a share of the threshold: above 1 is an anomaly."""
    anomaly: bool
    responsibilities: np.ndarray | None = None
    """Shape (components,), float32, summing to 1; not kept in the store."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """k-means clusters and a Gaussian mixture of one model's embeddings.

    The k clusters lie among the unit-length embeddings, the m components of the mixture among embeddings
    whitened by a PCA of d dimensions. Arrays are float64 where not said otherwise.

    Raises:
        BadArtifact: Arrays whose shapes or values contradict each other.
    """

    centroids: np.ndarray
    """Shape (k, dim), float32. A centroid is a mean, so it is shorter than 1."""
    pca_mean: np.ndarray
    """Shape (dim,)."""
    pca_components: np.ndarray
    """Shape (d, dim), unit-length rows."""
    pca_scale: np.ndarray
    """Shape (d,): the standard deviation along each component, which whitening divides by."""
    weights: np.ndarray
    """Shape (m,), summing to 1."""
    means: np.ndarray
    """Shape (m, d)."""
    precisions_cholesky: np.ndarray
    """Shape (m, d, d): upper triangular, P Pᵀ is the inverse covariance, as in scikit-learn."""
    quantiles: np.ndarray
    """Shape (q,), ascending, 0 to 1."""
    distance_quantiles: np.ndarray
    """Shape (k, q): those quantiles of the distances of each cluster's fitted images to its centroid."""
    median_distances: np.ndarray
    """Shape (k,)."""
    fitted_images: np.ndarray
    """Shape (k,), int64: how many of the images that it was fitted on lie in each cluster."""
    medoid_ids: np.ndarray
    """Shape (k,), unicode: the content id of the fitted image nearest to each centroid."""
    threshold: float
    """An embedding farther than this from every centroid is an anomaly: a Euclidean distance, 0 to 2.

    It is one for all clusters: a multiple of each cluster's own median distance, tried on a land-cover model, flagged
    none of a thousand images of another kind, where this flags 99.9 %.
    """
    false_alarm_rate: float
    """The share of ordinary images that the threshold was set to flag."""

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise BadArtifact(f"The clusters are malformed: {problem}. Fit them again.", problem=problem)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.centroids.shape[1]

    def place(self, vectors: np.ndarray) -> list[Placement]:
        """Place embeddings among the clusters.

        Args:
            vectors: Unit-length embeddings, shape (n, dim), float32.

        Raises:
            BadVector: Vectors of another length, or with a value that is not finite.
        """
        vectors = self._checked(vectors)
        cluster, distance = self._nearest(vectors)
        score = distance / self.threshold
        responsibilities, log_likelihood = self._mixture(vectors)
        columns = (cluster, distance, log_likelihood, score, score > 1)
        rows = zip(*(column.tolist() for column in columns), responsibilities.astype(np.float32), strict=True)
        return [Placement(*row) for row in rows]

    def nearest(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroid and its Euclidean distance: shapes (n,) int64 and (n,) float64."""
        return self._nearest(self._checked(vectors))

    def anomaly_score(self, vectors: np.ndarray) -> np.ndarray:
        """The distance to the nearest centroid as a share of the threshold, shape (n,)."""
        return self.nearest(vectors)[1] / self.threshold

    def responsibilities(self, vectors: np.ndarray) -> np.ndarray:
        """The probability of each mixture component given the embedding, shape (n, m), rows summing to 1."""
        return self._mixture(self._checked(vectors))[0]

    def log_likelihood(self, vectors: np.ndarray) -> np.ndarray:
        """The natural logarithm of the mixture's density at the whitened embeddings, shape (n,)."""
        return self._mixture(self._checked(vectors))[1]

    def whiten(self, vectors: np.ndarray) -> np.ndarray:
        """The embeddings as the mixture sees them: centred, projected and scaled, shape (n, d)."""
        matrix, offset = self._whitening
        return vectors @ matrix - offset

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise BadVector(
                f"Vectors of shape {vectors.shape}; (n, {self.dim}) is needed. Send this model's embeddings.",
                expected=self.dim,
                found=vectors.shape[-1] if vectors.ndim else 0,
            )
        if not np.isfinite(vectors).all():
            raise BadVector("A vector has a value that is not finite. Send this model's embeddings.")
        return vectors

    def _nearest(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix, half_squares = self._centroid_products
        cluster = (vectors.astype(np.float32, copy=False) @ matrix - half_squares).argmax(axis=1)
        # The products would lose half the digits of a small distance; the difference keeps them.
        difference = vectors - self.centroids[cluster]
        return cluster, np.sqrt(np.einsum("nd,nd->n", difference, difference, dtype=np.float64))

    def _mixture(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Responsibilities, shape (n, m), and log-likelihoods, shape (n,)."""
        step = max(1, MAX_VALUES // self.means.size)
        joint = np.concatenate([self._log_joint(vectors[i : i + step]) for i in range(0, max(len(vectors), 1), step)])
        peak = joint.max(axis=1, keepdims=True)
        density = np.exp(joint - peak)
        total = density.sum(axis=1, keepdims=True)
        return density / total, (peak + np.log(total))[:, 0]

    def _log_joint(self, vectors: np.ndarray) -> np.ndarray:
        """The logarithm of each component's weight times its density, shape (n, m)."""
        matrix, offset, constant = self._gaussians
        deviation = (self.whiten(vectors) @ matrix - offset).reshape(len(vectors), *self.means.shape)
        return constant - 0.5 * np.einsum("nmd,nmd->nm", deviation, deviation)

    @cached_property
    def _centroid_products(self) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroid has the largest v·c - |c|²/2."""
        return np.ascontiguousarray(self.centroids.T), (self.centroids**2).sum(axis=1) / 2

    @cached_property
    def _whitening(self) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.ascontiguousarray((self.pca_components / self.pca_scale[:, None]).T)
        return matrix, self.pca_mean @ matrix

    @cached_property
    def _gaussians(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All components' Cholesky factors side by side, so that one product serves the whole mixture."""
        m, d = self.means.shape
        matrix = np.ascontiguousarray(self.precisions_cholesky.transpose(1, 0, 2).reshape(d, m * d))
        offset = np.einsum("md,mde->me", self.means, self.precisions_cholesky).reshape(m * d)
        log_determinant = np.log(np.diagonal(self.precisions_cholesky, axis1=1, axis2=2)).sum(axis=1)
        return matrix, offset, np.log(self.weights) + log_determinant - 0.5 * d * np.log(2 * np.pi)


def load(path: Path, *, dim: int, content: bytes | None = None) -> Clusters:
    """Read clusters.npz.

    Args:
        path: The file.
        dim: Length of the model's embeddings.
        content: Its bytes, where they were read already.

    Raises:
        BadArtifact: It is missing, cut short, of another schema or another model's, or its arrays contradict
            each other.
    """
    arrays: dict[str, Any] = dict(read_arrays(path, remedy="Run `roost cluster` again.", content=content))
    found = arrays.pop("schema", None)
    if not np.array_equal(found, SCHEMA):
        raise BadArtifact(
            f"{path} has schema {found}, not {SCHEMA}. Run `roost cluster` again, which makes a version "
            "beside this one, and remove this one.",
            path=path,
            found=found,
        )
    wanted = {field.name for field in fields(Clusters)}
    if arrays.keys() != wanted:
        names = ", ".join(sorted(arrays.keys() ^ wanted))
        raise BadArtifact(f"{path} lacks or adds {names}. Run `roost cluster` again.", path=path)
    try:
        clusters = Clusters(**arrays)
    except BadArtifact as error:
        raise BadArtifact(f"{path}: {error.message}", path=path, **error.facts) from error
    if clusters.dim != dim:
        raise BadArtifact(
            f"{path} is for embeddings of {clusters.dim} values, and this model's have {dim}. "
            "Run `roost cluster` again.",
            path=path,
            found=clusters.dim,
            expected=dim,
        )
    return clusters


def save(path: Path, clusters: Clusters) -> None:
    """Write clusters.npz atomically; the same clusters give the same bytes."""
    content = io.BytesIO()
    np.savez(content, schema=SCHEMA, **{field.name: getattr(clusters, field.name) for field in fields(clusters)})
    artifact.replace_bytes(path, content.getvalue())


def _problems(clusters: Clusters) -> Iterator[str]:
    """What contradicts the description of the fields, most basic first."""
    if clusters.centroids.ndim != 2 or clusters.pca_components.ndim != 2:
        yield "centroids and pca_components are no matrices"
        return
    (k, dim), d = clusters.centroids.shape, len(clusters.pca_components)
    m, q = clusters.weights.size, clusters.quantiles.size
    if not (k and dim and d and m and q):
        yield "an array is empty"
    shapes = {
        "pca_mean": (dim,), "pca_components": (d, dim), "pca_scale": (d,),
        "weights": (m,), "means": (m, d), "precisions_cholesky": (m, d, d),
        "quantiles": (q,), "distance_quantiles": (k, q), "median_distances": (k,),
        "fitted_images": (k,), "medoid_ids": (k,), "threshold": (), "false_alarm_rate": (),
    }  # fmt: skip
    for field in fields(clusters):
        values = np.asarray(getattr(clusters, field.name))
        expected = shapes.get(field.name, values.shape)
        if values.shape != expected:
            yield f"{field.name} has shape {values.shape}, not {expected}"
        kinds = {"medoid_ids": "U", "fitted_images": "iu"}.get(field.name, "f")
        if values.dtype.kind not in kinds:
            yield f"{field.name} holds values of type {values.dtype}"
        if kinds == "f" and not np.isfinite(values).all():
            yield f"{field.name} has a value that is not finite"
    if (clusters.weights <= 0).any() or abs(clusters.weights.sum() - 1) > TOLERANCE:
        yield "weights are no probabilities"
    if (clusters.pca_scale <= 0).any():
        yield "pca_scale has a value that is not positive"
    if (np.diagonal(clusters.precisions_cholesky, axis1=1, axis2=2) <= 0).any():
        yield "precisions_cholesky has a diagonal value that is not positive"
    if (clusters.median_distances < 0).any() or not 0 < clusters.threshold <= LARGEST_DISTANCE:
        yield f"a distance is negative, or the threshold is not between 0 and {LARGEST_DISTANCE}"
    steps = np.diff(clusters.quantiles, prepend=0, append=1)
    if (steps < 0).any() or not 0 < clusters.false_alarm_rate < 1:
        yield "quantiles do not ascend from 0 to 1, or false_alarm_rate is not between 0 and 1"

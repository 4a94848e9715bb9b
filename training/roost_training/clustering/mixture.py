"""A Gaussian mixture by expectation-maximisation, among embeddings whitened by a PCA.

Dempster, Laird, Rubin, Journal of the Royal Statistical Society B 39, 1977. Whitening makes one `reg_covar` suit
every direction, and drops those in which full covariances would be fitted to noise.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

VARIANCE_KEPT = 0.95
MAX_DIMENSIONS = 32
IMAGES_PER_DIMENSION = 4  # in each component, or its covariance would describe single images
MIN_VARIANCE_RATIO = 1e-6  # below this share of the first direction's variance a direction is rounding error
REG_COVAR = 1e-3  # on the diagonal of every covariance; the whitened embeddings have variance 1
MAX_ITERATIONS = 200


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture; the arrays are those of `roost.clusters.Clusters`."""

    pca_mean: np.ndarray
    pca_components: np.ndarray
    pca_scale: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    precisions_cholesky: np.ndarray


def fit(embeddings: np.ndarray, labels: np.ndarray) -> Mixture:
    """Fit one Gaussian with a full covariance to each group, then let expectation-maximisation move them.

    EM that is stopped after 200 steps still leaves a mixture, at most a little less likely than the best near it.

    Args:
        embeddings: Shape (n, dim), not all the same.
        labels: The group that each starts in, shape (n,), 0 to m - 1, none empty. Component i grows out of group i.
    """
    components = int(labels.max()) + 1
    embeddings = embeddings.astype(np.float64)
    pca = PCA(min(*embeddings.shape, MAX_DIMENSIONS), svd_solver="covariance_eigh").fit(embeddings)
    d = _dimensions(pca, images_per_component=len(embeddings) // components)
    directions, scale = np.asarray(pca.components_)[:d], np.sqrt(np.asarray(pca.explained_variance_)[:d])
    whitened = (embeddings - pca.mean_) @ directions.T / scale
    weights, means, covariances = _moments(whitened, labels, components)
    mixture = GaussianMixture(
        components,
        reg_covar=REG_COVAR,
        max_iter=MAX_ITERATIONS,
        weights_init=weights,
        means_init=means,
        precisions_init=np.linalg.inv(covariances),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(whitened)
    return Mixture(
        pca_mean=np.asarray(pca.mean_),
        pca_components=directions,
        pca_scale=scale,
        weights=np.asarray(mixture.weights_),
        means=np.asarray(mixture.means_),
        precisions_cholesky=np.asarray(mixture.precisions_cholesky_),
    )


def _dimensions(pca: PCA, *, images_per_component: int) -> int:
    """How many directions to keep: enough of the variance, no rounding error, no more than the images can fill."""
    enough = int(np.searchsorted(np.cumsum(pca.explained_variance_ratio_), VARIANCE_KEPT)) + 1
    variance = np.asarray(pca.explained_variance_)
    real = int((variance > MIN_VARIANCE_RATIO * variance[0]).sum())
    return max(1, min(enough, real, images_per_component // IMAGES_PER_DIMENSION))


def _moments(whitened: np.ndarray, labels: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each group's share, mean and regularised covariance: (m,), (m, d) and (m, d, d)."""
    groups = [whitened[labels == component] for component in range(components)]
    weights = np.array([len(group) for group in groups]) / len(whitened)
    means = np.stack([group.mean(axis=0) for group in groups])
    covariances = np.stack([np.atleast_2d(np.cov(group, rowvar=False, bias=True)) for group in groups])
    return weights, means, covariances + REG_COVAR * np.eye(whitened.shape[1])

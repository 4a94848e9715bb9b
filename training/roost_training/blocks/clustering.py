"""Clusters of features, found anew while an encoder learns: k-means, and a Gaussian mixture by EM.

Small and fast, for the middle of a training; `roost_training.clustering` finds those that are served.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MAX_CELLS = 2**24  # of a matrix of points by clusters: 64 MiB of float32 at a time
NUDGE = 1e-2  # of a split centroid, in standard deviations of the points
SMALLEST_VARIANCE = 1e-2  # of a component, as a share of the points' mean variance


@dataclass(frozen=True)
class Partition:
    """k clusters, and the one that each point is in."""

    centroids: Tensor
    """Shape (k, dim)."""
    assignments: Tensor
    """int64 (n,)."""


@torch.no_grad()
def kmeans(points: Tensor, *, k: int, generator: torch.Generator, iterations: int = 20) -> Partition:
    """Lloyd's algorithm from k of the points, chosen at random.

    A cluster that becomes empty gets half of the one with the largest sum of squared distances: both begin at its
    centroid, a small step apart. In DeepCluster (Caron and others, ECCV 2018, section 3.3) it is a random one.

    Args:
        points: Shape (n, dim).
        k: Number of clusters, at most n.
        generator: Of the CPU; it is moved on.
        iterations: Of moving the centroids.

    Returns:
        The centroids after the last step, and the nearest of them to each point. Clusters stay empty where fewer than
        k points differ.

    Raises:
        ValueError: More clusters than points.
    """
    if not 1 <= k <= len(points):
        raise ValueError(f"{k} clusters of {len(points)} points")
    centroids = points[torch.randperm(len(points), generator=generator)[:k].to(points.device)]
    assignments = nearest(points, centroids)
    lengths = points.square().sum(dim=1)
    for _ in range(iterations):
        sizes = assignments.bincount(minlength=k)
        sums = torch.zeros_like(centroids).index_add_(0, assignments, points)
        means = sums / sizes.clamp_min(1)[:, None]
        scatter = torch.zeros_like(lengths[:k]).index_add_(0, assignments, lengths) - sizes * means.square().sum(dim=1)
        step = NUDGE * points.std()
        centroids = split(means, scatter, empty=sizes == 0, step=step, generator=generator)
        assignments = nearest(points, centroids)
    return Partition(centroids, assignments)


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The centroid at the least Euclidean distance from each point, int64 (n,)."""
    lengths = centroids.square().sum(dim=1)
    return torch.cat([(lengths - 2 * part @ centroids.T).argmin(dim=1) for part in _parts(points, len(centroids))])


def split(centroids: Tensor, scatter: Tensor, *, empty: Tensor, step: Tensor, generator: torch.Generator) -> Tensor:
    """Give each empty cluster half of the one with the largest scatter then.

    Args:
        centroids: Shape (k, dim).
        scatter: Each cluster's sum of squared distances to its centroid, (k,). It is taken to halve with the cluster.
        empty: Which clusters have no points, bool (k,).
        step: How far the halves' centroids lie from where the one was, in a dimension on the mean.
        generator: Of the CPU.

    Returns:
        The centroids, shape (k, dim).
    """
    centroids, scatter = centroids.clone(), scatter.clone()
    for vacant in empty.nonzero()[:, 0].tolist():
        widest = int(scatter.argmax())
        away = step * torch.randn(centroids.shape[1], generator=generator).to(centroids)
        centroids[vacant] = centroids[widest] + away
        centroids[widest] -= away
        scatter[vacant] = scatter[widest] = scatter[widest] / 2
    return centroids


@dataclass(frozen=True)
class Mixture:
    """k Gaussians with diagonal covariances."""

    weights: Tensor
    """How many of the points each made, as a share, (k,)."""
    means: Tensor
    """Shape (k, dim)."""
    variances: Tensor
    """Shape (k, dim), or (1, dim) where all have the same."""

    def responsibilities(self, points: Tensor) -> Tensor:
        """The probability that each component made each point, (n, k); rows sum to 1."""
        precisions = 1 / self.variances
        constants = self.weights.log() - (self.means.square() * precisions - precisions.log()).sum(dim=1) / 2
        squares = points.square() @ precisions.T
        return (constants + points @ (self.means * precisions).T - squares / 2).softmax(dim=1)

    def likeliest(self, points: Tensor, *, kept: int) -> tuple[Tensor, Tensor]:
        """The components that are likeliest to have made each point.

        Returns:
            Their numbers, the likeliest first, int64 (n, kept), and their responsibilities, scaled to sum to 1.
        """
        parts = [self.responsibilities(part).topk(kept) for part in _parts(points, len(self.weights))]
        found = torch.cat([part.values for part in parts])
        return torch.cat([part.indices for part in parts]), found / found.sum(dim=1, keepdim=True)


@torch.no_grad()
def mixture(points: Tensor, assignments: Tensor, *, k: int, shared: bool, iterations: int = 10) -> Mixture:
    """A mixture of Gaussians by expectation-maximisation, from a partition (Dempster, Laird and Rubin, 1977).

    Args:
        points: Shape (n, dim).
        assignments: The component that each point begins in, int64 (n,).
        k: Number of components.
        shared: Whether all have the same variances; a component of few points cannot tell its own.
        iterations: Of both steps.

    Returns:
        The mixture after the last maximisation. A component that no point is left to has a weight of 0.
    """
    begun = (functional.one_hot(part, k).to(points) for part in assignments.split(_rows(k)))
    found = _maximise(points, begun, k=k, shared=shared)
    for _ in range(iterations):
        expected = (found.responsibilities(part) for part in _parts(points, k))
        found = _maximise(points, expected, k=k, shared=shared)
    return found


def _maximise(points: Tensor, responsibilities: Iterable[Tensor], *, k: int, shared: bool) -> Mixture:
    counts = points.new_zeros(k)
    sums, squares = points.new_zeros(2, k, points.shape[1])
    for part, shares in zip(_parts(points, k), responsibilities, strict=True):
        counts += shares.sum(dim=0)
        sums += shares.T @ part
        squares += shares.T @ part.square()
    filled = counts.clamp_min(torch.finfo(counts.dtype).tiny)[:, None]
    means = sums / filled
    variances = squares / filled - means.square()
    if shared:
        variances = counts[None] @ variances / len(points)
    smallest = SMALLEST_VARIANCE * points.var(dim=0, correction=0).mean()
    return Mixture(counts / len(points), means, variances.clamp_min(smallest))


def balanced(assignments: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many places as there are points, from every cluster equally often (Caron and others, section 3.3).

    Args:
        assignments: int64 (n,).
        generator: Draws which members come, or come once more than others of their cluster.

    Returns:
        int64 (n,). Clusters come equally often, give or take one, and so do the members of one.
    """
    order = np.argsort(assignments, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(assignments[order])) + 1)
    each = -(-len(assignments) // len(members))
    columns = [np.resize(generator.permutation(cluster), each) for cluster in members]
    return np.stack(columns, axis=1).ravel()[: len(assignments)]


def _parts(points: Tensor, k: int) -> tuple[Tensor, ...]:
    return points.split(_rows(k))


def _rows(k: int) -> int:
    return max(1, MAX_CELLS // k)

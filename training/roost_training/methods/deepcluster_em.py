"""DeepCluster with a mixture of Gaussians in place of k-means: several clusters may share an image.

Announced as future work by Lai and Mundhenk, "Combining Self-supervised Tasks with Deep Clustering of Visual
Features"; what is not the mixture's is DeepCluster's, https://arxiv.org/abs/1807.05520.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from roost_training.blocks import clustering
from roost_training.methods import deepcluster


class Config(deepcluster.Config):
    """DeepCluster's settings, and the mixture's."""

    components: PositiveInt = 16  # in 64 dimensions distances differ so much that hardly an image is shared
    shared: bool = True
    """Whether all clusters have the same variances; the images of one alone may be too few to tell its own."""
    kept: PositiveInt = 8
    """Clusters that share an image, at most: the likeliest."""


class Method(deepcluster.Method):
    """Classifies a view of each image into the clusters that may have made it, as likely as they did."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(config, encoder, feature_dim)
        self.kept, self.shared = config.kept, config.shared

    def partition(self, points: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fit a mixture, from where k-means ends; its responsibilities are the shares."""
        k = self.classifier.out_features
        begun = clustering.kmeans(points, k=k, generator=generator)
        found = clustering.mixture(points, begun.assignments, k=k, shared=self.shared)
        return found.likeliest(points, kept=self.shares.shape[1])

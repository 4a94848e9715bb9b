"""DeepCluster: cluster the images by what the encoder makes of them, learn to tell the clusters, and begin again.

Caron, Bojanowski, Joulin, Douze, ECCV 2018, https://arxiv.org/abs/1807.05520. One departure: the encoder sees colours,
as it will when it is served, where the paper's sees edges by Sobel's filter.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import clustering, distributed
from roost_training.encoders import whitening
from roost_training.images.data import Images
from roost_training.views.recipe import Recipe, View

IMAGES_PER_CLUSTER = 4  # on the mean, at least; the paper's 10,000 clusters have 130
FIRST_WEIGHTS = 0.01  # standard deviation of the classifier's, as in the authors' code


class Config(methods.Config):
    """DeepCluster's settings."""

    clusters: PositiveInt = 100  # the paper: 10,000 on ImageNet, ten times its classes
    """Number of clusters, but no more than a quarter of the images."""
    components: PositiveInt = 64  # the paper: 256 of 4096
    """Principal components of the features in which clusters are sought, but no more than a quarter of the images."""
    every: PositiveInt = 1
    """Epochs from one clustering to the next. Each costs a pass over the images, without gradients."""


class Method(methods.Method):
    """Classifies a view of each image into the image's cluster."""

    wants_indices = True
    constant_rate = ("classifier",)  # begun anew to the end, it could not learn at a rate that has fallen
    kept: int = 1
    """Clusters that share an image, at most."""
    clusters: Tensor
    shares: Tensor
    classifier: nn.Linear

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config, self.feature_dim = config, feature_dim

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view of each image."""
        return [View(base, size)]

    def prepare(self, images: Images) -> None:
        """Make room for each image's clusters, and the classifier that learns to tell them."""
        n = len(images)
        k = min(self.config.clusters, max(2, n // IMAGES_PER_CLUSTER))
        kept = min(self.kept, k)
        self.register_buffer("clusters", torch.zeros(n, kept, dtype=torch.int64))
        self.register_buffer("shares", torch.full((n, kept), 1 / kept))
        self.classifier = nn.Linear(self.feature_dim, k)

    @torch.no_grad()
    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> Iterable[nn.Parameter]:
        """Cluster the images; the classifier begins anew, since the numbers of the last clusters mean nothing now."""
        if epoch % self.config.every:
            return ()
        generator = torch.Generator().manual_seed(epoch)
        features = embed()
        components = min(self.config.components, max(1, len(features) // IMAGES_PER_CLUSTER), self.feature_dim)
        clusters, shares = self.partition(whitening.fit(features, dim=components)(features), generator)
        self.clusters.copy_(distributed.broadcast(clusters))
        self.shares.copy_(distributed.broadcast(shares))
        weight = self.classifier.weight
        weight.copy_(torch.randn(weight.shape, generator=generator) * FIRST_WEIGHTS)
        self.classifier.bias.zero_()
        return self.classifier.parameters()

    def partition(self, points: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cluster points.

        Args:
            points: The images' whitened features, shape (images, components).
            generator: Of the CPU.

        Returns:
            The clusters of each, the likeliest first, int64 (images, kept), and their shares in it, which sum to 1.
        """
        k = self.classifier.out_features
        found = clustering.kmeans(functional.normalize(points, dim=1), k=k, generator=generator)
        return found.assignments[:, None], torch.ones_like(self.shares)

    def pool(self, generator: np.random.Generator) -> np.ndarray:
        """Images from every cluster equally often, so that no answer is right often enough to be given always."""
        return clustering.balanced(self.clusters[:, 0].cpu().numpy(), generator)

    def forward(self, views: Sequence[Tensor], indices: Tensor) -> dict[str, Tensor]:
        """The loss over one view (batch, 3, size, size) of the images at `indices`, int64 (batch,)."""
        logits = self.classifier(self.encoder(views[0])).float()
        clusters = self.clusters[indices]
        return {
            "loss": shared_cross_entropy(logits, clusters, self.shares[indices]),
            "told": (logits.argmax(dim=1) == clusters[:, 0]).float().mean(),
        }


def shared_cross_entropy(logits: Tensor, clusters: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of clusters that share each image, mean over images (equation 2, where one has it all).

    Args:
        logits: Shape (n, k).
        clusters: int64 (n, kept), different in a row.
        shares: Shape (n, kept); rows sum to 1.

    Returns:
        A scalar >= 0: log(k) where all logits are equal, and at least the shares' mean entropy.

    Raises:
        ValueError: Clusters and shares of different shapes.
    """
    if clusters.shape != shares.shape:
        raise ValueError(f"clusters of shape {tuple(clusters.shape)}, shares of shape {tuple(shares.shape)}")
    return -(shares * logits.float().log_softmax(dim=1).gather(1, clusters)).sum(dim=1).mean()

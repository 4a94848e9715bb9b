"""VICReg: equal views (invariance), features that vary (variance), and none that repeats another (covariance).

Bardes, Ponce, LeCun, ICLR 2022, https://arxiv.org/abs/2105.04906
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed
from roost_training.blocks.heads import mlp

SMALL = 1e-4
"""Added to a variance before its root, whose slope at 0 has no end (equation 2)."""


class Config(methods.Config):
    """VICReg's settings."""

    invariance: PositiveFloat = 25.0
    variance: PositiveFloat = 25.0
    covariance: PositiveFloat = 1.0
    dim: PositiveInt = 512  # the paper: 8192, for a ResNet-50
    """Length of a projection, and of the projector's hidden layers."""


class Method(methods.Method):
    """Weighs the three terms over two views' projections."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.projector = mlp(feature_dim, config.dim, config.dim, config.dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over two views, each (batch, 3, size, size), that pass the encoder as one batch."""
        za, zb = self.projector(self.encoder(torch.cat(list(views)))).chunk(2)
        weights = self.config
        return {
            "loss": vicreg_loss(
                za, zb, invariance=weights.invariance, variance=weights.variance, covariance=weights.covariance
            )
        }


def vicreg_loss(za: Tensor, zb: Tensor, *, invariance: float, variance: float, covariance: float) -> Tensor:
    """The weighted sum of the three terms (equation 6).

    As in the authors' code, distances are means over dimensions too, and the variance term is the mean over the two
    views where the paper has a sum. Where several processes train together, variances and covariances are over the
    rows of all, and the mean over processes of this loss is that of one process that has every row.

    Args:
        za: Projections of the first views, shape (batch, dim).
        zb: Of the second views, row by row of the same images.
        invariance: Weight of the mean squared difference.
        variance: Weight of the mean shortfall of the features' standard deviations from 1.
        covariance: Weight of the squared covariances of different features, a sum divided by dim.

    Returns:
        A scalar >= 0: 0 where views are equal and their features uncorrelated with a standard deviation of 1 or more,
        and 0.99 variance where every row of both is the same.

    Raises:
        ValueError: Shapes that differ, or fewer than two rows.
    """
    if za.shape != zb.shape or len(za) < 2:
        raise ValueError(
            f"projections of shapes {tuple(za.shape)} and {tuple(zb.shape)}; two rows of a shape are needed"
        )
    with torch.autocast(za.device.type, enabled=False):
        za, zb = za.float(), zb.float()
        loss = invariance * functional.mse_loss(za, zb)
        for z in (distributed.gather(za), distributed.gather(zb)):
            matrix = z.T.cov()
            deviations = (matrix.diagonal() + SMALL).sqrt()
            off_diagonal = matrix - matrix.diagonal().diag()
            loss = loss + variance * functional.relu(1 - deviations).mean() / 2
            loss = loss + covariance * off_diagonal.square().sum() / len(matrix)
    return loss

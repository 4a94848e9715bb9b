"""Barlow Twins: make each feature agree with itself across two views, and with no other feature.

Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, https://arxiv.org/abs/2103.03230
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed
from roost_training.blocks.heads import mlp


class Config(methods.Config):
    """Barlow Twins' settings."""

    redundancy: PositiveFloat = 5e-3
    """Weight of the correlations between different features, lambda in the paper."""
    dim: PositiveInt = 512  # the paper: 8192, for a ResNet-50
    """Length of a projection, and of the projector's hidden layers."""


class Method(methods.Method):
    """Brings the cross-correlation of two views' projections to the unit matrix."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.redundancy = config.redundancy
        self.projector = mlp(feature_dim, config.dim, config.dim, config.dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over two views, each (batch, 3, size, size), that pass the encoder as one batch."""
        za, zb = self.projector(self.encoder(torch.cat(list(views)))).chunk(2)
        return {"loss": barlow_twins_loss(za, zb, redundancy=self.redundancy)}


def barlow_twins_loss(za: Tensor, zb: Tensor, *, redundancy: float) -> Tensor:
    """The distance of the views' cross-correlation matrix to the unit matrix (equation 1).

    Where several processes train together, the correlations are over the rows of all: every process has the same
    loss, that of one process with every row.

    Args:
        za: Projections of the first views, shape (batch, dim).
        zb: Of the second views, row by row of the same images.
        redundancy: Weight of what lies off the diagonal.

    Returns:
        A scalar >= 0: 0 where views are equal and their features uncorrelated, dim where a feature is the same for
        every image, and redundancy * dim * (dim - 1) where all features are copies of one.

    Raises:
        ValueError: Shapes that differ, or fewer than two rows.
    """
    if za.shape != zb.shape or len(za) < 2:
        raise ValueError(
            f"projections of shapes {tuple(za.shape)} and {tuple(zb.shape)}; two rows of a shape are needed"
        )
    with torch.autocast(za.device.type, enabled=False):
        za, zb = _standardise(distributed.gather(za.float())), _standardise(distributed.gather(zb.float()))
        correlation = za.T @ zb / len(za)
    unit = torch.eye(len(correlation), device=za.device)
    return ((correlation - unit).square() * torch.where(unit > 0, 1.0, redundancy)).sum()


def _standardise(z: Tensor) -> Tensor:
    """Each column with mean 0 and variance 1: batch norm without its scale and shift."""
    return functional.batch_norm(z, None, None, training=True)

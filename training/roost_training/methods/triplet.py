"""Triplet loss with batch-hard mining: an image is nearer to its farthest like than to its nearest unlike.

Hermans, Beyer, Leibe, In Defense of the Triplet Loss for Person Re-Identification, 2017,
https://arxiv.org/abs/1703.07737
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed, pairs
from roost_training.blocks.heads import mlp
from roost_training.views.recipe import Recipe, View


class Config(methods.Config):
    """The settings of triplet learning."""

    similar: Literal["views", "labels"] = "views"
    """What an image is like: its other views, or its class."""
    views: Annotated[int, Field(ge=2)] = 2
    """Of each image, K in the paper, which takes 4 pictures of each of 18 persons. Two or more give every image a like
    one in its batch, however many classes there are."""
    margin: PositiveFloat | None = None
    """How much farther the unlike must be; None for the paper's soft margin, which never stops pulling."""
    dim: PositiveInt = 128
    """Length of a projection, whose distances count; it has no unit length, as in the paper."""


class Method(methods.Method):
    """Mines the hardest triplet of every view in the batch of all processes."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.wants_labels = config.similar == "labels"
        # The paper has no norm here; where images are their own classes, all rows would shrink to a point and stay.
        self.projector = nn.Sequential(
            mlp(feature_dim, feature_dim, config.dim), nn.BatchNorm1d(config.dim, affine=False)
        )

    def views(self, base: Recipe, size: int) -> list[View]:
        """As many alike copies as the settings say."""
        return [View(base, size)] * self.config.views

    def forward(self, views: Sequence[Tensor], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The loss over K views, each (batch, 3, size, size)."""
        z = distributed.gather(self.projector(self.encoder(torch.cat(list(views)))).float())
        names = pairs.instances(len(views[0]), z.device) if labels is None else labels
        return {"loss": batch_hard(z, distributed.gather(names.repeat(len(views))), margin=self.config.margin)}


def batch_hard(z: Tensor, names: Tensor, *, margin: float | None) -> Tensor:
    """The batch-hard triplet loss (Hermans and others, equation 5).

    The mean is over the rows that have both a like and an unlike one.

    Args:
        z: Embeddings, shape (n, dim).
        names: Who each row is, int64 of shape (n,).
        margin: By how much the nearest unlike row must be farther than the farthest like one; None for log(1 + e^x),
            the soft margin.

    Returns:
        A scalar >= 0. Where every row is the same it is the margin, or log 2 with the soft one; where no row counts, 0.

    Raises:
        ValueError: A margin that is not positive.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"a margin of {margin}; it must be positive")
    distance, like = pairs.distances(z, z), pairs.alike(names)
    unlike = ~like & pairs.apart(len(z), z.device)
    farthest = distance.masked_fill(~like, 0).amax(1)
    nearest = distance.masked_fill(~unlike, torch.inf).amin(1)
    excess = (farthest - nearest)[like.any(1) & unlike.any(1)]
    losses = functional.softplus(excess) if margin is None else (excess + margin).clamp_min(0)
    return losses.sum() / max(1, len(losses))

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
    among: Annotated[int, Field(ge=2)] = 16
    """Images, neighbours in the batch, among which triplets are mined: P in the paper, 18 persons. The more there are,
    the more often the nearest unlike image is unlike in name only."""
    views: Annotated[int, Field(ge=2)] = 2
    """Of each image, K in the paper: 4 pictures of a person. They give every image a like one, however many classes
    there are."""
    margin: PositiveFloat | None = None
    """How much farther the unlike must be; None for the paper's soft margin, which never stops pulling."""
    dim: PositiveInt = 128
    """Length of a projection, whose distances count; it has no unit length, as in the paper."""


class Method(methods.Method):
    """Mines the hardest triplet of every view among some images of the batch."""

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
        own = pairs.instances(len(views[0]), z.device)
        names = distributed.gather((own if labels is None else labels).repeat(len(views)))
        groups = distributed.gather(own.repeat(len(views))) // self.config.among
        return {"loss": batch_hard(z, names, groups=groups, margin=self.config.margin)}


def batch_hard(z: Tensor, names: Tensor, *, groups: Tensor, margin: float | None) -> Tensor:
    """The batch-hard triplet loss (Hermans and others, equation 5).

    The mean is over the rows that have both a like and an unlike one.

    Args:
        z: Embeddings, shape (n, dim).
        names: Who each row is, int64 of shape (n,).
        groups: Among which rows its triplet is mined: those of its own group, int64 of shape (n,).
        margin: By how much the nearest unlike row must be farther than the farthest like one; None for log(1 + e^x),
            the soft margin.

    Returns:
        A scalar >= 0. Where every row is the same it is the margin, or log 2 with the soft one; where no row counts, 0.

    Raises:
        ValueError: A margin that is not positive.
    """
    if margin is not None and not margin > 0:
        raise ValueError(f"a margin of {margin}; it must be positive")
    distance, near = pairs.distances(z, z), pairs.alike(groups)
    like = near & pairs.alike(names)
    unlike = near & ~like
    farthest = distance.masked_fill(~like, 0).amax(1)
    nearest = distance.masked_fill(~unlike, torch.inf).amin(1)
    excess = (farthest - nearest)[like.any(1) & unlike.any(1)]
    losses = functional.softplus(excess) if margin is None else (excess + margin).clamp_min(0)
    return losses.sum() / max(1, len(losses))

"""Relative patch position: see two patches of an image, and say on which of its eight sides the second lies.

Doersch, Gupta and Efros, ICCV 2015, https://arxiv.org/abs/1505.05192
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import patches
from roost_training.blocks.heads import mlp
from roost_training.views.recipe import Probability, Recipe, View

GRID = 3
CENTRE = 4
SIDES = (0, 1, 2, 3, 5, 6, 7, 8)
"""The centre's neighbours, by their numbers in the grid."""


class Config(methods.Config):
    """Relative patch position's settings."""

    view_scale: Annotated[float, Field(ge=1, le=8)] = 2.0
    """Side of what is cut up, in sides of the image that the encoder is trained for: 1 cuts as large as it is served,
    more keeps enough pixels where images are small: of pieces so small that the last map has one place, 3x3 kernels
    learn their centres alone."""
    patch: Annotated[float, Field(gt=0, le=1)] = 2 / 3
    """Side of a patch as a share of its cell's: 96 pixels and gaps of 48 in the paper, where patches move by at most 7
    pixels; here they move through all of the gap."""
    dropped: Probability = 1.0
    """Chance that a patch keeps one colour channel alone, against the lens's aberration."""
    hidden: PositiveInt = 512  # the paper's fc7: 4096
    """Width of the layer that joins two patches."""


class Method(methods.Method):
    """Classifies where a patch's neighbour lies."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.classifier = mlp(2 * feature_dim, config.hidden, len(SIDES))

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view of each image, larger than what the encoder is trained for."""
        return [View(base, round(self.config.view_scale * size))]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over one view (batch, 3, size, size): of all eight pairs, where the paper draws one."""
        logits = self.logits(self.cut(views[0])).flatten(0, 1)
        sides = torch.arange(len(SIDES), device=logits.device).repeat(len(views[0]))
        return {
            "loss": functional.cross_entropy(logits.float(), sides),
            "accuracy": (logits.argmax(1) == sides).float().mean(),
        }

    def cut(self, images: Tensor) -> Tensor:
        """Nine patches (n, 9, 3, side, side) of images (n, 3, size, size), by rows."""
        found = patches.jittered_grid(images, grid=GRID, share=self.config.patch)
        return patches.drop_colours(found, chance=self.config.dropped)

    def logits(self, found: Tensor) -> Tensor:
        """For patches (n, 9, 3, side, side) and each of the centre's neighbours, of the sides: (n, 8, 8)."""
        features = patches.encode(self.encoder, found)
        centre = features[:, CENTRE, None].expand(-1, len(SIDES), -1)
        pairs = torch.cat([centre, features[:, SIDES]], dim=2)
        return self.classifier(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The patches as the encoder sees them, and as the classifier arranges them."""
        found = self.cut(views[0])
        return {"patches": patches.tile(found), "arranged": patches.tile(arrange(found, self.logits(found)))}


def arrange(found: Tensor, logits: Tensor) -> Tensor:
    """On each side of the centre, the neighbour that is likeliest to lie there.

    Args:
        found: Patches by rows, shape (n, 9, 3, side, side).
        logits: Of each neighbour's sides, shape (n, 8, 8).

    Returns:
        Patches, likewise; a neighbour may stand on several sides, or on none.
    """
    likeliest = logits.softmax(2).argmax(1)
    rows = torch.arange(len(found), device=found.device)[:, None]
    arranged = found.clone()
    arranged[:, SIDES] = found[:, SIDES][rows, likeliest]
    return arranged

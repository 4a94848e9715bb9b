"""Jigsaw and deep clustering at once: one encoder orders the pieces of an image, and tells its cluster.

Announced as future work by Lai and Mundhenk, "Combining Self-supervised Tasks with Deep Clustering of Visual
Features"; the parts are those of https://arxiv.org/abs/1603.09246 and https://arxiv.org/abs/1807.05520.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from roost_training.methods import deepcluster, jigsaw, jigsaw_odd
from roost_training.views.recipe import Recipe, View


class Config(jigsaw_odd.Config, deepcluster.Config):
    """The settings of both, and how much each counts."""

    odd: Annotated[int, Field(ge=0, le=4)] = 0
    """Pieces of each puzzle that are another image's, as in `jigsaw_odd`."""
    puzzle_weight: PositiveFloat = 1.0
    """Of the puzzles' loss beside the clusters'; both are logarithms of a number of answers at first."""


class Method(deepcluster.Method):
    """Adds the loss of puzzles, cut from a second and larger view, to that of clusters."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(config, encoder, feature_dim)
        self.view_scale, self.puzzle_weight = config.view_scale, config.puzzle_weight
        self.puzzle = (jigsaw_odd if config.odd else jigsaw).Puzzle(config, feature_dim)

    def views(self, base: Recipe, size: int) -> list[View]:
        """The view whose cluster is told, and the one that is cut up."""
        return [*super().views(base, size), View(base, round(self.view_scale * size))]

    def forward(self, views: Sequence[Tensor], indices: Tensor) -> dict[str, Tensor]:
        """The loss over two views of the images at `indices`, int64 (batch,)."""
        puzzles = self.puzzle.play(self.encoder, views[1])
        clusters = super().forward(views[:1], indices)
        return puzzles | clusters | {"loss": clusters["loss"] + self.puzzle_weight * puzzles["loss"]}

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The puzzles as the encoder sees them, and as it solves them."""
        return self.puzzle.draw(self.encoder, views[1])

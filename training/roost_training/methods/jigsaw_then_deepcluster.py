"""Jigsaw, then deep clustering: an encoder that has solved puzzles gives the first clusters.

Lai and Mundhenk, poster "Combining Self-supervised Tasks with Deep Clustering of Visual Features"; the parts are
those of https://arxiv.org/abs/1603.09246 and https://arxiv.org/abs/1807.05520.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from roost_training.methods import deepcluster, jigsaw
from roost_training.views.recipe import Recipe, View


class Config(jigsaw.Config, deepcluster.Config):
    """The settings of both, and when one gives way to the other."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the training that is jigsaw; clustering begins with the first epoch after it."""


class Method(deepcluster.Method):
    """Solves puzzles, cut from a larger view, until the clustering begins."""

    idle_parameters = True
    done: Tensor
    began: Tensor

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(config, encoder, feature_dim)
        self.view_scale, self.share = config.view_scale, config.share
        self.puzzle = jigsaw.Puzzle(config, feature_dim)
        self.register_buffer("done", torch.tensor(0.0))
        self.register_buffer("began", torch.tensor(-1))  # the first epoch of clustering

    @property
    def clusters_now(self) -> bool:
        """Whether puzzles have given way to clusters."""
        return bool(self.began >= 0)

    def views(self, base: Recipe, size: int) -> list[View]:
        """The view that is cut up, or once clustering has begun, the one whose cluster is told."""
        return super().views(base, size) if self.clusters_now else [View(base, round(self.view_scale * size))]

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> Iterable[nn.Parameter]:
        """Begin to cluster where it is time, and go on with it from then."""
        if not self.clusters_now and self.done >= self.share:
            self.began.fill_(epoch)
        return super().before_epoch(epoch - int(self.began), embed) if self.clusters_now else ()

    def after_step(self, progress: float) -> None:
        """Take note of how much is done."""
        self.done.fill_(progress)

    def forward(self, views: Sequence[Tensor], indices: Tensor) -> dict[str, Tensor]:
        """The loss of puzzles or of clusters, over one view of the images at `indices`, int64 (batch,)."""
        return super().forward(views, indices) if self.clusters_now else self.puzzle.play(self.encoder, views[0])

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The puzzles as the encoder sees them and as it solves them, as long as it does."""
        return super().pictures(views) if self.clusters_now else self.puzzle.draw(self.encoder, views[0])

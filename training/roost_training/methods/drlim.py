"""DrLIM: pull similar images together, push all others apart up to a margin.

Hadsell, Chopra, LeCun, Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006,
https://doi.org/10.1109/CVPR.2006.100
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed, pairs
from roost_training.blocks.heads import mlp
from roost_training.images.data import Images

THUMBNAIL = 32
"""Side to which images are averaged before their pixels are compared."""
CHUNK = 1_000


class Config(methods.Config):
    """DrLIM's settings."""

    similar: Literal["views", "neighbours", "labels"] = "views"
    """Which images are similar: the views of one alone, those of its nearest neighbours in pixels too, or those of its
    class."""
    neighbours: PositiveInt = 5
    """How many nearest images are similar, where neighbours are."""
    margin: PositiveFloat = 1.0
    pull: PositiveFloat = 1.0
    """Weight of similar pairs against dissimilar ones; in the paper it follows from how many of each are drawn."""
    dim: PositiveInt = 128
    """Length of a projection, whose distances count; the paper: 2 or 3, to draw them."""


class Method(methods.Method):
    """Learns distances from which pairs are similar."""

    nearest: Tensor

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.wants_labels = config.similar == "labels"
        self.wants_indices = config.similar == "neighbours"
        self.projector = mlp(feature_dim, feature_dim, config.dim)
        self.register_buffer("nearest", torch.empty(0, config.neighbours, dtype=torch.int64), persistent=False)

    def prepare(self, images: Images) -> None:
        """Find each image's nearest neighbours, where they are asked for."""
        if self.wants_indices:
            self.nearest = nearest(thumbnails(images), self.config.neighbours)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor | None = None, indices: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss over all pairs of views, each (batch, 3, size, size), of every process."""
        z = distributed.gather(self.projector(self.encoder(torch.cat(list(views)))).float())
        names = {"views": pairs.instances(len(views[0]), z.device), "labels": labels, "neighbours": indices}
        who = distributed.gather(names[self.config.similar].repeat(len(views)))
        similar = pairs.alike(who)
        if self.wants_indices:
            near = (self.nearest[who][:, :, None] == who).any(1)
            similar = similar | near | near.T
        loss = pairs.contrastive(
            pairs.distances(z, z),
            similar=similar,
            dissimilar=~similar & pairs.apart(len(z), z.device),
            margin=self.config.margin,
            pull=self.config.pull,
        )
        return {"loss": loss}


def thumbnails(images: Images) -> Tensor:
    """The pixels of images averaged down to 32 a side, float32 of shape (n, values)."""
    side = min(images.side, THUMBNAIL)
    chunks = np.array_split(np.arange(len(images)), -(-len(images) // CHUNK))
    planes = (torch.from_numpy(images.gather(chunk)).permute(0, 3, 1, 2).float() for chunk in chunks)
    return torch.cat([functional.adaptive_avg_pool2d(part, side).flatten(1) for part in planes])


def nearest(rows: Tensor, k: int) -> Tensor:
    """Each row's nearest others by Euclidean distance, int64 of shape (n, min(k, n - 1)).

    Args:
        rows: Shape (n, dim).
        k: How many; > 0.
    """
    norms = rows.square().sum(1)
    found = []
    for first in range(0, len(rows), CHUNK):
        squared = norms - 2 * rows[first : first + CHUNK] @ rows.T  # but for the row's own norm, the same for all
        own = torch.arange(len(squared))
        squared[own, first + own] = torch.inf
        found.append(squared.topk(min(k, len(rows) - 1), largest=False).indices)
    return torch.cat(found)

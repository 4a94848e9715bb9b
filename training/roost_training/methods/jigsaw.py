"""Jigsaw: see nine pieces of an image out of their order, each through the same encoder, and say which order it is.

Noroozi and Favaro, ECCV 2016, https://arxiv.org/abs/1603.09246; with a ResNet as Goyal, Mahajan, Gupta and Misra,
ICCV 2019, https://arxiv.org/abs/1905.01235.
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
from roost_training.blocks.permutations import far_apart
from roost_training.views.recipe import Probability, Recipe, View

PIECES = 9
GRID = 3
ORDERS = 8
"""In which a step sees each image; the paper: 1, and 69 in all of its training."""


class Config(methods.Config):
    """Jigsaw's settings."""

    permutations: Annotated[int, Field(ge=2, le=2000)] = 100  # the paper: 1000, for 1.3 million images
    """Orders to tell from each other."""
    view_scale: Annotated[float, Field(ge=1, le=8)] = 2.0  # the paper: 225 pixels cut up, into pieces of 64
    """Side of what is cut up, in sides of the image that the encoder is trained for: 1 cuts as large as it is served,
    more keeps enough pixels where images are small: of pieces so small that the last map has one place, 3x3 kernels
    learn their centres alone."""
    piece: Annotated[float, Field(gt=0, le=1)] = 64 / 75
    """Side of a piece as a share of its cell's; the rest is where it may lie."""
    grey: Probability = 0.3
    """Chance that a piece has no colour; the paper draws it for whole images, since all its pieces look alike then."""
    standardise: bool = True
    """Bring every piece to the same mean and deviation, which would tell neighbours."""
    dim: PositiveInt = 64  # the paper's fc6: 1024
    """Length of what a piece is reduced to before the nine are joined."""
    hidden: PositiveInt = 512  # the paper's fc7: 4096
    """Width of the layer that joins the nine."""


class Method(methods.Method):
    """Classifies the order of an image's pieces."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.view_scale = config.view_scale
        self.puzzle = Puzzle(config, feature_dim)

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view of each image, larger than what the encoder is trained for."""
        return [View(base, round(self.view_scale * size))]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over one view (batch, 3, size, size), in several orders."""
        return self.puzzle.play(self.encoder, views[0])

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The puzzles as the encoder sees them, and as it solves them."""
        return self.puzzle.draw(self.encoder, views[0])


class Puzzle(nn.Module):
    """Cuts images into nine pieces, shuffles them, and classifies their order from their features."""

    permutations: Tensor

    def __init__(self, config: Config, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("permutations", far_apart(config.permutations, items=PIECES))
        self.reduce = nn.Sequential(nn.Linear(feature_dim, config.dim), nn.ReLU(inplace=True))
        self.head = mlp(PIECES * config.dim, config.hidden, config.permutations)

    def cut(self, images: Tensor) -> Tensor:
        """The pieces of images (n, 3, size, size) by rows, shape (n, 9, 3, side, side), ready for the encoder."""
        pieces = patches.jittered_grid(images, grid=GRID, share=self.config.piece)
        pieces = patches.drop_saturation(pieces, chance=self.config.grey)
        return patches.standardise(pieces) if self.config.standardise else pieces

    def shuffle(self, pieces: Tensor) -> tuple[Tensor, Tensor]:
        """Bring each image's pieces into a random order.

        Args:
            pieces: Shape (n, 9, ...).

        Returns:
            The pieces, and the orders: rows of `permutations`, int64 of shape (n,). An order's entry i is the place
            that the piece now at i came from.
        """
        order = torch.randint(len(self.permutations), (len(pieces),), device=pieces.device)
        return pieces[_rows(pieces), self.permutations[order]], order

    def restore(self, pieces: Tensor, order: Tensor) -> Tensor:
        """Undo `shuffle`: pieces (n, 9, ...) at the places that `order` (n,) says they came from."""
        return pieces[_rows(pieces), self.permutations[order].argsort(1)]

    def forward(self, features: Tensor) -> Tensor:
        """Logits (n, permutations) of the orders, from features (n, 9, feature_dim) of shuffled pieces."""
        return self.head(self.reduce(features).flatten(1))

    def play(self, encoder: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The loss of puzzles that are cut from images (n, 3, size, size), and the share of them that is solved."""
        features = patches.encode(encoder, self.cut(images))
        # The encoder sees each piece by itself: to shuffle what it says of them is to shuffle them, and costs nothing.
        shuffled, order = self.shuffle(features.repeat(ORDERS, 1, 1))
        logits = self(shuffled)
        return {
            "loss": functional.cross_entropy(logits.float(), order),
            "solved": (logits.argmax(1) == order).float().mean(),
        }

    def draw(self, encoder: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Puzzles that are cut from images (n, 3, size, size), as they are shuffled and as they are solved."""
        pieces, _ = self.shuffle(self.cut(images))
        found = self(patches.encode(encoder, pieces)).argmax(1)
        return {"puzzles": patches.tile(pieces), "solved": patches.tile(self.restore(pieces, found))}


def _rows(pieces: Tensor) -> Tensor:
    return torch.arange(len(pieces), device=pieces.device)[:, None]

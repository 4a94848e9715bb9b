"""CPC: from the patches above, tell the features of the patches below from those of all others.

Van den Oord, Li and Vinyals, 2018, https://arxiv.org/abs/1807.03748, section 3.2; the network and the loss as in
Hénaff and others, ICML 2020, https://arxiv.org/abs/1905.09272, appendix A.2. They have no batch norm, which can tell
a batch's patches from each other's statistics; here the encoder is the run's.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed, patches
from roost_training.views.recipe import Probability, Recipe, View


class Config(methods.Config):
    """CPC's settings."""

    view_scale: Annotated[float, Field(ge=1, le=8)] = 1.5
    """Side of what is cut up, in sides of the image that the encoder is trained for."""
    grid: Annotated[int, Field(ge=3, le=16)] = 5  # the papers: 7, of images of 256 pixels
    """Patches along an axis; they overlap by half."""
    nearest: Annotated[int, Field(ge=1)] = 2
    """Rows below at which prediction begins: 1 overlaps with what has been seen, as in the first paper."""
    farthest: Annotated[int, Field(ge=1)] = 3  # the first paper: 5 of 7 rows
    """Rows below at which prediction ends."""
    dropped: Probability = 0.5
    """Chance that a patch keeps one colour channel alone, as in the second paper's augmentations."""
    layers: PositiveInt = 3  # the papers: 5, for 7 rows
    """Of the context network; each sees a row further up."""
    width: PositiveInt = 256
    """Of the context network."""
    dim: PositiveInt = 64
    """Length of what is predicted."""
    scale: PositiveFloat = 0.1
    """Multiplies predictions before they are compared."""

    @model_validator(mode="after")
    def _rows_are_in_the_grid(self) -> "Config":
        if not self.nearest <= self.farthest < self.grid:
            raise ValueError(f"rows {self.nearest} to {self.farthest} below, in a grid of {self.grid}")
        return self


class Method(methods.Method):
    """Predicts the features of patches from what lies above them."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.context = nn.Sequential(*(Above(feature_dim, config.width) for _ in range(config.layers)))
        self.target = nn.Conv2d(feature_dim, config.dim, kernel_size=1)
        rows_below = range(config.nearest, config.farthest + 1)
        self.predictors = nn.ModuleList(nn.Conv2d(feature_dim, config.dim, kernel_size=1) for _ in rows_below)

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view of each image, larger than what the encoder is trained for."""
        return [View(base, round(self.config.view_scale * size))]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over one view (batch, 3, size, size): the mean over how far below is predicted."""
        predictions, targets = self.predict(self.cut(views[0]))
        losses = [
            info_nce(prediction, targets, below=below)
            for below, prediction in enumerate(predictions, self.config.nearest)
        ]
        return {"loss": torch.stack(losses).mean()}

    def predict(self, found: Tensor) -> tuple[list[Tensor], Tensor]:
        """Guess what lies below each patch.

        Args:
            found: Patches, shape (n, rows, columns, 3, side, side).

        Returns:
            For each distance below what is predicted from each place, and what is there: (n, dim, rows, columns).
        """
        features = patches.encode(self.encoder, found.flatten(1, 2)).mT.unflatten(2, found.shape[1:3])
        context = self.context(features)
        return [predictor(context) * self.config.scale for predictor in self.predictors], self.target(features)

    def cut(self, images: Tensor) -> Tensor:
        """Overlapping patches (n, rows, columns, 3, side, side) of images (n, 3, size, size)."""
        side = 2 * images.shape[-1] // (self.config.grid + 1)
        found = patches.overlapping_grid(images, side=side, stride=side // 2)
        return patches.drop_colours(found, chance=self.config.dropped)

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The patches as the encoder sees them, and with those of any image that are predicted from the rows above."""
        found = self.cut(views[0])
        predictions, targets = self.predict(found)
        below = self.config.nearest
        likeliest = (_by_place(predictions[0][:, :, :-below]) @ _by_place(targets).T).argmax(1)
        predicted = found.clone()
        predicted[:, below:] = found.flatten(0, 2)[likeliest].view_as(found[:, below:])
        return {"patches": patches.tile(found.flatten(1, 2)), "predicted": patches.tile(predicted.flatten(1, 2))}


class Above(nn.Module):
    """A residual block over features (n, dim, rows, columns) that sees its own row and the one above."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(dim, width, kernel_size=1)
        self.across = nn.Conv2d(width, width, kernel_size=(1, 3), padding=(0, 1))
        self.down = nn.Conv2d(width, width, kernel_size=(2, 1))
        self.widen = nn.Conv2d(width, dim, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """As many rows and columns as come in."""
        x = self.across(functional.relu(self.narrow(features)))
        return features + self.widen(functional.relu(self.down(functional.pad(x, (0, 0, 1, 0)))))


def info_nce(predictions: Tensor, targets: Tensor, *, below: int) -> Tensor:
    """Tell the target some rows below from every other (van den Oord and others, equation 4), mean over predictions.

    Where several processes train together, the targets of all are told apart, and the mean over processes of this
    loss is that of one process that has every image.

    Args:
        predictions: From each place, shape (n, dim, rows, columns).
        targets: What is at each place, likewise.
        below: How many rows below its place a prediction is of.

    Returns:
        A scalar >= 0. Where all targets are alike it is the logarithm of their number, n * rows * columns.

    Raises:
        ValueError: No row lies so far below.
    """
    n, _, rows, columns = targets.shape
    if not 0 < below < rows:
        raise ValueError(f"{below} rows below, of {rows}")
    with torch.autocast(targets.device.type, enabled=False):  # bf16 has two digits: too few for a softmax
        keys = distributed.gather(_by_place(targets.float()))
        logits = _by_place(predictions.float()[:, :, :-below]) @ keys.T
    places = torch.arange(n * rows * columns, device=keys.device).view(n, rows, columns)[:, below:].flatten()
    return functional.cross_entropy(logits, distributed.rank() * n * rows * columns + places)


def _by_place(features: Tensor) -> Tensor:
    """(n, dim, rows, columns) to (n * rows * columns, dim)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)

"""Inpainting: see a picture with holes, draw what is missing (context encoders).

Pathak, Krähenbühl, Donahue, Darrell, Efros, CVPR 2016, https://arxiv.org/abs/1604.07379
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.nn import functional

from roost_training import encoders, methods
from roost_training.blocks.decoder import Decoder
from roost_training.views.recipe import Recipe, View


class Config(methods.Config):
    """Inpainting's settings."""

    holes: Literal["centre", "blocks"] = "blocks"
    """One square in the centre, or blocks anywhere (figure 3, a and b)."""
    blocks: PositiveInt = 4
    side: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Of a block, as a share of the view's; the central square has the paper's half."""
    adversarial: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Weight of the adversarial loss, the error has the rest; 0 makes no discriminator.

    The paper: 0.001 to paint, none to learn features (section 5.2)."""
    width: PositiveInt = 64
    """Channels of the decoder after its first enlargement."""


class Method(methods.Method):
    """Draws the holes of a picture from the map of what surrounds them."""

    needs = encoders.Encoder
    encoder: encoders.Encoder

    def __init__(self, config: Config, encoder: encoders.Encoder, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.decoder = Decoder(feature_dim, width=config.width)
        self.discriminator = discriminator(config.width // 2) if config.adversarial else None

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view, in its true colours."""
        return [View(base.true_colours(), size)]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The error in the holes, and with a discriminator the adversarial loss."""
        (whole,) = views
        holes = self._holes(whole)
        drawn = self._draw(whole, holes)
        error = hole_error(drawn, whole, holes)
        if self.discriminator is None:
            return {"loss": error}
        fooled = adversarial_loss(self.discriminator, whole * holes, drawn * holes, weight=self.config.adversarial)
        return {"loss": (1 - self.config.adversarial) * error + fooled, "error": error, "discriminator": fooled}

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The picture with holes, the same with what was drawn into them, and the whole."""
        (whole,) = views
        holes = self._holes(whole)
        filled = torch.where(holes, self._draw(whole, holes), whole)
        return {"holes": whole * ~holes, "filled": filled, "whole": whole}

    def _draw(self, whole: Tensor, holes: Tensor) -> Tensor:
        # Views are normalised: 0 is the mean colour, with which the paper fills its holes.
        return self.decoder(self.encoder.maps(whole * ~holes), size=whole.shape[-1]).float()

    def _holes(self, whole: Tensor) -> Tensor:
        size = whole.shape[-1]
        if self.config.holes == "centre":
            return central_hole(size, device=whole.device).expand(len(whole), -1, -1, -1)
        side = max(1, round(self.config.side * size))
        corners = torch.randint(0, size - side + 1, (len(whole), self.config.blocks, 2), device=whole.device)
        return block_holes(corners, side=side, size=size)


def central_hole(size: int, *, device: torch.device) -> Tensor:
    """A square of half the side in the middle: bool of shape (1, 1, size, size), True where the picture is missing."""
    inside = torch.zeros(size, dtype=torch.bool, device=device)
    inside[size // 4 : size // 4 + size // 2] = True
    return (inside[:, None] & inside)[None, None]


def block_holes(corners: Tensor, *, side: int, size: int) -> Tensor:
    """Squares at the given places, which may overlap.

    Args:
        corners: Top and left of each square, int64 of shape (batch, blocks, 2).
        side: Of the squares, in pixels.
        size: Of the picture.

    Returns:
        bool of shape (batch, 1, size, size), True where the picture is missing.
    """
    place = torch.arange(size, device=corners.device)
    inside = (place >= corners[..., None]) & (place < corners[..., None] + side)  # (batch, blocks, 2, size)
    rows, columns = inside.unbind(2)
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)


def hole_error(drawn: Tensor, whole: Tensor, holes: Tensor) -> Tensor:
    """The squared error in the holes (equation 1), mean over each picture's missing values, then over pictures.

    A departure from the paper, which sums: the mean has one scale for all sizes of hole.

    Args:
        drawn: Shape (batch, 3, size, size).
        whole: Of the same shape, normalised.
        holes: bool of shape (batch, 1, size, size), True where the error counts.

    Returns:
        A scalar >= 0; where the mean colour is drawn, the mean square of the missing values, about 1.

    Raises:
        ValueError: A picture without a hole.
    """
    missing = holes.sum((1, 2, 3)) * whole.shape[1]
    if not missing.all():
        raise ValueError("a picture without a hole; every picture needs one")
    return ((drawn.float() - whole).square() * holes).sum((1, 2, 3)).div(missing).mean()


def discriminator(width: int) -> nn.Sequential:
    """DCGAN's, in three strided convolutions without batch norm, to a logit for each place: positive is real."""
    return nn.Sequential(
        nn.Conv2d(3, width, kernel_size=4, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, kernel_size=4, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 4 * width, kernel_size=4, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(4 * width, 1, kernel_size=1),
    )


def adversarial_loss(judge: nn.Module, real: Tensor, drawn: Tensor, *, weight: float) -> Tensor:
    """The game of equation 2 in one loss, since one optimiser moves both players.

    The judge learns to tell real from drawn; through a reversed gradient, whoever drew learns to be mistaken for real.
    A departure from the paper, where the players move in turns, the judge with ten times the learning rate.

    Args:
        judge: Gives logits of being real.
        real: Pictures of shape (batch, 3, size, size).
        drawn: Of the same shape; its gradient is the reversed one, times `weight`.
        weight: Of the adversarial loss for whoever drew; >= 0.

    Returns:
        The judge's cross-entropy, the mean of both halves: log 2 where it cannot tell, 0 where it always can.
    """
    logits = judge(torch.cat([real, _Reversed.apply(drawn, weight)])).float()  # pyright: ignore[reportArgumentType, reportCallIssue]
    truth = torch.zeros_like(logits)
    truth[: len(real)] = 1
    return functional.binary_cross_entropy_with_logits(logits, truth)


class _Reversed(Function):
    """Ganin, Lempitsky, ICML 2015, https://arxiv.org/abs/1409.7495, section 3."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None

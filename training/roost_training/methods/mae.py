"""MAE: hide most patches of an image, and give their pixels back from the few that are left.

He, Chen, Xie, Li, Dollár, Girshick, Masked Autoencoders Are Scalable Vision Learners, CVPR 2022,
https://arxiv.org/abs/2111.06377
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from roost_training import encoders, methods
from roost_training.views.recipe import Recipe, View

EPSILON = 1e-6
"""Added to the variance of a patch, which may be flat."""


class Config(methods.Config):
    """MAE's settings."""

    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """The share of the patches that the encoder does not see."""
    decoder_dim: Annotated[int, Field(ge=32, multiple_of=32)] = 128  # the paper: 512, for an encoder of 1024
    decoder_layers: PositiveInt = 2  # the paper: 8; its table 1 has 1 nearly as good once the encoder is fine-tuned
    normalise: bool = True
    """Whether a patch's pixels are standardised before they are compared."""


class Method(methods.Method):
    """Encodes the patches that are left, and decodes all of them."""

    needs = encoders.ViT
    encoder: encoders.ViT

    def __init__(self, config: Config, encoder: encoders.ViT, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.patch = encoder.patch_size
        side = encoder.image_size // self.patch
        # Where patches lie is known from the start; the paper keeps it so, here it goes on learning.
        with torch.no_grad():
            encoder.encoder.pos_embedding[0, 1:] = sine_positions(side, feature_dim)
        self.decoder = Decoder(
            feature_dim, side=side, width=config.decoder_dim, layers=config.decoder_layers, out=3 * self.patch**2
        )

    def views(self, base: Recipe, size: int) -> list[View]:
        """One crop in its own colours: what must be given back is not changed."""
        return [View(base.true_colours(), size)]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over one view, (batch, 3, size, size)."""
        kept, hidden = self._choose(views[0])
        return {
            "loss": masked_loss(
                self._decode(views[0], kept).float(),
                patches_of(views[0], self.patch),
                hidden=hidden,
                normalise=self.config.normalise,
            )
        }

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The images, what is left of them, and what the decoder makes of that where patches were hidden."""
        patches = patches_of(views[0], self.patch)
        kept, hidden = self._choose(views[0])
        decoded = self._decode(views[0], kept).float()
        if self.config.normalise:  # only a patch's contrast was learnt, so its mean and spread are borrowed
            decoded = decoded * (patches.var(2, keepdim=True) + EPSILON).sqrt() + patches.mean(2, keepdim=True)
        where = torch.zeros_like(patches[:, :, 0]).scatter(1, hidden, 1.0)[:, :, None].bool()
        left, whole = patches.masked_fill(where, 0), torch.where(where, decoded, patches)
        return {
            "original": views[0],
            "masked": images_of(left, self.patch),
            "reconstruction": images_of(whole, self.patch),
        }

    def _choose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        count = (images.shape[2] // self.patch) * (images.shape[3] // self.patch)
        order = torch.rand(len(images), count, device=images.device).argsort(1)
        return order.tensor_split([max(1, round(count * (1 - self.config.mask_ratio)))], dim=1)  # pyright: ignore[reportReturnType]

    def _decode(self, images: Tensor, kept: Tensor) -> Tensor:
        return self.decoder(self.encoder.tokens(images, kept=kept), kept)


class Decoder(nn.Module):
    """A light transformer from the encoder's tokens to the pixels of all patches.

    Args:
        dim: Length of the encoder's tokens.
        side: Patches along an axis of the image.
        width: Length of the decoder's own tokens, in heads of 32.
        layers: How many.
        out: Values of a patch.
    """

    positions: Tensor

    def __init__(self, dim: int, *, side: int, width: int, layers: int, out: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.mask = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("positions", sine_positions(side, width), persistent=False)
        blocks = [
            EncoderBlock(width // 32, width, 4 * width, dropout=0.0, attention_dropout=0.0) for _ in range(layers)
        ]
        self.layers = nn.Sequential(*blocks, nn.LayerNorm(width), nn.Linear(width, out))

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Pixels (batch, side^2, out) of all patches.

        Args:
            tokens: The class token's and the kept patches', (batch, 1 + k, dim).
            kept: Which patches those are, int64 (batch, k), counted by rows.
        """
        seen = self.embed(tokens)
        everywhere = self.mask.to(seen.dtype).expand(len(seen), len(self.positions), -1)
        everywhere = everywhere.scatter(1, kept[:, :, None].expand(-1, -1, seen.shape[2]), seen[:, 1:])
        return self.layers(torch.cat([seen[:, :1], everywhere + self.positions], dim=1))[:, 1:]


def masked_loss(predicted: Tensor, patches: Tensor, *, hidden: Tensor, normalise: bool) -> Tensor:
    """The mean squared error over the pixels of hidden patches.

    Args:
        predicted: What the decoder says of all patches, shape (batch, patches, values).
        patches: What they are, of the same shape.
        hidden: Which patches count, int64 (batch, k).
        normalise: Whether each patch is brought to mean 0 and standard deviation 1 first (section 3).

    Returns:
        A scalar >= 0. For a prediction of 0 it is (values - 1) / values where patches are normalised.
    """
    if normalise:
        patches = (patches - patches.mean(2, keepdim=True)) / (patches.var(2, keepdim=True) + EPSILON).sqrt()
    errors = (predicted - patches).square().mean(2)
    return errors.gather(1, hidden).mean()


def patches_of(images: Tensor, side: int) -> Tensor:
    """Cut images (batch, channels, height, width) into patches, (batch, patches, side * side * channels) by rows."""
    cells = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (batch, channels, rows, side, columns, side)
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def images_of(patches: Tensor, side: int) -> Tensor:
    """Put the patches of square images together again: what `patches_of` undoes."""
    rows = round(patches.shape[1] ** 0.5)
    cells = patches.unflatten(2, (side, side, -1)).unflatten(1, (rows, rows))
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sine_positions(side: int, dim: int) -> Tensor:
    """Sines and cosines of a grid's rows and columns (Vaswani and others, 2017, section 3.5, for each axis).

    Args:
        side: Of the grid.
        dim: A multiple of 4: half tells the row, half the column.

    Returns:
        Shape (side * side, dim), counted by rows.
    """
    rates = 10_000 ** -(torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(side)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)

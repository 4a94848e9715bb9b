"""Deblurring: see a blurred picture, draw the sharp one.

To restore detail an encoder must know what it looks at. The idea of learning by undoing damage: Vincent, Larochelle,
Bengio, Manzagol, "Extracting and composing robust features with denoising autoencoders", ICML 2008,
https://doi.org/10.1145/1390156.1390294. Blur and lost resolution as the damage, compared as tasks for pretraining: Xie,
Li, Zhan, Liu, Ong, Loy, "Masked frequency modeling for self-supervised visual pre-training", ICLR 2023,
https://arxiv.org/abs/2206.07706. Ours: both damages and noise at once, a blur drawn for each image and a resolution for
each batch, and a convolutional decoder behind a convolutional encoder's last map.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from roost_training import encoders, methods
from roost_training.blocks.decoder import Decoder
from roost_training.views import resample
from roost_training.views.recipe import Range, Recipe, View


class Config(methods.Config):
    """Deblurring's settings."""

    sigma: Range = (0.5, 3.0)
    """Standard deviation of the blur in pixels of the view, drawn uniformly."""
    shrink: Annotated[int, Field(ge=1)] = 2
    """The blurred pictures of a batch are made smaller by up to this factor and enlarged again; 1 keeps them."""
    noise: NonNegativeFloat = 0.1
    """Standard deviation of noise on the blurred picture, in standard deviations of the pixels."""
    width: PositiveInt = 64
    """Channels of the decoder after its first enlargement."""


class Method(methods.Method):
    """Draws the sharp picture from the blurred one's map."""

    needs = encoders.Encoder
    encoder: encoders.Encoder

    def __init__(self, config: Config, encoder: encoders.Encoder, feature_dim: int) -> None:
        super().__init__(encoder)
        self.sigma, self.shrink, self.noise = config.sigma, config.shrink, config.noise
        self.decoder = Decoder(feature_dim, width=config.width)

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view, sharp and in its true colours."""
        return [View(base.true_colours(), size)]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The mean squared error of what is drawn, and `input_error`, that of the damaged picture itself.

        Views are normalised, so that an error of 1 is that of drawing the mean colour everywhere.
        """
        sharp = views[0].float()  # autocast gives views in half precision
        damaged = self._damage(sharp)
        return {
            "loss": functional.mse_loss(self._draw(damaged, size=sharp.shape[-1]).float(), sharp),
            "input_error": functional.mse_loss(damaged, sharp),
        }

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the encoder saw, what was drawn from it, and the sharp picture."""
        sharp = views[0].float()  # autocast gives views in half precision
        damaged = self._damage(sharp)
        return {"damaged": damaged, "restored": self._draw(damaged, size=sharp.shape[-1]), "sharp": sharp}

    def _draw(self, damaged: Tensor, *, size: int) -> Tensor:
        return self.decoder(self.encoder.maps(damaged), size=size)

    def _damage(self, sharp: Tensor) -> Tensor:
        low, high = self.sigma
        damaged = blur(sharp, low + (high - low) * torch.rand(len(sharp), device=sharp.device))
        damaged = coarsen(damaged, int(torch.randint(1, self.shrink + 1, ())))
        return damaged + self.noise * torch.randn_like(damaged)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by a Gaussian of its own, reflecting at the edges.

    Args:
        images: Shape (batch, 3, size, size).
        sigma: Standard deviations in pixels, shape (batch,), > 0.

    Returns:
        Shape (batch, 3, size, size). The mean over pixels stays; one bright pixel far from the edges becomes the
        normal density around it.
    """
    with torch.autocast(images.device.type, enabled=False):
        weights = resample.blur_weights(sigma, images.shape[-1])
        return resample.separable(images.float().transpose(0, 1), weights, weights).transpose(0, 1)


def coarsen(images: Tensor, factor: int) -> Tensor:
    """Take an image's resolution: average it down by a factor, and enlarge it bilinearly.

    Args:
        images: Shape (batch, 3, size, size).
        factor: 1 changes nothing.
    """
    size = images.shape[-1]
    small = functional.adaptive_avg_pool2d(images, max(1, size // factor))
    return functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)

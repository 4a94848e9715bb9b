"""Variational autoencoder: put an image into few numbers with known odds, and draw it again from them.

Kingma, Welling, ICLR 2014, https://arxiv.org/abs/1312.6114; the weight of the divergence is the beta of Higgins and
others, ICLR 2017, https://openreview.net/forum?id=Sy2fzU9gl. The features are the encoder's own, before the posterior's
head: they hold what the posterior's means hold, and more dimensions.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from roost_training import methods
from roost_training.blocks.decoder import VectorDecoder
from roost_training.views.recipe import Recipe, View

LARGEST_LOG_VARIANCE = 10.0
"""Either way: beyond it a stray step would overflow the exponential."""


class Config(methods.Config):
    """The VAE's settings."""

    latent: PositiveInt = 64
    """Dimensions of z."""
    beta: NonNegativeFloat = 1.0
    """Weight of the divergence; 1 makes the loss a bound on the likelihood."""
    sigma: PositiveFloat = 0.3
    """Standard deviation of a pixel's noise, in standard deviations of the pixels; the paper learns it."""
    width: PositiveInt = 64
    """Channels of the decoder's map."""


class Method(methods.Method):
    """Draws the picture from a sample of the posterior that the features give."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.posterior = nn.Linear(feature_dim, 2 * config.latent)
        self.decoder = VectorDecoder(config.latent, width=config.width)

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view, in its true colours."""
        return [View(base.true_colours(), size)]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The negative evidence lower bound, in nats a pixel value, and its two terms."""
        (images,) = views
        mean, log_variance = self._posterior(images)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        drawn = self.decoder(z, size=images.shape[-1])
        reconstruction = gaussian_cost(drawn, images, sigma=self.config.sigma)
        divergence = gaussian_divergence(mean, log_variance) / images[0].numel()
        return {
            "loss": reconstruction + self.config.beta * divergence,
            "reconstruction": reconstruction,
            "divergence": divergence,
        }

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pictures, what is drawn from their posteriors' means, and what is drawn from the prior."""
        (images,) = views
        size = images.shape[-1]
        mean, _ = self._posterior(images)
        return {
            "originals": images,
            "reconstructions": self.decoder(mean, size=size),
            "samples": self.decoder(torch.randn_like(mean), size=size),
        }

    def _posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.posterior(self.encoder(images)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)


def gaussian_cost(drawn: Tensor, images: Tensor, *, sigma: float) -> Tensor:
    """The negative log-likelihood of pixels with Gaussian noise, mean over all values.

    Args:
        drawn: The means, of any shape.
        images: Of the same shape.
        sigma: The noise's standard deviation; > 0.

    Returns:
        A scalar in nats; where the drawing is exact it is log(sigma * sqrt(2 pi)).
    """
    return (drawn.float() - images).square().mean() / (2 * sigma**2) + math.log(sigma * math.sqrt(2 * math.pi))


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of diagonal Gaussians from the unit one (appendix B), mean over the batch.

    Args:
        mean: Shape (batch, latent).
        log_variance: Shape (batch, latent).

    Returns:
        A scalar >= 0 in nats an image: 0 where all means are 0 and all variances 1.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()

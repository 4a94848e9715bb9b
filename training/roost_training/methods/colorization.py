"""Colorization: see a picture's lightness, say the odds of each place's colour.

Zhang, Isola, Efros, ECCV 2016, https://arxiv.org/abs/1603.08511

The encoder learns from grey pictures, whose three channels show one lightness. When it is used it is given colour
pictures: what it learnt looks at the lightness in them, and the colour differences meet weights that nothing trained.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from roost_training import encoders, methods
from roost_training.blocks import lab
from roost_training.blocks.decoder import Decoder
from roost_training.images.data import Images
from roost_training.views.recipe import Recipe, View

NEIGHBOURS = 5
"""Bins that a colour is shared between (section 2.1)."""
COUNTED_IMAGES = 1_000


class Config(methods.Config):
    """Colorization's settings."""

    step: PositiveFloat = 10.0
    """Of the grid of colours over a and b."""
    reduction: PositiveInt = 4
    """The view's side over that of the colours that are predicted."""
    uniform: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the uniform distribution in what colours are weighted by; 1 weighs all alike."""
    temperature: PositiveFloat = 0.38
    """Of the annealed mean that pictures are coloured with; nearer 0 is more vivid."""
    width: PositiveInt = 256
    """Channels of the decoder after its first enlargement."""


class Method(methods.Method):
    """Predicts a distribution over colours for each place, with rare colours weighted up."""

    needs = encoders.Encoder
    encoder: encoders.Encoder
    bins: Tensor
    weights: Tensor

    def __init__(self, config: Config, encoder: encoders.Encoder, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.register_buffer("bins", lab.colour_bins(config.step))
        self.register_buffer("weights", torch.ones(len(self.bins)))
        self.decoder = Decoder(feature_dim, width=config.width, out=len(self.bins))

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view, in its true colours."""
        return [View(base.true_colours(), size)]

    def prepare(self, images: Images) -> None:
        """Count the colours of some images, to weigh the rare ones up."""
        counts = torch.zeros(len(self.bins))
        for index in np.linspace(0, len(images) - 1, min(len(images), COUNTED_IMAGES)).astype(np.int64):
            pixels = torch.from_numpy(images.gather([index])).permute(0, 3, 1, 2) / 255
            colours = self._coarse(lab.from_rgb(pixels)[:, 1:])
            bins, shares = soft_bins(colours, self.bins, sigma=self.config.step / 2)
            counts.index_add_(0, bins.flatten(), shares.flatten())
        self.weights.copy_(rebalance(counts / counts.sum(), uniform=self.config.uniform))

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The weighted cross-entropy of the colours."""
        (images,) = views
        whole = self._lab(images)
        logits = self._logits(whole)
        sigma = self.config.step / 2  # the paper: 5 for a step of 10
        rows = logits.permute(0, 2, 3, 1).flatten(0, 2)
        return {
            "loss": colour_loss(rows, self._coarse(whole[:, 1:]), bins=self.bins, weights=self.weights, sigma=sigma)
        }

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The grey picture, the same with the predicted colours, and the picture."""
        (images,) = views
        whole = self._lab(images)
        colours = annealed_mean(self._logits(whole), self.bins, temperature=self.config.temperature)
        colours = functional.interpolate(colours, size=whole.shape[2:], mode="bilinear", align_corners=False)
        coloured = self._normalised(lab.to_rgb(torch.cat([whole[:, :1], colours], dim=1)))
        return {"grey": self._grey(whole), "coloured": coloured, "originals": images}

    def _logits(self, whole: Tensor) -> Tensor:
        """The predicted colours' logits (batch, bins, rows, columns) of Lab images, of which L alone is seen."""
        size = -(-whole.shape[-1] // self.config.reduction)
        return self.decoder(self.encoder.maps(self._grey(whole)), size=size).float()

    def _coarse(self, colours: Tensor) -> Tensor:
        """Colours (batch, 2, size, size) averaged down to the predicted places, in rows: (n, 2)."""
        side = -(-colours.shape[-1] // self.config.reduction)
        return functional.adaptive_avg_pool2d(colours, side).permute(0, 2, 3, 1).flatten(0, 2)

    def _lab(self, images: Tensor) -> Tensor:
        images = images.float()  # autocast gives views in half precision
        pixels = images * images.new_tensor(self.std).view(3, 1, 1) + images.new_tensor(self.mean).view(3, 1, 1)
        return lab.from_rgb(pixels.clamp(0, 1))

    def _grey(self, whole: Tensor) -> Tensor:
        """Pictures of the same lightness without colours, as the encoder sees pictures."""
        return self._normalised(lab.to_rgb(whole * whole.new_tensor([1, 0, 0]).view(3, 1, 1)))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels - pixels.new_tensor(self.mean).view(3, 1, 1)) / pixels.new_tensor(self.std).view(3, 1, 1)


def annealed_mean(logits: Tensor, bins: Tensor, *, temperature: float) -> Tensor:
    """One colour for each place from the odds of all: their mean after sharpening (equation 5).

    Args:
        logits: Shape (batch, bins, rows, columns).
        bins: a and b, shape (bins, 2).
        temperature: 1 gives the mean, towards 0 the most likely bin; > 0.

    Returns:
        a and b, float32 of shape (batch, 2, rows, columns).
    """
    odds = (logits.float() / temperature).softmax(1)
    with torch.autocast(logits.device.type, enabled=False):  # bf16 would round colours to steps that eyes see
        return torch.einsum("nqhw,qc->nchw", odds, bins)


def soft_bins(colours: Tensor, bins: Tensor, *, sigma: float) -> tuple[Tensor, Tensor]:
    """Share each colour between its five nearest bins by a Gaussian (section 2.1).

    Args:
        colours: a and b, shape (n, 2).
        bins: Shape (bins, 2).
        sigma: The Gaussian's standard deviation, in the units of a and b.

    Returns:
        The bins, int64 of shape (n, 5), the nearest first; and the shares, of the same shape, rows summing to 1.
    """
    near, places = torch.cdist(colours, bins).topk(min(NEIGHBOURS, len(bins)), dim=1, largest=False)
    return places, (near.square() / (-2 * sigma**2)).softmax(1)


def rebalance(shares: Tensor, *, uniform: float) -> Tensor:
    """Weights of the colours, large for rare ones (equation 4).

    Args:
        shares: Of each bin in the images, summing to 1, shape (bins,).
        uniform: Share of the uniform distribution that is mixed in, the paper's lambda; 0 < uniform <= 1.

    Returns:
        Shape (bins,); the expectation under `shares` is 1.
    """
    weights = 1 / ((1 - uniform) * shares + uniform / len(shares))
    return weights / (weights @ shares)


def colour_loss(logits: Tensor, colours: Tensor, *, bins: Tensor, weights: Tensor, sigma: float) -> Tensor:
    """The cross-entropy with soft-encoded colours, each weighted by its nearest bin (equations 2 and 3).

    Args:
        logits: Shape (n, bins).
        colours: a and b, shape (n, 2).
        bins: Shape (bins, 2).
        weights: Of `rebalance`, shape (bins,).
        sigma: Of the soft encoding.

    Returns:
        A scalar >= 0, the mean over the rows (the paper sums); logarithm of the number of bins where all bins are as
        likely and weights are 1.
    """
    places, shares = soft_bins(colours, bins, sigma=sigma)
    costs = -(shares * logits.log_softmax(1).gather(1, places)).sum(1)
    return (weights[places[:, 0]] * costs).mean()

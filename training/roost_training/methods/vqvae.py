"""VQ-VAE: put an image into a grid of discrete codes, draw it again from them, and learn which grids are likely.

Van den Oord, Vinyals, Kavukcuoglu, NeurIPS 2017, https://arxiv.org/abs/1711.00937
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import encoders, methods
from roost_training.blocks.decoder import Decoder
from roost_training.blocks.pixel_prior import PixelPrior
from roost_training.blocks.quantiser import Quantised, Quantiser, perplexity
from roost_training.views.recipe import Recipe, View


class Config(methods.Config):
    """The VQ-VAE's settings."""

    codes: PositiveInt = 256  # the paper: 512, for far more images
    """Entries of the codebook."""
    code_dim: PositiveInt = 32
    fold: PositiveInt = 4
    """Codes a side for each place of the encoder's map: its stride is 16 where the paper's is 4."""
    commitment: NonNegativeFloat = 0.25
    """Weight of the commitment loss, the paper's beta."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.97  # the paper: 0.99, for runs of 250,000 steps
    """Of the codebook's moving averages."""
    width: PositiveInt = 64
    """Channels of the decoder after its first enlargement."""
    prior_width: PositiveInt = 32
    prior_depth: PositiveInt = 3
    """Channels and residual blocks of the prior."""


class Method(methods.Method):
    """Draws the picture from the codes of its map, and learns a prior over the codes beside that.

    A departure from the paper, which trains the prior afterwards: it learns at the same time, from codes through which
    no gradient passes.
    """

    needs = encoders.Encoder
    encoder: encoders.Encoder

    def __init__(self, config: Config, encoder: encoders.Encoder, feature_dim: int) -> None:
        super().__init__(encoder)
        self.config = config
        self.unfold = nn.Sequential(
            nn.Conv2d(feature_dim, config.code_dim * config.fold**2, kernel_size=1), nn.PixelShuffle(config.fold)
        )
        self.quantiser = Quantiser(codes=config.codes, dim=config.code_dim, decay=config.decay)
        self.decoder = Decoder(config.code_dim, width=config.width)
        self.prior = PixelPrior(codes=config.codes, width=config.prior_width, depth=config.prior_depth)

    def views(self, base: Recipe, size: int) -> list[View]:
        """One view, in its true colours."""
        return [View(base.true_colours(), size)]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The squared error of the drawing, the commitment loss, and the prior's cost in nats a pixel value."""
        (images,) = views
        found, grid = self._codes(images)
        drawn = self._draw(found.values, grid, size=images.shape[-1])
        error = functional.mse_loss(drawn.float(), images.float())
        prior = self.prior.cost(grid)
        share = grid[0].numel() / images[0].numel()
        return {
            "loss": error + self.config.commitment * found.commitment + share * prior,
            "error": error,
            "prior": prior,
            "perplexity": perplexity(found.codes, entries=self.config.codes),
        }

    def pictures(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pictures, what is drawn from their codes, and what is drawn from codes of the prior."""
        (images,) = views
        size = images.shape[-1]
        found, grid = self._codes(images)
        dreamt = self.prior.sample(len(images), rows=grid.shape[1], columns=grid.shape[2])
        return {
            "originals": images,
            "reconstructions": self._draw(found.values, grid, size=size),
            "samples": self._draw(self.quantiser.codebook[dreamt.flatten()], dreamt, size=size),
        }

    def _codes(self, images: Tensor) -> tuple[Quantised, Tensor]:
        """Each place's code, in one row and in grids (batch, rows, columns)."""
        maps = self.unfold(self.encoder.maps(images))
        found = self.quantiser(maps.permute(0, 2, 3, 1).flatten(0, 2))
        return found, found.codes.view(len(maps), *maps.shape[2:])

    def _draw(self, values: Tensor, grid: Tensor, *, size: int) -> Tensor:
        return self.decoder(values.view(*grid.shape, -1).permute(0, 3, 1, 2), size=size)

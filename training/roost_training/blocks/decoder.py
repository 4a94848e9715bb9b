"""A decoder: from an encoder's map, or a vector, back to an image."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 3
"""Enlargements before the last, which trades channels for pixels; each halves the channels."""
NARROWEST = 32


class Decoder(nn.Module):
    """Nearest-neighbour enlargements, each followed by a 3x3 convolution, and a last one by sub-pixels.

    The former leave no chequerboard (Odena, Dumoulin, Olah, 2016, https://distill.pub/2016/deconv-checkerboard). The
    latter draws full size at the cost of half (Shi and others, CVPR 2016, https://arxiv.org/abs/1609.05158), and leaves
    little of one where the four sub-pixels begin equal (Aitken and others, 2017, https://arxiv.org/abs/1707.02937).
    There are no skips from the encoder: what the decoder draws has passed the encoder's last map.

    Args:
        dim: Channels of the map.
        width: Channels after the first enlargement, halved by each that follows.
        out: Channels of the image.
    """

    def __init__(self, dim: int, *, width: int, out: int = 3) -> None:
        super().__init__()
        widths = [dim, *(max(width >> step, NARROWEST) for step in range(STEPS))]
        self.steps = nn.ModuleList(_step(before, after) for before, after in itertools.pairwise(widths))
        self.last = nn.Conv2d(widths[-1], 4 * out, kernel_size=3, padding=1)
        with torch.no_grad():
            for parameter in self.last.parameters():
                parameter.copy_(parameter[::4].repeat_interleave(4, dim=0))

    def forward(self, maps: Tensor, *, size: int) -> Tensor:
        """Draw images.

        Args:
            maps: Features, (batch, dim, rows, columns).
            size: Side of the images, in pixels.

        Returns:
            (batch, out, size, size), unbounded.
        """
        x, half = maps, -(-size // 2)
        for index, step in enumerate(self.steps):
            due = -(-size // 2 ** (STEPS - index))
            x = step(functional.interpolate(x, size=[min(max(due, side), half) for side in x.shape[2:]]))
        drawn = functional.pixel_shuffle(self.last(x), 2)
        return drawn[..., :size, :size]


class VectorDecoder(nn.Module):
    """A decoder whose map is made from a vector by a linear layer.

    Args:
        dim: Length of the vector.
        width: As `Decoder`'s.
        out: As `Decoder`'s.
        side: Of the map.
    """

    def __init__(self, dim: int, *, width: int, out: int = 3, side: int = 4) -> None:
        super().__init__()
        self.spread = nn.Linear(dim, width * side * side)
        self.decoder = Decoder(width, width=width, out=out)
        self.shape = (width, side, side)

    def forward(self, z: Tensor, *, size: int) -> Tensor:
        """Draw images (batch, out, size, size) from vectors (batch, dim)."""
        return self.decoder(self.spread(z).unflatten(1, self.shape), size=size)


def _step(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )

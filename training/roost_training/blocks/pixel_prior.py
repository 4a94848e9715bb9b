"""PixelCNN: the odds of a grid of codes, each given those above it and to its left.

Van den Oord, Kalchbrenner, Kavukcuoglu, ICML 2016, https://arxiv.org/abs/1601.06759, section 3 and figure 5: the
convolutional variant, with its residual blocks but without gates, over codes in place of colours.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees the rows above and what is to the left; kind "B" sees its own place too."""

    mask: Tensor

    def __init__(self, before: int, after: int, *, kernel: int, kind: Literal["A", "B"]) -> None:
        super().__init__(before, after, kernel_size=kernel, padding=kernel // 2)
        mask = torch.ones(kernel * kernel)
        mask[kernel * kernel // 2 + (kind == "B") :] = 0
        self.register_buffer("mask", mask.view(kernel, kernel), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Maps of the same rows and columns."""
        return functional.conv2d(input, self.weight * self.mask, self.bias, padding=self.padding)


class PixelPrior(nn.Module):
    """Predicts each code of a grid from the ones before it, in reading order.

    Args:
        codes: That a place may hold.
        width: Channels.
        depth: Residual blocks.
    """

    def __init__(self, *, codes: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)
        self.first = MaskedConv2d(width, width, kernel=7, kind="A")
        self.blocks = nn.ModuleList(_block(width) for _ in range(depth))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(width, codes, kernel_size=1))

    def forward(self, grid: Tensor) -> Tensor:
        """Logits (batch, codes, rows, columns) of each place of int64 grids (batch, rows, columns)."""
        x = self.first(self.embedding(grid).permute(0, 3, 1, 2))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)

    def cost(self, grid: Tensor) -> Tensor:
        """The negative log-likelihood of grids (batch, rows, columns), in nats a place, mean over the batch.

        For a prior that knows nothing it is the logarithm of the number of codes.
        """
        return functional.cross_entropy(self(grid).float(), grid)

    @torch.no_grad()
    def sample(self, n: int, *, rows: int, columns: int) -> Tensor:
        """Draw grids place by place (ancestral sampling): int64 (n, rows, columns), from torch's global generator."""
        grid = torch.zeros(n, rows, columns, dtype=torch.int64, device=self.embedding.weight.device)
        for row in range(rows):
            for column in range(columns):
                odds = self(grid)[:, :, row, column].float().softmax(1)
                grid[:, row, column] = torch.multinomial(odds, 1)[:, 0]
        return grid


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(width, width // 2, kernel_size=1),
        nn.ReLU(),
        MaskedConv2d(width // 2, width // 2, kernel=3, kind="B"),
        nn.ReLU(),
        nn.Conv2d(width // 2, width, kernel_size=1),
    )

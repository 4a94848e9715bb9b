"""Convolutions that are trained faster on a CPU as products of matrices.

Elsewhere, and where nothing is learnt, they are `nn.Conv2d`, whose weights and names they have.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1: on maps of 2x2, where small images end, the one matrix that it is there.

    Each of a map's four places sees all four: 16 of the 36 taps, and the other 20 see padding. The matrix takes two
    fifths of the time. Maps of another size are convolved.

    Args:
        like: Whose weight it takes; 3x3, with stride and padding 1, without a bias.
    """

    def __init__(self, like: nn.Conv2d) -> None:
        # On no device, so that no random numbers are spent on a weight that is replaced.
        super().__init__(like.in_channels, like.out_channels, kernel_size=3, padding=1, bias=False, device="meta")
        self.weight = like.weight

    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        """Maps (batch, out_channels, rows, columns) of maps (batch, in_channels, rows, columns)."""
        if input.shape[2:] != (2, 2) or not _pays(input):
            return super().forward(input)
        kernel = self.weight.to(input.dtype).permute(0, 2, 3, 1)
        places = [kernel[:, 1 - row : 3 - row, 1 - column : 3 - column] for row in (0, 1) for column in (0, 1)]
        matrix = torch.stack(places).view(4 * self.out_channels, -1)
        maps = functional.linear(input.permute(0, 2, 3, 1).flatten(1), matrix)
        return maps.view(len(input), 2, 2, -1).permute(0, 3, 1, 2)


class EverySecondConv2d(nn.Conv2d):
    """A 1x1 convolution of stride 2: every second place, times a matrix, in two fifths of the time."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, stride=2, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        """Maps (batch, out_channels, rows / 2, columns / 2), rounded up, of (batch, in_channels, rows, columns)."""
        if not _pays(input):
            return super().forward(input)
        chosen = _EverySecond.apply(input).permute(0, 2, 3, 1)
        return functional.linear(chosen, self.weight.to(input.dtype).flatten(1)).permute(0, 3, 1, 2)


class _EverySecond(torch.autograd.Function):
    """Every second row and column; a slice's own gradient would come in another memory format, twice copied."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        return maps[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        batch, channels, rows, columns = ctx.shape
        whole = gradient.new_zeros(batch, rows, columns, channels).permute(0, 3, 1, 2)
        whole[:, :, ::2, ::2] = gradient
        return whole


def _pays(maps: Tensor) -> bool:
    return maps.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()

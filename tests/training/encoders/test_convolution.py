"""The convolutions that are trained as products of matrices, beside torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from roost_training.encoders.convolution import EverySecondConv2d, SmallMapConv2d

MAPS = [(2, 2), (4, 4), (3, 2), (1, 1), (5, 7)]


def small(channels: int) -> SmallMapConv2d:
    return SmallMapConv2d(nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False))


def convolved(conv: nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(maps, conv.weight, stride=conv.stride, padding=conv.padding)


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("conv", [small(5), EverySecondConv2d(5, 3)], ids=lambda conv: type(conv).__name__)
def test_maps_and_gradients_are_those_of_the_convolution(conv, size):
    conv = conv.double().to(memory_format=torch.channels_last)
    maps = torch.randn(3, 5, *size, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    found, expected = conv(maps), convolved(conv, maps)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    for mine, torchs in zip(
        torch.autograd.grad((found * weights).sum(), (maps, conv.weight)),
        torch.autograd.grad((expected * weights).sum(), (maps, conv.weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.parametrize("conv", [small(8), EverySecondConv2d(8, 4)], ids=lambda conv: type(conv).__name__)
def test_under_autocast_the_maps_stay_in_half_precision(conv):
    maps = torch.randn(2, 8, 2, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(maps).dtype is torch.bfloat16
    torch.testing.assert_close(conv(maps.float()), convolved(conv, maps.float()))


def test_they_spend_the_random_numbers_of_the_convolutions_that_they_stand_for():
    after = []
    for make in (lambda: EverySecondConv2d(4, 6), lambda: nn.Conv2d(4, 6, kernel_size=1, bias=False)):
        torch.manual_seed(0)
        made = make()
        after.append((made.weight, torch.rand(1)))
    assert all(torch.equal(mine, torchs) for mine, torchs in zip(*after, strict=True))
    state = torch.get_rng_state()
    SmallMapConv2d(nn.Conv2d(4, 4, kernel_size=3, device="meta"))
    assert torch.equal(torch.get_rng_state(), state)

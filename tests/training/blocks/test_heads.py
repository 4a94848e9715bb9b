import pytest
import torch
from torch import nn

from roost_training.blocks.heads import mlp


def kinds(head: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_a_head_has_a_norm_between_its_layers_and_none_behind_them():
    assert kinds(mlp(8, 6, 4)) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_a_head_without_norms_keeps_only_its_relus():
    assert kinds(mlp(8, 6, 6, 4, norm=False)) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_a_layer_before_a_norm_has_no_bias():
    assert [layer.bias is None for layer in mlp(8, 6, 4, bias=True) if isinstance(layer, nn.Linear)] == [True, False]


def test_layers_without_a_norm_have_their_bias():
    head = mlp(8, 6, 4, norm=False)
    assert [layer.bias is None for layer in head if isinstance(layer, nn.Linear)] == [False, True]


@pytest.mark.parametrize("widths", [(8, 4), (8, 6, 4), (8, 6, 5, 4)])
def test_a_head_maps_the_first_width_to_the_last(widths):
    assert mlp(*widths)(torch.zeros(3, 8)).shape == (3, 4)

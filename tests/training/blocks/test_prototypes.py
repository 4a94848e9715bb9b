import pytest
import torch
from torch.nn import functional

from roost_training.blocks.prototypes import Prototypes


def prototypes(*, frozen: float = 0.0) -> Prototypes:
    torch.manual_seed(0)
    return Prototypes(4, 8, frozen=frozen)


def test_scores_are_cosines_whatever_the_rows_lengths():
    layer = prototypes()
    with torch.no_grad():
        layer.weight.mul_(3.0)
    scores = layer(functional.normalize(layer.weight.detach(), dim=1))
    assert torch.allclose(scores.diagonal(), torch.ones(8))
    assert scores.abs().max() <= 1 + 1e-6


def test_scores_are_single_precision_under_autocast():
    z = functional.normalize(torch.randn(5, 4), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        scores = prototypes()(z)
    assert torch.equal(scores, prototypes()(z))


def test_rows_have_unit_length_after_a_step():
    layer = prototypes()
    with torch.no_grad():
        layer.weight.add_(1.0)
    layer.after_step(0.5)
    assert torch.allclose(layer.weight.norm(dim=1), torch.ones(8))


@pytest.mark.parametrize(("progress", "moves"), [(0.1, False), (0.3, True)])
def test_frozen_rows_have_a_gradient_of_zero_until_their_share_is_over(progress, moves):
    layer = prototypes(frozen=0.2)
    layer.after_step(progress)
    layer(torch.eye(4)).square().sum().backward()
    assert bool(layer.weight.grad.any()) is moves


def test_rows_that_are_never_frozen_learn_from_the_first_step():
    layer = prototypes()
    layer(torch.eye(4)).square().sum().backward()
    assert layer.weight.grad.any()

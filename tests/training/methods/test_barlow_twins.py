import pytest
import torch
from lightly.loss import BarlowTwinsLoss

from roost_training.methods.barlow_twins import barlow_twins_loss

CORNERS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
"""Two features without correlation, each with mean 0 and variance 1."""


def pair(rows: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    za = torch.randn(rows, dim, generator=generator)
    return za, za + torch.randn(rows, dim, generator=generator)


def naive_barlow_twins(za: torch.Tensor, zb: torch.Tensor, redundancy: float) -> float:
    """Equation 1 with the correlations of equation 2, term by term."""
    total = 0.0
    for i in range(za.shape[1]):
        for j in range(za.shape[1]):
            a, b = za[:, i] - za[:, i].mean(), zb[:, j] - zb[:, j].mean()
            correlation = float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
            total += (1 - correlation) ** 2 if i == j else redundancy * correlation**2
    return total


def test_equal_views_with_uncorrelated_features_cost_nothing():
    assert barlow_twins_loss(CORNERS, CORNERS, redundancy=0.5).item() == pytest.approx(0, abs=1e-8)


def test_opposite_views_cost_four_a_feature():
    assert barlow_twins_loss(CORNERS, -CORNERS, redundancy=0.5).item() == pytest.approx(8, rel=1e-4)


def test_swapped_features_cost_one_each_and_the_redundancy_twice():
    assert barlow_twins_loss(CORNERS, CORNERS.flip(1), redundancy=0.5).item() == pytest.approx(2 + 1, rel=1e-4)


def test_the_loss_equals_the_paper_s_equations_written_out():
    za, zb = pair(12, 5)
    expected = naive_barlow_twins(za, zb, 0.1)
    assert barlow_twins_loss(za, zb, redundancy=0.1).item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_equals_lightly_s():
    za, zb = pair(64, 32)
    expected = BarlowTwinsLoss(lambda_param=5e-3)(za, zb)
    assert barlow_twins_loss(za, zb, redundancy=5e-3).item() == pytest.approx(expected.item(), rel=1e-5)


def test_features_that_are_the_same_for_every_image_cost_one_each():
    z = torch.full((6, 5), 3.0)
    assert barlow_twins_loss(z, z, redundancy=0.1).item() == pytest.approx(5, rel=1e-5)


def test_features_that_are_copies_of_one_cost_the_redundancy_of_every_pair():
    z = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]).expand(4, 5)
    assert barlow_twins_loss(z, z, redundancy=0.1).item() == pytest.approx(0.1 * 5 * 4, rel=1e-4)


def test_the_loss_keeps_its_digits_under_autocast():
    za, zb = pair(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = barlow_twins_loss(za, zb, redundancy=5e-3)
    assert loss.item() == pytest.approx(barlow_twins_loss(za, zb, redundancy=5e-3).item(), rel=1e-6)


@pytest.mark.parametrize("rows", [(4, 3), (1, 1)])
def test_unequal_shapes_and_single_rows_are_refused(rows):
    with pytest.raises(ValueError, match="two rows"):
        barlow_twins_loss(torch.ones(rows[0], 2), torch.ones(rows[1], 2), redundancy=0.1)

import math

import pytest
import torch
from lightly.loss import VICRegLoss

from roost_training.methods.vicreg import vicreg_loss

CORNERS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
"""Two features without covariance, each of variance 4/3 (unbiased)."""


def loss_of(za: torch.Tensor, zb: torch.Tensor) -> float:
    return vicreg_loss(za, zb, invariance=25, variance=25, covariance=1).item()


def pair(rows: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    za = torch.randn(rows, dim, generator=generator)
    return za, za + torch.randn(rows, dim, generator=generator)


def naive_vicreg(za: torch.Tensor, zb: torch.Tensor) -> float:
    """The three terms one number at a time, with weights 25, 25 and 1."""
    rows, dim = za.shape
    invariance = sum(float(za[i, j] - zb[i, j]) ** 2 for i in range(rows) for j in range(dim)) / (rows * dim)
    variance = covariance = 0.0
    for z in (za, zb):
        centred = (z - z.mean(0)).tolist()
        matrix = [[sum(r[i] * r[j] for r in centred) / (rows - 1) for j in range(dim)] for i in range(dim)]
        variance += sum(max(0.0, 1 - math.sqrt(matrix[i][i] + 1e-4)) for i in range(dim)) / dim / 2
        covariance += sum(matrix[i][j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim
    return 25 * invariance + 25 * variance + covariance


def test_equal_views_with_varied_uncorrelated_features_cost_nothing():
    assert loss_of(CORNERS, CORNERS) == pytest.approx(0, abs=1e-6)


def test_a_shift_of_one_view_costs_its_square():
    assert loss_of(CORNERS, CORNERS + 2) == pytest.approx(25 * 4)


def test_features_that_vary_too_little_cost_what_they_lack():
    assert loss_of(CORNERS / 2, CORNERS / 2) == pytest.approx(25 * (1 - math.sqrt(1 / 3 + 1e-4)), rel=1e-5)


def test_a_feature_that_copies_another_costs_their_squared_covariance():
    z = CORNERS[:, :1].expand(4, 2)
    assert loss_of(z, z) == pytest.approx(2 * (4 / 3) ** 2)  # 2 views, 2 entries of the matrix, divided by 2 features


def test_equal_rows_cost_what_the_variance_term_says():
    z = torch.full((6, 5), 3.0)
    assert loss_of(z, z) == pytest.approx(25 * 0.99)


def test_the_loss_equals_the_paper_s_terms_written_out():
    za, zb = pair(12, 5)
    assert loss_of(za, zb) == pytest.approx(naive_vicreg(za, zb), rel=1e-5)


def test_the_loss_equals_lightly_s():
    za, zb = pair(64, 32)
    assert loss_of(za / 2, zb / 2) == pytest.approx(VICRegLoss()(za / 2, zb / 2).item(), rel=1e-5)


def test_rows_that_have_collapsed_have_a_finite_gradient():
    z = torch.zeros(4, 3, requires_grad=True)
    vicreg_loss(z, z, invariance=25, variance=25, covariance=1).backward()
    assert z.grad.isfinite().all()


def test_the_loss_keeps_its_digits_under_autocast():
    za, zb = pair(64, 32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(za, zb)
    assert loss == pytest.approx(loss_of(za, zb), rel=1e-6)


@pytest.mark.parametrize("rows", [(4, 3), (1, 1)])
def test_unequal_shapes_and_single_rows_are_refused(rows):
    with pytest.raises(ValueError, match="two rows"):
        loss_of(torch.ones(rows[0], 2), torch.ones(rows[1], 2))

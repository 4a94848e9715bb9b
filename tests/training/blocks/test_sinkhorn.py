import math

import pytest
import torch
from lightly.loss.swav_loss import sinkhorn as lightly_s

from roost_training.blocks.sinkhorn import sinkhorn


def cosines(rows: int, prototypes: int) -> torch.Tensor:
    return torch.rand(rows, prototypes, generator=torch.Generator().manual_seed(rows)) * 2 - 1


def test_equal_scores_are_shared_out_evenly():
    codes = sinkhorn(torch.full((6, 4), 0.7), epsilon=0.05, iterations=3)
    assert torch.allclose(codes, torch.full((6, 4), 0.25))


def test_two_rows_that_prefer_one_prototype_are_parted():
    scores = torch.tensor([[1.0, 0.9], [1.0, 0.0]])  # the second row likes it more
    codes = sinkhorn(scores, epsilon=0.5, iterations=50)
    own = 1 / (1 + math.exp((0.9 + 1.0 - 1.0 - 0.0) / 2 / 0.5))  # scaling keeps the ratio of the diagonals' products
    assert torch.allclose(codes, torch.tensor([[own, 1 - own], [1 - own, own]]))


def test_rows_sum_to_one_and_columns_to_equal_shares():
    codes = sinkhorn(cosines(40, 8), epsilon=0.5, iterations=100)
    assert torch.allclose(codes.sum(1), torch.ones(40))
    assert torch.allclose(codes.sum(0), torch.full((8,), 5.0), rtol=1e-4)


def test_three_iterations_equal_lightly_s():
    scores = cosines(32, 16)
    assert torch.allclose(sinkhorn(scores, epsilon=0.05, iterations=3), lightly_s(scores), rtol=1e-4, atol=1e-7)


def test_rows_that_every_process_has_count_with_its_own():
    scores = cosines(24, 8)
    codes = sinkhorn(scores[:8], shared=scores[8:], epsilon=0.05, iterations=3)
    assert torch.allclose(codes, sinkhorn(scores, epsilon=0.05, iterations=3)[:8], rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.05, 0.001])
def test_half_precision_gives_finite_codes(epsilon):
    codes = sinkhorn(cosines(16, 8).half(), epsilon=epsilon, iterations=3)
    assert torch.allclose(codes.sum(1), torch.ones(16), rtol=1e-4)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.0, 3), (0.05, 0)])
def test_an_epsilon_or_iterations_of_zero_are_refused(epsilon, iterations):
    with pytest.raises(ValueError, match="both must be positive"):
        sinkhorn(cosines(4, 4), epsilon=epsilon, iterations=iterations)

import math

import pytest
import torch

from roost_training.blocks.pixel_prior import MaskedConv2d, PixelPrior


def prior(codes: int = 5) -> PixelPrior:
    torch.manual_seed(0)
    return PixelPrior(codes=codes, width=16, depth=2)


def test_masks_let_through_what_was_read_before():
    assert MaskedConv2d(1, 1, kernel=3, kind="A").mask.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert MaskedConv2d(1, 1, kernel=3, kind="B").mask.tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("place", [0, 5, 11])
def test_a_code_changes_only_the_odds_of_places_after_it(place):
    model = prior()
    grid = torch.randint(0, 5, (1, 3, 4), generator=torch.Generator().manual_seed(1))
    other = grid.clone()
    other.view(-1)[place] = (other.view(-1)[place] + 1) % 5
    changed = (model(grid) != model(other)).any(1).flatten()
    assert not changed[: place + 1].any()
    assert changed[place + 1 : place + 2].all()


def test_a_prior_that_knows_nothing_costs_the_logarithm_of_the_codes():
    model = prior(codes=7)
    torch.nn.init.zeros_(model.last[1].weight)
    torch.nn.init.zeros_(model.last[1].bias)
    assert model.cost(torch.zeros(2, 3, 3, dtype=torch.int64)).item() == pytest.approx(math.log(7), rel=1e-6)


def test_samples_follow_what_was_learnt():
    model = prior(codes=4)
    stripes = torch.arange(4).expand(8, 3, 4)  # each row counts 0, 1, 2, 3
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        model.cost(stripes).backward()
        optimiser.step()
    assert torch.equal(model.sample(8, rows=3, columns=4), stripes)


def test_the_same_seed_draws_the_same_samples():
    model = prior()
    torch.manual_seed(3)
    first = model.sample(2, rows=2, columns=2)
    torch.manual_seed(3)
    assert torch.equal(model.sample(2, rows=2, columns=2), first)

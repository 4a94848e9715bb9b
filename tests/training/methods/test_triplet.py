import math

import pytest
import torch

from roost_training import encoders, methods
from roost_training.methods.triplet import Method, batch_hard
from roost_training.views.recipe import Recipe

LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
NAMES = torch.tensor([0, 0, 1, 1])
"""Farthest likes: 1, 1, 4, 4; nearest unlikes: 3, 2, 2, 6."""


def mined(z: torch.Tensor, names: torch.Tensor, *, margin: float | None) -> torch.Tensor:
    """The loss where all rows are one group."""
    return batch_hard(z, names, groups=torch.zeros(len(z)), margin=margin)


def test_each_row_s_hardest_triplet_counts():
    assert mined(LINE, NAMES, margin=1.5).item() == pytest.approx((0 + 0.5 + 3.5 + 0) / 4)


def test_the_soft_margin_is_the_softplus_of_the_excess():
    expected = sum(math.log(1 + math.exp(excess)) for excess in (-2, -1, 2, -2)) / 4
    assert mined(LINE, NAMES, margin=None).item() == pytest.approx(expected)


@pytest.mark.parametrize("margin", [0.3, None])
def test_the_loss_equals_the_paper_s_equation_written_out(margin):
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    losses = []
    for i in range(12):
        likes = [math.dist(z[i], z[j]) for j in range(12) if j != i and j % 3 == i % 3]
        unlikes = [math.dist(z[i], z[j]) for j in range(12) if j % 3 != i % 3]
        excess = max(likes) - min(unlikes)
        losses.append(math.log1p(math.exp(excess)) if margin is None else max(0.0, margin + excess))
    assert mined(z, torch.arange(12) % 3, margin=margin).item() == pytest.approx(sum(losses) / 12, rel=1e-5)


def test_collapsed_rows_cost_the_margin():
    assert mined(torch.ones(6, 2), torch.arange(6) % 3, margin=0.3).item() == pytest.approx(0.3)


def test_collapsed_rows_cost_the_logarithm_of_two_by_the_soft_margin():
    assert mined(torch.ones(6, 2), torch.arange(6) % 3, margin=None).item() == pytest.approx(math.log(2))


def test_a_row_without_a_like_one_is_no_anchor():
    with_stranger = torch.cat([LINE, torch.tensor([[100.0]])])
    names = torch.cat([NAMES, torch.tensor([2])])
    assert mined(with_stranger, names, margin=1.5) == mined(LINE, NAMES, margin=1.5)


def test_a_row_s_triplet_is_mined_in_its_own_group():
    between = torch.tensor([[0.0], [1.0], [0.5], [3.0], [7.0], [2.0]])
    names, groups = torch.tensor([0, 0, 1, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    apart = [mined(between[part], names[part], margin=1.0).item() for part in (slice(3), slice(3, 6))]
    assert batch_hard(between, names, groups=groups, margin=1.0).item() == pytest.approx(sum(apart) / 2)


def test_a_batch_of_one_name_costs_nothing_and_has_a_gradient():
    z = LINE.clone().requires_grad_()
    loss = mined(z, torch.zeros(4), margin=None)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros(4, 1))


def test_a_margin_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        mined(LINE, NAMES, margin=0.0)


def test_the_loss_of_labels_is_that_of_views_where_each_image_has_its_own():
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=8)
    method = Method(methods.configure("triplet", {}), encoder, dim).eval()
    views = list(torch.randn(3, 4, 3, 8, 8))
    assert method(views)["loss"] == method(views, labels=torch.tensor([5, 9, 2, 7]))["loss"]


def test_images_are_mined_among_as_many_as_the_settings_say():
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=8)
    method = Method(methods.configure("triplet", {"among": 2}), encoder, dim).eval()
    views = list(torch.randn(2, 4, 3, 8, 8))
    z = method.projector(method.encoder(torch.cat(views)))
    expected = batch_hard(z, torch.arange(4).repeat(2), groups=torch.tensor([0, 0, 1, 1]).repeat(2), margin=None)
    assert method(views)["loss"] == expected


def test_there_are_as_many_views_as_the_settings_say():
    encoder, dim = encoders.build("resnet10w32", image_size=8)
    method = Method(methods.configure("triplet", {"views": 4}), encoder, dim)
    assert len(method.views(Recipe(), 8)) == 4

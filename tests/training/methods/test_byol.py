import math

import pytest
import torch
from torch import nn

from roost_training.methods.byol import Config, Method, regression
from roost_training.views.recipe import Recipe


def rows(seed: int, n: int = 6, dim: int = 5) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def small(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(12, 6))
    return Method(Config(**({"hidden": 8, "dim": 4} | settings)), encoder, 6)


def test_opposite_orthogonal_and_equal_directions_cost_four_two_and_nothing():
    q = torch.tensor([[3.0, 0.0]])
    costs = [regression(q, torch.tensor([z])).item() for z in ([-2.0, 0.0], [0.0, 5.0], [7.0, 0.0])]
    assert costs == pytest.approx([4, 2, 0], abs=1e-6)


def test_the_loss_equals_the_paper_s_equation_written_out():
    q, z = rows(1), rows(2)
    expected = 0.0
    for a, b in zip(q.tolist(), z.tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        expected += 2 - 2 * dot / (math.hypot(*a) * math.hypot(*b))
    assert regression(q, z).item() == pytest.approx(expected / 6, rel=1e-5)


def test_the_loss_is_twice_one_plus_lightly_s():
    from lightly.loss import NegativeCosineSimilarity

    q, z = rows(1, n=32, dim=16), rows(2, n=32, dim=16)
    assert regression(q, z).item() == pytest.approx(2 + 2 * NegativeCosineSimilarity()(q, z).item(), rel=1e-5)


def test_collapsed_rows_cost_nothing():
    assert regression(torch.ones(4, 3), torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-6)


def test_no_gradient_reaches_the_targets():
    z = rows(2).requires_grad_()
    regression(rows(1).requires_grad_(), z).backward()
    assert z.grad is None


def test_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(6, 5\) for targets of shape \(6, 4\)"):
        regression(rows(1), rows(2, dim=4))


def test_each_view_is_predicted_from_the_other():
    method = small().eval()
    a, b = rows(3, n=4, dim=12).reshape(4, 3, 2, 2), rows(4, n=4, dim=12).reshape(4, 3, 2, 2)
    za, zb = (method.projector(method.encoder(view)) for view in (a, b))  # the teacher is still a copy
    expected = regression(method.predictor(za), zb) + regression(method.predictor(zb), za)
    assert method([a, b])["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_teacher_moves_by_what_its_momentum_leaves():
    method = small(momentum=0.9)
    before = method.teacher[0][1].weight.clone()
    with torch.no_grad():
        method.encoder[1].weight.add_(1)
    method.after_step(0.0)
    assert torch.allclose(method.teacher[0][1].weight, before + 0.1, atol=1e-6)


def test_the_teacher_stands_still_at_the_end():
    method = small(momentum=0.9)
    before = method.teacher[0][1].weight.clone()
    with torch.no_grad():
        method.encoder[1].weight.add_(1)
    method.after_step(1.0)
    assert torch.equal(method.teacher[0][1].weight, before)


def test_photographs_are_blurred_and_solarised_as_in_the_paper():
    first, second = (view.recipe for view in small().views(Recipe(), 32))
    assert (first.blur, first.solarise, second.blur, second.solarise) == (1.0, 0.0, 0.1, 0.2)


def test_a_run_that_blurs_nothing_blurs_no_view():
    assert [view.recipe.blur for view in small().views(Recipe(blur=0), 32)] == [0, 0]

import math

import pytest
import torch
from torch import nn

from roost_training.methods.simsiam import Config, Method, negative_cosine


def rows(seed: int, n: int = 6, dim: int = 5) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def small() -> Method:
    torch.manual_seed(0)
    return Method(Config(dim=8, bottleneck=2), nn.Sequential(nn.Flatten(), nn.Linear(12, 6)), 6)


def views(n: int = 16) -> list[torch.Tensor]:
    return [rows(seed, n=n, dim=12).reshape(n, 3, 2, 2) for seed in (3, 4)]


def test_opposite_orthogonal_and_equal_directions_cost_one_nothing_and_minus_one():
    p = torch.tensor([[3.0, 0.0]])
    costs = [negative_cosine(p, torch.tensor([z])).item() for z in ([-2.0, 0.0], [0.0, 5.0], [7.0, 0.0])]
    assert costs == pytest.approx([1, 0, -1])


def test_the_loss_equals_the_paper_s_equation_written_out():
    p, z = rows(1), rows(2)
    expected = 0.0
    for a, b in zip(p.tolist(), z.tolist(), strict=True):
        expected -= sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    assert negative_cosine(p, z).item() == pytest.approx(expected / 6, rel=1e-5)


def test_the_loss_equals_lightly_s():
    from lightly.loss import NegativeCosineSimilarity

    p, z = rows(1, n=64), rows(2, n=64)
    assert negative_cosine(p, z).item() == pytest.approx(NegativeCosineSimilarity()(p, z).item(), rel=1e-5)


def test_collapsed_rows_reach_the_least_loss():
    assert negative_cosine(torch.ones(4, 3), torch.ones(4, 3)).item() == pytest.approx(-1)


def test_no_gradient_reaches_the_projections():
    z = rows(2).requires_grad_()
    negative_cosine(rows(1).requires_grad_(), z).backward()
    assert z.grad is None


def test_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(6, 5\) for projections of shape \(6, 4\)"):
        negative_cosine(rows(1), rows(2, dim=4))


def test_each_view_is_predicted_from_the_other():
    method = small().eval()
    a, b = views()
    za, zb = (method.projector(method.encoder(view)) for view in (a, b))
    expected = (negative_cosine(method.predictor(za), zb) + negative_cosine(method.predictor(zb), za)) / 2
    assert method([a, b])["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_projections_have_mean_zero_and_variance_one_in_each_direction():
    method = small()
    z = method.projector(rows(5, n=64, dim=6))
    assert torch.allclose(z.mean(0), torch.zeros(8), atol=1e-5)
    assert torch.allclose(z.var(0, correction=0), torch.ones(8), atol=1e-3)


def test_the_predictor_s_rate_does_not_fall():
    assert small().constant_rate == ("predictor",)


def test_the_spread_of_projections_that_use_every_direction_is_near_one():
    assert small()(views(n=256))["spread"].item() == pytest.approx(1, abs=0.15)


def test_the_spread_of_collapsed_projections_is_nothing():
    method = small().eval()
    a = views(n=1)[0].expand(4, -1, -1, -1)
    assert method([a, a])["spread"].item() == pytest.approx(0, abs=1e-6)

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from roost_training.methods.instance_discrimination import Config, Method, exact, nce, normaliser


def unit_rows(rows: int, seed: int, dim: int = 8) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def small(images: int = 12, **settings: object) -> Method:
    torch.manual_seed(0)
    method = Method(Config(**({"dim": 8} | settings)), nn.Sequential(nn.Flatten(), nn.Linear(12, 6)), 6)
    method.prepare(range(images))  # only their number counts
    return method


def view(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(5))


def embedded(method: Method, images: torch.Tensor) -> torch.Tensor:
    return functional.normalize(method.projector(method.encoder(images)), dim=1)


def test_vectors_that_are_orthogonal_reach_the_closed_form():
    expected = math.log(1 + 4 * math.exp(-1 / 0.5))
    indices = torch.tensor([3, 1])
    assert exact(torch.eye(5)[indices], torch.eye(5), indices, temperature=0.5).item() == pytest.approx(expected)


def test_a_collapsed_bank_costs_the_logarithm_of_the_images():
    rows = torch.ones(7, 4) / 2
    loss = exact(rows[:2], rows, torch.tensor([0, 6]), temperature=0.07)
    assert loss.item() == pytest.approx(math.log(7))


def test_the_exact_loss_keeps_its_digits_under_autocast():
    v, bank, indices = unit_rows(4, 1), unit_rows(9, 2), torch.tensor([0, 3, 8, 5])
    with torch.autocast("cpu", torch.bfloat16):
        loss = exact(v, bank, indices, temperature=0.07)
    assert loss.item() == pytest.approx(exact(v, bank, indices, temperature=0.07).item(), rel=1e-6)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        exact(unit_rows(2, 1), unit_rows(3, 2), torch.tensor([0, 1]), temperature=0.0)


def test_where_every_image_is_as_likely_the_estimate_reaches_its_closed_form():
    images, m = 50, 10
    uniform = torch.tensor(-math.log(images))
    expected = math.log(1 + m) + m * math.log(1 + 1 / m)
    assert nce(uniform.expand(3), uniform.expand(3, m), images=images).item() == pytest.approx(expected, rel=1e-5)


def test_the_estimate_equals_the_paper_s_equations_written_out():
    images, m = 20, 3
    positive, negative = torch.rand(4).log(), torch.rand(4, m).log()
    expected = 0.0
    for own, others in zip(positive.exp().tolist(), negative.exp().tolist(), strict=True):
        expected -= math.log(own / (own + m / images)) / 4
        expected -= sum(math.log(1 - p / (p + m / images)) for p in others) / 4
    assert nce(positive, negative, images=images).item() == pytest.approx(expected, rel=1e-5)


def test_an_image_that_is_certain_costs_less_the_rarer_the_noise():
    certain = torch.zeros(1)
    nothing = torch.full((1, 4), -torch.inf)
    assert nce(certain, nothing, images=400).item() == pytest.approx(math.log(1 + 4 / 400), rel=1e-4)


def test_the_constant_of_all_images_scores_is_the_softmax_s_own():
    scores = unit_rows(1, 1) @ unit_rows(9, 2).T / 0.5
    assert normaliser(scores, images=9).item() == pytest.approx(scores.logsumexp(1).item(), rel=1e-6)


def test_the_constant_stays_that_of_the_first_batch():
    method = small(negatives=5)
    method([view()], torch.arange(4))
    first = method.log_z.item()
    method([view() * 2], torch.arange(4, 8))
    assert math.isfinite(first)
    assert method.log_z.item() == first


def test_an_image_s_vector_moves_to_what_the_encoder_made_of_it():
    method = small(momentum=0.0)
    images, indices = view(), torch.tensor([7, 2, 0, 11])
    expected = embedded(method, images)
    method([images], indices)
    assert torch.allclose(method.bank.rows[indices], expected, atol=1e-6)


def test_the_loss_is_of_the_bank_before_it_moves():
    method = small(momentum=0.0, temperature=0.2)
    images, indices = view(), torch.tensor([7, 2, 0, 11])
    expected = exact(embedded(method, images), method.bank.rows.clone(), indices, temperature=0.2)
    assert method([images], indices)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_proximal_term_weighs_the_way_from_the_old_vector():
    images, indices = view(), torch.tensor([7, 2, 0, 11])
    plain, pulled = small(), small(proximal=30.0)
    way = (embedded(pulled, images) - pulled.bank.rows[indices]).square().sum(1).mean().item()
    difference = pulled([images], indices)["loss"] - plain([images], indices)["loss"]
    assert difference.item() == pytest.approx(30 * way, rel=1e-4)


@pytest.mark.parametrize("negatives", [0, 64])
def test_images_are_told_apart_better_after_a_few_passes(negatives):
    method = small(images=8, negatives=negatives, temperature=0.2)
    optimiser = torch.optim.Adam(method.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = method([view(8)], torch.arange(8))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    own = embedded(method, view(8)) @ method.bank.rows.T
    assert own.argmax(1).tolist() == list(range(8))
    assert losses[-1] < losses[0]
